//! Connections that follow their guest to another process, while their host sockets stay in this one.
//!
//! The guest is stopped at that time, so nothing of a connection needs to change. A table that is frozen ignores events
//! and timers of connections, so that their saved values stay true. It accepts no clients, who wait in the queues of the
//! listening sockets. A driver that comes up ends that.
//!
//! | moment | source | target |
//! |---|---|---|
//! | the guest has stopped in the source | [`freeze`](TcpFlows::freeze) | [`expect`](TcpFlows::expect), then `load` |
//! | it runs in the target | [`part`](TcpFlows::part) | `on_link_up` |
//! | it runs in the source again | `on_link_up` | [`forget`](TcpFlows::forget) |

use super::connection::State;
use super::{SavedTcpFlow, TcpFlows, token};
use crate::nat::context::Context;
use crate::packet::FlowId;
use crate::poller::{Interest, Poller};
use crate::time::Instant;
use socket2::Socket;
use std::time::Duration;

/// How long connections that have not come yet are expected after the guest runs. Their segments are dropped until then,
/// and the guest sends them again.
const LATE: Duration = Duration::from_secs(1);

/// Where the connections of a guest are while it moves.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// The connections in the order of their values, while they are frozen.
    frozen: Option<Vec<FlowId>>,
    /// True while connections of a guest that comes here have not all arrived.
    is_incomplete: bool,
    /// Time until which they are expected, once the guest runs.
    expected_until: Option<Instant>,
}

impl Following {
    /// True while connections do nothing.
    pub(super) const fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// True if a segment without a connection may belong to one that is on its way here.
    pub(super) fn expects(&self, now: Instant) -> bool {
        self.is_incomplete && self.expected_until.is_none_or(|until| now < until)
    }
}

impl TcpFlows {
    /// True if flows without an entry may be on their way here.
    pub fn expects(&self, now: Instant) -> bool {
        self.following.expects(now)
    }

    /// True while connections do nothing.
    pub const fn is_frozen(&self) -> bool {
        self.following.is_frozen()
    }

    /// Freezes the connections, and converts those that can follow the guest to plain values. One that still waits for its
    /// host socket does not follow: the guest sends SYN again.
    pub fn freeze(&mut self, now: Instant) -> Vec<SavedTcpFlow> {
        let saved: Vec<_> = self.save(now).map(|(flow, _)| flow).collect();
        let saved: Vec<_> = saved
            .into_iter()
            .filter(|flow| self.state_of(&flow.connection.id()) != Some(State::Connecting))
            .collect();
        self.following.frozen = Some(saved.iter().map(|flow| flow.connection.id()).collect());
        saved
    }

    fn state_of(&self, key: &FlowId) -> Option<State> {
        self.slot_of(key).map(|slot| self.flows[slot].connection.state())
    }

    /// Gives up the frozen connections, whose guest runs elsewhere now. Returns those that still exist, each as its number
    /// in the order of the values and its host socket. `None` if they are not frozen, because the guest runs here again.
    pub fn part(&mut self, poller: &Poller) -> Option<Vec<(usize, Option<Socket>)>> {
        let order = self.following.frozen.take()?;
        let mut sockets = Vec::with_capacity(order.len());
        for (number, key) in order.iter().enumerate() {
            let Some(slot) = self.slot_of(key) else { continue };
            let stream = self.take_out(slot).stream;
            if let Some(stream) = &stream {
                // Fails only for a descriptor that is not watched.
                let _ = poller.remove(stream);
            }
            sockets.push((number, stream));
        }
        // The rest had no answer to the guest's SYN yet.
        self.drop_all();
        // Clients that have waited are told that no guest answers.
        self.accept_again = Some(Instant::default());
        self.listeners.put_off_all();
        Some(sockets)
    }

    /// Prepares for the connections of a guest that comes here. They stay frozen until it runs.
    pub fn expect(&mut self) {
        self.following = Following {
            frozen: Some(Vec::new()),
            is_incomplete: true,
            expected_until: None,
        };
    }

    /// Records that all connections have come.
    pub fn complete(&mut self) {
        self.following.is_incomplete = false;
    }

    /// Drops the connections of a guest that does not come, without a segment.
    pub fn forget(&mut self) {
        if self.following.is_frozen() {
            self.drop_all();
        }
        self.following = Following::default();
    }

    fn drop_all(&mut self) {
        let slots: Vec<_> = self.flows.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.take_out(slot);
        }
    }

    /// Lets connections continue when a driver has come up.
    pub(super) fn thaw(&mut self, ctx: &Context<'_>) {
        let following = &mut self.following;
        if following.is_incomplete {
            following.expected_until.get_or_insert(ctx.now + LATE);
        }
        if following.frozen.take().is_none() {
            return;
        }
        for (slot, flow) in &self.flows {
            if let Some(stream) = &flow.stream {
                // What has happened meanwhile is reported again. Fails only for a descriptor that is not watched.
                let token = token(slot, flow.generation);
                let _ = ctx.poller.rearm(stream, token, Interest::StreamEdge);
            }
        }
        self.listeners.put_off_all();
        self.accept_again = Some(ctx.now);
    }
}
