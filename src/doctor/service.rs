//! The registry, the supervisor, and the agent that runs it.

use super::Finding;
use crate::registry::ProcessType;
use crate::service::agent::Seen;

/// Whether the registry is valid. `problems`: the number of models, or one line per problem.
pub(crate) fn registry(file: &str, problems: Result<usize, Vec<String>>) -> Finding {
    let id = "registry";
    match problems {
        Ok(1) => Finding::ok(id, format!("{file}, 1 model")),
        Ok(models) => Finding::ok(id, format!("{file}, {models} models")),
        Err(problems) => {
            let more = match problems.len() {
                0 | 1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            let first = problems.first().map_or("it has problems", String::as_str);
            Finding::fail(id, format!("{first}{more}"), "mlxctl check")
        }
    }
}

/// Whether a supervisor answers and uses the registry on disk. `answer`: its version, and why it does not use the file.
pub(crate) fn supervisor(answer: Option<(&str, Option<&str>)>, ours: &str) -> Finding {
    let id = "supervisor";
    match answer {
        None => Finding::warn(id, "none is running", "mlxctl agent install, or mlxctl serve in a terminal"),
        Some((_, Some(problem))) => Finding::fail(
            id,
            format!("changes to the registry are not applied: {problem}"),
            "mlxctl check, then mlxctl reload",
        ),
        Some((version, None)) if version != ours => Finding::warn(
            id,
            format!("version {version} runs, {ours} is installed"),
            "mlxctl agent restart; the models stay up",
        ),
        Some((version, None)) => Finding::ok(id, format!("version {version} answers")),
    }
}

/// Whether the agent's file matches the registry. `differences`: `None`: there is no file.
pub(crate) fn agent_file(file: &str, differences: Option<&[String]>) -> Finding {
    let id = "agent-file";
    match differences {
        None => {
            Finding::warn(id, format!("{file} is not there: nothing starts at login"), "mlxctl agent install")
        }
        Some([]) => Finding::ok(id, format!("{file} matches the registry")),
        Some(differences) => {
            Finding::warn(id, format!("{file} differs: {}", differences.join("; ")), "mlxctl agent install")
        }
    }
}

/// Whether the service manager runs the agent. `seen`: the job, or why the manager does not answer.
pub(crate) fn agent_state(manager: &str, seen: Result<&Seen, &str>, supervisor_pid: Option<i32>) -> Finding {
    let id = "agent-state";
    let seen = match seen {
        Err(why) => return Finding::skip(id, why),
        Ok(seen) if !seen.loaded => {
            return Finding::warn(id, format!("{manager} does not know the agent"), "mlxctl agent install");
        }
        Ok(seen) => seen,
    };
    if let Some(domain) = &seen.misplaced {
        return Finding::warn(
            id,
            format!("{manager} has the agent in {domain}: it was loaded without a login at the screen"),
            "run mlxctl agent install in Terminal at the Mac's own screen; it moves the job",
        );
    }
    let end = seen.last_end.as_ref().map(|end| format!(", last end: {end}")).unwrap_or_default();
    match (seen.pid, supervisor_pid) {
        (None, _) => Finding::fail(
            id,
            format!("loaded, but no process is running ({}{end})", seen.state),
            "check the agent's log; if this is an SSH session, log in at the screen",
        ),
        (Some(job), Some(answers)) if job != answers => Finding::warn(
            id,
            format!("{manager} runs pid {job}, but pid {answers} answers"),
            format!("stop the one that was started by hand: kill {answers}"),
        ),
        (Some(job), _) => Finding::ok(id, format!("{}, pid {job}{end}", seen.state)),
    }
}

/// What the process type costs. Reports disagree (11 against 87 tokens per second on an M4 Max; "no difference"; a
/// stall under Interactive), so the owner has to choose, and `mlxctl bench` measures.
pub(crate) fn process_type(chosen: ProcessType, macos: bool) -> Finding {
    let id = "process-type";
    if !macos {
        return Finding::skip(id, "only launchd knows process types");
    }
    match chosen {
        ProcessType::Background => Finding::warn(
            id,
            "Background: macOS throttles the agent and with it every backend (efficiency cores, slow disk access), and \
             nothing lifts it from one process; decoding may be several times slower",
            "compare with mlxctl bench, then set process_type = \"Standard\" or \"Interactive\" if it matters",
        ),
        ProcessType::Adaptive => Finding::warn(
            id,
            "Adaptive: the same as Background for a server that no application talks to over XPC",
            "process_type = \"Standard\" or \"Interactive\"",
        ),
        ProcessType::Standard | ProcessType::Interactive => Finding::ok(id, format!("{chosen:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    fn seen(loaded: bool, pid: Option<i32>) -> Seen {
        Seen { loaded, pid, state: "running".into(), ..Seen::default() }
    }

    #[test]
    fn a_broken_registry_fails_with_its_first_problem() {
        assert_eq!(registry("models.toml", Ok(2)).state, State::Ok);
        let broken = registry("models.toml", Err(vec!["line 3: port 0".into(), "line 9: x".into()]));
        assert_eq!(broken.state, State::Fail);
        assert_eq!(broken.seen, "line 3: port 0 (and 1 more)");
    }

    #[test]
    fn a_supervisor_of_another_version_or_registry_is_noticed() {
        assert_eq!(supervisor(Some(("0.1.0", None)), "0.1.0").state, State::Ok);
        assert_eq!(supervisor(Some(("0.0.9", None)), "0.1.0").state, State::Warn);
        assert_eq!(supervisor(Some(("0.1.0", Some("line 3"))), "0.1.0").state, State::Fail);
        assert_eq!(supervisor(None, "0.1.0").state, State::Warn);
    }

    #[test]
    fn the_agents_file_is_compared_with_the_registry() {
        assert_eq!(agent_file("x.plist", Some(&[])).state, State::Ok);
        assert_eq!(agent_file("x.plist", None).state, State::Warn);
        assert!(agent_file("x.plist", Some(&["Nice: other".into()])).seen.contains("Nice"));
    }

    #[test]
    fn an_agent_without_a_process_fails() {
        assert_eq!(agent_state("launchd", Ok(&seen(true, Some(7))), Some(7)).state, State::Ok);
        assert_eq!(agent_state("launchd", Ok(&seen(true, Some(7))), Some(8)).state, State::Warn);
        assert_eq!(agent_state("launchd", Ok(&seen(true, None)), None).state, State::Fail);
        assert_eq!(agent_state("launchd", Ok(&seen(false, None)), None).state, State::Warn);
        let misplaced = Seen { misplaced: Some("user/501".into()), ..seen(true, Some(7)) };
        assert!(agent_state("launchd", Ok(&misplaced), Some(7)).seen.contains("user/501"));
        assert_eq!(agent_state("launchd", Err("no launchctl"), None).state, State::Skip);
    }

    #[test]
    fn a_process_type_that_slows_the_models_down_is_a_warning() {
        let background = process_type(ProcessType::Background, true);
        assert_eq!(background.state, State::Warn);
        assert!(
            background.seen.contains("nothing lifts it") && background.fix.unwrap().contains("mlxctl bench")
        );
        assert_eq!(process_type(ProcessType::Adaptive, true).state, State::Warn);
        assert_eq!(process_type(ProcessType::Standard, true).state, State::Ok);
        assert_eq!(process_type(ProcessType::Background, false).state, State::Skip);
    }
}
