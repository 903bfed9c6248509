//! `[model.cluster]`, as it was written.

use std::time::Duration;

use super::{MANY, Maybe, Texts};
use crate::registry::reader::Section;
use crate::registry::{ClusterBackend, ClusterMode};

/// One model on several machines.
pub(in crate::registry) struct RawCluster {
    pub span: std::ops::Range<usize>,
    pub backend: Maybe<ClusterBackend>,
    pub mode: Maybe<ClusterMode>,
    pub hosts: Vec<RawHost>,
    pub hostfile: Maybe<String>,
    pub heartbeat: Maybe<Duration>,
    pub timeout: Maybe<Duration>,
    /// Which of these were written, be it wrongly: backend, hosts.
    pub written: [bool; 2],
}

/// One host of it.
pub(in crate::registry) struct RawHost {
    pub span: std::ops::Range<usize>,
    pub ssh: Maybe<String>,
    /// Whether `ssh` was written, be it wrongly.
    pub has_ssh: bool,
    pub addresses: Texts,
    pub rdma: Texts,
    pub ranks: Maybe<u32>,
}

impl RawCluster {
    /// `None`: there is no such table.
    pub fn read(model: &Section<'_>) -> Option<Self> {
        let read = model.section("cluster", |cluster| Self {
            span: cluster.span.clone().unwrap_or_default(),
            backend: cluster.choice(
                "backend",
                &[
                    ("ring", ClusterBackend::Ring),
                    ("jaccl", ClusterBackend::Jaccl),
                    ("mpi", ClusterBackend::Mpi),
                ],
            ),
            mode: cluster
                .choice("mode", &[("tensor", ClusterMode::Tensor), ("pipeline", ClusterMode::Pipeline)]),
            hosts: cluster.sections("hosts", RawHost::read),
            hostfile: cluster.text("hostfile", "hosts.json"),
            heartbeat: cluster.duration("heartbeat"),
            timeout: cluster.duration("timeout"),
            written: ["backend", "hosts"].map(|key| cluster.has(key)),
        });
        model.has("cluster").then_some(read)
    }
}

impl RawHost {
    fn read(host: &Section<'_>) -> Self {
        Self {
            span: host.span.clone().unwrap_or_default(),
            ssh: host.text("ssh", "studio.local"),
            has_ssh: host.has("ssh"),
            addresses: host.texts("addresses", "10.0.0.1"),
            rdma: host.texts("rdma", "rdma_en2"),
            ranks: host.whole("ranks", 1..=MANY),
        }
    }
}
