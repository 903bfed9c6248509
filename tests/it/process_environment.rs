//! A shell's settings for another Python do not affect ours, and what the registry sets reaches the backend.

use crate::support::{Entry, Instance};

/// The environment of a model's process, as the kernel has it.
fn environment(instance: &Instance, model: &str) -> Vec<String> {
    let pid = instance.pid(model);
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    bytes.split(|byte| *byte == 0).map(|pair| String::from_utf8_lossy(pair).into_owned()).collect()
}

#[test]
fn a_shells_python_has_no_effect_and_the_registrys_variables_arrive() {
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
