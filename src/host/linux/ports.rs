//! Which processes listen on a port.

use std::collections::HashSet;

use nix::sys::socket::AddressFamily;

use super::super::procfs::{self, Listener};
use super::diag;
use super::process::{self, read};
use crate::host::seam::{Identity, PortHolder};

pub(super) fn owns(who: Identity, port: u16) -> Option<bool> {
    let listeners = listeners(port);
    if listeners.is_empty() {
        return None;
    }
    if process::stat_of(who).is_err() {
        return Some(false);
    }
    let mut held = HashSet::new();
    // All of them: with SO_REUSEPORT another process could share the port and get some of the connections.
    let owned = |held: &HashSet<u64>| listeners.iter().all(|listener| held.contains(&listener.inode));
    // Nearly always the leader owns it; finding its descendants means reading all of its threads.
    for pid in std::iter::once(who.pid)
        .chain(std::iter::once_with(|| process::family(who.pid).into_iter().skip(1)).flatten())
    {
        match std::fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(descriptors) => held.extend(descriptors.filter_map(|fd| socket(&fd.ok()?.path()))),
            // A descendant that has just ended holds nothing; after any other error the answer is unknown.
            Err(error) if process::is_gone(&error) => {}
            Err(_) => return None,
        }
        if owned(&held) {
            return Some(true);
        }
    }
    Some(false)
}

/// The listeners that get connections to 127.0.0.1: one bound to that address takes precedence over one bound to every
/// address.
fn listeners(port: u16) -> Vec<Listener> {
    let mut listeners = table(AddressFamily::Inet, port);
    if !listeners.iter().any(|listener| listener.exact) {
        listeners.extend(table(AddressFamily::Inet6, port));
    }
    if listeners.iter().any(|listener| listener.exact) {
        listeners.retain(|listener| listener.exact);
    }
    listeners
}

/// The listeners of one address family, from sock_diag or, if a sandbox forbids that, from `/proc/net`.
fn table(family: AddressFamily, port: u16) -> Vec<Listener> {
    diag::listeners(family, port).unwrap_or_else(|_| {
        let file = if family == AddressFamily::Inet { "/proc/net/tcp" } else { "/proc/net/tcp6" };
        read(file).map(|table| procfs::listeners(&table, port)).unwrap_or_default()
    })
}

pub(super) fn holders(port: u16) -> Vec<PortHolder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| read(file).unwrap_or_default());
    let listening: HashSet<u64> =
        tables.iter().flat_map(|table| procfs::listening(table, port)).map(|(_, inode)| inode).collect();
    if listening.is_empty() {
        return Vec::new();
    }
    let listens = |pid: &i32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let mut held = descriptors.into_iter().flatten().flatten().filter_map(|fd| socket(&fd.path()));
        held.any(|inode| listening.contains(&inode))
    };
    let named = |pid| {
        let name = read(&format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned();
        Some(PortHolder { pid, name })
    };
    process::pids().filter(listens).filter_map(named).collect()
}

fn socket(descriptor: &std::path::Path) -> Option<u64> {
    let target = std::fs::read_link(descriptor).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}
