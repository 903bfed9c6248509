//! One model on several machines.

use std::time::Duration;

use crate::registry::choices::{ClusterBackend, ClusterMode};

/// `[model.cluster]`, valid: at least two ranks, rank 0 on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// How the ranks talk to each other.
    pub backend: ClusterBackend,
    pub mode: ClusterMode,
    /// Who sits where, by rank; 2 to [`Cluster::MOST_RANKS`].
    pub ranks: Vec<Rank>,
    /// Variables that the host file names for every rank (`envs`), in its order.
    pub environment: Vec<(String, String)>,
    /// Between two signs of life of a rank.
    pub heartbeat: Duration,
    /// So long a silence is taken for a rank's death, or a host's; at least twice `heartbeat`.
    pub timeout: Duration,
}

/// Where one rank runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    /// What ssh calls the host, for people too. The same name is the same host.
    pub host: String,
    /// It is this machine: no ssh.
    pub local: bool,
    /// IP addresses that the other ranks reach it at, one a link. Not empty with [`ClusterBackend::Ring`]; that of
    /// rank 0 is where [`ClusterBackend::Jaccl`] coordinates.
    pub addresses: Vec<String>,
    /// Its RDMA devices towards each rank; none towards itself. Empty but with [`ClusterBackend::Jaccl`].
    pub rdma: Vec<Vec<String>>,
}

impl Cluster {
    /// No group is larger.
    pub const MOST_RANKS: usize = 64;

    /// The hosts in the order of their first ranks, this machine first, each with its ranks.
    pub fn hosts(&self) -> Vec<(&Rank, Vec<usize>)> {
        let mut hosts: Vec<(&Rank, Vec<usize>)> = Vec::new();
        for (number, rank) in self.ranks.iter().enumerate() {
            match hosts.iter_mut().find(|(known, _)| known.host == rank.host) {
                Some((_, ranks)) => ranks.push(number),
                None => hosts.push((rank, vec![number])),
            }
        }
        hosts
    }

    /// The hosts beside this machine, as ssh calls them, in the order of their first ranks.
    pub fn others(&self) -> Vec<String> {
        let hosts = self.hosts().into_iter().filter(|(rank, _)| !rank.local);
        hosts.map(|(rank, _)| rank.host.clone()).collect()
    }
}
