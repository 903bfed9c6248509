//! `mlxctl init`

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::cli::starter::{FIRST_PORT, Machine, Proposal, propose, text};
use crate::folders;
use crate::host::port_holders;
use crate::python::hub;
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write it [default: the registry of --config]
    #[arg(short, long, value_name = "PATH", conflicts_with = "stdout")]
    output: Option<PathBuf>,
    /// Print it instead of writing a file
    #[arg(long)]
    stdout: bool,
    /// Serve the local network (and nothing beyond it) instead of this machine alone
    #[arg(long)]
    lan: bool,
    /// Add every other key, commented out, with its default and meaning
    #[arg(long)]
    all: bool,
    /// Propose models for a machine with this much memory
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
}

/// Writes a registry for this machine: models that fit its memory, and where it listens. Never replaces a file.
///
/// # Errors
/// The file already exists or cannot be written.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let host = crate::host::system();
    let facts = host.facts();
    let lan = lan();
    if args.lan && lan.is_none() {
        return Err(CliError::failed("this machine has no address in a private network").hint(
            "join the network first, or leave --lan out and edit `host` and `allow_from` in [network]",
        ));
    }
    let data = folders::data();
    let memory = args.memory.unwrap_or(facts.memory);
    let machine = Machine { chip: facts.chip.as_deref(), memory, lan, serve_lan: args.lan, data: &data };
    let proposals = propose(memory);
    let gates = lan.filter(|_| args.lan).unwrap_or(Ipv4Addr::LOCALHOST);
    let (free, skipped) = ports(proposals.len().max(1), |port| taken(gates, port));
    let text = text(&machine, &proposals, &free, args.all);
    for port in skipped {
        context.output.say(&in_use(port));
    }
    if args.stdout {
        return context.output.data(&text);
    }
    let file = args.output.as_ref().unwrap_or(&context.config);
    let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
    write(&file, &text)?;
    context.output.say(&next(&file, args.output.is_some(), &proposals));
    context.output.data(&file.to_string_lossy())
}

/// Writes the file completely or not at all, and never over another one.
fn write(file: &Path, text: &str) -> Result<(), CliError> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let failed = |error: &io::Error| {
        CliError::failed(format!("cannot write {}", file.display()))
            .why(error)
            .hint("mlxctl init -o PATH writes it elsewhere; --stdout prints it")
    };
    let exists = || {
        CliError::new(Exit::Failed, format!("{} already exists", file.display()))
            .why("init never replaces a registry")
            .hint("mlxctl check               to validate it\nmlxctl init -o PATH        to write another one\nmlxctl init --stdout       to print one for comparison")
    };
    if file.symlink_metadata().is_ok() {
        return Err(exists());
    }
    fs_err::create_dir_all(folder).map_err(|error| failed(&error))?;
    let mut new = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(&error))?;
    new.write_all(text.as_bytes()).and_then(|()| new.as_file().sync_all()).map_err(|error| failed(&error))?;
    new.persist_noclobber(file).map(drop).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => failed(&error.error),
    })
}

/// `count` ports for the models, and those that were skipped because another program listens there. From 9000 on
/// none is skipped, so the search ends.
fn ports(count: usize, taken: impl Fn(u16) -> bool) -> (Vec<u16>, Vec<u16>) {
    let (mut free, mut skipped) = (Vec::new(), Vec::new());
    let mut port = FIRST_PORT;
    while free.len() < count {
        if port < 9000 && taken(port) {
            skipped.push(port)
        } else {
            free.push(port)
        }
        port += 1;
    }
    (free, skipped)
}

/// Whether another program listens there. `mlxctl check` reports anything else that is wrong with a port.
fn taken(gates: Ipv4Addr, port: u16) -> bool {
    matches!(TcpListener::bind((gates, port)), Err(error) if error.kind() == io::ErrorKind::AddrInUse)
}

fn in_use(port: u16) -> String {
    match port_holders(port).first() {
        Some(holder) => format!("port {port} is in use by {} (pid {}): skipped", holder.name, holder.pid),
        None => format!("port {port} is in use: skipped"),
    }
}

/// What was proposed, and what to do next.
fn next(file: &Path, elsewhere: bool, proposals: &[Proposal]) -> String {
    let mut lines: Vec<String> = proposals
        .iter()
        .map(|Proposal { model, always, memory, .. }| {
            let role = if *always { "always on" } else { "on demand" };
            let files = match hub::cached(model.repo) {
                Some(cached) if cached.complete => "downloaded already".to_owned(),
                _ => format!("{} to download", model.weights()),
            };
            format!("{:<5} {role}  {}: {memory} of memory, {files}", model.name, model.repo)
        })
        .collect();
    let config = if elsewhere { format!(" --config '{}'", file.display()) } else { String::new() };
    let width = format!("mlxctl{config} agent install").len();
    lines.push("\nnext:".to_owned());
    for (verb, why) in [
        ("setup", "create the Python environment"),
        ("pull", "download the models"),
        ("agent install", "serve them now and at every login"),
    ] {
        lines.push(format!("  {:<width$}   {why}", format!("mlxctl{config} {verb}")));
    }
    lines.join("\n")
}

/// This machine's address in a private network (RFC 1918), if the route to the outside leaves from one.
fn lan() -> Option<Ipv4Addr> {
    // Connecting a datagram socket gives it the route's address and sends nothing (192.0.2.0/24 is reserved, RFC 5737).
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if address.is_private() => Some(address),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_others_listen_on_are_skipped() {
        assert_eq!(ports(2, |_| false), (vec![8800, 8801], vec![]));
        assert_eq!(ports(2, |port| port == 8801), (vec![8800, 8802], vec![8801]));
        let (free, skipped) = ports(2, |_| true);
        assert_eq!((free, skipped.len()), (vec![9000, 9001], 200));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(taken(Ipv4Addr::LOCALHOST, port));
        assert!(in_use(port).contains(&format!("(pid {}): skipped", std::process::id())), "{}", in_use(port));
    }
}
