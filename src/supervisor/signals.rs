//! Signals to the supervisor.

use std::path::PathBuf;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::handle::Handle;
use super::read_registry;
use crate::host::posix;

/// Handles signals until the process ends. SIGTERM and SIGINT stop every backend and then the supervisor; a second one
/// skips the drains. During a hand-over they end the supervisor at once, with the backends up. SIGHUP stops everything
/// as well if the supervisor has a terminal, which was closed then; a service has none, and reloads the registry.
///
/// # Errors
/// The system's, if no handlers can be installed.
pub(crate) fn on_signals(handle: Handle, config: PathBuf) -> std::io::Result<()> {
    let ends_with_terminal = posix::ends_with_terminal();
    let mut signals = signal_hook_tokio::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    tokio::spawn(async move {
        let mut asked = false;
        while let Some(signal) = signals.next().await {
            if signal == SIGHUP && ends_with_terminal {
                // Kernel and shell may both send it, so a second one does not skip the drains.
                tracing::info!("the terminal was closed: stopping everything");
                asked = true;
                handle.shutdown(false);
            } else if signal == SIGHUP {
                // The result is in the history.
                let _ = handle.reload(read_registry(&config), false).await;
            } else {
                handle.shutdown(std::mem::replace(&mut asked, true));
            }
        }
    });
    Ok(())
}
