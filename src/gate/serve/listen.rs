//! The listeners of one gate. An address that is missing is tried again until it is there; loopback serves meanwhile.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::connection::Connection;
use super::crowd::Crowd;
use super::door::{self, Door};
use crate::clock::beat;
use crate::gate::policy::access;
use crate::gate::wire::{Refusal, part, write_all};

/// End of the message about a port that another program has; other modules recognize it by this.
pub(crate) const TAKEN: &str = "is in use by another program";
/// Pause between attempts to bind the wanted address.
const RETRY: Duration = Duration::from_secs(2);
/// Pause between checks that the address still exists: a laptop leaves its network without notice.
const LOOK: Duration = Duration::from_secs(10);
/// Connections that the kernel queues until they are accepted.
const BACKLOG: u32 = 1024;
/// First and longest pause after a failed accept: most likely there are no file descriptors left.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How many refused connections are told why at the same time, and how long each may take to read it.
const TOLD: usize = 64;
const TELLING: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    At(SocketAddr),
    /// Stop accepting; open connections are kept for now.
    Nothing,
}

/// Which address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Wanted,
    /// Loopback, until the wanted address exists.
    Loopback,
}

/// The consequence of an attempt to bind.
fn plan(bound: &io::Result<()>) -> Plan {
    match bound {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Plan::Loopback,
        _ => Plan::Wanted,
    }
}

/// Why `address` cannot be bound, for people.
fn problem(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "this machine does not have the address {} now (another network?); serving on loopback meanwhile",
                address.ip()
            )
        }
        io::ErrorKind::AddrInUse => {
            format!("port {} of {} {TAKEN}", address.port(), address.ip())
        }
        io::ErrorKind::PermissionDenied => format!("port {} needs root", address.port()),
        _ => format!("cannot listen on {address}: {error}"),
    }
}

#[derive(Default)]
struct Connections {
    crowd: Arc<Crowd>,
    served: JoinSet<()>,
    /// Tasks that tell clients why they are refused.
    told: JoinSet<()>,
}

impl Connections {
    /// Removes the tasks that have ended.
    fn sweep(&mut self) {
        while self.served.try_join_next().is_some() {}
        while self.told.try_join_next().is_some() {}
    }

    /// Serves a client, or tells it why not.
    fn take(&mut self, stream: TcpStream, client: SocketAddr, door: &Arc<dyn Door>) {
        self.sweep();
        let address = client.ip().to_canonical();
        if !door.admits(address) {
            self.turn_away(stream, address, access::stranger(address), door);
            return;
        }
        if let Some((place, ending)) = self.crowd.enter(address, door.bounds().connections as usize) {
            ending.by(self.served.spawn(Connection::run(stream, client, door.clone(), place)));
            return;
        }
        let message = "too many connections are open already";
        let refusal = Refusal::unavailable("too_many_connections", message, Duration::from_secs(5));
        self.turn_away(stream, address, refusal, door);
    }

    fn turn_away(&mut self, stream: TcpStream, client: IpAddr, refusal: Refusal, door: &Arc<dyn Door>) {
        if self.told.len() < TOLD {
            self.told.spawn(tell(stream, client, refusal, door.clone()));
        }
    }
}

struct Listeners {
    wanted: SocketAddr,
    main: Option<TcpListener>,
    loopback: Option<TcpListener>,
    problem: Option<String>,
    reported: Option<(Vec<SocketAddr>, Option<String>)>,
}

/// Listens and serves until nothing is wanted, then closes the remaining connections once `until` is true.
pub(super) async fn run(
    door: Arc<dyn Door>,
    mut wanted: watch::Receiver<Wanted>,
    mut until: watch::Receiver<bool>,
) {
    let mut connections = Connections::default();
    loop {
        let now = *wanted.borrow_and_update();
        let Wanted::At(address) = now else { break };
        let mut listeners =
            Listeners { wanted: address, main: None, loopback: None, problem: None, reported: None };
        if !listeners.serve(&door, &mut connections, &mut wanted).await {
            break;
        }
    }
    // Streams that were aborted still have their last event to write.
    let _ = until.wait_for(|now| *now).await;
    connections.served.shutdown().await;
    connections.told.shutdown().await;
}

impl Listeners {
    /// Serves until something else is wanted; `false` once the sender is dropped.
    async fn serve(
        &mut self,
        door: &Arc<dyn Door>,
        connections: &mut Connections,
        wanted: &mut watch::Receiver<Wanted>,
    ) -> bool {
        let mut pause = ACCEPT_PAUSE.0;
        self.bind();
        self.report(&**door);
        let mut look = self.next_look();
        loop {
            tokio::select! {
                biased;
                changed = wanted.changed() => return changed.is_ok(),
                accepted = accept(self.main.as_ref()) => take(accepted, door, connections, &mut pause).await,
                accepted = accept(self.loopback.as_ref()) => take(accepted, door, connections, &mut pause).await,
                _ = connections.served.join_next(), if !connections.served.is_empty() => {}
                _ = connections.told.join_next(), if !connections.told.is_empty() => {}
                () = at(look) => {
                    self.bind();
                    self.report(&**door);
                    look = self.next_look();
                }
            }
        }
    }

    /// When to look again; `None` if nothing is wrong and the address is loopback, which cannot disappear.
    fn next_look(&self) -> Option<Instant> {
        let wait = match &self.problem {
            Some(_) => RETRY,
            None if self.wanted.ip().is_loopback() => return None,
            None => beat::wait(LOOK),
        };
        Some(Instant::now() + wait)
    }

    /// Opens what can be opened now, and notes the problem.
    fn bind(&mut self) {
        let bound = match &self.main {
            // A listener silently outlives its address; binding another socket reveals that.
            Some(_) => listener(SocketAddr::new(self.wanted.ip(), 0)).map(drop),
            None => listener(self.wanted).map(|listener| self.main = Some(listener)),
        };
        self.problem = bound.as_ref().err().map(|error| problem(self.wanted, error));
        match plan(&bound) {
            Plan::Wanted => self.loopback = None,
            Plan::Loopback if self.loopback.is_none() => {
                let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.wanted.port());
                match listener(loopback) {
                    Ok(listener) => self.loopback = Some(listener),
                    Err(error) => {
                        let more = problem(loopback, &error);
                        self.problem = Some(format!(
                            "this machine does not have the address {} now, and {more}",
                            self.wanted.ip()
                        ));
                    }
                }
            }
            Plan::Loopback => {}
        }
    }

    fn report(&mut self, door: &dyn Door) {
        let local = |listener: &Option<TcpListener>| {
            listener.as_ref().and_then(|listener| listener.local_addr().ok())
        };
        let addresses: Vec<_> = [local(&self.main), local(&self.loopback)].into_iter().flatten().collect();
        let now = (addresses, self.problem.clone());
        if self.reported.as_ref() != Some(&now) {
            let (addresses, problem) = now.clone();
            door.listens(addresses, problem);
            self.reported = Some(now);
        }
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn take(
    accepted: io::Result<(TcpStream, SocketAddr)>,
    door: &Arc<dyn Door>,
    connections: &mut Connections,
    pause: &mut Duration,
) {
    let (stream, client) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            sleep(*pause).await;
            *pause = (*pause * 2).min(ACCEPT_PAUSE.1);
            return;
        }
    };
    *pause = ACCEPT_PAUSE.0;
    connections.take(stream, client, door);
}

/// Says why a connection is not served, without reading a byte.
async fn tell(mut stream: TcpStream, client: IpAddr, refusal: Refusal, door: Arc<dyn Door>) {
    let _ = write_all(&stream, &door::refuse_unread(&*door, client, &refusal)).await;
    part(&mut stream, 0, TELLING).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_address_opens_loopback() {
        assert_eq!(plan(&Ok(())), Plan::Wanted);
        assert_eq!(plan(&Err(io::ErrorKind::AddrInUse.into())), Plan::Wanted);
        assert_eq!(plan(&Err(io::ErrorKind::AddrNotAvailable.into())), Plan::Loopback);
    }

    #[tokio::test]
    async fn a_disallowed_address_is_refused_before_a_byte_is_read_and_takes_no_place() {
        use tokio::io::AsyncReadExt as _;
        let shared = Arc::new(crate::gate::serve::shared::Shared::for_tests());
        let mut config = shared.settings().config.clone();
        config.network.allow_from = vec!["10.0.0.0/8".parse().unwrap()];
        shared.replace(config);
        let door: Arc<dyn Door> = shared;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connections = Connections::default();
        let mut told = Vec::new();
        for address in ["192.0.2.1:7", "[::ffff:192.0.2.1]:7", "[2001:db8::1]:7", "[::ffff:10.1.2.3]:7"] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            connections.take(stream, address.parse().unwrap(), &door);
            let mut text = String::new();
            if connections.served.is_empty() {
                client.read_to_string(&mut text).await.unwrap();
            }
            told.push(text.contains("\"address_not_allowed\""));
        }
        assert_eq!(told, [true, true, true, false]);
        assert_eq!(connections.served.len(), 1, "the one from an allowed network");
    }

    #[test]
    fn each_problem_is_described() {
        let address = "192.168.132.21:8800".parse().unwrap();
        assert_eq!(
            problem(address, &io::ErrorKind::AddrInUse.into()),
            "port 8800 of 192.168.132.21 is in use by another program"
        );
        assert!(problem(address, &io::ErrorKind::AddrNotAvailable.into()).contains("loopback"));
    }
}
