//! What `mlxctl gateway` prints distinguishes the states, and so does the original deployment's health check.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::real::python;
use crate::support::{Entry, Instance, signal};

fn pair(faults: &[&str]) -> Instance {
    let always = Entry::new("32b", "always").with("aliases = [\"reasoning\"]\nmemory = { context = 8192 }");
    let manual = Entry::new("70b", "manual").with("aliases = [\"large\"]");
    // A stand-in that loads forever does not react to SIGTERM.
    let stop = "stop = { term = \"1s\" }";
    Instance::fake(vec![always.faults(faults).with(stop), manual.faults(faults).with(stop)]).serve()
}

fn module(instance: &Instance) -> PathBuf {
    let file = instance.root().join("mlx_backends.py");
    std::fs::write(&file, instance.expect(0, &["gateway", "--format", "python"])).unwrap();
    file
}

fn script(name: &str, module: &Path, args: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway");
    let output =
        Command::new(python()).arg("-B").arg(folder.join(name)).arg(module).args(args).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn check(module: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&script("check.py", module, args)).unwrap()
}

#[test]
fn the_plans_health_check_and_the_module_name_every_state() {
    let mut instance = pair(&[]);
    let module = module(&instance);
    instance.wait_state("32b", "ready");
    let seen = |reasoning: &str, large: &str| json!({ "plan": [reasoning, large], "module": { "32b": reasoning, "70b": large }, "ordinary": null, "oversized": null });
    assert_eq!(check(&module, &[]), seen("healthy", "offline"));

    instance.expect(0, &["start", "70b"]);
    assert_eq!(check(&module, &[]), seen("healthy", "healthy"));

    signal(instance.pid("70b"), Signal::SIGKILL);
    instance.wait_state("70b", "failed");
    assert_eq!(check(&module, &[]), seen("healthy", "offline"));

    instance.expect(0, &["stop", "32b"]);
    assert_eq!(check(&module, &[]), seen("unhealthy", "offline"));

    instance.end();
    assert_eq!(check(&module, &[]), seen("unreachable", "offline"));
}

#[test]
fn a_model_that_loads_is_not_healthy_although_its_server_listens() {
    let instance = pair(&["load=3600"]);
    let module = module(&instance);
    instance.expect(0, &["start", "70b", "--no-wait"]);
    for name in ["32b", "70b"] {
        instance.wait_for(name, |model| model["health"]["listening"] == true);
    }
    let seen = check(&module, &[]);
    assert_eq!(seen["plan"], json!(["unhealthy", "offline"]));
    assert_eq!(seen["module"], json!({ "32b": "unhealthy", "70b": "offline" }));
}

#[test]
fn an_oversized_request_goes_to_the_large_model_and_falls_back_while_that_is_down() {
    let instance = pair(&[]);
    let module = module(&instance);
    instance.wait_state("32b", "ready");
    let answered = |by: &str| {
        let seen = check(&module, &["--ask"]);
        assert_eq!((&seen["ordinary"], &seen["oversized"]), (&"32b".into(), &by.into()), "{seen}");
    };
    answered("32b");
    instance.expect(0, &["start", "70b"]);
    answered("70b");
    signal(instance.pid("70b"), Signal::SIGKILL);
    instance.wait_state("70b", "failed");
    answered("32b");
}

#[test]
fn requests_are_routed_by_name_need_and_size() {
    let instance = Instance::fake(vec![
        Entry::new("32b", "always").with("aliases = [\"reasoning\"]\nmemory = { context = 8192 }"),
        Entry::new("70b", "manual").with("aliases = [\"large\"]"),
    ]);
    script("routes.py", &module(&instance), &[]);
}

/// `scripts/gateway_smoke` runs the app, which needs FastAPI; here its names are compared with those of the module.
#[test]
fn the_fastapi_app_uses_what_the_module_has() {
    let instance = Instance::fake(vec![Entry::new("32b", "always"), Entry::new("70b", "manual")]);
    let app = instance.root().join("gateway.py");
    std::fs::write(&app, instance.expect(0, &["gateway", "--format", "fastapi"])).unwrap();
    script("app.py", &module(&instance), &[app.to_str().unwrap()]);
}
