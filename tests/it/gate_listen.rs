//! The gate listens where it should, waits for a missing address, and says so.

use std::net::{IpAddr, SocketAddr};

use mlxctl::internals::gate::Availability;

use crate::support::door::{Client, Door};
use crate::support::upstream::{Backend, answer_of};

#[tokio::test]
async fn loopback_is_served_while_the_address_is_missing_and_the_report_names_it() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    // TEST-NET-1, RFC 5737: on no machine.
    let away: IpAddr = "192.0.2.21".parse().unwrap();
    let (availability, ready) = tokio::sync::watch::channel(Availability::Ready(backend.upstream(1)));
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::support::door::config(&folder);
    config.network.host = away;
    let (sender, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let gate = mlxctl::internals::gate::Gate::spawn(config.clone(), ready, sender);
    let mlxctl::internals::gate::Report::Listening { addresses, problem } = reports.recv().await.unwrap().1
    else {
        panic!()
    };
    let loopback = SocketAddr::from(([127, 0, 0, 1], config.port));
    assert_eq!(addresses, [loopback]);
    assert!(problem.unwrap().contains("192.0.2.21"));
    let mut client = Client::connect(loopback).await;
    client.chat("").await;
    assert_eq!(client.answer().await.status, 200);
    // The address appears (here: another one is configured): loopback is given up, and open requests continue.
    config.network.host = [127, 0, 0, 1].into();
    gate.reconfigure(config);
    let mlxctl::internals::gate::Report::Listening { addresses, problem } = reports.recv().await.unwrap().1
    else {
        panic!()
    };
    assert_eq!((addresses, problem), (vec![loopback], None));
    client.chat("").await;
    assert_eq!(client.answer().await.status, 200);
    drop(availability);
}

#[tokio::test]
async fn a_taken_port_is_named_and_taken_over_once_it_is_free() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let port = crate::support::free_port();
    let stranger = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::support::door::config(&folder);
    config.port = port;
    let (_availability, ready) = tokio::sync::watch::channel(Availability::Ready(backend.upstream(1)));
    let (sender, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let _gate = mlxctl::internals::gate::Gate::spawn(config, ready, sender);
    let mlxctl::internals::gate::Report::Listening { addresses, problem } = reports.recv().await.unwrap().1
    else {
        panic!()
    };
    assert!(addresses.is_empty());
    assert_eq!(problem.unwrap(), format!("port {port} of 127.0.0.1 is in use by another program"));
    drop(stranger);
    let mlxctl::internals::gate::Report::Listening { addresses, problem } = reports.recv().await.unwrap().1
    else {
        panic!()
    };
    assert_eq!((addresses.len(), problem), (1, None));
}

#[tokio::test]
async fn another_port_is_another_listener() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let mut door = Door::before(&backend).await;
    let mut config = door.config.clone();
    config.port = crate::support::free_port();
    let next = SocketAddr::from(([127, 0, 0, 1], config.port));
    door.gate.reconfigure(config);
    assert_eq!(door.listening().await.0, [next]);
    let mut client = Client::connect(next).await;
    client.chat("").await;
    assert_eq!(client.answer().await.status, 200);
    assert!(tokio::net::TcpStream::connect(door.address).await.is_err());
}
