//! A small copy test: how much all CPU cores move together. For a chip without a published figure it is a lower bound
//! of the memory bandwidth.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// One core's buffer, bytes: larger than any cache of a single core.
const BUFFER: usize = 64 << 20;
/// How long each core keeps copying.
const TIME: Duration = Duration::from_millis(400);

/// Bytes per second, read and written together, of `cores` threads at once (16 at most). Takes half a second and
/// 128 MiB per core.
#[expect(clippy::cast_precision_loss, reason = "a rate does not need 53 bits")]
pub(crate) fn bytes_per_second(cores: u32) -> f64 {
    let rates = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.clamp(1, 16)).map(|_| scope.spawn(one)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect::<Vec<(u64, f64)>>()
    });
    rates.iter().filter(|(_, seconds)| *seconds > 0.0).map(|(bytes, seconds)| *bytes as f64 / seconds).sum()
}

fn one() -> (u64, f64) {
    let from = vec![1_u8; BUFFER];
    // Writing it maps its pages before the clock starts.
    let mut to = vec![2_u8; BUFFER];
    let began = Instant::now();
    let mut moved = 0;
    while began.elapsed() < TIME {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        moved += 2 * BUFFER as u64;
    }
    (moved, began.elapsed().as_secs_f64())
}
