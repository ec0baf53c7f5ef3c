//! Which connections give way when there is no room for another: no descriptor is left, or the
//! table is full.
//!
//! First the oldest that one side has closed and nothing moves on, then the oldest the guest
//! does not answer on, then the oldest that are being made. Those have a share of the table of
//! their own, the guest's and its clients', and beyond it give way whether there is room or
//! not: a scan of silent hosts must not take the place of everything else. Connections that are
//! open in both directions and answered never give way. Clients can wait, the guest's SYN
//! cannot: they take the place of no other that has only begun.
//!
//! Each queue is in the order in which connections came to stand as they do. An entry whose
//! connection has moved on means nothing and is dropped when it comes up, or swept out.

use super::connection::{Connection, Progress, State};
use super::{Flow, TcpFlows, narrow};
use crate::counters::DropReason;
use crate::nat::context::Context;
use std::collections::VecDeque;
use std::time::Duration;

/// How a connection stands, as far as it matters to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does not give way.
    #[default]
    Settled,
    /// One side has closed.
    HalfClosed,
    /// The guest owes an answer.
    Unanswered,
    /// A client of the guest's waits for the guest.
    OpeningIn,
    /// The guest waits for the world.
    OpeningOut,
}

impl Standing {
    /// Those that give way, first to last.
    const ORDER: [Self; 4] = [Self::HalfClosed, Self::Unanswered, Self::OpeningIn, Self::OpeningOut];

    const fn of(connection: &Connection) -> Self {
        match connection.state() {
            State::Connecting => Self::OpeningOut,
            // The world has answered: what a scan of silent ports takes is not taken from these.
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
    /// The guest.
    Guest,
    /// A client of the guest's.
    World,
}

/// Of all connections a worker may hold, one in so many may be opening on either side.
const SHARE: usize = 4;
/// A half-closed connection on which something moved within this time is in use.
const IN_USE: Duration = Duration::from_secs(1);
/// Half-closed connections in use that are passed over before other ones give way.
const PASSED_OVER: usize = 16;
/// Entries not worth sweeping out.
const SPARE: usize = 64;

/// Connections that stand alike.
#[derive(Debug, Default)]
struct Queue {
    /// Slot and number of the entry, oldest first.
    entries: VecDeque<(u32, u32)>,
    /// Connections that are in it.
    count: usize,
}

/// The queues of one table.
#[derive(Debug)]
pub(super) struct Pressure {
    /// By [`Standing`].
    queues: [Queue; 5],
    next_entry: u32,
    /// Most connections that are opening on either side.
    share: usize,
}

impl Pressure {
    /// For a table of `limit` connections.
    pub fn new(limit: usize) -> Self {
        Self {
            queues: Default::default(),
            next_entry: 0,
            share: (limit / SHARE).max(1),
        }
    }

    /// Looks at how a connection stands now. True if it came to stand in a queue, which may have to
    /// be swept.
    pub fn note(&mut self, flow: &mut Flow, slot: u32) -> bool {
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

    /// A connection is no longer in the queue it was in.
    pub fn forget(&mut self, flow: &Flow) {
        if flow.standing != Standing::Settled {
            self.queues[flow.standing as usize].count -= 1;
        }
    }

    /// Entries in all queues, stale ones included.
    #[cfg(test)]
    pub fn entries(&self) -> usize {
        self.queues.iter().map(|queue| queue.entries.len()).sum()
    }

    const fn has_share(&self, standing: Standing) -> bool {
        self.queues[standing as usize].count < self.share
    }

    /// Drops stale entries once they are the majority.
    pub fn sweep<'f>(&mut self, flow: impl Fn(u32) -> Option<&'f Flow>) {
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
    /// True if there is room for one more among those that stand so, or one of them gives way.
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

    /// Ends the oldest of those that stand so if they have their share.
    pub(super) fn keep_share(&mut self, ctx: &mut Context<'_>, standing: Standing) {
        if !self.pressure.has_share(standing) {
            self.evict(ctx, standing);
        }
    }

    /// Ends one connection for another of `side`; false if none gives way.
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
            // Silently: RST would mean that no program listens there.
            connection.refuse();
        } else {
            connection.abort(ctx);
        }
        self.settle(ctx, slot, Progress::Done);
        true
    }

    /// The connection that has stood so for longest and may be ended. Its entry is taken.
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
                    // Nor is any that began later.
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
