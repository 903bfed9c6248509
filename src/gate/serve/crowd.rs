//! All connections of one listener. No address can take all places, and when places run out, the connection that has
//! been idle longest is closed: an idle connection costs its owner nothing and would keep others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::gate::policy::bounds::{idle, share};

#[derive(Debug)]
pub(crate) struct Crowd {
    began: Instant,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    seats: HashMap<u64, Arc<Seat>>,
    by_address: HashMap<IpAddr, usize>,
    next: u64,
    /// Number of places at the last [`Crowd::enter`].
    places: usize,
}

#[derive(Debug)]
struct Seat {
    crowd: Arc<Crowd>,
    number: u64,
    client: IpAddr,
    /// When it began to wait for its client: milliseconds after the crowd began, plus one; 0 while it works.
    waits_since: AtomicU64,
    task: OnceLock<AbortHandle>,
}

/// The place of one connection; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Place(Arc<Seat>);

/// Takes the task that serves a place, once there is one.
#[derive(Debug)]
pub(crate) struct Ending(Arc<Seat>);

impl Ending {
    /// Aborting `task` must close the connection.
    pub(crate) fn by(self, task: AbortHandle) {
        // It is set only once: an `Ending` cannot be copied.
        let _ = self.0.task.set(task);
    }
}

impl Default for Crowd {
    fn default() -> Self {
        Self { began: Instant::now(), table: Mutex::default() }
    }
}

impl Crowd {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Admits a client. If its address has its share of the `places`, or all are taken, another connection may be
    /// closed for it; `None` if there is none to close.
    pub(crate) fn enter(self: &Arc<Self>, client: IpAddr, places: usize) -> Option<(Place, Ending)> {
        let (place, victim) = {
            let mut table = self.table();
            table.places = places;
            let own = table.by_address.get(&client).copied().unwrap_or(0);
            let idlest = if own >= share(places) {
                table.idlest(|who, _| who == client)
            } else if table.seats.len() >= places {
                table.idlest(|who, count| who == client || count > own + 1)
            } else {
                None
            };
            let victim = idlest.and_then(|number| table.remove(number));
            if victim.is_none() && (own >= share(places) || table.seats.len() >= places) {
                return None;
            }
            let number = table.next;
            table.next += 1;
            *table.by_address.entry(client).or_default() += 1;
            let seat = Arc::new(Seat {
                crowd: self.clone(),
                number,
                client,
                waits_since: AtomicU64::new(self.now()),
                task: OnceLock::new(),
            });
            table.seats.insert(number, seat.clone());
            (Place(seat), victim)
        };
        if let Some(task) = victim.as_ref().and_then(|seat| seat.task.get()) {
            task.abort();
        }
        let ending = Ending(place.0.clone());
        Some((place, ending))
    }

    /// How long a connection may stay open without a request, at present.
    pub(crate) fn idle(&self) -> Duration {
        let table = self.table();
        idle(table.seats.len(), table.places)
    }
}

impl Table {
    /// The connection that has waited longest for its client, of the address that has most. `may`: whether an address
    /// with that many connections may lose one.
    fn idlest(&self, may: impl Fn(IpAddr, usize) -> bool) -> Option<u64> {
        let candidates = self.seats.iter().filter_map(|(number, seat)| {
            let since = seat.waits_since.load(Relaxed);
            let count = self.by_address.get(&seat.client).copied().unwrap_or(0);
            (since > 0 && seat.task.get().is_some() && may(seat.client, count))
                .then_some((count, std::cmp::Reverse((since, *number))))
        });
        candidates.max().map(|(_, std::cmp::Reverse((_, number)))| number)
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Seat>> {
        let seat = self.seats.remove(&number)?;
        if let Some(count) = self.by_address.get_mut(&seat.client) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&seat.client);
            }
        }
        Some(seat)
    }
}

impl Place {
    /// Marks the connection as waiting for its client.
    pub(crate) fn waits(&self) {
        self.0.waits_since.store(self.0.crowd.now(), Relaxed);
    }

    /// Marks the connection as working: its client waits for it.
    pub(crate) fn works(&self) {
        self.0.waits_since.store(0, Relaxed);
    }

    /// See [`Crowd::idle`].
    pub(crate) fn idle(&self) -> Duration {
        self.0.crowd.idle()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Unlock the table before the seat is dropped, which may hold the last reference to the crowd.
        let seat = self.0.crowd.table().remove(self.0.number);
        drop(seat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::policy::bounds::{IDLE, IDLE_WHEN_CROWDED};

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    /// A crowd whose connections do nothing until they are closed.
    struct House {
        crowd: Arc<Crowd>,
        places: usize,
        tasks: Vec<(u32, AbortHandle)>,
    }

    impl House {
        fn new(places: usize) -> Self {
            Self { crowd: Arc::default(), places, tasks: Vec::new() }
        }

        fn enter(&mut self, client: IpAddr, name: u32, works: bool) -> bool {
            let Some((place, ending)) = self.crowd.enter(client, self.places) else { return false };
            if works {
                place.works();
            }
            let task = tokio::spawn(async move {
                let _place = place;
                std::future::pending::<()>().await;
            });
            ending.by(task.abort_handle());
            self.tasks.push((name, task.abort_handle()));
            true
        }

        /// Names of the connections that are still open.
        async fn left(&self) -> Vec<u32> {
            tokio::task::yield_now().await;
            let alive = self.tasks.iter().filter(|(_, task)| !task.is_finished());
            alive.map(|(name, _)| *name).collect()
        }
    }

    #[tokio::test]
    async fn one_address_leaves_places_for_others() {
        let mut house = House::new(8);
        for name in 0..6 {
            assert!(house.enter(A, name, true));
        }
        assert!(!house.enter(A, 6, true), "the address has its share, and all of it works");
        assert!(house.enter(B, 7, true) && house.enter(B, 8, true));
        assert!(!house.enter(B, 9, true), "all places are taken and work");
    }

    #[tokio::test]
    async fn the_connection_that_is_idle_longest_gives_up_its_place() {
        let mut house = House::new(4);
        assert!(house.enter(A, 0, true));
        for name in 1..=3 {
            assert!(house.enter(A, name, false), "a fourth closes the first that is idle");
        }
        assert_eq!(house.left().await, [0, 2, 3]);
        assert!(house.enter(B, 4, false), "one place is kept for others");
        // Full: the address with most connections loses one, not the one that came last.
        assert!(house.enter(B, 5, false));
        assert_eq!(house.left().await, [0, 3, 4, 5]);
        assert!(house.enter(A, 6, true));
        assert_eq!(house.left().await, [0, 4, 5, 6]);
    }

    #[tokio::test]
    async fn a_place_is_freed_when_its_connection_ends() {
        let mut house = House::new(1);
        assert!(house.enter(A, 0, true));
        assert!(!house.enter(B, 1, true));
        house.tasks[0].1.abort();
        assert!(house.left().await.is_empty());
        assert!(house.enter(B, 1, true));
        let table = house.crowd.table();
        assert_eq!((table.seats.len(), table.by_address.len()), (1, 1));
    }

    #[tokio::test]
    async fn idle_connections_end_sooner_when_places_are_scarce() {
        let mut house = House::new(4);
        assert!(house.enter(A, 0, false) && house.enter(A, 1, false));
        assert_eq!(house.crowd.idle(), IDLE);
        assert!(house.enter(B, 2, false));
        assert_eq!(house.crowd.idle(), IDLE_WHEN_CROWDED);
    }
}
