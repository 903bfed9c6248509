//! The host file of `mlx.launch`, as `mlx.distributed_config` writes it: an object with `backend`, `envs` and `hosts`,
//! or just the list of hosts; a host is `{"ssh", "ips", "rdma"}` and has one rank.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::registry::Rank;

/// Bytes; that of 64 hosts in a mesh is smaller.
const LARGEST: u64 = 1 << 20;

/// The parts of the file that matter here. Unknown keys are ignored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HostFile {
    /// As written; empty if the file does not name it.
    pub backend: String,
    /// Entries of `envs`, which should be `NAME=value` each.
    pub environment: Vec<String>,
    /// One per host; `local` is not determined yet.
    pub ranks: Vec<Rank>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Whole {
        #[serde(default)]
        backend: String,
        #[serde(default)]
        envs: Vec<String>,
        hosts: Vec<Host>,
    },
    Hosts(Vec<Host>),
}

#[derive(Deserialize)]
struct Host {
    ssh: String,
    #[serde(default)]
    ips: Vec<String>,
    #[serde(default)]
    rdma: Vec<Option<Devices>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Devices {
    One(String),
    Many(Vec<String>),
}

/// Reads and parses `file`, without checking the hosts.
///
/// # Errors
/// Why it cannot be read, in one clause.
pub(super) fn read(file: &Path) -> Result<HostFile, String> {
    // Reading a pipe would block.
    if !fs_err::metadata(file).map_err(|error| super::super::places::plain(&error))?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut text = String::new();
    fs_err::File::open(file)
        .and_then(|opened| opened.take(LARGEST).read_to_string(&mut text))
        .map_err(|error| super::super::places::plain(&error))?;
    parse(&text)
}

fn parse(text: &str) -> Result<HostFile, String> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("it is not valid JSON: {error}"))?;
    let document = Document::deserialize(value).map_err(|_| {
        "it is not a host file: `hosts` must be a list of { \"ssh\", \"ips\", \"rdma\" }".to_owned()
    })?;
    let (backend, environment, hosts) = match document {
        Document::Whole { backend, envs, hosts } => (backend, envs, hosts),
        Document::Hosts(hosts) => (String::new(), Vec::new(), hosts),
    };
    let devices = |devices: Option<Devices>| match devices {
        None => Vec::new(),
        Some(Devices::One(device)) => vec![device],
        Some(Devices::Many(devices)) => devices,
    };
    let ranks = hosts.into_iter().map(|host| Rank {
        host: host.ssh,
        local: false,
        addresses: host.ips,
        rdma: host.rdma.into_iter().map(devices).collect(),
    });
    Ok(HostFile { backend, environment, ranks: ranks.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_null_means_no_device() {
        let whole = parse(
            r#"{"backend": "jaccl", "envs": ["MLX_METAL_FAST_SYNCH=1"], "hosts": [
                {"ssh": "a", "ips": ["10.0.0.1"], "rdma": [null, "rdma_en2"]},
                {"ssh": "b", "ips": [], "rdma": [["rdma_en2", "rdma_en3"], null]}]}"#,
        )
        .unwrap();
        assert_eq!((whole.backend.as_str(), whole.ranks.len()), ("jaccl", 2));
        assert_eq!(whole.environment, ["MLX_METAL_FAST_SYNCH=1"]);
        assert_eq!(whole.ranks[0].rdma, [vec![], vec!["rdma_en2".to_owned()]]);
        assert_eq!(whole.ranks[1].rdma[0].len(), 2);
        let list = parse(r#"[{"ssh": "a"}, {"ssh": "b", "ips": ["10.0.0.2"]}]"#).unwrap();
        assert_eq!((list.backend.as_str(), list.ranks[1].addresses[0].as_str()), ("", "10.0.0.2"));
    }

    #[test]
    fn a_file_that_is_not_a_host_file_is_refused() {
        assert!(parse("{").unwrap_err().starts_with("it is not valid JSON"));
        for wrong in [r#"{"hosts": 1}"#, "7", r#"[{"ips": []}]"#, r#"[{"ssh": "a", "rdma": [1]}]"#] {
            assert!(parse(wrong).unwrap_err().starts_with("it is not a host file"), "{wrong}");
        }
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err(), "it is not a file");
        assert_eq!(read(Path::new("/nowhere/hosts.json")).unwrap_err(), "no such file");
    }
}
