//! Turns at the backend: a limited number at once; others wait in a bounded queue that no single client can fill.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The queue of one backend. Turns are given round robin over clients, and first come first served within one.
#[derive(Debug)]
pub(crate) struct Queue {
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    limit: usize,
    room: usize,
    taken: usize,
    waiting: usize,
    /// Every client here has at least one request waiting.
    clients: VecDeque<(IpAddr, VecDeque<oneshot::Sender<Turn>>)>,
}

/// The right to use the backend; dropping it passes it on.
#[derive(Debug)]
pub(crate) struct Turn {
    queue: Option<Arc<Queue>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The answer to a request for a turn.
#[derive(Debug)]
pub(crate) enum Place {
    Now(Turn),
    /// The turn is sent here; an error means that the place was given to a client with fewer.
    Later(oneshot::Receiver<Turn>),
}

impl Queue {
    /// At most `limit` requests at the backend and `room` waiting.
    pub(crate) fn new(limit: u32, room: u32) -> Self {
        let line = Line {
            limit: limit as usize,
            room: room as usize,
            taken: 0,
            waiting: 0,
            clients: VecDeque::new(),
        };
        Self { line: Mutex::new(line) }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the bounds. Requests that are already in stay.
    pub(crate) fn resize(self: &Arc<Self>, limit: u32, room: u32) {
        let mut line = self.line();
        (line.limit, line.room) = (limit as usize, room as usize);
        while line.taken < line.limit && self.pass_on(&mut line) {}
    }

    /// Asks for a turn.
    ///
    /// # Errors
    /// [`Full`] if no place is left and no client has more of them than `client` would have.
    pub(crate) fn ask(self: &Arc<Self>, client: IpAddr) -> Result<Place, Full> {
        let mut line = self.line();
        if line.taken < line.limit && line.waiting == 0 {
            line.taken += 1;
            return Ok(Place::Now(self.turn()));
        }
        if line.waiting >= line.room {
            line.forget_those_who_left();
        }
        if line.waiting >= line.room {
            line.make_room(client)?;
        }
        let (sender, receiver) = oneshot::channel();
        match line.clients.iter_mut().find(|(who, _)| *who == client) {
            Some((_, waiting)) => waiting.push_back(sender),
            None => line.clients.push_back((client, VecDeque::from([sender]))),
        }
        line.waiting += 1;
        Ok(Place::Later(receiver))
    }

    fn turn(self: &Arc<Self>) -> Turn {
        Turn { queue: Some(self.clone()) }
    }

    /// Gives a turn to the next in the queue; `false` if it is empty.
    fn pass_on(self: &Arc<Self>, line: &mut Line) -> bool {
        while let Some(sender) = line.next() {
            match sender.send(self.turn()) {
                Ok(()) => {
                    line.taken += 1;
                    return true;
                }
                // The client left while it waited. The turn must not come back through `drop`: the queue is locked.
                Err(mut turn) => turn.queue = None,
            }
        }
        false
    }
}

impl Line {
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let (who, mut waiting) = self.clients.pop_front()?;
        let sender = waiting.pop_front()?;
        self.waiting -= 1;
        if !waiting.is_empty() {
            self.clients.push_back((who, waiting));
        }
        Some(sender)
    }

    fn forget_those_who_left(&mut self) {
        for (_, waiting) in &mut self.clients {
            waiting.retain(|sender| !sender.is_closed());
        }
        self.clients.retain(|(_, waiting)| !waiting.is_empty());
        self.waiting = self.clients.iter().map(|(_, waiting)| waiting.len()).sum();
    }

    /// Takes the newest place of the client with the most, if that leaves it no fewer than `client` will have.
    fn make_room(&mut self, client: IpAddr) -> Result<(), Full> {
        let own = self.clients.iter().find(|(who, _)| *who == client).map_or(0, |(_, waiting)| waiting.len());
        let most = self.clients.iter_mut().max_by_key(|(_, waiting)| waiting.len()).ok_or(Full)?;
        if most.1.len() < own + 2 {
            return Err(Full);
        }
        most.1.pop_back();
        self.waiting -= 1;
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let mut line = queue.line();
        line.taken = line.taken.saturating_sub(1);
        if line.taken < line.limit {
            queue.pass_on(&mut line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn now(place: Result<Place, Full>) -> Turn {
        match place {
            Ok(Place::Now(turn)) => turn,
            other => panic!("{other:?}"),
        }
    }

    fn later(place: Result<Place, Full>) -> oneshot::Receiver<Turn> {
        match place {
            Ok(Place::Later(receiver)) => receiver,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clients_take_turns_however_many_places_one_of_them_has() {
        let queue = Arc::new(Queue::new(1, 10));
        let turn = now(queue.ask(A));
        let mut of_a: Vec<_> = (0..4).map(|_| later(queue.ask(A))).collect();
        let mut of_b = later(queue.ask(B));
        drop(turn);
        let turn = of_a.remove(0).try_recv().unwrap();
        drop(turn);
        let turn = of_b.try_recv().expect("the second turn is the other client's");
        drop(turn);
        assert!(of_a.remove(0).try_recv().is_ok());
    }

    #[test]
    fn a_full_queue_gives_a_newcomer_a_place_of_the_client_with_most() {
        let queue = Arc::new(Queue::new(1, 3));
        let _turn = now(queue.ask(A));
        let mut of_a: Vec<_> = (0..3).map(|_| later(queue.ask(A))).collect();
        assert_eq!(queue.ask(A).unwrap_err(), Full);
        let _first = later(queue.ask(B));
        assert_eq!(of_a.remove(2).try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert_eq!(queue.ask(B).unwrap_err(), Full, "two places and one are as fair as three can be split");
    }

    #[test]
    fn turns_are_neither_lost_nor_multiplied() {
        let queue = Arc::new(Queue::new(2, 100));
        let mut turns = vec![now(queue.ask(A)), now(queue.ask(B))];
        let mut waiting: Vec<_> = (0..20).map(|n| later(queue.ask(if n % 3 == 0 { B } else { A }))).collect();
        // Every third client leaves while it waits.
        let mut number = 0;
        waiting.retain(|_| {
            number += 1;
            number % 3 != 0
        });
        while let Some(turn) = turns.pop() {
            drop(turn);
            waiting.retain_mut(|receiver| match receiver.try_recv() {
                Ok(turn) => {
                    turns.push(turn);
                    false
                }
                Err(_) => true,
            });
            assert!(turns.len() <= 2);
        }
        assert!(waiting.is_empty());
        let line = queue.line();
        assert_eq!((line.taken, line.waiting), (0, 0));
    }

    #[test]
    fn a_higher_limit_admits_those_who_wait() {
        let queue = Arc::new(Queue::new(0, 4));
        let (mut first, mut second) = (later(queue.ask(A)), later(queue.ask(A)));
        queue.resize(1, 4);
        let turn = first.try_recv().unwrap();
        assert!(second.try_recv().is_err());
        queue.resize(2, 4);
        assert!(second.try_recv().is_ok());
        drop(turn);
    }
}
