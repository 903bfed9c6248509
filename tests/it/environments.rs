//! The space of a log that a burst filled is released.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::support::{Entry, Instance, PATIENCE};

/// A backend that prints 30 MB within seconds and is silent from then on.
#[test]
fn the_space_of_a_burst_is_released_once_it_is_over() {
    let instance = Instance::fake(vec![Entry::new("a", "always")]).serve();
    instance.wait_state("a", "ready");
    let log = instance.root().join("logs/a.log");
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    let block = [b'x'; 999].iter().chain(b"\n").copied().collect::<Vec<u8>>().repeat(1000);
    for _ in 0..30 {
        file.write_all(&block).unwrap();
    }
    let size = |name: &str| {
        std::fs::metadata(instance.root().join("logs").join(name)).map_or(0, |found| found.len())
    };
    let until = Instant::now() + PATIENCE;
    while size("a.log.1") == 0 || size("a.log.1") > 10_000_000 || size("a.log") > 10_000_000 {
        assert!(Instant::now() < until, "{} and {} bytes stay", size("a.log"), size("a.log.1"));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(size("a.log.1") > 9_000_000, "its end is kept");
}
