//! What signals mean to the loop.

use std::path::PathBuf;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::handle::Handle;
use super::read_registry;
use crate::host::posix;

/// SIGTERM and SIGINT: everything down, then the end; a second one skips the drains. During a hand-over: the end at
/// once, with the backends up. SIGHUP is the end as well where there is a terminal, which was closed then; a service has
/// none, and reads the registry again. Ends with the process.
///
/// # Errors
/// The system's, if it takes no handlers.
pub(crate) fn on_signals(handle: Handle, config: PathBuf) -> std::io::Result<()> {
    let ends_with_terminal = posix::ends_with_terminal();
    let mut signals = signal_hook_tokio::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    tokio::spawn(async move {
        let mut asked = false;
        while let Some(signal) = signals.next().await {
            if signal == SIGHUP && ends_with_terminal {
                // Kernel and shell may both send it: a second one is no impatience.
                tracing::info!("the terminal was closed: everything is stopped");
                asked = true;
                handle.shutdown(false);
            } else if signal == SIGHUP {
                // What came of it is in the history.
                let _ = handle.reload(read_registry(&config), false).await;
            } else {
                handle.shutdown(std::mem::replace(&mut asked, true));
            }
        }
    });
    Ok(())
}
