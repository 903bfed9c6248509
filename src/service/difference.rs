//! What differs between a property list on disk and the one that the registry asks for, and why it matters.

use plist::{Dictionary, Value};

/// One key whose value in the file differs from the registry's.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Difference {
    /// launchd's name for the key: `ProcessType`.
    pub key: String,
    /// The value in the file; `None`: it has none.
    pub file: Option<String>,
    /// The value the registry asks for; `None`: none.
    pub registry: Option<String>,
    /// What follows from it, in one sentence.
    pub why: String,
}

/// Every key that differs: the registry's keys in order, then the ones that only the file has.
pub(crate) fn differences(registry: &Dictionary, file: &Dictionary) -> Vec<Difference> {
    let asked = registry.iter().filter(|(key, value)| file.get(key) != Some(value)).map(|(key, value)| {
        let found = file.get(key);
        Difference {
            key: key.clone(),
            file: found.map(show),
            registry: Some(show(value)),
            why: consequence(key, found).to_owned(),
        }
    });
    let extra = file.iter().filter(|(key, _)| !registry.contains_key(key)).map(|(key, value)| Difference {
        key: key.clone(),
        file: Some(show(value)),
        registry: None,
        why: surplus(key).to_owned(),
    });
    asked.chain(extra).collect()
}

/// The consequence if a key that the registry asks for is missing (`found` is `None`) or has another value.
/// The facts are from launchd.plist(5) and field reports.
fn consequence(key: &str, found: Option<&Value>) -> &'static str {
    match key {
        "Label" => {
            "launchd would know the job by another name: `mlxctl agent` would not find it, and two could run"
        }
        "ProgramArguments" if runs_server_itself(found) => {
            "launchd would run mlx_lm.server itself: no gate, no memory budget, and a dead generation thread \
             stays unseen because the process lives on"
        }
        "ProgramArguments" => "another program or another registry would run",
        "WorkingDirectory" => "relative paths of the environment would mean something else",
        "RunAtLoad" => "the always-on models would not start at login",
        "KeepAlive" if found.is_some_and(|value| value.as_dictionary().is_some()) => {
            "conditions are ORed and `Crashed` alone does not bring back a killed job: the supervisor may stay down"
        }
        "KeepAlive" => "a supervisor that ends would stay down",
        "StandardOutPath" | "StandardErrorPath" => {
            "the supervisor's log would be elsewhere, or nowhere if its folder is missing"
        }
        "EnvironmentVariables" => {
            "the supervisor would see other variables; without PATH launchd gives /usr/bin:/bin:/usr/sbin:/sbin"
        }
        "ProcessType" => {
            "it decides CPU, disk and efficiency cores of every backend: one M4 Max decoded 11 tokens/s under \
             Background and 87 under Interactive; `mlxctl bench` tells what it costs here"
        }
        "LowPriorityIO" => "loading a model would compete with other programs for the disk, or yield to them",
        "Nice" => "the backends would get a different share of the CPU",
        "ExitTimeOut" if found.is_none() => {
            "launchd would kill the supervisor 5 s after asking it to end: answers are cut, and backends may be orphaned"
        }
        "ExitTimeOut" => "the supervisor would have a different time to drain and stop its backends",
        "ThrottleInterval" => "a failing supervisor would be restarted at a different rate",
        "AbandonProcessGroup" => "launchd would kill the backends when the supervisor is replaced",
        "SoftResourceLimits" if found.is_none() => {
            "256 open files are launchd's default: about a hundred clients, then connections fail"
        }
        "SoftResourceLimits" => "the supervisor would have a different open-file limit",
        _ => "launchd would get a different value",
    }
}

/// The consequence of an unexpected key.
fn surplus(key: &str) -> &'static str {
    match key {
        "Disabled" => {
            "the job may not start; whether it is disabled is launchd's own record: `mlxctl agent install` enables it"
        }
        "Umask" => {
            "integers here are decimal (77 is not 077); files of the backends would get different modes"
        }
        "UserName" | "GroupName" => "an agent runs as its user; launchd ignores or refuses these",
        "LimitLoadToSessionType" => {
            "the job may wait forever in another kind of session while `launchctl print` looks healthy"
        }
        "StartInterval" | "StartCalendarInterval" | "WatchPaths" | "QueueDirectories" | "StartOnMount" => {
            "a job that is always kept alive needs no other start condition"
        }
        "Sockets" | "MachServices" => "launchd would open sockets the supervisor never uses",
        "Program" => "it overrides what ProgramArguments names first",
        "HardResourceLimits" => "a limit that the supervisor cannot raise again",
        _ => "the registry does not ask for it",
    }
}

/// Whether the file starts the Python server without a supervisor.
fn runs_server_itself(found: Option<&Value>) -> bool {
    let words = found.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_string);
    words.into_iter().any(|word| word.starts_with("mlx_lm"))
}

/// A property list value as one line.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Boolean(yes) => yes.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(" "),
        Value::Dictionary(pairs) => {
            pairs.iter().map(|(key, value)| format!("{key}={}", show(value))).collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::launchd::tests::job;

    fn ours() -> Dictionary {
        job().to_dictionary().unwrap()
    }

    #[test]
    fn the_registrys_own_file_has_no_difference() {
        let xml = job().to_xml().unwrap();
        let file: Dictionary = plist::from_bytes(xml.as_bytes()).unwrap();
        assert_eq!(differences(&ours(), &file), []);
    }

    #[test]
    fn every_missing_or_changed_key_is_named_with_its_own_reason() {
        for key in ours().keys() {
            let mut missing = ours();
            missing.remove(key);
            let mut changed = ours();
            changed.insert(key.clone(), Value::from("something else"));
            for file in [missing, changed] {
                let [difference] = &differences(&ours(), &file)[..] else {
                    panic!("{key}: not one difference")
                };
                assert_eq!(&difference.key, key);
                assert_ne!(difference.why, consequence("nothing of this name", None), "{key} has no reason");
            }
        }
    }

    #[test]
    fn keys_that_only_the_file_has_are_named_last() {
        let mut file = ours();
        file.insert("Umask".into(), Value::from(77));
        file.remove("ExitTimeOut");
        let found = differences(&ours(), &file);
        let keys: Vec<&str> = found.iter().map(|difference| difference.key.as_str()).collect();
        assert_eq!(keys, ["ExitTimeOut", "Umask"]);
        assert_eq!(found[1].file.as_deref(), Some("77"));
        assert_eq!(found[1].registry, None);
    }

    #[test]
    fn a_job_that_runs_the_server_without_supervisor_is_recognised() {
        let mut file = ours();
        let words = ["/v/bin/python3", "-m", "mlx_lm.server", "--port", "8800"];
        file.insert("ProgramArguments".into(), Value::Array(words.map(Value::from).into()));
        let found = differences(&ours(), &file);
        assert!(found[0].why.contains("mlx_lm.server itself"), "{found:?}");
    }
}
