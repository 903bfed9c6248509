//! `mlxctl doctor`

use serde::Serialize;

use super::agent;
use crate::api::SCHEMA;
use crate::api::client::Client;
use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::cli::render::human::count;
use crate::cli::render::{Look, Style, fold};
use crate::doctor::{Finding, State, observe, trials};
use crate::registry::Registry;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON (schema 1)
    #[arg(long)]
    json: bool,
    /// Test every system call mlxctl relies on, using processes of its own, instead of checking the deployment
    #[arg(long)]
    host: bool,
    #[command(flatten)]
    stand_ins: agent::StandIns,
}

/// What `doctor --json` prints; its keys are stable.
#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: u32,
    failed: usize,
    warned: usize,
    checks: &'a [Finding],
}

/// Runs every check and prints what was found and what to do about it.
///
/// # Errors
/// Exit 1 if a check failed.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let findings = examine(context, args);
    let with = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (failed, warned) = (with(State::Fail), with(State::Warn));
    if args.json {
        context.output.json(&Document { schema: SCHEMA, failed, warned, checks: &findings })?;
    } else {
        let look = Look::of(&context.output);
        context.output.data(&lines(&findings, &look))?;
    }
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

/// The narrowest column of the checks' names, and the blanks around it.
const NAMES: usize = 14;
const GAP: usize = 2;

fn lines(findings: &[Finding], look: &Look) -> String {
    let names = findings.iter().map(|finding| finding.id.len()).max().unwrap_or_default().max(NAMES);
    findings.iter().map(|finding| line(finding, names, look)).collect()
}

/// State, check and what was seen; what to do is on the lines below. `names` is the width of the checks' names.
fn line(finding: &Finding, names: usize, look: &Look) -> String {
    let (word, style) = match finding.state {
        State::Ok => ("ok", Style::Good),
        State::Skip => ("skip", Style::Faint),
        State::Warn => ("warn", Style::Busy),
        State::Fail => ("FAIL", Style::Bad),
    };
    let seen = 4 + GAP + names + GAP;
    let room = look.width.saturating_sub(seen).max(20);
    let mut out = format!("{}  {:<names$}  ", look.paint(style, &format!("{word:<4}")), finding.id);
    let fix = finding
        .fix
        .iter()
        .flat_map(|fix| fold(&format!("try: {fix}"), 5, room).lines().map(str::to_owned).collect::<Vec<_>>());
    for (index, text) in fold(&finding.seen, 0, room).lines().map(str::to_owned).chain(fix).enumerate() {
        let indent = if index == 0 { 0 } else { seen };
        out.push_str(&format!("{:indent$}{text}\n", ""));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_was_seen_and_what_to_do() {
        let look = Look { width: usize::MAX, color: false, unicode: true };
        let fail = Finding::fail("ports", "another program listens on 8800", "lsof");
        assert_eq!(
            line(&fail, NAMES, &look),
            "FAIL  ports           another program listens on 8800\n                      try: lsof\n"
        );
        assert_eq!(line(&Finding::ok("clock", "right"), NAMES, &look), "ok    clock           right\n");
        assert!(line(&fail, NAMES, &Look { color: true, ..look }).starts_with("\x1b[31mFAIL\x1b[0m  ports"));
        let narrow = line(&fail, NAMES, &Look { width: 44, ..look });
        assert_eq!(
            narrow,
            "FAIL  ports           another program\n                      listens on 8800\n                      try: lsof\n"
        );
    }

    #[test]
    fn findings_are_drawn_at_every_width() {
        let findings = [
            Finding::ok("clock", "plausible"),
            Finding::skip("footprint-group", "another user's processes cannot be measured on this machine"),
            Finding::warn(
                "allow-list",
                "every machine that reaches 192.168.132.21 can use the models: network.allow_from is empty",
                "name the gateway's address in network.allow_from, then mlxctl reload",
            ),
            Finding::fail(
                "ports",
                "8800 is held by nginx (pid 411)",
                "kill 411, or choose another port for 32b",
            ),
        ];
        insta::assert_snapshot!(crate::cli::render::sample::at_every_width(|look| {
            let text = lines(&findings, look);
            let seen = 4 + GAP + "footprint-group".len() + GAP;
            let below = |line: &str| line[..seen].ends_with("  ") && line.len() > seen;
            assert!(text.lines().all(below), "{text}");
            text
        }));
    }
}
