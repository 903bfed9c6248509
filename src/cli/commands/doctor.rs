//! `mlxctl doctor`

use serde::Serialize;

use super::agent;
use crate::api::SCHEMA;
use crate::api::client::Client;
use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::cli::render::human::count;
use crate::doctor::{Finding, State, observe, trials};
use crate::registry::Registry;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// As a JSON document (schema 1)
    #[arg(long)]
    json: bool,
    /// Try out what mlxctl asks of the operating system, on processes of its own, instead of looking at the deployment
    #[arg(long)]
    host: bool,
    #[command(flatten)]
    stand_ins: agent::StandIns,
}

/// Keys are promises.
#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: u32,
    /// Checks that failed.
    failed: usize,
    /// Checks that warn.
    warned: usize,
    checks: &'a [Finding],
}

/// Looks at everything and says what to do about it.
///
/// # Errors
/// Exit 1 if a check failed.
pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let findings = examine(context, args);
    let with = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (failed, warned) = (with(State::Fail), with(State::Warn));
    let text = if args.json {
        let document = Document { schema: SCHEMA, failed, warned, checks: &findings };
        serde_json::to_string_pretty(&document)
            .map_err(|error| CliError::failed("cannot write the findings as JSON").why(error))?
    } else {
        findings.iter().map(|finding| line(finding, context.output.color)).collect()
    };
    context.output.data(&text)?;
    match failed {
        0 => Ok(()),
        failed => Err(CliError::new(Exit::Failed, format!("{} failed", count(failed as u64, "check")))),
    }
}

fn examine(context: &Context, args: &Args) -> Vec<Finding> {
    let host = crate::host::system();
    if args.host {
        return trials::all(host.as_ref());
    }
    let mut findings = observe::machine(host.as_ref());
    let registry = match Registry::load(&context.config) {
        Ok(registry) => registry,
        Err(problems) => {
            findings.push(observe::broken(&problems, &context.config));
            return findings;
        }
    };
    let status = Client::new(&registry.paths.run).status().ok();
    let job = args.stand_ins.installed(context, &registry);
    let job = job.as_deref().map_err(|error| error.what.clone());
    findings.extend(observe::deployment(&registry, job, status.as_ref(), host.as_ref()));
    findings.extend(observe::clusters(&registry, status.as_ref(), host.as_ref()));
    findings
}

/// The state, the check, what was seen; below it what to do.
fn line(finding: &Finding, color: bool) -> String {
    let (word, code) = match finding.state {
        State::Ok => ("ok", "32"),
        State::Skip => ("skip", "2"),
        State::Warn => ("warn", "33"),
        State::Fail => ("FAIL", "1;31"),
    };
    let word = if color { format!("\x1b[{code}m{word:<4}\x1b[0m") } else { format!("{word:<4}") };
    let fix = finding.fix.iter().map(|fix| format!("{:<22}try: {fix}\n", ""));
    format!("{word}  {:<16}{}\n{}", finding.id, finding.seen, fix.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_was_seen_and_what_to_do() {
        let fail = Finding::fail("ports", "somebody else listens on 8800", "lsof");
        assert_eq!(
            line(&fail, false),
            "FAIL  ports           somebody else listens on 8800\n                      try: lsof\n"
        );
        assert_eq!(line(&Finding::ok("clock", "right"), false), "ok    clock           right\n");
        assert!(line(&fail, true).starts_with("\x1b[1;31mFAIL\x1b[0m  ports"));
    }
}
