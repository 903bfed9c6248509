//! Checks that the ranks can reach each other: addresses, and the RDMA devices of JACCL.

use std::collections::HashMap;
use std::net::IpAddr;

use super::super::{Scope, plain_word};
use super::Placed;
use crate::registry::ClusterBackend;
use crate::registry::problem::quote;

pub(super) fn check(scope: &Scope<'_>, backend: ClusterBackend, placed: &[Placed]) {
    check_addresses(scope, backend, placed);
    match backend {
        ClusterBackend::Jaccl => check_mesh(scope, placed),
        ClusterBackend::Ring | ClusterBackend::Mpi => no_devices(scope, backend, placed),
    }
}

fn check_addresses(scope: &Scope<'_>, backend: ClusterBackend, placed: &[Placed]) {
    let remote = placed.iter().any(|placed| !placed.rank.local);
    let mut owners: HashMap<&str, &str> = HashMap::new();
    let mut told: Vec<&str> = Vec::new();
    for (number, Placed { rank, span }) in placed.iter().enumerate() {
        // Ranks of one host share its addresses, so they are checked once.
        if rank.host.is_empty() || told.contains(&rank.host.as_str()) {
            continue;
        }
        told.push(&rank.host);
        let note =
            |message: String, hint: &str| scope.notes.add(Some(span.clone()), message, hint.to_owned());
        let host = quote(&rank.host);
        let needed = match backend {
            ClusterBackend::Ring => true,
            ClusterBackend::Jaccl => number == 0,
            ClusterBackend::Mpi => false,
        };
        if needed && rank.addresses.is_empty() {
            let what = if backend == ClusterBackend::Ring {
                "the ring connects to addresses"
            } else {
                "the ranks meet at rank 0's"
            };
            note(format!("the host `{host}` has no `addresses`: {what}"), "addresses = [\"10.0.0.1\"]");
        }
        for text in &rank.addresses {
            match text.parse::<IpAddr>() {
                Err(_) => note(
                    format!("`{}` in `addresses` is not an IP address", quote(text)),
                    "for example \"10.0.0.1\"",
                ),
                Ok(address) if address.is_unspecified() || address.is_multicast() => {
                    note(
                        format!("{address} is not the address of a single machine"),
                        "for example \"10.0.0.1\"",
                    );
                }
                Ok(address) if remote && address.to_canonical().is_loopback() => note(
                    format!("the other hosts cannot reach `{host}` at {address}"),
                    "its address in the network that the hosts share",
                ),
                Ok(_) => {}
            }
            if let Some(other) = owners.insert(text, &rank.host).filter(|other| *other != rank.host) {
                note(
                    format!("`{host}` and `{}` have the same address {}", quote(other), quote(text)),
                    "each host has its own",
                );
            }
        }
    }
}

/// Checks that every rank has a device towards every other, and none towards itself.
fn check_mesh(scope: &Scope<'_>, placed: &[Placed]) {
    let ranks = placed.len();
    let mut seen: Vec<&str> = Vec::new();
    for (number, Placed { rank, span }) in placed.iter().enumerate() {
        let note = |message: String, hint: String| scope.notes.add(Some(span.clone()), message, hint);
        let host = quote(&rank.host);
        if seen.contains(&rank.host.as_str()) {
            note(
                format!("`{host}` has two ranks, and RDMA cannot connect a host to itself"),
                "use one rank per host with \"jaccl\"".to_owned(),
            );
            return;
        }
        seen.push(&rank.host);
        if rank.rdma.len() != ranks {
            note(
                format!("`rdma` of `{host}` names {} devices for {ranks} ranks", rank.rdma.len()),
                "one towards each rank in order, \"\" towards itself: rdma = [\"\", \"rdma_en2\"]".to_owned(),
            );
            continue;
        }
        for (towards, devices) in rank.rdma.iter().enumerate() {
            let other = placed.get(towards).map_or("", |placed| placed.rank.host.as_str());
            if towards == number && !devices.is_empty() {
                note(
                    format!("`{host}` has an RDMA device towards itself"),
                    format!("\"\" at place {} of its `rdma`", number + 1),
                );
            } else if towards != number && devices.is_empty() {
                note(
                    format!("no RDMA device leads from `{host}` to `{}`", quote(other)),
                    "\"jaccl\" needs a cable between every pair of hosts; otherwise use \"ring\"".to_owned(),
                );
            }
            for device in devices.iter().filter(|device| plain_word(device, 64).is_err()) {
                note(
                    format!("`{}` is not an RDMA device", quote(device)),
                    "for example \"rdma_en2\"".to_owned(),
                );
            }
        }
    }
}

/// `mlx.distributed_config` writes `rdma` only for JACCL; with another backend it is a mistake.
fn no_devices(scope: &Scope<'_>, backend: ClusterBackend, placed: &[Placed]) {
    for Placed { rank, span } in
        placed.iter().filter(|placed| placed.rank.rdma.iter().any(|list| !list.is_empty()))
    {
        scope.notes.add(
            Some(span.clone()),
            format!("`{}` has `rdma`, which \"{}\" does not use", quote(&rank.host), backend.name()),
            "backend = \"jaccl\", or leave it out",
        );
    }
}
