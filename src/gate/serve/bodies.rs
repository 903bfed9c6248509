//! Memory of request bodies, bounded for all of them together and for each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bound on large bodies in memory, in multiples of the largest body allowed; one address may have half of it.
const BODIES: u64 = 8;
/// Bytes of each body that do not count: even with as many connections as allowed they add up to little, and a small
/// request never waits for large ones.
const SMALL: u64 = 64 * 1024;

/// Memory that request bodies take, beyond the first [`SMALL`] bytes of each.
#[derive(Debug, Default)]
pub(crate) struct Bodies(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    by_address: HashMap<IpAddr, u64>,
}

impl Bodies {
    /// Starts to count a body, none of which has arrived yet.
    pub(crate) fn of(self: &Arc<Self>, client: IpAddr) -> Held {
        Held { bodies: self.clone(), client, bytes: 0 }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory counted for one body, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    bodies: Arc<Bodies>,
    client: IpAddr,
    /// Counted bytes, those beyond [`SMALL`].
    bytes: u64,
}

impl Held {
    /// Counts the `bytes` of the body that have arrived so far; `largest` is the largest body allowed. Announced bytes
    /// do not count until they arrive. `false` if all bodies together, or those of this address, would take too much.
    pub(crate) fn grow(&mut self, bytes: u64, largest: u64) -> bool {
        let more = bytes.saturating_sub(SMALL).saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let most = largest.saturating_mul(BODIES);
        let mut taken = self.bodies.taken();
        let own = taken.by_address.get(&self.client).copied().unwrap_or(0);
        if taken.all + more > most || own + more > most / 2 {
            return false;
        }
        taken.all += more;
        taken.by_address.insert(self.client, own + more);
        self.bytes += more;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut taken = self.bodies.taken();
        taken.all -= self.bytes;
        if let Some(own) = taken.by_address.get_mut(&self.client) {
            *own -= self.bytes;
            if *own == 0 {
                taken.by_address.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: u64 = 1 << 20;
    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const C: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3));

    /// As many bodies of the largest size as there is room for.
    fn fill(bodies: &Arc<Bodies>, client: IpAddr) -> Vec<Held> {
        let one = || {
            let mut held = bodies.of(client);
            held.grow(LARGEST, LARGEST).then_some(held)
        };
        std::iter::from_fn(one).collect()
    }

    #[test]
    fn large_bodies_of_one_address_leave_room_for_those_of_others() {
        let bodies = Arc::<Bodies>::default();
        let of_a = fill(&bodies, A);
        assert_eq!(of_a.len(), 4);
        let of_b = fill(&bodies, B);
        assert_eq!((of_b.len(), fill(&bodies, C).len()), (4, 0), "all together are bounded too");
        drop(of_a);
        assert_eq!(fill(&bodies, C).len(), 4);
        drop(of_b);
        let taken = bodies.taken();
        assert_eq!((taken.all, taken.by_address.len()), (0, 0));
    }

    #[test]
    fn there_is_always_room_for_a_small_body() {
        let bodies = Arc::<Bodies>::default();
        let _large = [fill(&bodies, A), fill(&bodies, B)];
        let mut small = bodies.of(A);
        assert!(small.grow(30, LARGEST) && small.grow(SMALL, LARGEST));
        assert!(!small.grow(LARGEST, LARGEST));
    }
}
