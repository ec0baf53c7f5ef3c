//! The state of the probe of each path.
//!
//! A probe is three batches of equal datagrams that fill the path: one datagram, which nothing splits, two, and as many
//! as a frame of 64 KiB has. The far end answers which of them arrived intact. If the datagram that nothing splits
//! arrives and the others do not, in several attempts, the path does not carry what the kernel splits. If no answer
//! arrives at all, nothing is known: the process is down, or an older one. No I/O and no clock.

use crate::forwarding::Table;
use crate::packet::geneve::ProbeAnswer;
use crate::sys::datagram::MAX_PAYLOAD;
use crate::time::Instant;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Datagrams in the largest batch: as many as in a frame of 64 KiB at an MTU of 1500.
const MANY: u8 = 44;
/// Bytes of the datagrams on a path that could carry such a batch whole, such as the loopback.
const USUAL: usize = 1450;
/// Time for the answers to one attempt.
const PATIENCE: Duration = Duration::from_millis(500);
/// Attempts, because datagrams get lost.
const ATTEMPTS: u8 = 4;
/// Time after which a path that has failed, or from which no answer arrived, is probed again.
const AGAIN: Duration = Duration::from_secs(600);

/// What is known about a path. The numbers are those of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::overlay) enum State {
    /// It does not carry what the kernel splits.
    Failed = 1,
    /// It does.
    Passed = 2,
    /// No answer arrived.
    Unanswered = 3,
    /// Answers are awaited.
    Running = 4,
}

/// A result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::overlay) struct Finding {
    /// The endpoint.
    pub(in crate::overlay) to: SocketAddr,
    /// What is known now.
    pub(in crate::overlay) state: State,
}

/// Batches to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::overlay) struct Probe {
    /// The endpoint.
    pub(in crate::overlay) to: SocketAddr,
    /// Number of the attempt, which the answers repeat.
    pub(in crate::overlay) nonce: u32,
    /// Bytes of each datagram.
    pub(in crate::overlay) size: u16,
    /// Datagrams of each batch.
    pub(in crate::overlay) batches: [u8; 3],
}

/// The paths that are probed.
#[derive(Debug)]
pub(in crate::overlay) struct Routes {
    of: HashMap<SocketAddr, Route>,
    /// The next nonce, from a start that other hosts cannot guess.
    nonce: u32,
}

#[derive(Debug)]
struct Route {
    state: State,
    probe: Probe,
    attempts: u8,
    /// Datagrams of each batch that arrived intact, in any attempt.
    intact: [u64; 3],
    /// End of the attempt, or time of the next probe.
    next_at: Option<Instant>,
}

impl Route {
    /// True if all datagrams of a batch have arrived intact.
    const fn has_arrived(&self, batch: usize) -> bool {
        self.intact[batch] == u64::MAX >> (u64::BITS - self.probe.batches[batch] as u32)
    }
}

impl Routes {
    /// No paths yet.
    pub(in crate::overlay) fn new(nonce: u32) -> Self {
        Self {
            of: HashMap::new(),
            nonce,
        }
    }

    /// Begins to probe the path to `to`, which carries datagrams of `datagram_max` bytes, unless it is known already.
    /// Returns the batches to send.
    pub(in crate::overlay) fn start(&mut self, now: Instant, to: SocketAddr, datagram_max: usize) -> Option<Probe> {
        if self.of.contains_key(&to) {
            return None;
        }
        let size = if datagram_max > MAX_PAYLOAD / 3 {
            USUAL
        } else {
            datagram_max
        };
        let many = u8::try_from(MAX_PAYLOAD / size.max(1)).unwrap_or(u8::MAX).min(MANY);
        let probe = Probe {
            to,
            nonce: self.nonce,
            size: u16::try_from(size).ok()?,
            batches: [1, 2, many],
        };
        self.nonce = self.nonce.wrapping_add(1);
        self.of.insert(
            to,
            Route {
                state: State::Running,
                probe,
                attempts: 1,
                intact: [0; 3],
                next_at: Some(now + PATIENCE),
            },
        );
        Some(probe)
    }

    /// Takes in an answer; returns the result if it is the last one needed. An answer that no probe asked for is ignored.
    pub(in crate::overlay) fn on_answer(&mut self, from: SocketAddr, answer: ProbeAnswer) -> Option<Finding> {
        let route = self.of.get_mut(&from).filter(|route| route.state == State::Running)?;
        let batch = route.probe.batches.iter().position(|count| *count == answer.count)?;
        if answer.nonce != route.probe.nonce {
            return None;
        }
        route.intact[batch] |= answer.intact & (u64::MAX >> (u64::BITS - u32::from(answer.count)));
        (0..3).all(|batch| route.has_arrived(batch)).then(|| {
            (route.state, route.next_at) = (State::Passed, None);
            Finding {
                to: from,
                state: State::Passed,
            }
        })
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub(in crate::overlay) fn deadline(&self) -> Option<Instant> {
        self.of.values().filter_map(|route| route.next_at).min()
    }

    /// Ends attempts whose time is over: `again` sends the next one, `found` takes the result of the last one.
    pub(in crate::overlay) fn on_timer(
        &mut self,
        now: Instant,
        mut again: impl FnMut(Probe),
        mut found: impl FnMut(Finding),
    ) {
        let due = self
            .of
            .values_mut()
            .filter(|route| route.next_at.is_some_and(|at| at <= now));
        for route in due {
            if route.state != State::Running {
                // What is known of it holds until the new result.
                route.attempts = 0;
                route.intact = [0; 3];
            } else if route.attempts == ATTEMPTS {
                route.state = if route.has_arrived(0) {
                    State::Failed
                } else {
                    State::Unanswered
                };
                route.next_at = Some(now + AGAIN);
                found(Finding {
                    to: route.probe.to,
                    state: route.state,
                });
                continue;
            }
            route.state = State::Running;
            route.attempts += 1;
            route.next_at = Some(now + PATIENCE);
            again(route.probe);
        }
    }

    /// Forgets the paths to endpoints that are not in `table`.
    pub(in crate::overlay) fn follow(&mut self, table: &Table) {
        self.of.retain(|to, _| table.position_of(*to).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Failed, Passed, Running, Unanswered};

    const NOW: Instant = Instant::from_nanos(1);

    fn to() -> SocketAddr {
        "192.0.2.1:6081".parse().unwrap()
    }

    fn routes() -> (Routes, Probe) {
        let mut routes = Routes::new(77);
        let probe = routes.start(NOW, to(), 1472).unwrap();
        (routes, probe)
    }

    /// Answers for the batch with this number of datagrams.
    fn answer(routes: &mut Routes, probe: Probe, count: u8, intact: u64) -> Option<State> {
        let answer = ProbeAnswer {
            nonce: probe.nonce,
            count,
            intact,
        };
        routes.on_answer(probe.to, answer).map(|finding| finding.state)
    }

    /// What happens at the next deadline: whether an attempt follows, and the result.
    fn elapse(routes: &mut Routes) -> (bool, Option<State>) {
        let (mut again, mut found) = (false, None);
        let at = routes.deadline().unwrap();
        routes.on_timer(at, |_| again = true, |finding| found = Some(finding.state));
        (again, found)
    }

    #[test]
    fn a_path_passes_once_every_datagram_of_each_batch_has_arrived() {
        let (mut routes, probe) = routes();
        assert_eq!((probe.size, probe.batches), (1472, [1, 2, 44]));
        assert_eq!(answer(&mut routes, probe, 1, 1), None);
        assert_eq!(
            answer(&mut routes, probe, 44, (1 << 44) - 2),
            None,
            "the first is missing"
        );
        assert_eq!(answer(&mut routes, probe, 2, 0b11), None);
        assert_eq!(answer(&mut routes, probe, 44, 1), Some(Passed), "of another attempt");
        assert_eq!(routes.deadline(), None);
        assert_eq!(routes.start(NOW, to(), 1472), None, "it is known");
    }

    #[test]
    fn a_path_fails_if_only_the_datagram_that_is_not_split_arrives() {
        let (mut routes, probe) = routes();
        answer(&mut routes, probe, 1, 1);
        answer(&mut routes, probe, 2, 0b01);
        answer(&mut routes, probe, 44, (1 << 44) - 1);
        for _ in 1..ATTEMPTS {
            assert_eq!(elapse(&mut routes), (true, None));
        }
        assert_eq!(elapse(&mut routes), (false, Some(Failed)));
        assert_eq!(elapse(&mut routes), (true, None), "another probe, ten minutes later");
        for (count, intact) in [(1, 1), (2, 3)] {
            assert_eq!(answer(&mut routes, probe, count, intact), None);
        }
        assert_eq!(answer(&mut routes, probe, 44, u64::MAX), Some(Passed));
    }

    #[test]
    fn a_path_without_answers_is_not_taken_for_a_bad_one() {
        let (mut routes, probe) = routes();
        let other = Probe {
            nonce: probe.nonce + 1,
            ..probe
        };
        assert_eq!(answer(&mut routes, other, 1, 1), None, "nothing asked for it");
        for _ in 1..ATTEMPTS {
            elapse(&mut routes);
        }
        assert_eq!(elapse(&mut routes), (false, Some(Unanswered)));
        assert_ne!(routes.of[&to()].state, Running);
    }

    #[test]
    fn batches_fit_into_what_the_kernel_splits() {
        for (datagram_max, size, many) in [(1472, 1472, 44), (8972, 8972, 7), (MAX_PAYLOAD, 1450, 44)] {
            let probe = Routes::new(0).start(NOW, to(), datagram_max).unwrap();
            assert_eq!((probe.size, probe.batches[2]), (size, many));
            assert!(usize::from(size) * usize::from(many) <= MAX_PAYLOAD);
        }
    }
}
