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
    /// Values for requests that do not set them, by the alias that they use.
    pub presets: Vec<Preset>,
    /// `always` or `manual`: decides what the `offline` answer advises.
    pub start: Start,
    /// The gate's TCP port on [`Network::host`].
    pub port: u16,
    pub network: Network,
    pub limits: Limits,
    /// Longest prompt plus answer, in tokens.
    pub context: Option<u32>,
    /// Whether the backend enforces `context` itself, with the model's tokenizer.
    pub counted: bool,
    /// Longest answer in tokens if the request sets no limit.
    pub default_tokens: u32,
    /// Size of the vocabulary: `vocab_size` of the model's config.json. If it is `None`, requests that depend on it
    /// (`logit_bias`, a large `top_k`) are refused, because a token beyond it ends the generation thread.
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

    /// Whether a client in one of these networks is admitted; an empty list admits everyone, and loopback is always
    /// admitted. On an IPv6 socket, the address of an IPv4 client is a mapped one.
    pub fn admits(networks: &[IpNet], client: std::net::IpAddr) -> bool {
        let client = client.to_canonical();
        networks.is_empty() || client.is_loopback() || networks.iter().any(|net| net.contains(&client))
    }
}

/// Where a ready backend is reached. Requests carry the secret in [`crate::backend::SECRET_HEADER`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The backend's port on a loopback address.
    pub address: SocketAddr,
    /// The launcher answers 403 without it.
    pub secret: Arc<str>,
    pub generation: u64,
}

/// The state of a model as far as clients are concerned. Only `Ready` answers 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Stopped; it does not start by itself.
    Offline,
    /// Outside the hours in the registry.
    Asleep {
        /// All its hours, written for people.
        hours: String,
        /// When they begin next, in local time.
        until: TimeOfDay,
        /// The same on the clock of [`crate::host::now`].
        opens: Moment,
    },
    /// Loading, for the first time or after a crash.
    Loading {
        /// When it will be ready, as learned from earlier loads, on the clock of [`crate::host::now`].
        ready_at: Option<Moment>,
        /// Whether requests wait for it (always-on), or only those that ask to (`Prefer: wait`).
        hold: bool,
    },
    /// Its run has completed a token.
    Ready(Upstream),
    /// Ready, but requests wait until these programs have ended.
    Held { programs: String },
    /// Finishes requests in flight and accepts no new ones.
    Draining,
    /// It may not start now: memory, pressure.
    Refused {
        /// The reason, in one sentence for people.
        why: String,
    },
    /// It is down and stays down until someone acts.
    Failed {
        /// The reason, in one sentence for people.
        why: String,
    },
}

/// What a gate tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The listeners changed. `problem`: the address is missing, or its port is taken.
    Listening { addresses: Vec<SocketAddr>, problem: Option<String> },
    /// The backend refused or cut a connection, and should be checked at once.
    Suspect {
        generation: u64,
        /// The reason, in one sentence for people.
        why: String,
    },
}
