//! Runs `mlx.launch`, through a small Python file of ours, with `mlxctl __rank` on every rank.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::frame::decode;
use super::inputs::ConductorInput as Input;
use super::streams::{Writer, read_lines};
use crate::backend::group::{Group, ranks_folder, scratch};
use crate::backend::record::replace;
use crate::backend::spec::Spec;
use crate::host::{self, Identity};

/// The source of that Python file.
const SCRIPT: &str = include_str!("mlx_launch.py");
/// The ring's ports: below the ephemeral ports of Linux and macOS.
const PORTS: std::ops::Range<u16> = 21_000..31_000;

/// Starts it; its messages and the ranks' go to `inputs`.
///
/// # Errors
/// The system's own: no interpreter, no free ports.
pub(super) fn start(
    spec: &Spec,
    group: &Group,
    run: &Path,
    inputs: &UnboundedSender<Input>,
) -> io::Result<(Identity, Writer)> {
    let ranks = ranks_folder(run);
    DirBuilder::new().recursive(true).mode(0o700).create(&ranks)?;
    let script = ranks.join(format!("{}.launch.py", spec.model));
    std::fs::write(&script, SCRIPT)?;
    let hosts = ranks.join(format!("{}.hosts.json", spec.model));
    replace(&hosts, &group.hostfile())?;
    let mut command = Command::new(&group.python);
    command.arg(script).args(["--backend", &group.backend]).arg("--hostfile").arg(hosts);
    if group.backend == "mpi" {
        // By default only rank 0 has a standard input.
        command.args(["--mpi-arg", "--stdin all"]);
    } else {
        command.args(["--starting-port", &free_port(group)?.to_string()]);
    }
    command.arg("--").arg(&group.binary).arg(super::RANK);
    // Its launch script leaves files behind that mktemp makes.
    let scratch = scratch(run, &spec.model);
    DirBuilder::new().recursive(true).mode(0o700).create(&scratch)?;
    command.env("TMPDIR", scratch);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let who = host::identify_child(i32::try_from(child.id()).map_err(io::Error::other)?)?;
    let exit = host::system().watch(who)?;
    let ended = inputs.clone();
    tokio::spawn(async move {
        let exit = exit.await;
        // Its last lines arrive through other threads.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = ended.send(Input::Launch(exit));
    });
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(io::Error::other("mlx.launch has no standard streams"));
    };
    let heard = inputs.clone();
    let said = move |line: Vec<u8>| {
        let input = decode(&line).map_or(Input::Text(line), Input::Up);
        let _ = heard.send(input);
    };
    read_lines(stdout, said.clone(), || ());
    read_lines(stderr, said, || ());
    Ok((who, Writer::new(stdin)))
}

/// The first of a random range of ports that are free on this machine: connections of the last run may still be
/// closing.
fn free_port(group: &Group) -> io::Result<u16> {
    let rows: usize = group.places.iter().map(|place| place.addresses.len().max(1)).sum();
    let rows = u16::try_from(rows).map_err(io::Error::other)?;
    for _ in 0..100 {
        let mut random = [0; 2];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let first = PORTS.start + u16::from_ne_bytes(random) % (PORTS.end - PORTS.start - rows);
        let free = (first..first + rows).all(|port| std::net::TcpListener::bind(("0.0.0.0", port)).is_ok());
        if free {
            return Ok(first);
        }
    }
    Err(io::Error::other("no free ports for the ranks"))
}

/// The rank whose end `mlx.launch` reports, and its exit code.
pub(super) fn lost_rank(line: &str) -> Option<(usize, Option<i32>)> {
    let (_, rest) = line.split_once("Node with rank ")?;
    let (rank, how) = rest.split_once(' ')?;
    let code = how.strip_prefix("exited with code ").map(|code| code.split_whitespace().next());
    if code.is_none() && !how.starts_with("was killed") {
        return None;
    }
    Some((rank.parse().ok()?, code.flatten().and_then(|code| code.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mlx_launch_says_of_a_rank_is_understood() {
        let line = "\u{1b}[33m[WARN] Node with rank 1 exited with code 255 \u{1b}[0m";
        assert_eq!(lost_rank(line), Some((1, Some(255))));
        assert_eq!(lost_rank("[WARN] Node with rank 12 exited with code -9"), Some((12, Some(-9))));
        assert_eq!(lost_rank("[WARN] Node with rank 2 was killed"), Some((2, None)));
        assert_eq!(lost_rank("[INFO] Node with rank 2 completed"), None);
        assert_eq!(lost_rank("anything"), None);
    }
}
