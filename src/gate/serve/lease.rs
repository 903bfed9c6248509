//! A lease: one request at the backend. It is held next to the answer's body and ends with it, however that ends.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use super::traffic::Traffic;

#[derive(Debug, Default)]
pub(crate) struct Leases {
    live: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Option<Arc<State>>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct State {
    generation: u64,
    ended: OnceLock<Arc<str>>,
    waker: AtomicWaker,
}

/// A request at the backend of one run.
#[derive(Debug)]
pub(crate) struct Lease {
    state: Arc<State>,
    slot: usize,
    leases: Arc<Leases>,
    traffic: Arc<Traffic>,
}

impl Leases {
    /// Counts a request as in flight at the run of this generation, until the lease is dropped.
    pub(crate) fn begin(self: &Arc<Self>, generation: u64, traffic: &Arc<Traffic>) -> Lease {
        let state = Arc::new(State { generation, ended: OnceLock::new(), waker: AtomicWaker::new() });
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = live.free.pop().unwrap_or(live.all.len());
        match live.all.get_mut(slot) {
            Some(place) => *place = Some(state.clone()),
            None => live.all.push(Some(state.clone())),
        }
        drop(live);
        traffic.begin();
        Lease { state, slot, leases: self.clone(), traffic: traffic.clone() }
    }

    /// Ends every lease of a run: their holders are woken and told why.
    pub(crate) fn abort(&self, generation: u64, why: &str) {
        let why: Arc<str> = why.into();
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        for state in live.all.iter().flatten().filter(|state| state.generation == generation) {
            // The first reason is kept.
            let _ = state.ended.set(why.clone());
            state.waker.wake();
        }
    }
}

impl Lease {
    /// Why the lease was ended from outside; `None` if it was not, and then `waker` is woken when it is.
    pub(crate) fn ended(&self, waker: &Waker) -> Option<Arc<str>> {
        self.state.waker.register(waker);
        self.state.ended.get().cloned()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut live = self.leases.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = live.all.get_mut(self.slot) {
            *place = None;
            live.free.push(self.slot);
        }
        drop(live);
        self.traffic.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leases_of_that_generation_are_ended_and_all_are_counted() {
        let (leases, traffic) = (Arc::new(Leases::default()), Arc::new(Traffic::default()));
        let (old, new) = (leases.begin(1, &traffic), leases.begin(2, &traffic));
        leases.abort(1, "it hung");
        assert_eq!(old.ended(Waker::noop()).as_deref(), Some("it hung"));
        assert_eq!(new.ended(Waker::noop()), None);
        assert_eq!(traffic.in_flight(), 2);
        drop((old, new));
        assert_eq!(traffic.in_flight(), 0);
        let again = leases.begin(1, &traffic);
        assert_eq!(again.ended(Waker::noop()), None, "an abort applies to leases that exist");
        assert_eq!(leases.live.lock().unwrap().all.len(), 2, "slots are reused");
    }
}
