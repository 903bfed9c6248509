//! `mlxctl man [<command>]`

use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::Context;
use crate::cli::args::Cli;
use crate::cli::error::{CliError, Exit};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the page of this command
    command: Option<String>,
    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    all: Option<PathBuf>,
}

/// Prints the manual page as roff, or writes all of them.
///
/// # Errors
/// Exit 2 for an unknown command; when stdout or the folder cannot be written.
pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let mut program = Cli::command();
    program.build();
    if let Some(folder) = &args.all {
        return clap_mangen::generate_to(program, folder).map_err(|error| {
            CliError::failed(format!("cannot write the manual pages to {}", folder.display())).why(error)
        });
    }
    let page = match &args.command {
        None => program,
        Some(name) => program.find_subcommand(name).cloned().ok_or_else(|| {
            CliError::new(Exit::Usage, format!("mlxctl has no command `{name}`")).hint("mlxctl help")
        })?,
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut roff)
        .map_err(|error| CliError::failed("cannot write the manual page").why(error))?;
    context.output.bytes(&roff)
}
