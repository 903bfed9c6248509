use super::*;

#[tokio::test(start_paused = true)]
async fn time_is_the_tests() {
    let host = Fake::new(Bytes::gb(128));
    let before = host.now();
    tokio::time::advance(Duration::from_secs(90)).await;
    assert_eq!(host.now().since(before), Duration::from_secs(90));
    let awake = host.awake();
    host.sleep(Duration::from_secs(7));
    assert_eq!((host.now().since(before), host.awake()), (Duration::from_secs(97), awake));
}

#[tokio::test]
async fn an_exit_is_seen_by_those_who_watch_and_by_those_who_come_late() {
    let host = Fake::new(Bytes::gb(128));
    let who = host.spawn(7, "python /run/32b.json");
    let watch = host.watch(who).unwrap();
    host.exit(who, Exit::Code(3));
    assert_eq!(watch.await, Exit::Code(3));
    assert_eq!(host.watch(who).unwrap().await, Exit::Code(3));
    assert_eq!(host.footprint(who).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_reused_pid_is_a_stranger() {
    let host = Fake::new(Bytes::gb(128));
    let first = host.spawn(7, "python");
    let watch = host.watch(first).unwrap();
    host.exit(first, Exit::Code(0));
    let second = host.spawn(7, "vim");
    assert_ne!(first, second);
    assert_eq!(watch.await, Exit::Code(0));
    assert_eq!(host.signal(first, Signal::Kill).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert!(host.group_alive(second));
    assert_eq!(host.signals(), []);
}

#[tokio::test]
async fn what_ignores_term_needs_kill() {
    let host = Fake::new(Bytes::gb(128));
    let who = host.spawn(7, "python");
    host.ignore_term(who);
    host.signal(who, Signal::Term).unwrap();
    assert!(host.group_alive(who));
    host.signal(who, Signal::Kill).unwrap();
    assert_eq!(host.watch(who).unwrap().await, Exit::Signal(9));
    assert_eq!(host.signals(), [(who, Signal::Term), (who, Signal::Kill)]);
}
