//! Enables and disables the kernel's reports of DSCP and ECN for a flow's datagrams.
//!
//! A report adds a tenth to the kernel's cost of a small datagram. A flow that floods unmarked datagrams gets no
//! reports for a second, then gets them again for some datagrams. Once a flow stops flooding, its reports are on again.
//! So the marks of slow flows are always exact, and those of a flood are at most a second late.

use crate::nat::saved::{LoadError, Nanos};
use crate::sys::receive_batch::ReceiveBatch;
use crate::sys::traffic_class::watch_traffic_class;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket};
use std::time::Duration;

/// Number of datagrams in one round from which a flow counts as flooding.
const FLOOD: usize = 8;
/// Number of consecutive unmarked datagrams after which the reports stop.
const UNMARKED: usize = 256;
/// How long reports stay off.
const PAUSE: Duration = Duration::from_secs(1);

/// State of the reports of one socket, which are initially on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClassWatch {
    /// On. Contains the number of consecutive unmarked datagrams in a flood.
    On(usize),
    /// Off until this time.
    Off(Instant),
}

impl Default for ClassWatch {
    fn default() -> Self {
        Self::On(0)
    }
}

/// [`ClassWatch`] as a plain value.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum SavedClassWatch {
    On {
        /// Number of unmarked datagrams in a flood so far.
        unmarked: u32,
    },
    Off {
        /// Time until the reports are on again, at the moment of saving.
        remaining: Nanos,
    },
}

impl SavedClassWatch {
    /// Restores the state, and switches the reports of `socket` accordingly.
    pub(super) fn load(self, socket: &Socket, domain: Domain, now: Instant) -> Result<ClassWatch, LoadError> {
        let is_on = matches!(self, Self::On { .. });
        let is_set = watch_traffic_class(socket, domain, is_on).is_ok();
        Ok(match self {
            Self::Off { remaining } if is_set => ClassWatch::Off(remaining.at_most("remaining", PAUSE)?.after(now)),
            Self::Off { .. } => ClassWatch::default(),
            Self::On { unmarked } => ClassWatch::On(unmarked as usize),
        })
    }
}

impl ClassWatch {
    /// Converts the state to a plain value.
    pub(super) fn save(self, now: Instant) -> SavedClassWatch {
        match self {
            Self::On(unmarked) => SavedClassWatch::On {
                unmarked: u32::try_from(unmarked).unwrap_or(u32::MAX),
            },
            Self::Off(until) => SavedClassWatch::Off {
                remaining: Nanos::until(until, now),
            },
        }
    }

    /// Records the `n` datagrams of `batch`, and switches the reports accordingly.
    #[inline]
    pub(super) fn follow(&mut self, socket: &Socket, domain: Domain, now: Instant, batch: &ReceiveBatch, n: usize) {
        let is_flood = n >= FLOOD;
        match self {
            Self::On(unmarked) if is_flood => {
                let is_marked = (0..n).any(|i| batch.message(i).traffic_class != 0);
                *unmarked = if is_marked { 0 } else { *unmarked + n };
                if *unmarked >= UNMARKED && watch_traffic_class(socket, domain, false).is_ok() {
                    *self = Self::Off(now + PAUSE);
                }
            }
            Self::On(unmarked) => *unmarked = 0,
            Self::Off(until) if (!is_flood || now >= *until) && watch_traffic_class(socket, domain, true).is_ok() => {
                *self = Self::On(0);
            }
            Self::Off(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::Type;

    #[test]
    fn reports_stop_in_a_flood_without_marks_for_a_second_or_until_it_pauses() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        watch_traffic_class(&socket, Domain::IPV4, true).unwrap();
        let batch = ReceiveBatch::with_capacity(32);
        let start = Instant::from_nanos(0);
        let mut watch = ClassWatch::default();
        let mut follow = |now, n| {
            watch.follow(&socket, Domain::IPV4, now, &batch, n);
            socket.recv_tos_v4().unwrap()
        };
        for pause in [(start + PAUSE, 32), (start, FLOOD - 1), (start, 0)] {
            let rounds: Vec<bool> = (0..10).map(|_| follow(start, 32)).collect();
            assert_eq!(rounds, [&[true; 7][..], &[false; 3]].concat());
            assert!(follow(pause.0, pause.1), "{pause:?}");
            let slow = (0..100).all(|_| follow(start, FLOOD - 1));
            assert!(slow, "a flow that sends little always has reports");
        }
    }
}
