//! The keys of `[model.cluster]`.

use std::time::Duration;

use super::Maybe;
use super::table::{Key, Keys, MANY, Over, Place, Table, Words, either, keys, range};
use super::written::Written;
use crate::registry::choices::{ClusterBackend, ClusterMode};
use crate::registry::notes::At;
use crate::registry::reader::Section;

keys! {
    RawHost of "model.cluster.hosts" {
        /// the name that ssh reaches it by without a prompt; also shown to people. `"127.0.0.1"` is this machine
        ssh: text("studio.local") => "required";
        /// IP addresses at which the other hosts reach it. `ring` needs them, `jaccl` only the first host's, `mpi` none
        addresses: list("10.0.0.1");
        /// with `jaccl`: its RDMA device to each rank in order, `""` to itself; several to one rank:
        /// `"rdma_en2, rdma_en3"`
        rdma: list("rdma_en2");
        /// ranks on this host, each a process
        ranks: number(u32, 1..=MANY) = 1;
    }
}

keys! {
    RawCluster of "model.cluster" {
        /// how the ranks communicate: `ring`: TCP; `jaccl`: RDMA over Thunderbolt, macOS 26.2 or newer, every host cabled
        /// to every other; `mpi`. A host file may name it instead
        backend: word(ClusterBackend) => "required";
        /// `tensor`: every layer is split across all ranks, which needs KV heads that divide evenly between them;
        /// `pipeline`: every rank has some of the layers
        mode: word(ClusterMode) = ClusterMode::Tensor;
        /// the hosts by rank, this machine first; either this or `hostfile`
        hosts: tables(RawHost) => "–";
        /// a host file as `mlx.distributed_config` writes it, instead of `hosts`
        hostfile: path("hosts.json");
        /// interval between a rank's signs of life
        heartbeat: time = Duration::from_secs(1);
        /// a rank that is silent for this long counts as dead, on both sides: the group goes down on every host, and a host
        /// that was cut off ends its own ranks. At least two heartbeats
        timeout: time = Duration::from_secs(5);
    }
}
