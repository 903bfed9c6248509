//! One address for many models: each request goes to the gate of the model that it names, and all rules are that
//! gate's. The router only finds the gate and lists the models.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::door::{Door, Judged};
use super::handle::{Gate, Listener};
use super::shared::{Front, Shared};
use crate::gate::policy::access;
use crate::gate::policy::answer::{self, Route};
use crate::gate::policy::bounds::Bounds;
use crate::gate::policy::contract::GateConfig;
use crate::gate::policy::decide::{Asked, decide};
use crate::gate::policy::json::Kind;
use crate::gate::policy::keys::KeyRing;
use crate::gate::policy::value::{expect_string, object};
use crate::gate::wire::{Refusal, Reply};
use crate::host;
use crate::registry::Network;

/// What a router needs besides its gates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterConfig {
    /// The router's TCP port on [`Network::host`].
    pub port: u16,
    /// Address, allow-list, origins and keys, as for the gates.
    pub network: Network,
    /// File of hashed keys; checked when [`Network::require_key`] is set.
    pub keys: PathBuf,
    /// Log of requests that reach no gate.
    pub access_log: PathBuf,
}

impl RouterConfig {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.network.host, self.port)
    }
}

/// Where a router listens, and what keeps it from listening.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listening {
    pub addresses: Vec<SocketAddr>,
    /// In one sentence: the address is missing, or its port is taken.
    pub problem: Option<String>,
}

/// The shared address of many models. Dropping it cuts its connections; [`Router::close`] lets requests finish.
#[derive(Debug)]
pub struct Router {
    routes: Arc<Routes>,
    listener: Listener,
}

impl Router {
    /// Opens it on the current tokio runtime. If several gates match a name, the first one counts. It never fails:
    /// problems with listening are reported and retried.
    pub fn spawn<'g>(
        config: RouterConfig,
        gates: impl IntoIterator<Item = &'g Gate>,
        reports: mpsc::UnboundedSender<Listening>,
    ) -> Self {
        let address = config.address();
        let routes = Arc::new(Routes {
            front: Front::new(config.access_log.clone()),
            table: RwLock::new(Arc::new(Table::new(config, gates))),
            reports,
        });
        let listener = Listener::open(routes.clone(), routes.front.log.clone(), address);
        Self { routes, listener }
    }

    /// Applies a new configuration and list of gates. Requests in flight are not affected.
    pub fn reconfigure<'g>(&self, config: RouterConfig, gates: impl IntoIterator<Item = &'g Gate>) {
        let address = config.address();
        self.routes.front.log.move_to(&config.access_log);
        let table = Arc::new(Table::new(config, gates));
        *self.routes.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        self.listener.listen_at(address);
    }

    /// Answers of the router itself, by HTTP status.
    pub fn codes(&self) -> BTreeMap<u16, u64> {
        self.routes.front.traffic.detail().codes
    }

    /// Stops accepting, waits up to `patience` for requests in flight at its gates, and closes every connection.
    pub async fn close(self, patience: Duration) {
        let Self { routes, listener } = self;
        let gates = routes.table().gates.clone();
        let drained = async {
            futures_util::future::join_all(gates.iter().map(|gate| gate.front.traffic.drained())).await
        };
        listener.close(patience, drained).await;
        routes.front.log.finish().await;
    }
}

/// A configuration and the gates behind it.
#[derive(Debug)]
struct Table {
    config: RouterConfig,
    keys: KeyRing,
    gates: Vec<Arc<Shared>>,
}

impl Table {
    fn new<'g>(config: RouterConfig, gates: impl IntoIterator<Item = &'g Gate>) -> Self {
        let keys = KeyRing::new(config.keys.clone());
        Self { config, keys, gates: gates.into_iter().map(|gate| gate.shared().clone()).collect() }
    }

    fn named(&self, name: &str) -> Option<&Arc<Shared>> {
        // Folders of two models may differ by case alone, so an exact match counts first.
        let exact = |gate: &&Arc<Shared>| gate.settings().config.accepted.iter().any(|own| own == name);
        let known = |gate: &&Arc<Shared>| answer::knows(&gate.settings().config, name);
        self.gates.iter().find(exact).or_else(|| self.gates.iter().find(known))
    }

    /// Every name of every model, each once.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for gate in &self.gates {
            for name in &gate.settings().config.accepted {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        names
    }

    fn inform(&self, route: &Route) -> Reply {
        match route {
            Route::Models => self.models(),
            Route::Model(id) => match self.named(id) {
                Some(gate) => {
                    let availability = gate.availability.borrow();
                    answer::inform(route, &gate.settings().config, &availability, gate.created, host::now())
                }
                None => Refusal::unknown_model(id, &self.names()).reply(),
            },
            _ => self.health(),
        }
    }

    /// All models, running or not, each with its state.
    fn models(&self) -> Reply {
        let mut data: Vec<Value> = Vec::new();
        for gate in &self.gates {
            let settings = gate.settings();
            let state = answer::state(&gate.availability.borrow());
            for id in &settings.config.accepted {
                if data.iter().any(|entry| entry["id"] == **id) {
                    continue;
                }
                let mut entry = answer::entry(&settings.config, id, gate.created);
                entry["state"] = state.into();
                data.push(entry);
            }
        }
        Reply::json(200, &json!({ "object": "list", "data": data }))
    }

    /// 200 as long as one model is ready.
    fn health(&self) -> Reply {
        let mut states = serde_json::Map::new();
        let mut waits = Vec::new();
        for gate in &self.gates {
            let settings = gate.settings();
            let availability = gate.availability.borrow();
            states.insert(settings.config.name.clone(), answer::state(&availability).into());
            waits.extend(
                answer::unavailable(&settings.config, &availability, host::now())
                    .map(|refusal| refusal.retry_after),
            );
        }
        if waits.len() < self.gates.len() {
            return Reply::json(200, &json!({ "status": "ok", "models": states }));
        }
        let each: Vec<_> = states
            .iter()
            .map(|(name, state)| format!("{name} is {}", state.as_str().unwrap_or("?")))
            .collect();
        let wait = waits.into_iter().flatten().min().unwrap_or(Duration::from_secs(60));
        let message = format!("no model is ready: {}", each.join(", "));
        let refusal = Refusal::unavailable("no_model_ready", message, wait);
        let mut document = refusal.body();
        document["status"] = "unavailable".into();
        document["models"] = states.into();
        let mut reply = refusal.reply();
        reply.replace_body(&document);
        reply
    }
}

/// State shared by all connections of a router.
#[derive(Debug)]
struct Routes {
    table: RwLock<Arc<Table>>,
    front: Front,
    reports: mpsc::UnboundedSender<Listening>,
}

impl Routes {
    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Door for Routes {
    /// The largest bounds of its gates, since the gate of a request is not known yet.
    fn bounds(&self) -> Bounds {
        let table = self.table();
        let bounds = table.gates.iter().map(|gate| gate.bounds());
        bounds.fold(Bounds { connections: 0, read_timeout: Duration::ZERO, body: 0 }, |most, one| Bounds {
            connections: most.connections.max(one.connections),
            read_timeout: most.read_timeout.max(one.read_timeout),
            body: most.body.max(one.body),
        })
    }

    fn admits(&self, client: IpAddr) -> bool {
        GateConfig::admits(&self.table().config.network.allow_from, client)
    }

    fn judge<'a>(&self, asked: &Asked<'a>) -> Judged<'a> {
        let table = self.table();
        let network = &table.config.network;
        let caller = access::caller(asked.authorization, network, &table.keys);
        let (verdict, origin) = decide(asked, &caller, network, |route| table.inform(route));
        Judged { verdict, origin, caller }
    }

    fn gate(self: Arc<Self>, body: &[u8]) -> Result<Arc<Shared>, Box<Refusal>> {
        let table = self.table();
        let Some(name) = model(body)? else {
            let message = format!("'model' is missing; this address serves {}", table.names().join(", "));
            return Err(Box::new(Refusal::invalid(Some("model"), message)));
        };
        match table.named(&name) {
            Some(gate) => Ok(gate.clone()),
            None => Err(Box::new(Refusal::unknown_model(&name, &table.names()))),
        }
    }

    fn front(&self) -> &Front {
        &self.front
    }

    fn listens(&self, addresses: Vec<SocketAddr>, problem: Option<String>) {
        // There is no receiver without a supervisor.
        let _ = self.reports.send(Listening { addresses, problem });
    }
}

/// Extracts `model`; the gate validates the rest. `null` means absent.
fn model(body: &[u8]) -> Result<Option<Cow<'_, str>>, Refusal> {
    let mut scanner = object(body)?;
    let mut first = true;
    while let Some(key) = scanner.member(&mut first)? {
        if key.decoded() != "model" {
            scanner.skip()?;
        } else if scanner.kind()? == Kind::Null {
            return Ok(None);
        } else {
            return Ok(Some(expect_string(&mut scanner, "model")?.decoded()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_at_any_position() {
        let named = |body: &str| model(body.as_bytes()).map(|name| name.map(Cow::into_owned));
        assert_eq!(named(r#"{"messages":[{"model":"no"}],"model":"a"}"#), Ok(Some("a".to_owned())));
        assert_eq!(named(r#"{"m\u006fdel":"a\u002fb","model":"c"}"#), Ok(Some("a/b".to_owned())));
        assert_eq!(named(r#"{"prompt":"model"}"#), Ok(None));
        assert_eq!(named(r#"{"model":null,"prompt":"x"}"#), Ok(None));
        assert_eq!(named(r#"{"model":7}"#).unwrap_err().param.as_deref(), Some("model"));
        for body in ["", "[]", "{", r#"{"a":1,,"model":"a"}"#] {
            assert_eq!(named(body).unwrap_err().status, 400, "{body}");
        }
    }
}
