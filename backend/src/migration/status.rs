//! What an operator can see of one end of a channel.

use serde::{Deserialize, Serialize};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How far a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The two processes compare their NICs.
    Greeting,
    /// The channel is open. The guest runs in the source, or has not come yet.
    Ready,
    /// The guest has stopped in the source.
    Stopped,
    /// The guest runs in the target, and its connections go on over the channel.
    Anchored,
    /// The channel is closed.
    Ended,
}

/// The state of one end of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How far the migration is.
    pub phase: Phase,
    /// Connections that have moved with the guest.
    pub moved: usize,
    /// Connections that the channel carries now.
    pub carried: usize,
    /// Connections that were reset although they had moved, or that could not move.
    pub reset: usize,
    /// The reason why the channel ended early.
    pub why: Option<String>,
}

/// The state of one end, shared with its observers.
#[derive(Debug)]
pub struct Status {
    report: Mutex<Report>,
    changed: Condvar,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            report: Mutex::new(Report {
                phase: Phase::Greeting,
                moved: 0,
                carried: 0,
                reset: 0,
                why: None,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Status {
    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state now.
    pub fn report(&self) -> Report {
        self.lock().clone()
    }

    /// Waits until the two processes have compared their NICs, for at most `limit`. Returns the state then.
    pub fn greeted(&self, limit: Duration) -> Report {
        let deadline = Instant::now() + limit;
        let mut report = self.lock();
        while report.phase == Phase::Greeting {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(report, left);
            report = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        report.clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}
