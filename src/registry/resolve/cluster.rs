//! `[model.cluster]`: hosts or a host file → ranks that can form a group.

mod links;

use std::net::IpAddr;
use std::ops::Range;

use super::environment::{is_value, is_variable};
use super::hostfile::{self, HostFile};
use super::{Scope, values};
use crate::environment::refused_for_model;
use crate::registry::keys::{RawCluster, RawHost, RawServer};
use crate::registry::notes::At;
use crate::registry::problem::quote;
use crate::registry::{Cluster, ClusterBackend, Rank};

const EXAMPLE: &str = "hosts = [{ ssh = \"127.0.0.1\", addresses = [\"10.0.0.1\"] }, { ssh = \"studio.local\", addresses = [\"10.0.0.2\"] }]";

/// A rank, and where it is in the file.
struct Placed {
    rank: Rank,
    span: Range<usize>,
}

pub(super) fn cluster(scope: &Scope<'_>, raw: &RawCluster, server: &RawServer) -> Cluster {
    let (file, placed) = ranks(scope, raw);
    let backend = backend(scope, raw, &file, &placed);
    check_size(scope, raw, &placed);
    links::check(scope, backend, &placed);
    check_server(scope, server);
    let (heartbeat, timeout) = (raw.heartbeat(), raw.timeout());
    if let Some(written) =
        raw.timeout.as_ref().or(raw.heartbeat.as_ref()).filter(|_| timeout < heartbeat.saturating_mul(2))
    {
        let shown = humantime::format_duration;
        scope.notes.wrong(
            written,
            format!(
                "`timeout` is {} and `heartbeat` {}: one late heartbeat would end the group",
                shown(timeout),
                shown(heartbeat)
            ),
            "use a timeout of at least two heartbeats; five are usual",
        );
    }
    Cluster {
        backend,
        mode: raw.mode(),
        ranks: placed.into_iter().map(|placed| placed.rank).collect(),
        environment: environment(scope, raw, &file.environment),
        heartbeat,
        timeout,
    }
}

/// The backend that was written here or in the host file.
fn backend(scope: &Scope<'_>, raw: &RawCluster, file: &HostFile, placed: &[Placed]) -> ClusterBackend {
    let own = raw.backend.as_ref().map(|backend| backend.value);
    let named = match file.backend.as_str() {
        "" => None,
        "ring" => Some(ClusterBackend::Ring),
        "jaccl" => Some(ClusterBackend::Jaccl),
        "mpi" => Some(ClusterBackend::Mpi),
        other => {
            if let (Some(written), false) = (&raw.hostfile, raw.at.has("backend")) {
                let message = format!("the host file names the backend `{}`", quote(other));
                scope.notes.wrong(written, message, "write `backend`: \"ring\", \"jaccl\" or \"mpi\"");
                return ClusterBackend::Ring;
            }
            None
        }
    };
    own.or(named).unwrap_or_else(|| {
        // An unreadable host file may have named it.
        let unread = raw.hostfile.is_some() && placed.is_empty();
        if !(raw.at.has("backend") || unread) {
            let hint = "\"ring\" over any network, \"jaccl\" over Thunderbolt with RDMA, or \"mpi\"";
            scope.notes.add(Some(raw.at.span()), "`cluster` needs `backend`", hint);
        }
        ClusterBackend::Ring
    })
}

fn ranks(scope: &Scope<'_>, raw: &RawCluster) -> (HostFile, Vec<Placed>) {
    let (file, mut placed) = match (&raw.hostfile, raw.at.has("hosts")) {
        (Some(written), true) => {
            scope.notes.wrong(written, "`cluster` has both `hosts` and `hostfile`", "leave one of them out");
            (HostFile::default(), from_hosts(scope, &raw.hosts))
        }
        (Some(written), false) => from_file(scope, written),
        (None, true) => (HostFile::default(), from_hosts(scope, &raw.hosts)),
        (None, false) => {
            let hint = format!("for example {EXAMPLE}");
            scope.notes.add(Some(raw.at.span()), "`cluster` needs `hosts` or `hostfile`", hint);
            (HostFile::default(), Vec::new())
        }
    };
    // Rank 0 is this machine, whatever it is called, and so is every rank with the same host.
    let first = placed.first().map(|first| first.rank.host.clone());
    for Placed { rank, .. } in &mut placed {
        rank.local = Some(&rank.host) == first.as_ref() || is_here(&rank.host);
    }
    (file, placed)
}

fn is_here(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn from_file(scope: &Scope<'_>, written: &At<String>) -> (HostFile, Vec<Placed>) {
    let folder = &scope.around.folder;
    let path = scope.path("hostfile", Some(written), folder, folder.clone());
    match hostfile::read(&path) {
        Ok(mut file) => {
            let ranks = std::mem::take(&mut file.ranks);
            for rank in &ranks {
                if let Err(problem) = ssh_name(&rank.host) {
                    let message = format!("the host `{}` of the host file {problem}", quote(&rank.host));
                    scope.notes.wrong(written, message, "a name that ssh knows");
                }
            }
            let placed = ranks.into_iter().map(|rank| Placed { rank, span: written.span.clone() });
            (file, placed.collect())
        }
        Err(why) => {
            let message = format!("the host file `{}` cannot be read: {why}", quote(&written.value));
            scope.notes.wrong(written, message, "mlx.distributed_config --output-hostfile FILE writes one");
            (HostFile::default(), Vec::new())
        }
    }
}

fn from_hosts(scope: &Scope<'_>, hosts: &[RawHost]) -> Vec<Placed> {
    let mut seen: Vec<String> = Vec::new();
    let mut placed = Vec::new();
    for host in hosts {
        match &host.ssh {
            Some(ssh) if seen.contains(&ssh.value.to_ascii_lowercase()) => {
                let message = format!("the host `{}` appears twice in `hosts`", quote(&ssh.value));
                scope.notes.wrong(ssh, message, "list it once, with `ranks = 2` if it should have two ranks");
            }
            Some(ssh) => {
                seen.push(ssh.value.to_ascii_lowercase());
                if let Err(problem) = ssh_name(&ssh.value) {
                    let message = format!("the host `{}` {problem}", quote(&ssh.value));
                    scope.notes.wrong(ssh, message, "a name that ssh knows: \"studio.local\"");
                }
            }
            None if !host.at.has("ssh") => {
                let hint = "the name to reach it by over ssh; \"127.0.0.1\" for this machine";
                scope.notes.add(Some(host.at.span()), "a host needs `ssh`", hint);
            }
            None => {}
        }
        let devices = |text: &String| -> Vec<String> {
            text.split(',').map(str::trim).filter(|device| !device.is_empty()).map(str::to_owned).collect()
        };
        let rank = Rank {
            host: host.ssh.as_ref().map_or_else(String::new, |ssh| ssh.value.clone()),
            local: false,
            addresses: values(host.addresses.as_ref()),
            rdma: values(host.rdma.as_ref()).iter().map(devices).collect(),
        };
        // One more than allowed is enough for the error.
        let times = usize::try_from(host.ranks()).unwrap_or(usize::MAX).min(Cluster::MOST_RANKS + 1);
        placed.extend((0..times).map(|_| Placed { rank: rank.clone(), span: host.at.span() }));
    }
    placed
}

/// The name becomes an argument of ssh, and of shells on the way.
fn ssh_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("has no name".into());
    }
    if name.starts_with('-') {
        return Err("starts with `-`, which ssh would read as an option".into());
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-' | '@' | ':' | '%'))
    {
        Some(c) => Err(format!("contains `{}`, which no host name can have", quote(&c.to_string()))),
        None => Ok(()),
    }
}

fn check_size(scope: &Scope<'_>, raw: &RawCluster, placed: &[Placed]) {
    // Missing hosts have been reported already.
    let place = placed.last().map_or_else(|| raw.at.span(), |last| last.span.clone());
    match placed.len() {
        0 if raw.at.has("hosts") && raw.hosts.is_empty() => {
            scope.notes.add(Some(place), "`hosts` is empty", format!("for example {EXAMPLE}"));
        }
        1 => scope.notes.add(
            Some(place),
            "a cluster needs at least two ranks",
            "add a host, `ranks = 2`, or leave [model.cluster] out",
        ),
        many if many > Cluster::MOST_RANKS => scope.notes.add(
            Some(place),
            format!("a cluster has at most {} ranks", Cluster::MOST_RANKS),
            "one rank per machine is usual",
        ),
        _ => {}
    }
}

/// Reports what `mlx_lm.server` cannot do on several ranks (`ModelProvider._load`), and what mlxctl sets itself.
fn check_server(scope: &Scope<'_>, server: &RawServer) {
    let refused = "mlx_lm.server does not support it on several ranks";
    if let Some(written) = &server.draft_model {
        let message = format!("`draft_model` cannot be used with `cluster`: {refused}");
        scope.notes.wrong(written, message, "leave one of them out");
    }
    if let Some(written) = &server.adapter_path {
        let message = format!("`adapter_path` cannot be used with `cluster`: {refused}");
        scope.notes.wrong(
            written,
            message,
            "merge the adapter into the model (mlx_lm.fuse), or leave it out",
        );
    }
    for arg in server.extra_args.iter().flat_map(|list| &list.value).filter(|arg| is_pipeline(&arg.value)) {
        scope.notes.wrong(arg, "`extra_args` sets --pipeline, which mlxctl sets itself", "use cluster.mode");
    }
}

/// argparse accepts any unambiguous prefix of a flag.
fn is_pipeline(arg: &str) -> bool {
    arg.len() > 3 && "--pipeline".starts_with(arg)
}

fn environment(scope: &Scope<'_>, raw: &RawCluster, written: &[String]) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for text in written {
        let pair = text.split_once('=').filter(|(name, value)| is_variable(name) && is_value(value));
        match (pair, &raw.hostfile) {
            (Some((name, _)), Some(file)) if refused_for_model(name).is_some() => {
                let why = refused_for_model(name).unwrap_or_default();
                let message = format!("`{name}` in the host file's `envs`: {why}");
                scope.notes.wrong(file, message, "remove it from the host file");
            }
            (Some((name, value)), _) => {
                pairs.retain(|(other, _)| other != name);
                pairs.push((name.to_owned(), value.to_owned()));
            }
            (None, Some(file)) => {
                let message = format!("`{}` in the host file's `envs` is not NAME=value", quote(text));
                scope.notes.wrong(file, message, "correct it in the host file");
            }
            (None, None) => {}
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::registry::Registry;

    fn parse(folder: &Path, cluster: &str) -> Result<Cluster, String> {
        let text = format!("[[model]]\nname = \"m\"\nrepo = \"x/y\"\nport = 1\n[model.cluster]\n{cluster}\n");
        let parsed = Registry::parse(&folder.join("models.toml"), &text);
        let mut registry = parsed.map_err(|problems| problems.plain())?;
        Ok(registry.models.remove(0).cluster.unwrap())
    }

    #[test]
    fn ranks_follow_the_hosts_and_the_first_is_this_machine() {
        let hosts = "backend = \"ring\"\nhosts = [{ ssh = \"laptop\", addresses = [\"10.0.0.1\"], ranks = 2 }, \
                     { ssh = \"studio\", addresses = [\"10.0.0.2\"] }]";
        let cluster = parse(Path::new("/r"), hosts).unwrap();
        let local: Vec<bool> = cluster.ranks.iter().map(|rank| rank.local).collect();
        assert_eq!(local, [true, true, false]);
        let hosts: Vec<_> =
            cluster.hosts().into_iter().map(|(rank, ranks)| (rank.host.as_str(), ranks)).collect();
        assert_eq!(hosts, [("laptop", vec![0, 1]), ("studio", vec![2])]);
        assert_eq!(cluster.mode, crate::registry::ClusterMode::Tensor);
    }

    #[test]
    fn a_host_file_is_read_as_mlx_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = r#"{"backend": "jaccl", "envs": ["MLX_METAL_FAST_SYNCH=1"], "hosts": [
            {"ssh": "laptop", "ips": ["10.0.0.1"], "rdma": [null, "rdma_en2"]},
            {"ssh": "studio", "ips": ["10.0.0.2"], "rdma": [["rdma_en4", "rdma_en5"], null]}]}"#;
        fs_err::write(folder.path().join("hosts.json"), file).unwrap();
        let cluster = parse(folder.path(), "hostfile = \"hosts.json\"").unwrap();
        assert_eq!(cluster.backend, ClusterBackend::Jaccl);
        assert_eq!(cluster.environment, [("MLX_METAL_FAST_SYNCH".to_owned(), "1".to_owned())]);
        assert_eq!(cluster.ranks[1].rdma[0], ["rdma_en4", "rdma_en5"]);
        assert!(cluster.ranks[0].local && !cluster.ranks[1].local);
        // Its content is checked as if it were written here.
        fs_err::write(folder.path().join("hosts.json"), file.replace("null]}]}", "\"rdma_en9\"]}]}"))
            .unwrap();
        let problem = parse(folder.path(), "hostfile = \"hosts.json\"").unwrap_err();
        assert!(problem.contains(":6:12: `studio` has an RDMA device towards itself"), "{problem}");
        fs_err::write(folder.path().join("hosts.json"), file.replace("jaccl", "nccl")).unwrap();
        let problem = parse(folder.path(), "hostfile = \"hosts.json\"").unwrap_err();
        assert!(problem.contains("names the backend `nccl`"), "{problem}");
    }
}
