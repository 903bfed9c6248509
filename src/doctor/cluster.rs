//! Clusters: whether every machine of a model can be reached and has what this one has.

use super::Finding;
use crate::cluster::ask::Answer;
use crate::cluster::host::Report;
use crate::registry::{ClusterBackend, Model};

/// What the machines of one cluster answered.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    /// The model, which has a cluster.
    pub model: &'a Model,
    pub here: &'a Report,
    /// The answers of the others, by host.
    pub others: &'a [(String, Answer)],
    /// The supervisor's reason for the model not running, if any.
    pub reason: Option<&'a str>,
}

/// All checks of one model's cluster; none for a model without one.
pub(crate) fn checks(seen: &Seen<'_>) -> Vec<Finding> {
    let Some(cluster) = &seen.model.cluster else { return Vec::new() };
    let mut findings = vec![reachable(seen), local_network(seen), versions(seen), paths(seen), files(seen)];
    if cluster.backend == ClusterBackend::Jaccl {
        findings.push(system(seen));
        findings.push(devices(seen));
    }
    findings.push(in_flight(seen.model));
    findings
}

/// Whether ssh reaches every machine without a prompt, and `mlxctl` answers there.
fn reachable(seen: &Seen<'_>) -> Finding {
    let name = &seen.model.name;
    let silent: Vec<String> = seen
        .others
        .iter()
        .filter_map(|(host, answer)| Some(format!("{host}: {}", answer.as_ref().err()?)))
        .collect();
    match (silent.as_slice(), seen.others.len()) {
        ([], 0) => Finding::ok("cluster-ssh", format!("{name}: all ranks are on this machine")),
        ([], many) => Finding::ok("cluster-ssh", format!("{name}: {many} other machine(s) answer over ssh")),
        (silent, _) => Finding::fail(
            "cluster-ssh",
            format!("{name}: {}", silent.join("; ")),
            "ssh -o BatchMode=yes HOST true must work for this user; see docs/cluster.md, \"Let them trust each other\"",
        ),
    }
}

/// Whether macOS keeps this program off the local network. macOS asks the user once, but never for a program that runs
/// under launchd: its connections to the LAN then fail with EHOSTUNREACH (65), while those from Terminal succeed.
fn local_network(seen: &Seen<'_>) -> Finding {
    let id = "cluster-local-network";
    let name = &seen.model.name;
    let silent =
        seen.others.iter().filter_map(|(host, answer)| Some((host.as_str(), answer.as_ref().err()?)));
    let told = silent.map(|(host, why)| (host, why.as_str()));
    let told = told.chain(seen.reason.map(|reason| ("the supervisor", reason)));
    let mut kept_off = told.filter(|(_, why)| why.contains("No route to host"));
    match kept_off.next() {
        None => Finding::ok(id, format!("{name}: no sign of blocked routes")),
        Some((who, why)) => Finding::warn(
            id,
            format!("{name}: {who}: {why}"),
            "if the machine is there: System Settings > Privacy & Security > Local Network, mlxctl on; \
             docs/cluster.md, \"Local Network privacy\"",
        ),
    }
}

/// The machines that answered, this one first.
fn answered<'a>(seen: &'a Seen<'_>) -> Vec<(&'a str, &'a Report)> {
    let others = seen.others.iter().filter_map(|(host, answer)| Some((host.as_str(), answer.as_ref().ok()?)));
    std::iter::once(("this machine", seen.here)).chain(others).collect()
}

/// The value of `pick` if it is the same everywhere; else the error lists it for each host.
fn same(seen: &Seen<'_>, pick: impl Fn(&Report) -> String) -> Result<String, String> {
    let all: Vec<(&str, String)> =
        answered(seen).into_iter().map(|(host, report)| (host, pick(report))).collect();
    let first = all.first().map(|(_, value)| value.clone()).unwrap_or_default();
    if all.iter().all(|(_, value)| *value == first) {
        return Ok(first);
    }
    Err(all.iter().map(|(host, value)| format!("{host}: {value}")).collect::<Vec<_>>().join("; "))
}

/// Whether Python, mlx, mlx-lm and mlxctl have the same versions everywhere: the ranks exchange pickles.
fn versions(seen: &Seen<'_>) -> Finding {
    let (id, name) = ("cluster-versions", &seen.model.name);
    let of = |report: &Report| {
        let Some(venv) = &report.venv else { return "no environment".to_owned() };
        if let Some(problem) = &venv.problem {
            return problem.clone();
        }
        let text = |version: &Option<String>| version.clone().unwrap_or_else(|| "?".to_owned());
        let (python, mlx, mlx_lm) = (text(&venv.python), text(&venv.mlx), text(&venv.mlx_lm));
        format!("python {python}, mlx {mlx}, mlx-lm {mlx_lm}, mlxctl {}", report.version)
    };
    let broken = answered(seen)
        .iter()
        .any(|(_, report)| report.venv.as_ref().is_none_or(|venv| venv.problem.is_some()));
    match same(seen, of) {
        Ok(all) if !broken => Finding::ok(id, format!("{name}: {all}")),
        Ok(all) | Err(all) => Finding::fail(
            id,
            format!("{name}: {all}"),
            "use the same registry on every machine and run `mlxctl setup` there",
        ),
    }
}

/// Whether mlxctl and the model are at the same paths everywhere.
fn paths(seen: &Seen<'_>) -> Finding {
    let (id, name) = ("cluster-paths", &seen.model.name);
    let of = |report: &Report| {
        let binary = report.binary.as_ref().map_or_else(|| "?".to_owned(), |path| path.display().to_string());
        let folder = report.model.as_ref().map(|model| format!(", {}", model.folder.display()));
        format!("{binary}{}", folder.unwrap_or_default())
    };
    match same(seen, of) {
        Ok(all) => Finding::ok(id, format!("{name}: {all}")),
        Err(all) => Finding::fail(
            id,
            format!("{name}: {all}"),
            "install mlxctl, the environment and the model at the same absolute paths on every machine",
        ),
    }
}

/// Whether every machine has the same files of the model.
fn files(seen: &Seen<'_>) -> Finding {
    let (id, name) = ("cluster-model", &seen.model.name);
    let of = |report: &Report| match &report.model {
        Some(model) => format!("index {}", model.index_sha256.chars().take(12).collect::<String>()),
        None => "not there".to_owned(),
    };
    let missing = answered(seen).iter().any(|(_, report)| report.model.is_none());
    match same(seen, of) {
        Ok(all) if !missing => Finding::ok(id, format!("{name}: {all} on every machine")),
        Ok(all) | Err(all) => {
            Finding::fail(id, format!("{name}: {all}"), format!("mlxctl pull {name} on every machine"))
        }
    }
}

/// Whether every machine runs a macOS with RDMA over Thunderbolt.
fn system(seen: &Seen<'_>) -> Finding {
    let (id, name) = ("cluster-system", &seen.model.name);
    let old: Vec<String> = answered(seen)
        .into_iter()
        .filter(|(_, report)| !has_rdma(&report.os))
        .map(|(host, report)| format!("{host} runs {}", report.os))
        .collect();
    match old.as_slice() {
        [] => Finding::ok(id, format!("{name}: every machine runs macOS 26.2 or newer")),
        old => Finding::fail(
            id,
            format!("{name}: \"jaccl\" needs macOS 26.2 or newer; {}", old.join("; ")),
            "update it, or backend = \"ring\"",
        ),
    }
}

/// RDMA over Thunderbolt came with macOS 26.2.
fn has_rdma(os: &str) -> bool {
    let Some(version) = os.strip_prefix("macOS ") else { return false };
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (26, 2)
}

/// Whether the RDMA devices named in the registry exist.
fn devices(seen: &Seen<'_>) -> Finding {
    let (id, name) = ("cluster-rdma", &seen.model.name);
    let mut missing = Vec::new();
    let ranks = seen.model.cluster.iter().flat_map(|cluster| &cluster.ranks);
    for rank in ranks {
        let there = match seen.others.iter().find(|(host, _)| *host == rank.host) {
            _ if rank.local => &seen.here.rdma,
            Some((_, Ok(report))) => &report.rdma,
            // `reachable` already reports that it does not answer.
            _ => continue,
        };
        for device in rank.rdma.iter().flatten().filter(|device| !there.contains(device)) {
            missing.push(format!("{} on {}", device, rank.host));
        }
    }
    if missing.is_empty() {
        return Finding::ok(id, format!("{name}: every RDMA device in the registry exists"));
    }
    Finding::fail(
        id,
        format!("{name}: missing {}", missing.join(", ")),
        "`ibv_devices` lists them; `rdma_ctl enable` in macOS Recovery turns RDMA on",
    )
}

/// Whether the group gets one request at a time.
fn in_flight(model: &Model) -> Finding {
    let (id, name) = ("cluster-in-flight", &model.name);
    match model.limits.in_flight {
        1 => Finding::ok(
            id,
            format!(
                "{name}: one request at a time; two at once ended all ranks of mlx-lm 0.31.3 (mlx-lm issue 1737)"
            ),
        ),
        many => Finding::warn(
            id,
            format!(
                "{name}: {many} requests at a time; two at once ended all ranks of mlx-lm 0.31.3 (mlx-lm issue 1737)"
            ),
            "set limits.in_flight = 1, unless you tested more with the installed version",
        ),
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
