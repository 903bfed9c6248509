//! Exit codes only; everything else is the library's.

use std::process::ExitCode;

use mlxctl::internals::backend::exec;

fn main() -> ExitCode {
    // Before anything is initialised: every start of a backend passes here.
    if let Some(spec_file) = exec::requested(std::env::args_os()) {
        return ExitCode::from(exec::run(&spec_file));
    }
    if let Some(code) = mlxctl::internals::cluster::hidden(std::env::args_os()) {
        return ExitCode::from(code);
    }
    ExitCode::from(mlxctl::internals::cli::main() as u8)
}
