//! Who has signed in with a key, and who has tried wrong ones. In memory only: a restarted supervisor knows none of it.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::clock::Moment;
use crate::gate::keys::{self, Key, KeyRing};

/// How long a session lasts after sign-in.
pub(super) const LIFE: Duration = Duration::from_secs(12 * 3600);
/// The most sessions at once; one key may have a quarter of them. Beyond that the oldest ends.
const MOST: usize = 32;
/// How many wrong keys an address may try before it has to wait: people mistype.
const FREE: u32 = 4;
/// The longest time an address has to wait before its next try.
const LONGEST: Duration = Duration::from_secs(60);
/// How many addresses are remembered for wrong keys.
const ADDRESSES: usize = 1024;

/// A reader who has signed in with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    /// The SHA-256 hash of the cookie.
    id: [u8; 32],
    /// Sent with every press, as `x-mlxctl-token`.
    pub token: String,
    /// The key as it was at sign-in.
    pub key: Key,
    until: Moment,
}

#[derive(Debug)]
pub(super) enum Refused {
    /// No key, or an unknown one.
    Wrong,
    /// This address has tried so many wrong ones that the next try has to wait.
    Wait(Duration),
    Io(io::Error),
}

#[derive(Debug)]
pub(super) struct Sessions {
    keys: KeyRing,
    open: Mutex<Vec<Session>>,
    wrong: Mutex<HashMap<IpAddr, Wrong>>,
}

#[derive(Debug, Clone, Copy)]
struct Wrong {
    count: u32,
    until: Moment,
}

impl Sessions {
    pub(super) fn new(keys: KeyRing) -> Self {
        Self { keys, open: Mutex::default(), wrong: Mutex::default() }
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs in with a key; returns the session and its cookie, which is not stored.
    pub(super) fn open(&self, client: IpAddr, key: &str, now: Moment) -> Result<(Session, String), Refused> {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(client);
        if let Some(before) = wrong.get(&address).filter(|before| before.until > now) {
            return Err(Refused::Wait(before.until.since(now)));
        }
        let Some(key) = self.keys.find(key) else {
            note(&mut wrong, address, now);
            return Err(Refused::Wrong);
        };
        wrong.remove(&address);
        drop(wrong);
        let cookie = keys::random().map_err(Refused::Io)?;
        let token = keys::random().map_err(Refused::Io)?;
        let session = Session { id: id(&cookie), token, key, until: now.after(LIFE) };
        let mut open = self.sessions();
        open.retain(|session| session.until > now);
        // They are in the order of their sign-in.
        let own = |other: &Session| other.key == session.key;
        if open.iter().filter(|other| own(other)).count() >= MOST / 4 {
            open.iter().position(own).map(|oldest| open.remove(oldest));
        } else if open.len() >= MOST {
            open.remove(0);
        }
        open.push(session.clone());
        Ok((session, cookie))
    }

    /// The session of a cookie, while its key exists. Compares with all sessions, each in constant time.
    pub(super) fn find(&self, cookie: &str, now: Moment) -> Option<Session> {
        let given = id(cookie);
        let found = self.sessions().iter().fold(None, |found, session| {
            if bool::from(subtle::ConstantTimeEq::ct_eq(&session.id[..], &given[..])) {
                Some(session.clone())
            } else {
                found
            }
        })?;
        self.lasts(&found, now).then_some(found)
    }

    /// Whether a session is still valid: not after its time, not without its key.
    pub(super) fn lasts(&self, session: &Session, now: Moment) -> bool {
        let mut open = self.sessions();
        if !open.iter().any(|other| other.id == session.id) {
            return false;
        }
        let lasts = session.until > now && self.keys.holds(&session.key);
        if !lasts {
            open.retain(|other| other.id != session.id);
        }
        lasts
    }

    pub(super) fn close(&self, session: &Session) {
        self.sessions().retain(|other| other.id != session.id);
    }
}

/// A cookie has 256 random bits, so one round of SHA-256 is enough.
fn id(cookie: &str) -> [u8; 32] {
    Sha256::digest(cookie.as_bytes()).into()
}

/// What counts as one address: for IPv6 the /64 network, because one machine can have all of it.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn note(wrong: &mut HashMap<IpAddr, Wrong>, address: IpAddr, now: Moment) {
    if wrong.len() >= ADDRESSES && !wrong.contains_key(&address) {
        let oldest = wrong.iter().min_by_key(|(_, wrong)| wrong.until).map(|(address, _)| *address);
        oldest.map(|oldest| wrong.remove(&oldest));
    }
    let entry = wrong.entry(address).or_insert(Wrong { count: 0, until: now });
    entry.count = entry.count.saturating_add(1);
    let beyond = entry.count.checked_sub(FREE);
    let wait = beyond.map_or(Duration::ZERO, |beyond| Duration::from_secs(1 << beyond.min(6)).min(LONGEST));
    entry.until = now.after(wait);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::keys::May;

    const PHONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    struct House {
        folder: tempfile::TempDir,
        sessions: Sessions,
    }

    impl House {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let sessions = Sessions::new(KeyRing::new(folder.path().join("keys.json")));
            Self { folder, sessions }
        }

        fn key(&self, name: &str) -> String {
            keys::add(&self.folder.path().join("keys.json"), name, May::Control, 1).unwrap()
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn a_session_lasts_twelve_hours_and_no_longer_than_its_key() {
        let house = House::new();
        let key = house.key("phone");
        let (session, cookie) = house.sessions.open(PHONE, &key, at(0)).unwrap();
        assert_eq!((cookie.len(), session.token.len()), (64, 64));
        assert_eq!(house.sessions.find(&cookie, at(12 * 3600 - 1)), Some(session.clone()));
        assert_eq!(house.sessions.find(&session.token, at(1)), None);
        assert_eq!(house.sessions.find(&cookie, at(12 * 3600)), None);
        let (session, cookie) = house.sessions.open(PHONE, &key, at(0)).unwrap();
        keys::revoke(&house.folder.path().join("keys.json"), "phone").unwrap();
        assert!(!house.sessions.lasts(&session, at(1)));
        house.key("phone");
        assert_eq!(house.sessions.find(&cookie, at(1)), None, "a new key of the same name is another key");
    }

    #[test]
    fn sessions_are_bounded_and_one_key_does_not_take_them_all() {
        let house = House::new();
        let (phone, other) = (house.key("phone"), house.key("other"));
        let (_, kept) = house.sessions.open(PHONE, &other, at(0)).unwrap();
        let cookies: Vec<String> =
            (0..MOST).map(|_| house.sessions.open(PHONE, &phone, at(0)).unwrap().1).collect();
        let open = cookies.iter().filter(|cookie| house.sessions.find(cookie, at(1)).is_some()).count();
        assert_eq!(open, MOST / 4);
        assert!(house.sessions.find(&kept, at(1)).is_some());
        for number in 0..MOST {
            let key = house.key(&format!("k{number}"));
            house.sessions.open(PHONE, &key, at(0)).unwrap();
        }
        assert_eq!(house.sessions.sessions().len(), MOST);
    }

    #[test]
    fn wrong_keys_delay_the_next_try_from_that_address_only() {
        let house = House::new();
        let key = house.key("phone");
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..11 {
            assert!(matches!(house.sessions.open(PHONE, "mlx-no", at(now)), Err(Refused::Wrong)));
            let wait = house.sessions.wrong.lock().unwrap()[&PHONE].until.since(at(now));
            if !wait.is_zero() {
                // The right key waits as well: otherwise the answer would tell it from the wrong ones.
                let refused = house.sessions.open(PHONE, &key, at(now));
                assert!(matches!(refused, Err(Refused::Wait(left)) if left == wait));
            }
            waits.push(wait.as_secs());
            now += wait.as_secs();
        }
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        let elsewhere = IpAddr::from([10, 0, 0, 3]);
        let _ = house.sessions.open(PHONE, "mlx-no", at(now));
        assert!(house.sessions.open(elsewhere, &key, at(now)).is_ok());
        assert!(house.sessions.open(PHONE, &key, at(now + 60)).is_ok());
    }

    #[test]
    fn remembered_addresses_are_bounded_and_an_ipv6_network_counts_as_one() {
        let house = House::new();
        for number in 0..u32::try_from(ADDRESSES).unwrap() + 50 {
            let _ = house.sessions.open(IpAddr::V4(number.into()), "mlx-no", at(u64::from(number)));
        }
        assert_eq!(house.sessions.wrong.lock().unwrap().len(), ADDRESSES);
        let v6 = |last: u16| IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, last]);
        for last in 0..5 {
            let _ = house.sessions.open(v6(last), "mlx-no", at(5000));
        }
        assert!(matches!(house.sessions.open(v6(9), "mlx-no", at(5000)), Err(Refused::Wait(_))));
    }
}
