//! What the loops of a conductor and of a rank wait for: messages, signals, beats.

use std::io;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::frame::{Down, Up};
use crate::backend::link::{LinkEvent, Request};
use crate::host::Exit;

pub(super) enum ConductorInput {
    Up(Up),
    Text(Vec<u8>),
    Launch(Exit),
    Signal,
    Asked(Request),
}

pub(super) enum RankInput {
    Down(Down),
    /// The conductor closed the connection, or a signal came.
    Ended,
    Line(String),
    LinesEnded,
    Link(LinkEvent),
    Exited(Exit),
}

/// Sends `input()` at each SIGHUP, SIGINT and SIGTERM from now on.
pub(super) fn on_signals<T: Send + 'static>(inputs: UnboundedSender<T>, input: fn() -> T) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let _ = inputs.send(input());
        }
    });
    Ok(())
}

/// Ticks once per `every`, at least 10 ms apart; late ticks are not made up for.
pub(super) fn beats(every: Duration) -> Interval {
    let mut beats = interval(every.max(Duration::from_millis(10)));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

/// Waits until `moment`; without one, forever.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
