//! What was written, field by field, each with its place. Only types and units have been checked.

use super::keys::table::Over;
use super::keys::{
    RawAgent, RawCluster, RawEntry, RawHealth, RawLimits, RawMemory, RawMetrics, RawNetwork, RawNotify,
    RawPage, RawPaths, RawPower, RawPressure, RawPython, RawReserves, RawRestart, RawRouter, RawServer,
    RawStop,
};
use super::notes::At;
use super::reader::Section;

pub(super) struct RawRegistry {
    pub paths: RawPaths,
    pub python: RawPython,
    pub network: RawNetwork,
    pub reserves: RawReserves,
    pub pressure: RawPressure,
    pub power: RawPower,
    pub agent: RawAgent,
    pub notify: RawNotify,
    pub metrics: RawMetrics,
    pub page: RawPage,
    pub router: RawRouter,
    pub defaults: RawOptions,
    pub models: Vec<RawModel>,
    /// Whether `model` is present, even if malformed.
    pub has_models: bool,
}

pub(super) struct RawModel {
    pub entry: RawEntry,
    /// `None` if there is no such table.
    pub cluster: Option<RawCluster>,
    pub options: RawOptions,
}

/// The sub-tables that `[defaults]` and a model share.
pub(super) struct RawOptions {
    pub environment: Vec<(At<String>, String)>,
    pub server: RawServer,
    pub memory: RawMemory,
    pub health: RawHealth,
    pub restart: RawRestart,
    pub stop: RawStop,
    pub limits: RawLimits,
}

impl RawRegistry {
    pub(super) fn read(file: &Section<'_>) -> Self {
        let (reserves, pressure) =
            file.section("memory", |memory| (RawReserves::read(memory), RawPressure::read(memory)));
        Self {
            paths: file.section("paths", RawPaths::read),
            python: file.section("python", RawPython::read),
            network: file.section("network", RawNetwork::read),
            reserves,
            pressure,
            power: file.section("power", RawPower::read),
            agent: file.section("agent", RawAgent::read),
            notify: file.section("notify", RawNotify::read),
            metrics: file.section("metrics", RawMetrics::read),
            page: file.section("page", RawPage::read),
            router: file.section("router", RawRouter::read),
            defaults: file.section("defaults", RawOptions::read),
            models: file.sections("model", RawModel::read),
            has_models: file.has("model") && !file.has_empty_list("model"),
        }
    }
}

impl RawModel {
    fn read(model: &Section<'_>) -> Self {
        let cluster = model.section("cluster", RawCluster::read);
        Self {
            entry: RawEntry::read(model),
            cluster: model.has("cluster").then_some(cluster),
            options: RawOptions::read(model),
        }
    }
}

impl RawOptions {
    fn read(parent: &Section<'_>) -> Self {
        Self {
            environment: parent.variables("environment", "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"),
            server: parent.section("server", RawServer::read),
            memory: parent.section("memory", RawMemory::read),
            health: parent.section("health", RawHealth::read),
            restart: parent.section("restart", RawRestart::read),
            stop: parent.section("stop", RawStop::read),
            limits: parent.section("limits", RawLimits::read),
        }
    }

    /// These values, with those of `shared` where one is missing.
    pub(super) fn over(&self, shared: &Self) -> Self {
        Self {
            environment: self.environment.clone(),
            server: self.server.over(&shared.server),
            memory: self.memory.over(&shared.memory),
            health: self.health.over(&shared.health),
            restart: self.restart.over(&shared.restart),
            stop: self.stop.over(&shared.stop),
            limits: self.limits.over(&shared.limits),
        }
    }
}
