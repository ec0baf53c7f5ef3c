//! The time of each step of a takeover while the guest's rings rest.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

/// Steps that follow one another. They can continue in another process of this host, which has the same clock.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Steps {
    #[serde(skip, default = "Instant::now")]
    last: Instant,
    done: Vec<(Cow<'static, str>, Duration)>,
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
        self.end_at(step, Instant::now());
    }

    /// Ends a step at this moment.
    pub(super) fn end_at(&mut self, step: &'static str, now: Instant) {
        self.done.push((step.into(), now.saturating_duration_since(self.last)));
        self.last = now;
    }

    /// Their sum.
    pub(super) fn total(&self) -> Duration {
        self.done.iter().map(|(_, time)| *time).sum()
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
