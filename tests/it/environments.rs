//! What a shell set up for another Python decides nothing about ours, what the registry sets reaches the backend, and a
//! log that a burst filled is given back.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::support::{Entry, Instance, PATIENCE};

/// The environment of a model's process, as the kernel has it.
#[cfg(target_os = "linux")]
fn environment(instance: &Instance, model: &str) -> Vec<String> {
    let pid = instance.pid(model);
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    bytes.split(|byte| *byte == 0).map(|pair| String::from_utf8_lossy(pair).into_owned()).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn a_shells_python_decides_nothing_and_the_registrys_variables_arrive() {
    let entry = Entry::new("a", "always")
        .with("environment = { AGX_RELAX_CDM_CTXSTORE_TIMEOUT = \"1\", LANG = \"C\" }");
    let mut instance =
        Instance::fake(vec![entry]).memory("reserve = []\n[agent]\nenvironment = [\"OF_AGENT=yes\"]");
    let site = tempfile::tempdir().unwrap();
    std::fs::write(site.path().join("json.py"), "raise ImportError('of another Python')").unwrap();
    for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE"] {
        instance.env(name, site.path().to_str().unwrap());
    }
    instance.env("LANG", "C.UTF-8");
    let instance = instance.serve();
    instance.wait_state("a", "ready");
    let environment = environment(&instance, "a");
    let has = |pair: &str| environment.iter().any(|found| found == pair);
    assert!(has("AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1") && has("OF_AGENT=yes"), "{environment:?}");
    assert!(has("LANG=C") && !has("LANG=C.UTF-8"), "the model's own value comes first: {environment:?}");
    let path = site.path().to_str().unwrap();
    assert!(environment.iter().all(|pair| !pair.contains(path)), "{environment:?}");
}

/// A backend that says 30 MB within seconds and is silent from then on.
#[test]
fn a_burst_of_a_log_is_given_back_once_it_is_over() {
    let instance = Instance::fake(vec![Entry::new("a", "always")]).serve();
    instance.wait_state("a", "ready");
    let log = instance.root().join("logs/a.log");
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    let block = [b'x'; 999].iter().chain(b"\n").copied().collect::<Vec<u8>>().repeat(1000);
    for _ in 0..30 {
        file.write_all(&block).unwrap();
    }
    let size = |name: &str| {
        std::fs::metadata(instance.root().join("logs").join(name)).map_or(0, |found| found.len())
    };
    let until = Instant::now() + PATIENCE;
    while size("a.log.1") == 0 || size("a.log.1") > 10_000_000 || size("a.log") > 10_000_000 {
        assert!(Instant::now() < until, "{} and {} bytes stay", size("a.log"), size("a.log.1"));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(size("a.log.1") > 9_000_000, "its end is kept");
}
