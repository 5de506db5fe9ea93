//! Time taken.

use std::time::Instant;

/// Microseconds since `start`.
pub(crate) fn microseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}
