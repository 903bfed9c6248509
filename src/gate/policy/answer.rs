//! What the gate answers by itself: `/health`, `/v1/models`, and why a model is unavailable. Pure.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

use super::contract::{Availability, GateConfig};
use super::rules::Endpoint;
use crate::api::http::percent_decode;
use crate::clock::Moment;
use crate::gate::wire::{Method, Refusal, Reply, shown};
use crate::registry::Start;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Health,
    Models,
    /// The id in `/v1/models/{id}`, percent-decoded, unchecked.
    Model(String),
    Generate(Endpoint),
    Unknown,
}

/// Parses a path. Repeated slashes count as one: that is what becomes of a base URL that ends in a slash.
pub(crate) fn route(path: &str) -> Route {
    let mut single = Cow::Borrowed(path);
    while single.contains("//") {
        single = Cow::Owned(single.replace("//", "/"));
    }
    match &*single {
        "/health" => Route::Health,
        "/v1/models" | "/v1/models/" => Route::Models,
        "/v1/chat/completions" | "/chat/completions" => Route::Generate(Endpoint::Chat),
        "/v1/completions" => Route::Generate(Endpoint::Completions),
        path => match path.strip_prefix("/v1/models/") {
            Some(id) => Route::Model(percent_decode(id)),
            None => Route::Unknown,
        },
    }
}

/// Checks that the route accepts the method.
///
/// # Errors
/// 405 with `Allow`, or 404 for an unknown path.
pub(crate) fn check_method(route: &Route, method: Method, path: &str) -> Result<(), Refusal> {
    let allow = match route {
        Route::Unknown => {
            let message = format!(
                "there is nothing at '{}'; try /v1/chat/completions, /v1/completions, /v1/models and /health",
                shown(path)
            );
            return Err(Refusal::new(404, "unknown_url", message));
        }
        Route::Generate(_) => "POST",
        _ => "GET",
    };
    let fits = match method {
        Method::Post => allow == "POST",
        Method::Get | Method::Head => allow == "GET",
        Method::Options | Method::Other => false,
    };
    if fits {
        return Ok(());
    }
    let message = format!("this path accepts only {allow}");
    Err(Refusal { allow: Some(allow), ..Refusal::new(405, "method_not_allowed", message) })
}

/// The answer of a route that only informs.
pub(crate) fn inform(
    route: &Route,
    config: &GateConfig,
    availability: &Availability,
    created: u64,
    now: Moment,
) -> Reply {
    if let Route::Model(id) = route
        && !knows(config, id)
    {
        return Refusal::unknown_model(id, &config.accepted).reply();
    }
    match (route, unavailable(config, availability, now)) {
        (Route::Health, Some(refusal)) => {
            let mut document = refusal.body();
            document["status"] = "unavailable".into();
            document["state"] = refusal.state.into();
            document["model"] = config.name.clone().into();
            let mut reply = refusal.reply();
            reply.replace_body(&document);
            reply
        }
        (_, Some(refusal)) => refusal.reply(),
        (Route::Health, None) => {
            Reply::json(200, &json!({ "status": "ok", "state": "ready", "model": config.name }))
        }
        (Route::Model(id), None) => Reply::json(200, &entry(config, id, created)),
        (_, None) => {
            let data: Vec<_> = config.accepted.iter().map(|id| entry(config, id, created)).collect();
            Reply::json(200, &json!({ "object": "list", "data": data }))
        }
    }
}

/// A model as an entry of OpenAI's list. Names with the same `root` are the same model; `preset` has the values that a
/// request under this name gets if it does not set them.
pub(crate) fn entry(config: &GateConfig, id: &str, created: u64) -> Value {
    let mut entry = json!({
        "id": id, "object": "model", "created": created, "owned_by": "mlxctl", "root": config.name,
    });
    if let Some(preset) = config.presets.iter().find(|preset| preset.name.eq_ignore_ascii_case(id)) {
        entry["preset"] =
            preset.set.values().into_iter().map(|(name, value)| (name, Value::Number(value))).collect();
    }
    entry
}

/// What a model is doing, in the word that clients see.
pub(crate) fn state(availability: &Availability) -> &'static str {
    match availability {
        Availability::Ready(_) => "ready",
        Availability::Held { .. } => "held",
        Availability::Offline => "offline",
        Availability::Asleep { .. } => "asleep",
        Availability::Loading { .. } => "loading",
        Availability::Draining => "draining",
        Availability::Refused { .. } => "refused",
        Availability::Failed { .. } => "failed",
    }
}

/// Whether `id` is one of the model's names, ignoring case.
pub(crate) fn knows(config: &GateConfig, id: &str) -> bool {
    config.accepted.iter().any(|accepted| accepted.eq_ignore_ascii_case(id))
}

/// Why the model is unavailable now; `None` if it is ready.
pub(crate) fn unavailable(config: &GateConfig, availability: &Availability, now: Moment) -> Option<Refusal> {
    let name = &config.name;
    let refusal = |state: &'static str, message: String, wait: Duration| {
        Some(Refusal { state: Some(state), ..Refusal::unavailable(state_code(state), message, wait) })
    };
    match availability {
        Availability::Ready(_) => None,
        Availability::Offline => match config.start {
            Start::Manual => refusal(
                "offline",
                format!("model '{name}' is not running; start it with `mlxctl start {name}`"),
                PERSON,
            ),
            Start::Always => refusal(
                "offline",
                format!("model '{name}' was stopped; start it with `mlxctl start {name}`"),
                PERSON,
            ),
        },
        Availability::Asleep { hours, until, opens } => {
            let message = format!(
                "model '{name}' is asleep until {until} (its hours are {hours}); `mlxctl start {name}` wakes it"
            );
            refusal("asleep", message, opens.since(now))
        }
        Availability::Loading { ready_at, .. } => match ready_at.map(|at| at.since(now)) {
            Some(Duration::ZERO) => {
                refusal("loading", format!("model '{name}' is loading, and takes longer than usual"), OVERDUE)
            }
            Some(left) => {
                let seconds = left.as_secs().max(1);
                refusal("loading", format!("model '{name}' is loading, about {seconds} s left"), left)
            }
            None => refusal("loading", format!("model '{name}' is loading"), UNKNOWN_LOAD),
        },
        Availability::Held { programs } => refusal(
            "held",
            format!("model '{name}' accepts requests again when {programs} has ended"),
            UNKNOWN_LOAD,
        ),
        Availability::Draining => refusal(
            "draining",
            format!("model '{name}' is being stopped and accepts no new requests"),
            DRAINING,
        ),
        Availability::Refused { why } => {
            refusal("refused", format!("model '{name}' cannot start now: {why}"), REFUSED)
        }
        Availability::Failed { why } => refusal("failed", format!("model '{name}' failed: {why}"), PERSON),
    }
}

/// Why a request is turned away now; `None` if the model is ready or worth waiting for. `patient`: whether the request
/// asked to wait for a model that is loading.
pub(crate) fn turned_away(
    config: &GateConfig,
    availability: &Availability,
    now: Moment,
    patient: bool,
) -> Option<Refusal> {
    match availability {
        Availability::Loading { hold, .. } if *hold || patient => None,
        Availability::Held { .. } => None,
        _ => unavailable(config, availability, now),
    }
}

/// `Retry-After` where someone has to act; client libraries are told not to retry (see [`Refusal::reply`]).
const PERSON: Duration = Duration::from_secs(60);
/// The same for a load whose duration is not known yet.
const UNKNOWN_LOAD: Duration = Duration::from_secs(10);
/// The same for a load that takes longer than earlier ones.
const OVERDUE: Duration = Duration::from_secs(5);
/// The same for a drain, which ends in a stop or a restart.
const DRAINING: Duration = Duration::from_secs(10);
/// The same where memory is short until something releases it.
const REFUSED: Duration = Duration::from_secs(30);

fn state_code(state: &'static str) -> &'static str {
    match state {
        "offline" => "model_offline",
        "loading" => "model_loading",
        "asleep" => "model_asleep",
        "held" => "model_held",
        "draining" => "model_draining",
        "refused" => "model_refused",
        _ => "model_failed",
    }
}

/// The answer to a browser's preflight request (CORS).
pub(crate) fn preflight(wanted_headers: Option<&str>) -> Reply {
    let mut reply = Reply::empty();
    reply.header("access-control-allow-methods", "GET, POST");
    let token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b',' | b' ');
    let wanted = wanted_headers.filter(|names| names.len() < 1024 && names.bytes().all(token));
    reply.header("access-control-allow-headers", wanted.unwrap_or("authorization, content-type"));
    reply.header("access-control-max-age", "600");
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_slashes_count_as_one() {
        assert_eq!(route("//v1/chat/completions"), Route::Generate(Endpoint::Chat));
        assert_eq!(route("/v1//completions"), Route::Generate(Endpoint::Completions));
        assert_eq!(route("///v1///models"), Route::Models);
        assert_eq!(route("//v1/models//a"), Route::Model("a".to_owned()));
        assert_eq!(route("//"), Route::Unknown);
    }

    #[test]
    fn a_sleeping_model_says_when_it_wakes_and_a_held_one_is_waited_for() {
        let config = GateConfig::for_tests();
        let at = |seconds| Moment(Duration::from_secs(seconds));
        let asleep = Availability::Asleep {
            hours: "08:00-23:30".to_owned(),
            until: "08:00".parse().unwrap(),
            opens: at(30_600),
        };
        let refusal = turned_away(&config, &asleep, at(1_800), true).unwrap();
        assert_eq!(
            (refusal.status, refusal.code, refusal.retry_after),
            (503, "model_asleep", Some(Duration::from_secs(28_800)))
        );
        assert!(
            refusal.message.contains("asleep until 08:00 (its hours are 08:00-23:30)"),
            "{}",
            refusal.message
        );
        let held = Availability::Held { programs: "Civ5XP".to_owned() };
        assert!(turned_away(&config, &held, at(0), false).is_none());
        assert_eq!(unavailable(&config, &held, at(0)).unwrap().code, "model_held");
    }

    #[test]
    fn a_load_says_how_long_it_still_takes_until_it_is_overdue() {
        let config = GateConfig::for_tests();
        let at = |millis| Moment(Duration::from_millis(millis));
        let loading = Availability::Loading { ready_at: Some(at(20_000)), hold: false };
        let told = |now| {
            let refusal = unavailable(&config, &loading, at(now)).unwrap();
            (refusal.retry_after.unwrap().as_millis(), refusal.message)
        };
        assert_eq!(told(13_500), (6500, "model 'tiny' is loading, about 6 s left".to_owned()));
        assert_eq!(told(19_900), (100, "model 'tiny' is loading, about 1 s left".to_owned()));
        assert_eq!(told(20_000).1, "model 'tiny' is loading, and takes longer than usual");
    }
}
