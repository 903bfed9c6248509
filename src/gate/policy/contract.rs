//! What the supervisor tells a gate, and what a gate tells the supervisor.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::clock::Moment;
use crate::clock::hours::TimeOfDay;
use crate::registry::{Limits, Network, Preset, Start};

/// What the gate of one model needs to know; replaced as a whole when the registry is reloaded.
#[derive(Debug, Clone, PartialEq)]
pub struct GateConfig {
    pub name: String,
    /// What clients may call it: name, aliases, repository.
    pub accepted: Vec<String>,
    /// Values for requests that name none, by the alias that they use.
    pub presets: Vec<Preset>,
    /// `always` or `manual`: decides what the `offline` answer advises.
    pub start: Start,
    /// The gate's port on [`Network::host`].
    pub port: u16,
    /// Address, allow-list, origins, keys.
    pub network: Network,
    /// Bounds on requests.
    pub limits: Limits,
    /// Longest prompt plus answer, tokens.
    pub context: Option<u32>,
    /// Whether the backend holds prompts against it itself, with the model's tokenizer.
    pub counted: bool,
    /// Tokens of an answer whose request names no number.
    pub default_tokens: u32,
    /// Tokens that the model knows: `vocab_size` of its config.json. `None`: requests that depend on it
    /// (`logit_bias`, a large `top_k`) are refused, because one too large ends the generation thread.
    pub vocabulary: Option<u32>,
    /// Variables that the model's chat template reads, from its cache profile. `None`: not known; every variable passes
    /// that no request is denied.
    pub variables: Option<BTreeSet<String>>,
    /// File of hashed keys; checked when [`Network::require_key`] is set.
    pub keys: std::path::PathBuf,
    pub access_log: std::path::PathBuf,
}

impl GateConfig {
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        use crate::units::Bytes;
        let network = Network {
            host: std::net::Ipv4Addr::LOCALHOST.into(),
            allow_from: Vec::new(),
            allow_origins: Vec::new(),
            allow_hosts: Vec::new(),
            require_key: false,
        };
        let second = std::time::Duration::from_secs(1);
        let limits = Limits {
            in_flight: 1,
            queue: 1,
            queue_timeout: second,
            connections: 1,
            body: Bytes(1000),
            max_tokens: None,
            messages: 1,
            read_timeout: second,
            remote_images: false,
        };
        Self {
            name: "tiny".to_owned(),
            accepted: vec!["tiny".to_owned()],
            presets: Vec::new(),
            start: Start::Always,
            port: 0,
            network,
            limits,
            context: None,
            counted: false,
            default_tokens: 512,
            vocabulary: None,
            variables: None,
            keys: "/dev/null".into(),
            access_log: "/dev/null".into(),
        }
    }

    /// Whether a client from `networks` is let in; an empty list lets in everyone. On a socket for IPv6, a client with an
    /// IPv4 address shows as an address of IPv6.
    pub fn admits(networks: &[IpNet], client: std::net::IpAddr) -> bool {
        let client = client.to_canonical();
        networks.is_empty() || client.is_loopback() || networks.iter().any(|net| net.contains(&client))
    }
}

/// Where a ready backend is reached. Requests carry the secret in [`crate::backend::SECRET_HEADER`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// On loopback.
    pub address: SocketAddr,
    /// The launcher answers 403 without it.
    pub secret: Arc<str>,
    pub generation: u64,
}

/// What the supervisor says of a model, as far as a client is concerned. Only `Ready` answers 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Stopped, and nothing will start it by itself.
    Offline,
    /// Outside its hours.
    Asleep {
        /// All of them, as people write them.
        hours: String,
        /// When they begin again, by the local time.
        until: TimeOfDay,
        /// The same, on the clock of [`crate::host::now`].
        opens: Moment,
    },
    /// On its way: first load, or back after a crash.
    Loading {
        /// When it will be ready, as learned from earlier loads, on the clock of [`crate::host::now`].
        ready_at: Option<Moment>,
        /// Whether requests wait for it (always-on), or only those that ask to (`Prefer: wait`).
        hold: bool,
    },
    /// It has completed a token.
    Ready(Upstream),
    /// It is ready, and requests wait until these programs have ended.
    Held { programs: String },
    /// It finishes what is in flight and takes nothing new.
    Draining,
    /// It may not start now (memory, pressure).
    Refused {
        /// In one sentence.
        why: String,
    },
    /// It is down and stays down until someone acts.
    Failed {
        /// In one sentence.
        why: String,
    },
}

/// What a gate tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The listeners changed: `problem` names the address that is not there, or who has the port.
    Listening { addresses: Vec<SocketAddr>, problem: Option<String> },
    /// The backend refused or cut a connection: worth a look at once.
    Suspect {
        generation: u64,
        /// In one sentence.
        why: String,
    },
}
