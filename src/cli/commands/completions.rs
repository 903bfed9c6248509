//! `mlxctl completions <shell>`

use clap::CommandFactory;

use crate::cli::Context;
use crate::cli::args::Cli;
use crate::cli::error::CliError;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints the script.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mlxctl", &mut script);
    context.output.data(&String::from_utf8_lossy(&script))
}
