//! One model on several machines.

use std::time::Duration;

use crate::registry::choices::{ClusterBackend, ClusterMode};

/// `[model.cluster]`, valid: at least two ranks, rank 0 on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// How the ranks talk to each other.
    pub backend: ClusterBackend,
    pub mode: ClusterMode,
    /// Where each rank runs, by rank; 2 to [`Cluster::MOST_RANKS`].
    pub ranks: Vec<Rank>,
    /// Variables that the host file sets for every rank (`envs`), in its order.
    pub environment: Vec<(String, String)>,
    /// Time between two signs of life of a rank.
    pub heartbeat: Duration,
    /// After a silence of this length a rank, or a host, counts as dead; at least twice `heartbeat`.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    /// The host's name for ssh, and for people. The same name means the same host.
    pub host: String,
    /// Whether it is on this machine, so that ssh is not used.
    pub local: bool,
    /// IP addresses at which the other ranks reach it, one per link. Not empty with [`ClusterBackend::Ring`]; with
    /// [`ClusterBackend::Jaccl`] the ranks meet at that of rank 0.
    pub addresses: Vec<String>,
    /// Its RDMA devices towards each rank; none towards itself. Empty except with [`ClusterBackend::Jaccl`].
    pub rdma: Vec<Vec<String>>,
}

impl Cluster {
    /// The largest number of ranks in a group.
    pub const MOST_RANKS: usize = 64;

    /// The hosts in the order of their first ranks, this machine first, each with its rank numbers.
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

    /// The other hosts, as ssh calls them, in the order of their first ranks.
    pub fn others(&self) -> Vec<String> {
        let hosts = self.hosts().into_iter().filter(|(rank, _)| !rank.local);
        hosts.map(|(rank, _)| rank.host.clone()).collect()
    }
}
