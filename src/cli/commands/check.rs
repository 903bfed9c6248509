//! `mlxctl check`

use crate::backend::weights;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::memory::divides;
use crate::python::profile::Profiles;
use crate::registry::{Complaint, Problems, Registry, Start, advice, fits};
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Check the registry for a machine with this much memory; this machine's paths are not checked
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
}

/// Names every problem of the registry, or summarizes what is in it.
///
/// # Errors
/// Exit 2 with every problem; when stdout cannot be written.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = match args.memory {
        Some(total) => Registry::load(&context.config).and_then(|registry| {
            let problems = fits(&registry, total);
            if problems.is_empty() { Ok(registry) } else { Err(problems) }
        }),
        None => Registry::check_here(&context.config, memory_here(), |registry| {
            let profiles = Profiles::of(registry);
            let mut complaints = divides(registry, |model| weights::undivided(model, &profiles));
            complaints.extend(impostors(registry));
            complaints
        }),
    };
    let registry = registry.map_err(|problems: Problems| context.broken(&problems))?;
    for note in advice(&registry) {
        context.output.say(&format!("note: {note}"));
    }
    context.output.data(&summary(&registry))
}

/// Models with files that are not what their names say: their starts are certain to fail.
fn impostors(registry: &Registry) -> Vec<Complaint> {
    let found = registry.models.iter().enumerate().filter_map(|(index, model)| {
        let problem = weights::impostor(model)?;
        Some(Complaint {
            key: format!("model[{index}].repo"),
            message: format!("`{}` cannot be served: {problem}", model.name),
            hint: problem.hint().map(|hint| hint.replace("NAME", &model.name)),
        })
    });
    found.collect()
}

/// This machine's memory, or less if its cgroup allows less; unlimited if unknown, so that nothing is refused on a
/// guess.
fn memory_here() -> Bytes {
    let Ok(mut system) = sysinfo::System::new() else { return Bytes(u64::MAX) };
    system.refresh_memory();
    let installed = system.total_memory();
    let limit = system.cgroup_limits().map(|limits| limits.total_memory).filter(|limit| *limit > 0);
    Bytes(limit.map_or(installed, |limit| limit.min(installed)))
}

fn summary(registry: &Registry) -> String {
    let count = |start: Start| registry.models.iter().filter(|model| model.start == start).count();
    let (total, always, manual) = (registry.models.len(), count(Start::Always), count(Start::Manual));
    let mut lines = vec![
        format!("{}: ok", registry.file.display()),
        format!("{total} model{}, {always} always-on, {manual} on demand", if total == 1 { "" } else { "s" }),
    ];
    let width = registry.models.iter().map(|model| model.name.len()).max().unwrap_or_default();
    for model in &registry.models {
        // An IPv6 address needs its brackets before a port.
        let address = std::net::SocketAddr::new(registry.network.host, model.port);
        lines.push(format!("  {:width$}  {address}  {}", model.name, model.source));
    }
    lines.join("\n")
}
