//! Decides about a request from its head alone. Pure.

use std::net::IpAddr;

use super::access::{self, Caller};
use super::answer::{self, Route};
use super::contract::GateConfig;
use super::rules::Endpoint;
use crate::gate::wire::{Method, Refusal, Reply};
use crate::registry::Network;

/// A request's head, and who sent it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub method: Method,
    pub path: &'a str,
    pub host: Option<&'a str>,
    pub origin: Option<&'a str>,
    /// `Access-Control-Request-Headers` of a preflight request (CORS).
    pub wanted_headers: Option<&'a str>,
    pub authorization: Option<&'a str>,
    pub client: IpAddr,
    /// The local address that it connected to.
    pub local: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Answer(Box<Reply>),
    Refuse(Box<Refusal>),
    /// Depends on the body, which must be read.
    Generate(Endpoint),
}

/// Returns the verdict, and the origin that may read the answer. `inform` answers requests for information.
pub(crate) fn decide<'a>(
    asked: &Asked<'a>,
    caller: &Caller,
    network: &Network,
    inform: impl FnOnce(&Route) -> Reply,
) -> (Verdict, Option<&'a str>) {
    let refuse = |refusal| (Verdict::Refuse(Box::new(refusal)), None);
    if !GateConfig::admits(&network.allow_from, asked.client) {
        return refuse(access::stranger(asked.client));
    }
    if let Err(refusal) = access::check_host(asked.host, asked.local, network) {
        return refuse(refusal);
    }
    let origin = match access::check_origin(asked.origin, network) {
        Ok(origin) => origin,
        Err(refusal) => return refuse(refusal),
    };
    let verdict = inside(asked, caller, origin.is_some(), inform);
    (verdict, origin)
}

fn inside(
    asked: &Asked<'_>,
    caller: &Caller,
    browser: bool,
    inform: impl FnOnce(&Route) -> Reply,
) -> Verdict {
    let route = answer::route(asked.path);
    if browser && asked.method == Method::Options && route != Route::Unknown {
        return Verdict::Answer(Box::new(answer::preflight(asked.wanted_headers)));
    }
    if let Err(refusal) = answer::check_method(&route, asked.method, asked.path) {
        return Verdict::Refuse(Box::new(refusal));
    }
    // Anyone who may connect may know whether the model is up: a load balancer's check has no key.
    if route != Route::Health
        && let Err(refusal) = access::check_caller(caller)
    {
        return Verdict::Refuse(Box::new(refusal));
    }
    match route {
        Route::Generate(endpoint) => Verdict::Generate(endpoint),
        _ => Verdict::Answer(Box::new(inform(&route))),
    }
}
