//! What commands print and their exit codes, against a supervisor that answers what the test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use mlxctl::internals::api::{
    ApiError, BudgetStatus, Change, ChangeKind, CommandDone, ErrorCode, EventRecord, Events, HealthStatus,
    HostStatus, Line, ModelMemoryStatus, ModelStatus, Progress, Reloaded, SCHEMA, StartRequest, StateName,
    Status, StopRequest, StoreFacts, SupervisorStatus,
};
use mlxctl::internals::registry::Start;

use crate::control_fake::{Instance, json, lines, serve};

fn model(name: &str, state: StateName, pid: Option<i32>) -> ModelStatus {
    ModelStatus {
        state,
        pid,
        uptime_seconds: pid.map(|_| 192.0),
        memory: ModelMemoryStatus { estimate_bytes: Some(20_000_000_000), ..Default::default() },
        health: HealthStatus { alive: true, listening: true, answering: true, last_probe_seconds: None },
        ..ModelStatus::stopped(name, "org/name".to_owned(), Start::Always, "127.0.0.1:8800".to_owned())
    }
}

pub fn status() -> Status {
    Status {
        schema: SCHEMA,
        supervisor: Some(SupervisorStatus {
            pid: 812,
            version: "0.1.0".into(),
            uptime_seconds: 60.0,
            config: "models.toml".into(),
            config_problem: None,
            footprint_bytes: None,
            waiting_for: vec![],
            yielding_to: vec![],
            pace_percent: None,
            holding: false,
        }),
        host: HostStatus {
            os: "macOS 15.1".into(),
            chip: Some("Apple M4 Max".into()),
            memory_bytes: 128_000_000_000,
            available_bytes: None,
            pressure: mlxctl::internals::host::Pressure::Normal,
            swap_used_bytes: None,
            gpu_limit_bytes: None,
        },
        budget: BudgetStatus {
            total_bytes: 128_000_000_000,
            reserved_bytes: 0,
            models_bytes: 20_000_000_000,
            free_bytes: 108_000_000_000,
            reserves: vec![],
        },
        models: vec![model("32b", StateName::Ready, Some(4711)), model("70b", StateName::Stopped, None)],
        router: None,
        answer: None,
    }
}

fn progress(state: StateName, fraction: Option<f64>) -> String {
    let progress = Progress { state, text: "reading weights".into(), fraction, elapsed_seconds: 12.0 };
    serde_json::to_string(&Line::Progress(progress)).unwrap()
}

fn done(text: &str) -> String {
    let done =
        CommandDone { model: model("70b", StateName::Ready, Some(1)), changed: true, text: text.into() };
    serde_json::to_string(&Line::Done(done)).unwrap()
}

fn refusal(code: ErrorCode, message: &str) -> ApiError {
    ApiError { code, message: message.into(), hint: Some("mlxctl budget".into()) }
}

/// Exit code, stdout, stderr.
fn run(instance: &Instance, args: &[&str]) -> (i32, String, String) {
    let output = instance.mlxctl().args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn without_a_supervisor_status_is_the_plan_and_exit_3() {
    let instance = Instance::new();
    let (code, out, err) = run(&instance, &["status", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 3);
    assert_eq!(document["schema"], 1);
    assert!(document["supervisor"].is_null());
    assert_eq!(document["budget"]["models_bytes"], 20_000_000_000_u64);
    assert_eq!(document["budget"]["reserved_bytes"], 1_000_000_000_u64);
    let states: Vec<_> = document["models"].as_array().unwrap().iter().map(|m| &m["state"]).collect();
    assert_eq!(states, ["stopped", "stopped"]);
    assert!(err.contains("no supervisor is running") && err.contains("mlxctl serve"), "{err}");
    let (code, out, _) = run(&instance, &["status"]);
    assert_eq!(code, 3);
    assert!(out.contains("32b") && out.contains("needs 20.0 GB"), "{out}");
}

#[test]
fn without_a_supervisor_each_command_says_so_and_names_are_still_checked() {
    let instance = Instance::new();
    for args in [
        &["start", "32b"][..],
        &["stop", "reasoning"],
        &["restart", "70b"],
        &["trim", "32b"],
        &["trim"],
        &["ps"],
        &["reload"],
        &["events", "-f"],
    ] {
        let (code, out, err) = run(&instance, args);
        assert_eq!((code, out.as_str()), (3, ""), "{args:?}");
        assert!(err.contains("mlxctl serve"), "{args:?}: {err}");
    }
    for args in
        [&["start", "reasonin"][..], &["stop", "reasonin"], &["trim", "reasonin"], &["logs", "reasonin"]]
    {
        let (code, _, err) = run(&instance, args);
        assert_eq!(code, 4, "{args:?}");
        assert!(err.contains("`reasoning`"), "{args:?}: {err}");
    }
}

#[test]
fn a_broken_registry_is_exit_2_unless_a_supervisor_of_it_answers() {
    let instance = Instance::new();
    serve(&instance, |_, stream| json(stream, 200, &serde_json::to_string(&status()).unwrap()));
    std::fs::write(instance.config(), "[[model]\nname = 3").unwrap();
    let (code, out, _) = run(&instance, &["status"]);
    assert_eq!((code, out.as_str()), (2, ""));
    announce(&instance);
    let (code, out, err) = run(&instance, &["status"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("● ready"), "{out}");
    assert!(err.contains("mlxctl check"), "{err}");
}

#[test]
fn a_changed_run_folder_does_not_hide_the_supervisor() {
    let instance = Instance::new();
    serve(&instance, |_, stream| json(stream, 200, &serde_json::to_string(&status()).unwrap()));
    announce(&instance);
    let registry = std::fs::read_to_string(instance.config()).unwrap();
    let elsewhere = instance.folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let old = instance.folder.path().display().to_string();
    std::fs::write(instance.config(), registry.replace(&old, &elsewhere.display().to_string())).unwrap();
    let (code, out, err) = run(&instance, &["status"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("● ready") && err.contains("still uses"), "{out}{err}");
}

#[test]
fn status_asks_the_supervisor_that_was_announced_and_reads_no_registry() {
    let instance = Instance::new();
    let own = || {
        let mut status = status();
        let supervisor = status.supervisor.as_mut().unwrap();
        supervisor.config = instance.config().display().to_string();
        supervisor.config_problem = None;
        status
    };
    let document = serde_json::to_string(&own()).unwrap();
    serve(&instance, move |_, stream| json(stream, 200, &document));
    announce(&instance);
    // If it had been read, its problems would have been reported.
    std::fs::write(instance.config(), "[[model]\nname = 3").unwrap();
    for verb in ["status", "ps"] {
        let (code, out, err) = run(&instance, &[verb]);
        assert_eq!((code, err.as_str()), (0, ""), "{verb}: {out}");
        assert!(out.contains("32b"), "{verb}: {out}");
    }
}

/// What a supervisor does at its start (`paths::announce`), in the cache folder of the instance's commands instead
/// of the one of this process.
fn announce(instance: &Instance) {
    let folder = instance.folder.path().join("cache/mlxctl/instances");
    std::fs::create_dir_all(&folder).unwrap();
    let digest = <sha2::Sha256 as sha2::Digest>::digest(instance.config().as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(folder.join(name), instance.run().as_os_str().as_encoded_bytes()).unwrap();
}

#[test]
fn start_uses_the_models_name_and_reports_progress() {
    let instance = Instance::new();
    let asked = serve(&instance, |_, stream| {
        lines(
            stream,
            &[
                progress(StateName::Spawning, None),
                progress(StateName::Loading, Some(0.41)),
                progress(StateName::Loading, Some(0.42)),
                String::new(),
                progress(StateName::Loading, Some(0.5)),
                done("32b is ready"),
            ],
        );
    });
    let (code, out, err) =
        run(&instance, &["start", "reasoning", "--force", "--timeout", "2m", "--for", "3h"]);
    assert_eq!((code, out.as_str()), (0, "32b is ready\n"));
    assert_eq!(
        err.lines().collect::<Vec<_>>(),
        [
            "32b  spawning  reading weights (12s)",
            "32b  loading 41 %  reading weights (12s)",
            "32b  loading 50 %  reading weights (12s)"
        ]
    );
    let (request, body) = asked.lock().unwrap()[0].clone();
    assert_eq!(request, "POST /v1/models/32b/start");
    let body: StartRequest = serde_json::from_str(&body).unwrap();
    assert_eq!(
        body,
        StartRequest { force: true, wait: true, timeout_seconds: Some(120.0), for_seconds: Some(10_800.0) }
    );
}

#[test]
fn stop_and_restart_pass_on_what_was_asked() {
    let instance = Instance::new();
    let asked = serve(&instance, |_, stream| lines(stream, &[done("done")]));
    assert_eq!(run(&instance, &["stop", "70b", "--now"]).0, 0);
    assert_eq!(run(&instance, &["restart", "70b", "--timeout", "5s"]).0, 0);
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0].0, "POST /v1/models/70b/stop");
    assert_eq!(asked[1].0, "POST /v1/models/70b/restart");
    let body = |index: usize| serde_json::from_str::<StopRequest>(&asked[index].1).unwrap();
    assert_eq!(body(0), StopRequest { now: true, timeout_seconds: None });
    assert_eq!(body(1), StopRequest { now: false, timeout_seconds: Some(5.0) });
}

#[test]
fn refusals_have_their_exit_codes_before_and_during_the_stream() {
    for (error, exit) in [
        (ErrorCode::Refused, 75),
        (ErrorCode::Failed, 1),
        (ErrorCode::Timeout, 1),
        (ErrorCode::BadRequest, 2),
        (ErrorCode::NotRunning, 3),
        (ErrorCode::UnknownModel, 4),
    ] {
        let instance = Instance::new();
        let error = refusal(error, "70b does not fit\n43.0 GB wanted\n31.0 GB free");
        serve(&instance, move |request, stream| {
            if request.contains("/start") {
                lines(
                    stream,
                    &[
                        progress(StateName::Spawning, None),
                        serde_json::to_string(&Line::Error(error.clone())).unwrap(),
                    ],
                );
            } else {
                json(stream, 409, &serde_json::to_string(&error).unwrap());
            }
        });
        for verb in ["start", "stop"] {
            let (code, out, err) = run(&instance, &[verb, "70b"]);
            assert_eq!((code, out.as_str()), (exit, ""), "{verb}: {err}");
            if exit != 4 {
                assert!(
                    err.contains(
                        "error: 70b does not fit\n  43.0 GB wanted\n  31.0 GB free\ntry: mlxctl budget"
                    ),
                    "{err}"
                );
            } else {
                assert!(err.contains("mlxctl reload"), "known here, unknown there: {err}");
            }
        }
    }
}

#[test]
fn an_answer_that_is_cut_off_or_of_another_version_is_a_failure() {
    type Answer = fn(&str, &mut std::os::unix::net::UnixStream);
    let cases: [(Answer, &str); 5] = [
        (|_, stream| lines(stream, &[progress(StateName::Loading, None)]), "ended while answering"),
        (|_, _| {}, "ended while answering"),
        (
            |_, stream| {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nx-mlxctl-schema: 2\r\ncontent-length: 0\r\n\r\n");
            },
            "version 2",
        ),
        (|_, stream| json(stream, 500, "no JSON"), "HTTP 500: no JSON"),
        (|_, stream| lines(stream, &["{\"done\":{}}".to_owned()]), "cannot talk to the supervisor"),
    ];
    for (answer, words) in cases {
        let instance = Instance::new();
        serve(&instance, answer);
        let (code, out, err) = run(&instance, &["start", "70b"]);
        assert_eq!((code, out.as_str()), (1, ""), "{words}");
        assert!(err.contains(words), "{words}: {err}");
    }
}

#[test]
fn running_backends_are_listed_and_piped_output_is_plain() {
    let instance = Instance::new();
    serve(&instance, |_, stream| json(stream, 200, &serde_json::to_string(&status()).unwrap()));
    let (code, out, _) = run(&instance, &["ps"]);
    assert_eq!(code, 0);
    assert!(out.contains("4711") && !out.contains("70b"), "{out}");
    let (_, out, _) = run(&instance, &["ps", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["backends"][0]["pid"], 4711);
    assert_eq!(document["backends"].as_array().unwrap().len(), 1);
    let (code, out, err) = run(&instance, &["status"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("● ready") && !out.contains('\x1b'), "{out}");
    let (_, out, _) = run(&instance, &["--color", "always", "status"]);
    assert!(out.contains("\x1b[32m● ready\x1b[0m"), "{out}");
    let ascii = instance.mlxctl().env("LC_ALL", "C").arg("status").output().unwrap().stdout;
    assert!(ascii.is_ascii(), "{}", String::from_utf8_lossy(&ascii));
    let (_, out, _) = run(&instance, &["status", "--json"]);
    assert_eq!(serde_json::from_str::<Status>(&out).unwrap(), status());
}

#[test]
fn trim_asks_each_backend_that_runs() {
    let instance = Instance::new();
    let asked = serve(&instance, |request, stream| match request {
        "GET /v1/status" => json(stream, 200, &serde_json::to_string(&status()).unwrap()),
        _ => {
            let Line::Done(done) = serde_json::from_str(&done("32b released 1.20 GB")).unwrap() else {
                return;
            };
            json(stream, 200, &serde_json::to_string(&done).unwrap());
        }
    });
    let (code, out, _) = run(&instance, &["trim"]);
    assert_eq!((code, out.as_str()), (0, "32b released 1.20 GB\n"));
    assert_eq!(asked.lock().unwrap()[1].0, "POST /v1/models/32b/trim");
    assert_eq!(asked.lock().unwrap().len(), 2);
}

#[test]
fn a_trim_that_takes_long_reports_progress() {
    let instance = Instance::new();
    let looks = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    serve(&instance, move |request, stream| {
        if request == "GET /v1/status" {
            let look = looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut status = status();
            let facts = StoreFacts { written_bytes: look / 2 * 1_200_000_000, ..StoreFacts::default() };
            status.models[0].memory.prompt_store = Some(facts);
            return json(stream, 200, &serde_json::to_string(&status).unwrap());
        }
        let Line::Done(done) = serde_json::from_str(&done("32b released 1.20 GB")).unwrap() else { return };
        let (mut stream, looks) = (stream.try_clone().unwrap(), looks.clone());
        // It is done after the status was requested twice.
        std::thread::spawn(move || {
            while looks.load(std::sync::atomic::Ordering::SeqCst) < 3 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            json(&mut stream, 200, &serde_json::to_string(&done).unwrap());
        });
    });
    let (code, out, said) = run(&instance, &["trim"]);
    assert_eq!((code, out.as_str()), (0, "32b released 1.20 GB\n"));
    assert_eq!(said, "32b writes its kept prompts to disk\nanother 1.20 GB\n");
}

#[test]
fn reload_says_what_changes() {
    let instance = Instance::new();
    let asked = serve(&instance, |_, stream| {
        let change = |model: &str, change, detail: Option<&str>| Change {
            model: model.into(),
            change,
            detail: detail.map(Into::into),
        };
        let reloaded = Reloaded {
            changes: vec![
                change("32b", ChangeKind::Unchanged, None),
                change("70b", ChangeKind::Changed, Some("port 8801 → 8802; a restart takes it")),
            ],
            applied: false,
        };
        json(stream, 200, &serde_json::to_string(&reloaded).unwrap());
    });
    let (code, out, err) = run(&instance, &["reload", "--dry-run"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(out, "MODEL  CHANGE   WHAT\n70b    changed  port 8801 → 8802; a restart takes it\n");
    assert!(err.contains("nothing was applied"), "{err}");
    assert_eq!(asked.lock().unwrap()[0].1, r#"{"dry_run":true}"#);
}

fn event(seq: u64) -> EventRecord {
    EventRecord {
        seq,
        at: "2026-02-08T10:00:00Z".into(),
        model: Some("32b".into()),
        kind: "ready".into(),
        text: format!("number {seq}"),
        hint: None,
    }
}

#[test]
fn events_continue_where_the_past_ended_until_the_supervisor_ends() {
    let instance = Instance::new();
    let asked = serve(&instance, |request, stream| {
        if request.contains("follow") {
            return lines(stream, &[serde_json::to_string(&event(8)).unwrap()]);
        }
        let events = Events { events: vec![event(7)], next: 7 };
        json(stream, 200, &serde_json::to_string(&events).unwrap());
    });
    let (code, out, err) = run(&instance, &["events", "-f", "-n", "1", "--json"]);
    let seen: Vec<EventRecord> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(seen, [event(7), event(8)]);
    assert_eq!(code, 1);
    assert!(err.contains("ended while answering"), "{err}");
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0].0, "GET /v1/events?limit=1");
    assert_eq!(asked[1].0, "GET /v1/events/follow?after=7");
}

#[test]
fn logs_need_no_supervisor() {
    let instance = Instance::new();
    let (code, _, err) = run(&instance, &["logs", "32b"]);
    assert_eq!(code, 1);
    assert!(err.contains("has no log yet"), "{err}");
    std::fs::create_dir(instance.folder.path().join("logs")).unwrap();
    std::fs::write(instance.folder.path().join("logs/32b.log"), b"one\ntwo\nthr\xffe\n").unwrap();
    let output = instance.mlxctl().args(["logs", "reasoning", "-n", "2"]).output().unwrap();
    // Invalid UTF-8 may contain terminal control codes, and is replaced.
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "two\nthr\u{fffd}e\n");
}

#[test]
fn a_reader_that_leaves_ends_a_command_that_waits() {
    let instance = Instance::new();
    std::fs::create_dir(instance.folder.path().join("logs")).unwrap();
    std::fs::write(instance.folder.path().join("logs/32b.log"), "one\n").unwrap();
    serve(&instance, |request, stream| match request {
        "GET /v1/status" => json(stream, 200, &serde_json::to_string(&status()).unwrap()),
        follow if follow.contains("follow") => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nx-mlxctl-schema: 1\r\n\r\n");
            // Sends nothing until the client leaves.
            let _ = stream.read(&mut [0]);
        }
        _ => json(stream, 200, &serde_json::to_string(&Events { events: vec![event(1)], next: 1 }).unwrap()),
    });
    for args in [&["logs", "32b", "-f"][..], &["status", "--watch"], &["events", "-f"]] {
        let mut child = instance.command().args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(!first.is_empty(), "{args:?}");
        assert!(child.wait().unwrap().success(), "{args:?}");
    }
}

#[test]
fn a_closed_stdout_is_not_a_failure() {
    let instance = Instance::new();
    serve(&instance, |_, stream| json(stream, 200, &serde_json::to_string(&status()).unwrap()));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = instance.command().arg("status").stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn manual_pages_are_roff() {
    let instance = Instance::new();
    let (code, out, _) = run(&instance, &["man"]);
    assert_eq!(code, 0);
    assert!(out.contains(".TH mlxctl 1") && out.contains("mlxctl\\-start(1)"), "{out}");
    let (_, out, _) = run(&instance, &["man", "stop"]);
    assert!(out.contains("\\-\\-now"), "{out}");
    assert_eq!(run(&instance, &["man", "nothing"]).0, 2);
}
