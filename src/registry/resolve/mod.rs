//! What was written → what is meant. Every value is either valid or noted as a problem; an invalid one is replaced by a
//! stand-in, so that everything else is still checked. A registry with problems is never returned.

mod cluster;
mod environment;
mod hostfile;
mod listeners;
mod model;
mod network;
mod notify;
mod options;
mod router;
mod server;
mod source;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{RawAgent, RawPaths, RawPython, RawReserves};
use super::notes::Notes;
use super::pin::{check_pin, is_mlx_lm};
use super::places::Surroundings;
use super::problem::quote;
use super::raw::RawRegistry;
use super::{Agent, Model, Paths, PressureSettings, Python, Registry, Reserve, Written};
use crate::registry::notes::At;
use crate::units::Bytes;

/// How the built-in model is written in `repo`.
pub(super) const TINY: &str = "builtin:tiny";

/// How much longer than the slowest stop of a model launchd waits before it kills everything.
const STOP_SLACK: Duration = Duration::from_secs(30);

/// What every step of the resolution needs.
pub(super) struct Scope<'a> {
    pub notes: &'a Notes,
    pub around: &'a Surroundings,
}

impl Scope<'_> {
    /// The path that was written, relative to `base`; `fallback` if there is none, or it is not valid.
    fn path(&self, key: &str, written: Option<&At<String>>, base: &Path, fallback: PathBuf) -> PathBuf {
        let Some(written) = written else { return fallback };
        match self.around.expand(&written.value, base) {
            Ok(path) => path,
            Err((problem, hint)) => {
                self.notes.wrong(written, format!("`{key}`: {problem}"), hint);
                fallback
            }
        }
    }

    /// The texts of a list, each of which must pass `judge` (problem, hint) and appear only once.
    fn texts(
        &self,
        key: &str,
        list: Option<&At<Vec<At<String>>>>,
        judge: impl Fn(&str) -> Result<(), (String, String)>,
    ) -> Vec<String> {
        let mut seen: Vec<String> = Vec::new();
        for text in list.iter().flat_map(|list| &list.value) {
            if let Err((problem, hint)) = judge(&text.value) {
                self.notes.wrong(text, format!("`{}` in `{key}`: {problem}", quote(&text.value)), hint);
            } else if seen.contains(&text.value) {
                self.notes.wrong(
                    text,
                    format!("`{}` appears twice in `{key}`", quote(&text.value)),
                    "leave one",
                );
            } else {
                seen.push(text.value.clone());
            }
        }
        seen
    }
}

/// Checks everything and notes problems; returns what is valid, with stand-ins for the rest.
pub(super) fn resolve(file: &Path, raw: &RawRegistry, around: &Surroundings, notes: &Notes) -> Registry {
    let scope = Scope { notes, around };
    let paths = paths(&scope, &raw.paths);
    let models = model::models(&scope, raw);
    let network = network::network(&scope, &raw.network);
    let metrics = listeners::metrics(&scope, raw, &network, &models);
    let page = listeners::page(&scope, raw, &network, &models, &metrics);
    Registry {
        router: router::port(
            &scope,
            raw,
            &network,
            &models,
            [("metrics", metrics.address), ("page", page.address)],
        ),
        metrics,
        page,
        file: file.to_owned(),
        python: python(&scope, &raw.python),
        network,
        reserves: reserves(&scope, &raw.reserves),
        power: raw.power.valid(),
        agent: agent(&scope, &raw.agent, &paths, &models),
        notify: notify::notify(&scope, &raw.notify),
        paths,
        models,
        pressure: PressureSettings {
            yield_to: scope.texts("yield", raw.pressure.yield_to.as_ref(), program),
            ..raw.pressure.valid()
        },
        written: Written::default(),
    }
}

fn paths(scope: &Scope<'_>, raw: &RawPaths) -> Paths {
    let root = scope.path("root", raw.root.as_ref(), &scope.around.folder, scope.around.data.clone());
    let below = |key, written: &Option<At<String>>, name: PathBuf| {
        scope.path(key, written.as_ref(), &root, root.join(name))
    };
    let venv = below("venv", &raw.venv, raw.venv());
    if venv.as_os_str().as_encoded_bytes().contains(&b':') {
        let (key, written) = match (&raw.root, &raw.venv) {
            (root, None) => ("root", root),
            (root, _) if root.as_ref().is_some_and(|root| root.value.contains(':')) => ("root", root),
            (_, venv) => ("venv", venv),
        };
        scope.notes.add(
            written.as_ref().map(|written| written.span.clone()),
            format!(
                "`{key}`: the virtual environment's path contains `:`, {}",
                quote(&venv.display().to_string())
            ),
            "Python cannot create one there, because `:` separates the entries of PATH; choose another path",
        );
    }
    Paths {
        venv,
        logs: below("logs", &raw.logs, raw.logs()),
        run: below("run", &raw.run, raw.run()),
        state: below("state", &raw.state, raw.state()),
        root,
    }
}

fn python(scope: &Scope<'_>, raw: &RawPython) -> Python {
    let interpreter = raw.interpreter.as_ref().map(|written| {
        scope.path("interpreter", Some(written), &scope.around.folder, PathBuf::from("python3"))
    });
    let python = Python { interpreter, packages: raw.packages() };
    let Some(list) = &raw.packages else { return python };
    scope.texts("packages", Some(list), check_pin);
    // A package that was refused above counts, too.
    match list.value.iter().filter(|package| is_mlx_lm(&package.value)).count() {
        1 => {}
        0 => scope.notes.wrong(
            list,
            "`packages` does not contain mlx-lm, which serves the models",
            format!("add \"{}\"", RawPython::default().packages().join("\", \"")),
        ),
        _ => scope.notes.wrong(list, "`packages` contains mlx-lm more than once", "leave one"),
    }
    python
}

fn program(name: &str) -> Result<(), (String, String)> {
    match name.trim() {
        "" => Err(("the name of the program is empty".into(), "as Activity Monitor shows it".into())),
        _ => Ok(()),
    }
}

fn reserves(scope: &Scope<'_>, raw: &RawReserves) -> Vec<Reserve> {
    let mut reserves: Vec<Reserve> = Vec::with_capacity(raw.reserve.len());
    for reserve in &raw.reserve {
        let example = "{ name = \"macOS + apps\", size = \"10GB\" }";
        match &reserve.name {
            Some(name) if name.value.trim().is_empty() || name.value.chars().any(char::is_control) => {
                scope.notes.wrong(name, "a reserve needs a name", format!("for example {example}"));
            }
            Some(name) if reserves.iter().any(|other| other.name == name.value) => {
                scope.notes.wrong(
                    name,
                    format!("two reserves are called `{}`", quote(&name.value)),
                    "rename one",
                );
            }
            Some(_) => {}
            None => scope.notes.add(
                Some(reserve.at.span()),
                "a reserve needs `name`",
                format!("for example {example}"),
            ),
        }
        if !reserve.at.has("size") {
            scope.notes.add(
                Some(reserve.at.span()),
                "a reserve needs `size`",
                format!("for example {example}"),
            );
        }
        let while_running = scope.texts("while_running", reserve.while_running.as_ref(), program);
        reserves.push(Reserve {
            name: reserve.name.as_ref().map_or_else(String::new, |name| name.value.clone()),
            size: reserve.size.as_ref().map_or(Bytes::ZERO, |size| size.value),
            while_running,
        });
    }
    reserves
}

fn agent(scope: &Scope<'_>, raw: &RawAgent, paths: &Paths, models: &[Model]) -> Agent {
    let label = raw.label();
    if let (Some(written), Err(problem)) = (&raw.label, plain_word(&label, 128)) {
        scope.notes.wrong(
            written,
            format!("`label` {problem}"),
            "it names the agent's file: \"org.example.mlxctl\"",
        );
    }
    let path = match &raw.path {
        Some(path) if path.value.is_empty() || path.value.chars().any(char::is_control) => {
            scope.notes.wrong(path, "`path` must be a list of folders", "folders separated by `:`");
            String::new()
        }
        Some(path) => path.value.clone(),
        None => format!("{}/bin:/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin", paths.venv.display()),
    };
    // Models are stopped in parallel, so the slowest one counts.
    let slowest = models.iter().map(|model| model.stop.drain + model.stop.term).max().unwrap_or_default();
    let exit_timeout = raw.exit_timeout.as_ref().map_or(slowest + STOP_SLACK, |written| written.value);
    if let Some(written) = raw.exit_timeout.as_ref().filter(|_| exit_timeout <= slowest) {
        scope.notes.wrong(
            written,
            format!(
                "`exit_timeout` must be longer than the slowest stop of a model, {}; launchd would kill the supervisor before that",
                humantime::format_duration(slowest)
            ),
            format!("at least \"{}\", or leave it out", humantime::format_duration(slowest + STOP_SLACK)),
        );
    }
    Agent {
        label,
        process_type: raw.process_type(),
        nice: raw.nice(),
        low_priority_io: raw.low_priority_io(),
        path,
        working_directory: scope.path(
            "working_directory",
            raw.working_directory.as_ref(),
            &paths.root,
            paths.root.clone(),
        ),
        log: scope.path("log", raw.log.as_ref(), &paths.root, paths.logs.join("mlxctl.log")),
        exit_timeout,
        throttle_interval: throttle(scope, raw),
        open_files: raw.open_files(),
        environment: environment::agent(scope, raw),
    }
}

fn throttle(scope: &Scope<'_>, raw: &RawAgent) -> Duration {
    let interval = raw.throttle_interval();
    if let Some(written) = &raw.throttle_interval
        && (interval < Duration::from_secs(1) || interval.subsec_nanos() > 0)
    {
        scope.notes.wrong(written, "`throttle_interval` must be whole seconds, 1 or more", "\"10s\"");
    }
    interval
}

/// The texts of a list as they were written, unchecked.
fn values(list: Option<&At<Vec<At<String>>>>) -> Vec<String> {
    list.into_iter().flat_map(|list| &list.value).map(|text| text.value.clone()).collect()
}

/// Checks that `text` can be part of a file name anywhere, without quoting.
fn plain_word(text: &str, longest: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-')) {
        return Err(format!(
            "contains `{}`; only letters, digits, `.`, `_` and `-` are allowed",
            quote(&c.to_string())
        ));
    }
    if text.starts_with(['.', '-']) {
        return Err("starts with `.` or `-`".into());
    }
    if text.len() > longest {
        return Err(format!("has more than {longest} characters"));
    }
    Ok(())
}
