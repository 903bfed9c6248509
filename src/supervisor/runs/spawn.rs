//! Making the process of a run, and what it is started with.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::api::paths::link_path;
use crate::backend::launch::{self, Launch};
use crate::backend::spec::Spec;
use crate::backend::{exec, logs, record, weights};
use crate::fault;
use crate::host::Identity;
use crate::lifecycle::{Failure, FailureKind, Generation, Name};
use crate::registry::{Model, Registry};
use crate::supervisor::capacity::{Demand, Plan, prepare};
use crate::supervisor::records::log_file;
use crate::units::Bytes;

/// What a start is made from.
pub(super) struct Order<'a> {
    pub registry: &'a Registry,
    pub model: &'a Model,
    /// Our own binary.
    pub binary: &'a Path,
    /// What the run is held to.
    pub demand: Option<&'a Demand>,
    pub generation: Generation,
    pub reserved: Bytes,
}

impl Order<'_> {
    /// What a run of this model is started with, by the registry in force.
    ///
    /// # Errors
    /// Something that a start needs is not there.
    pub(super) fn spec(&self, secret: String) -> Result<Spec, Failure> {
        let Self { registry, model, binary, demand, generation, reserved } = *self;
        let prepared = prepare(registry, model)?;
        // Admission made it in the same step; a model that it knows nothing of is held to the registry's bounds.
        let mut limits = demand.and_then(Demand::plan).map(Plan::limits).unwrap_or_default();
        limits.prompt_store = model.memory.prompt_store;
        let paths = &registry.paths;
        let launch = Launch {
            model,
            served: &prepared.served,
            draft: weights::draft(model),
            environment: &registry.agent.environment,
            python: &prepared.python,
            binary,
            generation: generation.0,
            reserved,
            limits: &limits,
            run: &paths.run,
            state: &paths.state,
            link: link_path(&paths.run, &model.name),
            log: log_file(&paths.logs, &model.name),
            cwd: &paths.root,
            secret,
        };
        Ok(launch.spec(|name| std::env::var(name).ok()))
    }

    /// How a live run differs from what the registry in force would start; `None`: while something that a start needs is
    /// missing, nothing can be said.
    pub(super) fn difference(&self, started: &Spec) -> Option<Option<String>> {
        match self.spec(String::new()) {
            Ok(wanted) => Some(launch::difference(started, &wanted)),
            // It cannot be started as the registry has it now: what that would be is said all the same.
            Err(missing)
                if missing.kind == FailureKind::FilesMissing
                    && self.model.source.to_string() != started.repo =>
            {
                Some(Some(format!("{} → {}", started.repo, self.model.source)))
            }
            Err(_) => None,
        }
    }

    /// Makes the process. `lock`: held by it until its record is there.
    ///
    /// # Errors
    /// What is missing, or the system's refusal.
    pub(super) fn spawn(&self, name: &Name, lock: io::Result<File>) -> Result<Spawned, Failure> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| spawn_failure(&what, &error)
        };
        let lock = lock.map_err(failed("cannot share the lock"))?;
        let secret = launch::secret().map_err(failed("no randomness for its secret"))?;
        let spec = self.spec(secret)?;
        if let Some(instead) = weights::instead(&self.model.source) {
            tracing::warn!(model = &**name, "{instead}");
        }
        let run = &self.registry.paths.run;
        logs::rotate(&spec.log).map_err(failed("cannot rotate its log"))?;
        record::forget(run, name).map_err(failed("cannot clear its record"))?;
        fault::point("spawn cleared");
        let file = record::write_spec(run, &spec).map_err(failed("cannot write its spec"))?;
        fault::point("spawn written");
        // It may have said its last before we know that it is there.
        let log_start = logs::mark(&spec.log);
        let identity = exec::spawn(self.binary, &file, lock).map_err(failed("cannot make a process"))?;
        fault::point("spawn made");
        Ok(Spawned { identity, spec, log_start })
    }
}

/// A process that was made.
pub(super) struct Spawned {
    pub identity: Identity,
    pub spec: Spec,
    /// What its log says from here on is of this run.
    pub log_start: logs::Mark,
}

/// What the system's refusal to make a process means.
fn spawn_failure(what: &str, error: &io::Error) -> Failure {
    let failure = Failure::new(FailureKind::SpawnFailed, format!("{what}: {error}"));
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            waits(failure).hint("free disk space; it is tried again")
        }
        io::ErrorKind::PermissionDenied => failure.hint("mlxctl doctor names the file"),
        _ if error.raw_os_error() == Some(libc::EAGAIN) => {
            waits(failure).hint("the system's limit of processes is reached; it is tried again")
        }
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            waits(failure).hint("the limit of open files is reached; it is tried again")
        }
        _ => failure,
    }
}

/// The model is not to blame: it is tried again and never quarantined.
fn waits(failure: Failure) -> Failure {
    Failure { kind: FailureKind::NotPrepared, ..failure }
}
