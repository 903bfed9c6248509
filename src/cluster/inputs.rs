//! What happens to a conductor and to a rank: the messages that their loops take.

use std::io;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep_until};

use super::frame::{Down, Up};
use crate::backend::link::{LinkEvent, Request};
use crate::host::Exit;

/// What happens to a conductor.
pub(super) enum ConductorInput {
    Up(Up),
    Text(Vec<u8>),
    Launch(Exit),
    Signal,
    Asked(Request),
}

/// What happens to a rank.
pub(super) enum RankInput {
    Down(Down),
    /// The conductor's end of the connection is closed, or a signal says so.
    Ended,
    Line(String),
    LinesEnded,
    Link(LinkEvent),
    Exited(Exit),
}

/// Sends one for each signal that asks this process to end.
pub(super) fn on_signals<I: Send + 'static>(inputs: UnboundedSender<I>, input: fn() -> I) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let _ = inputs.send(input());
        }
    });
    Ok(())
}

/// Ends at that moment; without one, never.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
