use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::cluster::ask::Ssh;
use crate::cluster::host::{Environment, ModelFiles, Question};
use crate::doctor::State;
use crate::program;
use crate::registry::{Cluster, Registry};

fn model(more: &str) -> Model {
    let text = format!(
        "[[model]]\nname = \"m\"\nrepo = \"org/m\"\nport = 8800\n{more}\n[model.cluster]\nbackend = \"jaccl\"\nhosts = [\n\
         {{ ssh = \"laptop\", addresses = [\"10.0.0.1\"], rdma = [\"\", \"rdma_en2\"] }},\n\
         {{ ssh = \"studio\", rdma = [\"rdma_en4\", \"\"] }} ]\n"
    );
    Registry::parse(Path::new("/m.toml"), &text)
        .unwrap_or_else(|p| panic!("{}", p.render(false)))
        .models
        .remove(0)
}

fn report() -> Report {
    Report {
        schema: 1,
        os: "macOS 26.2".into(),
        chip: None,
        memory_bytes: 128_000_000_000,
        available_bytes: Some(90_000_000_000),
        gpu_limit_bytes: None,
        version: "0.1.0".into(),
        binary: Some("/usr/local/bin/mlxctl".into()),
        venv: Some(Environment {
            path: "/v".into(),
            problem: None,
            python: Some("3.12.7".into()),
            mlx: Some("0.32.4".into()),
            mlx_lm: Some("0.32.2".into()),
        }),
        model: Some(ModelFiles { folder: "/m".into(), index_sha256: "ab".repeat(32) }),
        rdma: vec!["rdma_en2".into(), "rdma_en4".into()],
        running: Vec::new(),
    }
}

/// The findings if the other machine differs from this one by `change`.
fn found(change: impl FnOnce(&mut Report)) -> Vec<Finding> {
    let mut other = report();
    change(&mut other);
    checks(&Seen {
        model: &model(""),
        here: &report(),
        others: &[("studio".into(), Ok(other))],
        reason: None,
    })
}

fn failed(findings: &[Finding]) -> Vec<&str> {
    findings.iter().filter(|finding| finding.state == State::Fail).map(|finding| finding.id).collect()
}

#[test]
fn identical_machines_pass_every_check() {
    let findings = found(|_| {});
    let ids: Vec<_> = findings.iter().map(|finding| finding.id).collect();
    let wanted = ["ssh", "local-network", "versions", "paths", "model", "system", "rdma", "in-flight"];
    assert_eq!(ids, wanted.map(|id| format!("cluster-{id}")));
    assert!(findings.iter().all(|finding| finding.state == State::Ok), "{findings:#?}");
    let alone = Model { cluster: None, ..model("") };
    assert_eq!(checks(&Seen { model: &alone, here: &report(), others: &[], reason: None }), []);
}

#[test]
fn each_difference_fails_its_own_check() {
    assert_eq!(failed(&found(|other| other.version = "0.2.0".into())), ["cluster-versions"]);
    let venv = |change: fn(&mut Environment)| found(|other| change(other.venv.as_mut().unwrap()));
    for findings in [
        venv(|venv| venv.python = Some("3.11.2".into())),
        venv(|venv| venv.mlx = Some("0.31.0".into())),
        venv(|venv| venv.mlx_lm = Some("0.32.0".into())),
        venv(|venv| venv.problem = Some("there is no virtual environment at /v".into())),
    ] {
        assert_eq!(failed(&findings), ["cluster-versions"]);
    }
    assert_eq!(failed(&found(|other| other.binary = Some("/opt/mlxctl".into()))), ["cluster-paths"]);
    assert_eq!(failed(&found(|other| other.model.as_mut().unwrap().folder = "/n".into())), ["cluster-paths"]);
    assert_eq!(
        failed(&found(|other| other.model.as_mut().unwrap().index_sha256 = "cd".into())),
        ["cluster-model"]
    );
    assert!(failed(&found(|other| other.model = None)).contains(&"cluster-model"));
    let rdma = found(|other| other.rdma = vec!["rdma_en2".into()]);
    assert_eq!(failed(&rdma), ["cluster-rdma"]);
    assert!(rdma.iter().any(|finding| finding.seen == "m: missing rdma_en4 on studio"), "{rdma:?}");
    for (os, ok) in
        [("macOS 26.1", false), ("macOS 26.10", true), ("macOS 27.0", true), ("Linux 6.18", false)]
    {
        let findings = found(|other| other.os = os.into());
        assert_eq!(failed(&findings).is_empty(), ok, "{os}");
    }
}

#[test]
fn more_than_one_request_at_a_time_is_a_warning() {
    assert_eq!(in_flight(&model("")).state, State::Ok, "the default");
    assert_eq!(
        in_flight(&model("memory = { concurrency = 4 }\nlimits = { in_flight = 2 }")).state,
        State::Warn
    );
}

/// Asks `studio` through an ssh that is this shell script.
fn asked(script: &str, limit: Duration) -> (Vec<(String, Answer)>, String) {
    let folder = tempfile::tempdir().unwrap();
    let ssh = folder.path().join("ssh");
    let log = folder.path().join("log");
    program::write(&ssh, &format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >'{}'\n{script}\n", log.display()));
    let ssh = Ssh { program: ssh, binary: PathBuf::from("/opt/it's/mlxctl"), limit };
    let question = Question { venv: Some("/v".into()), model: None, programs: vec!["Civ V".into()] };
    let cluster: Cluster = model("").cluster.unwrap();
    let answers = ssh.ask(&cluster, &question);
    (answers, fs_err::read_to_string(log).unwrap_or_default())
}

#[test]
fn a_machine_is_asked_without_a_prompt_and_its_silence_is_explained() {
    const LONG: Duration = Duration::from_secs(60);
    let json = serde_json::to_string(&report()).unwrap();
    let (answers, log) = asked(&format!("echo welcome\ncat <<'END'\n{json}\nEND"), LONG);
    assert_eq!(answers, [("studio".to_owned(), Ok(report()))]);
    assert!(log.contains("BatchMode=yes\n"), "{log}");
    assert!(
        log.contains(r"'/opt/it'\''s/mlxctl' 'host' '--json' '--venv' '/v' '--running' 'Civ V'"),
        "{log}"
    );

    let why = |script: &str, limit| asked(script, limit).0.remove(0).1.unwrap_err();
    assert_eq!(
        why("echo 'me@studio: Permission denied (publickey).' >&2; exit 255", LONG),
        "ssh without a prompt failed: me@studio: Permission denied (publickey)."
    );
    assert!(
        why("echo 'sh: no such file' >&2; exit 127", LONG)
            .starts_with("there is no mlxctl at /opt/it's/mlxctl")
    );
    assert!(why("exit 2", LONG).starts_with("mlxctl host failed there"));
    assert!(why("echo '{}'", LONG).starts_with("its mlxctl gives an answer this version"));
    assert_eq!(why("exec sleep 600", Duration::from_millis(300)), "no answer within 300ms");
    let silent = [("studio".to_owned(), Err("no answer within 20s".to_owned()))];
    let findings = checks(&Seen { model: &model(""), here: &report(), others: &silent, reason: None });
    assert_eq!(failed(&findings), ["cluster-ssh"]);
    assert_eq!(findings[0].seen, "m: studio: no answer within 20s");
}

#[test]
fn a_supervisor_that_macos_keeps_off_the_local_network_is_recognised() {
    let local = |others: &[(String, Answer)], reason: Option<&str>| {
        let findings = checks(&Seen { model: &model(""), here: &report(), others, reason });
        findings.into_iter().find(|finding| finding.id == "cluster-local-network").unwrap()
    };
    let answers = [("studio".to_owned(), Ok(report()))];
    assert_eq!(local(&answers, None).state, State::Ok);
    assert_eq!(local(&answers, Some("the port is taken")).state, State::Ok);
    // From Terminal it works; from the agent it does not.
    let told = local(&answers, Some("studio: ssh: connect to host studio port 22: No route to host"));
    assert_eq!(told.state, State::Warn);
    assert!(told.seen.contains("the supervisor") && told.fix.unwrap().contains("Local Network"));
    let silent = [("studio".to_owned(), Err("ssh cannot reach it: No route to host".to_owned()))];
    assert_eq!(local(&silent, None).state, State::Warn);
}
