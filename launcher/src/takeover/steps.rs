//! The time of each step of a takeover while the guest's rings rest.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

/// Steps that follow one another.
#[derive(Debug)]
pub(super) struct Steps {
    last: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    /// The first step begins now.
    pub(super) fn begin() -> Self {
        Self {
            last: Instant::now(),
            done: Vec::new(),
        }
    }

    /// Ends a step. The next one begins.
    pub(super) fn end(&mut self, step: &'static str) {
        let now = Instant::now();
        self.done.push((step, now - self.last));
        self.last = now;
    }
}

/// `saved in 3.1 ms, received in 0.9 ms`.
impl Display for Steps {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (n, (step, time)) in self.done.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{step} in {:.1} ms", time.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}
