//! What a conductor is started with in addition to what every backend gets: where each rank runs, and how long a silence
//! means death.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::environment::INHERITED;
use crate::registry::{Cluster, Rank};

/// One model on several ranks. Rank 0 and the conductor are on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// `mlx.launch --backend`: `ring`, `jaccl` or `mpi`.
    pub backend: String,
    /// Where each rank runs, by rank.
    pub places: Vec<Place>,
    /// Path of the venv's interpreter, the same on every host.
    pub python: PathBuf,
    /// Path of `mlxctl`, the same on every host.
    pub binary: PathBuf,
    /// Variables for every rank's Python, in addition to those of its host.
    pub env: Vec<(String, String)>,
    /// Time between two signs of life, milliseconds.
    pub heartbeat_ms: u64,
    /// A silence of this length means that the other end is dead, milliseconds.
    pub timeout_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The host's name for ssh, also shown to people.
    pub host: String,
    /// Whether it is the conductor's own machine, which needs no ssh.
    pub local: bool,
    /// Addresses at which the other ranks reach it.
    pub addresses: Vec<String>,
    /// Its RDMA devices towards each rank; empty towards itself.
    pub rdma: Vec<Vec<String>>,
}

/// Variables of this machine's environment that mean the same on every host.
const SHARED: &[&str] = &["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"];

impl Group {
    /// The group of a model. Of `env`, the conductor's environment, the ranks get what the registry and mlxctl set; of
    /// the variables inherited from this machine, only those in `SHARED`.
    pub fn of(cluster: &Cluster, python: &Path, binary: &Path, env: &[(String, String)]) -> Self {
        let shared = |name: &str| SHARED.contains(&name) || !INHERITED.contains(&name);
        let mut variables: Vec<_> = env.iter().filter(|(name, _)| shared(name)).cloned().collect();
        variables.extend(cluster.environment.iter().cloned());
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            backend: cluster.backend.name().to_owned(),
            places: cluster.ranks.iter().map(Place::of).collect(),
            python: python.to_owned(),
            binary: binary.to_owned(),
            env: variables,
            heartbeat_ms: milliseconds(cluster.heartbeat),
            timeout_ms: milliseconds(cluster.timeout),
        }
    }

    /// A description for people: "ring over laptop, studio; silence 5s". Part of the settings' hash.
    pub fn words(&self) -> String {
        let hosts: Vec<_> = self
            .places
            .iter()
            .map(|place| match place.addresses.join("+") {
                addresses if addresses.is_empty() => place.host.clone(),
                addresses => format!("{} ({addresses})", place.host),
            })
            .collect();
        let timeout = humantime::format_duration(self.timeout());
        format!("{} over {}; silence {timeout}", self.backend, hosts.join(", "))
    }

    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// A rank for messages: "rank 1 on studio.local".
    pub fn name(&self, rank: usize) -> String {
        match self.places.get(rank) {
            Some(place) => format!("rank {rank} on {}", place.host),
            None => format!("rank {rank}"),
        }
    }

    /// Every host with its ranks, ordered by first rank.
    pub fn hosts(&self) -> Vec<(&Place, Vec<usize>)> {
        let mut hosts: Vec<(&Place, Vec<usize>)> = Vec::new();
        for (rank, place) in self.places.iter().enumerate() {
            match hosts.iter_mut().find(|(known, _)| known.local == place.local && known.host == place.host) {
                Some((_, ranks)) => ranks.push(rank),
                None => hosts.push((place, vec![rank])),
            }
        }
        hosts
    }

    /// The host file for `mlx.launch`. Ranks on this machine are named `127.0.0.1`, by which it knows that they need no
    /// ssh.
    pub fn hostfile(&self) -> Value {
        let hosts: Vec<_> = self
            .places
            .iter()
            .map(|place| {
                json!({
                    "ssh": if place.local { "127.0.0.1" } else { &place.host },
                    "ips": place.addresses,
                    "rdma": place.devices(),
                })
            })
            .collect();
        json!({ "backend": self.backend, "hosts": hosts })
    }
}

impl Place {
    fn of(rank: &Rank) -> Self {
        Self {
            host: rank.host.clone(),
            local: rank.local,
            addresses: rank.addresses.clone(),
            rdma: rank.rdma.clone(),
        }
    }

    /// The devices for `mlx.launch`: per rank null, a name, or a list of names.
    fn devices(&self) -> Vec<Value> {
        let devices = self.rdma.iter().map(|towards| match towards.as_slice() {
            [] => Value::Null,
            [device] => json!(device),
            several => json!(several),
        });
        devices.collect()
    }
}

/// The folder of the ranks' files, the same on every host.
pub(crate) fn ranks_folder(run: &Path) -> PathBuf {
    run.join("ranks")
}

/// The folder for temporary files on the conductor's machine while `mlx.launch` runs.
pub(crate) fn scratch(run: &Path, model: &str) -> PathBuf {
    ranks_folder(run).join(format!("{model}.tmp"))
}

/// The stem of the names of a rank's files.
pub(crate) fn rank_name(model: &str, rank: usize) -> String {
    format!("{model}.rank{rank}")
}

#[cfg(test)]
pub(crate) fn example() -> Group {
    let place = |host: &str, local| Place {
        host: host.to_owned(),
        local,
        addresses: vec!["10.0.0.1".to_owned()],
        rdma: Vec::new(),
    };
    Group {
        backend: "ring".to_owned(),
        places: vec![place("laptop", true), place("studio", false), place("laptop", true)],
        python: "/venv/bin/python".into(),
        binary: "/bin/mlxctl".into(),
        env: Vec::new(),
        heartbeat_ms: 1000,
        timeout_ms: 5000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_grouped_by_host_and_this_machine_needs_no_ssh() {
        let group = example();
        let hosts: Vec<_> =
            group.hosts().into_iter().map(|(place, ranks)| (place.host.as_str(), ranks)).collect();
        assert_eq!(hosts, [("laptop", vec![0, 2]), ("studio", vec![1])]);
        let file = group.hostfile();
        let names: Vec<_> = (0..3).map(|rank| file["hosts"][rank]["ssh"].as_str().unwrap()).collect();
        assert_eq!(names, ["127.0.0.1", "studio", "127.0.0.1"]);
        assert_eq!(group.name(1), "rank 1 on studio");
        assert_eq!(
            group.words(),
            "ring over laptop (10.0.0.1), studio (10.0.0.1), laptop (10.0.0.1); silence 5s"
        );
    }
}
