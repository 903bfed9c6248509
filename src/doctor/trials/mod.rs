//! `doctor --host`: tests on this machine what mlxctl expects of the operating system.
//!
//! Documentation promises it all; only a real machine can confirm it. The trials touch only processes that they start,
//! a loopback port and some memory of this process, and release all of it; and, if the system can, they hold off idle
//! sleep for a moment.

mod machine;
mod process;
mod subject;

use std::io;

use super::{Finding, State};
use crate::host::Host;

/// The outcome of a trial: what was seen, if it is as promised.
type Outcome = Result<String, Not>;

/// Why a trial did not succeed.
enum Not {
    /// The system does something other than promised.
    Promised(String),
    /// The system does not have it and does not need to.
    Supported(String),
}

impl From<io::Error> for Not {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::Unsupported => Self::Supported("this system does not have it".to_owned()),
            _ => Self::Promised(error.to_string()),
        }
    }
}

/// Success if `holds`; either way with what was seen.
fn seen(holds: bool, seen: String) -> Outcome {
    if holds { Ok(seen) } else { Err(Not::Promised(seen)) }
}

/// One call of the seam, and what mlxctl does with its answer.
struct Trial {
    id: &'static str,
    /// What goes wrong if it does not hold.
    without: &'static str,
    run: fn(&dyn Host) -> Outcome,
}

/// Runs all trials, one after the other; takes some seconds.
pub(crate) fn all(host: &dyn Host) -> Vec<Finding> {
    machine::TRIALS.iter().chain(process::TRIALS).map(|trial| finding(trial, host)).collect()
}

fn finding(trial: &Trial, host: &dyn Host) -> Finding {
    match (trial.run)(host) {
        Ok(seen) => Finding::ok(trial.id, seen),
        Err(Not::Supported(why)) => Finding::skip(trial.id, why),
        Err(Not::Promised(seen)) => Finding {
            id: trial.id,
            state: State::Fail,
            seen: format!("unexpected: {seen}"),
            fix: Some(format!(
                "report it with `mlxctl doctor --host --json`; the consequence: {}",
                trial.without
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;
    use crate::units::Bytes;

    /// A host that breaks its promises is caught. Everything that this one answers is made up.
    #[test]
    fn a_system_that_does_otherwise_fails_with_the_consequence() {
        let host = Fake::new(Bytes::gb(128));
        let findings = all(&*host);
        let of = |id: &str| findings.iter().find(|finding| finding.id == id).unwrap();
        // Its processes are not those of this machine, and none of them owns a port.
        for id in ["start-time", "exit-child", "footprint-self", "port-owner"] {
            let finding = of(id);
            assert_eq!(finding.state, State::Fail, "{finding:?}");
            assert!(finding.seen.starts_with("unexpected: "), "{finding:?}");
            assert!(finding.fix.as_ref().unwrap().contains("the consequence: "), "{finding:?}");
        }
    }

    #[test]
    fn what_a_system_need_not_have_is_skipped() {
        let trial = Trial {
            id: "x",
            without: "nothing works",
            run: |_| Err(io::Error::from(io::ErrorKind::Unsupported).into()),
        };
        assert_eq!(finding(&trial, &*Fake::new(Bytes::gb(128))).state, State::Skip);
    }
}
