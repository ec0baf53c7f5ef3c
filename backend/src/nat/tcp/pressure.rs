//! Ends connections to make room for others, if no descriptor is left or the table is full.
//!
//! The first to end is the oldest inactive half-closed connection, then the oldest connection that the guest does not
//! answer, then the oldest that is still in its handshake. Handshakes have two limited shares of the table, one for
//! connections from the guest and one for connections from its clients. If a share is exceeded, its oldest connection
//! is ended even if the table has room, because a scan of silent hosts must not displace everything else. Connections
//! that are open in both directions and answered are never ended. Clients can wait but the guest's SYN cannot, so
//! clients never displace a connection that is still opening.
//!
//! Each queue is in the order in which connections entered their current standing. An entry whose connection has
//! changed its standing is stale. It is dropped when it reaches the front, or in a sweep.

use super::connection::{Connection, Progress, State};
use super::{Flow, TcpFlows, narrow};
use crate::counters::DropReason;
use crate::nat::context::Context;
use std::collections::VecDeque;
use std::time::Duration;

/// Whether a connection may be ended to make room, and in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// The connection is never ended.
    #[default]
    Settled,
    /// One side has closed.
    HalfClosed,
    /// The guest has not answered.
    Unanswered,
    /// A client waits for the guest's answer.
    OpeningIn,
    /// The guest waits for a remote answer.
    OpeningOut,
}

impl Standing {
    /// Standings whose connections may be ended, in the order in which they are tried.
    const ORDER: [Self; 4] = [Self::HalfClosed, Self::Unanswered, Self::OpeningIn, Self::OpeningOut];

    const fn of(connection: &Connection) -> Self {
        match connection.state() {
            State::Connecting => Self::OpeningOut,
            // The remote end has answered, so a scan of silent ports does not displace these.
            State::SynReceived => Self::Unanswered,
            State::SynSent => Self::OpeningIn,
            State::Established if connection.is_half_closed() => Self::HalfClosed,
            State::Established if connection.is_unanswered() => Self::Unanswered,
            State::Established | State::TimeWait | State::Closed | State::Aborted => Self::Settled,
        }
    }

    const fn reason(self) -> DropReason {
        match self {
            Self::HalfClosed => DropReason::TcpHalfClosedEvicted,
            Self::Unanswered => DropReason::TcpUnansweredEvicted,
            Self::Settled | Self::OpeningIn | Self::OpeningOut => DropReason::TcpOpeningEvicted,
        }
    }
}

/// The side that opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The guest opens it.
    Guest,
    /// A client of the guest opens it.
    World,
}

/// Divisor that gives the share of the worker's limit that each side may have opening.
const SHARE: usize = 4;
/// A half-closed connection with activity within this time counts as in use.
const IN_USE: Duration = Duration::from_secs(1);
/// Number of half-closed connections in use that are skipped before others are ended.
const PASSED_OVER: usize = 16;
/// Number of stale entries below which a sweep is not worthwhile.
const SPARE: usize = 64;

/// Connections with the same standing.
#[derive(Debug, Default)]
struct Queue {
    /// Slot and number of each entry, oldest first.
    entries: VecDeque<(u32, u32)>,
    /// Number of connections in the queue.
    count: usize,
}

/// The queues of one table.
#[derive(Debug)]
pub(super) struct Pressure {
    /// One queue for each [`Standing`].
    queues: [Queue; 5],
    next_entry: u32,
    /// Maximum number of connections that each side may have opening.
    share: usize,
}

impl Pressure {
    /// Creates the queues for a table of `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            queues: Default::default(),
            next_entry: 0,
            share: (limit / SHARE).max(1),
        }
    }

    /// Records the current standing of a connection. True if the connection entered a queue, which may need a sweep.
    pub(super) fn note(&mut self, flow: &mut Flow, slot: u32) -> bool {
        let standing = Standing::of(&flow.connection);
        if standing == flow.standing {
            return false;
        }
        self.forget(flow);
        flow.standing = standing;
        if standing == Standing::Settled {
            return false;
        }
        self.next_entry = self.next_entry.wrapping_add(1);
        flow.entry = self.next_entry;
        let queue = &mut self.queues[standing as usize];
        queue.count += 1;
        queue.entries.push_back((slot, flow.entry));
        true
    }

    /// Removes a connection from its queue.
    pub(super) fn forget(&mut self, flow: &Flow) {
        if flow.standing != Standing::Settled {
            self.queues[flow.standing as usize].count -= 1;
        }
    }

    /// Number of entries in all queues, including stale ones.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.queues.iter().map(|queue| queue.entries.len()).sum()
    }

    const fn has_share(&self, standing: Standing) -> bool {
        self.queues[standing as usize].count < self.share
    }

    /// Drops stale entries once they are the majority.
    pub(super) fn sweep<'f>(&mut self, flow: impl Fn(u32) -> Option<&'f Flow>) {
        for standing in Standing::ORDER {
            let Queue { entries, count } = &mut self.queues[standing as usize];
            if entries.len() > 2 * *count + SPARE {
                entries.retain(|&(slot, entry)| flow(slot).is_some_and(|flow| is_current(flow, standing, entry)));
            }
        }
    }
}

fn is_current(flow: &Flow, standing: Standing, entry: u32) -> bool {
    flow.standing == standing && flow.entry == entry
}

impl TcpFlows {
    /// True if there is room for another connection of this standing, or one of them may be ended.
    pub(super) fn has_share(&mut self, ctx: &Context<'_>, standing: Standing) -> bool {
        if self.pressure.has_share(standing) {
            return true;
        }
        let Some(slot) = self.oldest(ctx, standing) else {
            return false;
        };
        let entry = self.flows[slot].entry;
        self.pressure.queues[standing as usize]
            .entries
            .push_front((narrow(slot), entry));
        true
    }

    /// Ends the oldest connection of this standing if its share is used up.
    pub(super) fn keep_share(&mut self, ctx: &mut Context<'_>, standing: Standing) {
        if !self.pressure.has_share(standing) {
            self.evict(ctx, standing);
        }
    }

    /// Ends one connection in favour of another of `side`. False if none may be ended.
    pub(super) fn make_room(&mut self, ctx: &mut Context<'_>, side: Side) -> bool {
        let mut order = Standing::ORDER.into_iter();
        order.any(|standing| (side, standing) != (Side::World, Standing::OpeningOut) && self.evict(ctx, standing))
    }

    fn evict(&mut self, ctx: &mut Context<'_>, standing: Standing) -> bool {
        let Some(slot) = self.oldest(ctx, standing) else {
            return false;
        };
        ctx.counters.count_drop(standing.reason());
        let connection = &mut self.flows[slot].connection;
        if connection.state() == State::Connecting {
            // The connection ends silently, because RST would mean that no program listens there.
            connection.refuse();
        } else {
            connection.abort(ctx);
        }
        self.settle(ctx, slot, Progress::Done);
        true
    }

    /// Takes the entry of the connection that has had this standing longest and may be ended.
    fn oldest(&mut self, ctx: &Context<'_>, standing: Standing) -> Option<usize> {
        let entries = &mut self.pressure.queues[standing as usize].entries;
        let mut passed_over = 0;
        while passed_over < PASSED_OVER {
            let (slot, entry) = entries.pop_front()?;
            let found = self.flows.get(slot as usize);
            let Some(flow) = found.filter(|flow| is_current(flow, standing, entry)) else {
                continue;
            };
            let connection = &flow.connection;
            match standing {
                Standing::OpeningIn if !connection.is_slow_to_open() => {
                    // The later connections may not be ended either.
                    entries.push_front((slot, entry));
                    return None;
                }
                Standing::HalfClosed if connection.is_unanswered() || connection.idle_for(ctx.now) >= Some(IN_USE) => {}
                Standing::HalfClosed => {
                    entries.push_back((slot, entry));
                    passed_over += 1;
                    continue;
                }
                _ => {}
            }
            return Some(slot as usize);
        }
        None
    }
}
