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
        /// the name that ssh reaches it by without a prompt; for people too. `"127.0.0.1"` is this machine
        ssh: text("studio.local") => "required";
        /// IP addresses that the other hosts reach it at. Needed with `ring`; with `jaccl` that of the first host; not
        /// with `mpi`
        addresses: list("10.0.0.1");
        /// with `jaccl`: its RDMA device towards each rank in order, `""` towards itself; several towards one rank:
        /// `"rdma_en2, rdma_en3"`
        rdma: list("rdma_en2");
        /// ranks on this host, each a process
        ranks: number(u32, 1..=MANY) = 1;
    }
}

keys! {
    RawCluster of "model.cluster" {
        /// how the ranks talk: `ring`: TCP; `jaccl`: RDMA over Thunderbolt, macOS 26.2 or newer, every host cabled to
        /// every other; `mpi`. A host file may name it instead
        backend: word(ClusterBackend) => "required";
        /// `tensor`: every layer is divided over all ranks, which needs KV heads that the ranks divide evenly;
        /// `pipeline`: every rank has some of the layers
        mode: word(ClusterMode) = ClusterMode::Tensor;
        /// the hosts by rank, this machine first; either this or `hostfile`
        hosts: tables(RawHost) => "–";
        /// a host file as `mlx.distributed_config` writes it, in place of `hosts`
        hostfile: path("hosts.json");
        /// between two signs of life of a rank
        heartbeat: time = Duration::from_secs(1);
        /// a silence of this length is taken for death, on both sides: the group goes down on every host, and a host
        /// that was cut off ends its own ranks. At least two heartbeats
        timeout: time = Duration::from_secs(5);
    }
}
