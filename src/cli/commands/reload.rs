//! `mlxctl reload`

use crate::api::{Change, ChangeKind};
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::remote::Remote;
use crate::cli::render::table::{Cell, Column, draw};
use crate::cli::render::{Look, Style};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Has the supervisor apply the registry as it is on disk now, and prints what that changes.
///
/// # Errors
/// The registry's problems (exit 2; the previous version stays in use); exit 3 without a supervisor.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let remote = Remote::find(context)?;
    if remote.registry.is_none() {
        return context.registry().map(drop);
    }
    let reloaded = remote.client.reload(args.dry_run)?;
    let rows: Vec<Vec<Cell>> =
        reloaded.changes.iter().filter(|change| change.change != ChangeKind::Unchanged).map(row).collect();
    if rows.is_empty() {
        return context.output.data("nothing changed");
    }
    let columns = [Column::left("MODEL", 0), Column::left("CHANGE", 0), Column::left("WHAT", 0)];
    let look = Look { width: usize::MAX, ..Look::of(&context.output) };
    context.output.data(&draw(&columns, &rows, &look).unwrap_or_default())?;
    if !reloaded.applied {
        context.output.say("nothing was applied; run mlxctl reload to apply it");
    }
    Ok(())
}

fn row(change: &Change) -> Vec<Cell> {
    let (word, style) = match change.change {
        ChangeKind::Added => ("added", Style::Good),
        ChangeKind::Removed => ("removed", Style::Bad),
        ChangeKind::Changed => ("changed", Style::Busy),
        ChangeKind::Unchanged => ("unchanged", Style::Faint),
    };
    vec![
        Cell::new(&change.model, Style::Strong),
        Cell::new(word, style),
        change.detail.clone().unwrap_or_default().into(),
    ]
}
