//! `mlxctl gateway`

use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::gateway::{Facts, Format, render};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to print
    #[arg(long)]
    format: Format,
    /// What clients call this machine [default: the registry's network.host]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
}

/// Prints what a gateway needs to reach the models.
///
/// # Errors
/// An invalid registry, or no address that clients could use (2).
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let registry = context.registry()?;
    let facts = Facts::new(&registry, args.host.as_deref()).map_err(|error| {
        CliError::new(Exit::Usage, error.to_string())
            .hint("mlxctl gateway --host NAME      NAME: how clients reach this machine")
    })?;
    context.output.data(&render(args.format, &facts))
}
