//! Terminates the guest's TCP connections and continues them on host sockets.
//!
//! A [`Connection`] is the guest's peer and has neither sockets nor a clock. This module supplies
//! both: the table of connections, their host sockets, the poller's events, one timer queue, and
//! turns, so that no connection starves the others.
//!
//! A SYN from the guest is answered only when the host socket is connected, so a refused or unreachable destination
//! looks to the guest as it would without hawser. In the other direction, an accepted client becomes a SYN to the
//! guest; if the guest refuses, the client is reset.

mod ahead;
mod clock;
mod connection;
mod driver;
mod emit;
mod following;
mod host_socket;
mod isn;
mod keepalive;
mod listener;
mod local_ports;
mod moving;
mod open;
mod pressure;
mod receive;
#[cfg(any(test, feature = "testing"))]
pub(super) mod rough_play;
mod rtt;
mod saved;
mod saved_flow;
mod seq;
mod spill;
mod stream;
mod timer;
mod transmit;
mod urgent;
mod vanished;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use self::ahead::SentAhead;
use self::connection::{Connection, Progress, State};
use self::driver::{Driver, Parting};
use self::following::Following;
use self::isn::IsnSecret;
use self::listener::Listeners;
use self::local_ports::LocalPorts;
use self::open::{connect_failed, forget_refusals};
use self::pressure::{Pressure, Standing};
use self::spill::SpillPool;
use super::addresses::Walk;
use super::flow_owners::Claim;
use super::index::SlotIndex;
use crate::config::{Families, Forward};
use crate::counters::DropReason;
use crate::frame::{GatherList, GuestBurst, GuestFrame};
use crate::mode::ForwardSocket;
use crate::nat::context::Context;
use crate::nat::event_owner;
use crate::nat::listen::ListenError;
use crate::packet::{FlowId, TcpFlags, TcpHeader};
use crate::poller::{GENERATION_MASK, Interest, Poller, Readiness, Token};
use crate::time::Instant;
use crate::timers::{Scheduled, TimerQueue};
use slab::Slab;
use socket2::Socket;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::driver::SavedDriver;
pub use self::host_socket::listen;
pub use self::isn::SavedSecret;
pub use self::moving::MovedFlow;
pub use self::receive::Segment;
pub use self::saved::SavedConnection;
pub use self::saved_flow::SavedTcpFlow;

/// A segment of the guest and the connection it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// Endpoints of the connection.
    pub key: FlowId,
    /// The parsed segment.
    pub segment: Segment,
}

/// A flow in the table. Idle flows are numerous, so rarely used data is behind a pointer, and only `connection` stores
/// the addresses.
#[derive(Debug)]
struct Flow {
    connection: Connection,
    /// Host socket. `None` in TIME-WAIT, when both directions are closed.
    stream: Option<Socket>,
    generation: u32,
    scheduled: Scheduled,
    /// True if the flow is in the backlog.
    is_queued: bool,
    /// True if the poller has been set to report room in the host socket, and has not done so yet.
    awaits_room: bool,
    /// The DSCP last set on the host socket, taken from the guest's segments.
    dscp: u8,
    /// Whether the flow may be ended to make room.
    standing: Standing,
    entry: u32,
    /// Entry among the flows of all workers, if there are several.
    claim: Option<Claim>,
}

/// In addition, an idle flow takes five bytes of index and one timer.
const _: () = assert!(size_of::<Flow>() <= 256, "put rare data behind a pointer");

impl Flow {
    fn new(connection: Connection, stream: Option<Socket>, dscp: u8) -> Self {
        Self {
            connection,
            stream,
            generation: 0,
            scheduled: Scheduled::default(),
            is_queued: false,
            awaits_room: false,
            dscp,
            standing: Standing::default(),
            entry: 0,
            claim: None,
        }
    }

    const fn key(&self) -> FlowId {
        self.connection.id
    }

    /// Sets the DSCP of the host socket's segments to that of the guest's.
    fn follow_dscp(&mut self, dscp: u8) {
        if dscp != self.dscp
            && let Some(stream) = &self.stream
        {
            host_socket::set_dscp(stream, dscp);
            self.dscp = dscp;
        }
    }
}

/// All TCP connections of one worker.
pub struct TcpFlows {
    flows: Slab<Flow>,
    slots: SlotIndex,
    timers: TimerQueue<(u32, u32)>,
    /// Flows with more to send, in the order of their turns.
    backlog: VecDeque<usize>,
    /// True if the backlog waits for receive buffers.
    is_starved: bool,
    listeners: Listeners,
    /// Time at which to accept waiting clients again.
    accept_again: Option<Instant>,
    /// The connections that are still to be checked after an address was removed.
    walk: Option<Walk>,
    /// Maximum number of connections outside TIME-WAIT. The same number may be in TIME-WAIT, where they hold no
    /// descriptor.
    limit: usize,
    in_time_wait: usize,
    driver: Driver,
    following: Following,
    ahead: Option<SentAhead>,
    parting: Parting,
    /// Connections that may be ended to make room.
    pressure: Pressure,
    next_generation: u32,
    secret: IsnSecret,
    local_ports: LocalPorts,
    gather: GatherList,
    spill: SpillPool,
    /// Slot and position of each segment of a burst.
    order: Vec<(usize, usize)>,
}

debug_fields!(TcpFlows { limit, in_time_wait });

/// Maximum flows, or clients of one listening socket, that are served in one turn of the worker.
const TURNS: usize = 16;
/// Maximum timers, and listening sockets with postponed clients, that are served in one turn of the worker.
const TIMERS_PER_TURN: usize = 256;
const LISTENERS_PER_TURN: usize = 4;
/// How long clients wait after a limit on descriptors or memory was reached. No event reports that there is room again,
/// so accept(2) is retried.
const RETRY: Duration = Duration::from_millis(100);

impl TcpFlows {
    /// An empty table for at most `limit` connections.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(limit: usize) -> Result<Self, getrandom::Error> {
        Ok(Self {
            flows: Slab::new(),
            slots: SlotIndex::default(),
            timers: TimerQueue::default(),
            backlog: VecDeque::new(),
            is_starved: false,
            listeners: Listeners::default(),
            accept_again: None,
            walk: None,
            limit,
            in_time_wait: 0,
            driver: Driver::default(),
            following: Following::default(),
            ahead: None,
            parting: Parting::Reset,
            pressure: Pressure::new(limit),
            next_generation: 0,
            secret: IsnSecret::random()?,
            local_ports: LocalPorts::of_namespace(),
            gather: GatherList::default(),
            spill: SpillPool::default(),
            order: Vec::new(),
        })
    }

    /// Listens for the TCP forwards of `forwards`.
    ///
    /// # Errors
    /// The error of a port that cannot be bound; no socket is kept in that case.
    pub fn listen(&mut self, forwards: &[Forward], families: Families, poller: &Poller) -> Result<(), ListenError> {
        self.listeners = Listeners::bind(forwards, families, poller)?;
        Ok(())
    }

    /// Accepts clients of one more listening socket.
    ///
    /// # Errors
    /// The poller cannot watch it.
    pub fn adopt(&mut self, listening: ForwardSocket, poller: &Poller) -> io::Result<()> {
        self.listeners.adopt(listening, poller)
    }

    /// Stops accepting clients and returns the listening sockets.
    pub fn release_listeners(&mut self, poller: &Poller) -> Vec<ForwardSocket> {
        self.listeners.release(poller)
    }

    /// Closes the listening sockets bound to `addresses`.
    pub fn unlisten(&mut self, addresses: &HashSet<SocketAddr>) {
        self.listeners.close(addresses);
    }

    /// Number of connections, including those in TIME-WAIT.
    pub fn count(&self) -> usize {
        self.flows.len()
    }

    /// True if the connection is in the table.
    pub fn has(&self, key: &FlowId) -> bool {
        self.slot_of(key).is_some()
    }

    fn slot_of(&self, key: &FlowId) -> Option<usize> {
        self.slots
            .find(key, |slot| self.flows[slot as usize].connection.id == *key)
            .map(|slot| slot as usize)
    }

    /// Handles the TCP segments of a burst, in ring order.
    pub fn on_segments(&mut self, ctx: &mut Context<'_>, burst: &GuestBurst<'_>, incoming: &[Incoming]) {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        for (place, item) in incoming.iter().enumerate() {
            if let Some(slot) = self.find_or_open(ctx, item, burst.get(item.segment.frame)) {
                order.push((slot, place));
            }
        }
        // Segments of one connection stay in order, because positions are unique and ascending.
        order.sort_unstable();
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let slot = group[0].0;
            let Some(flow) = self.flows.get_mut(slot) else { continue };
            if let Some(&(_, last)) = group.last() {
                flow.follow_dscp(dscp(burst.get(incoming[last].segment.frame)));
            }
            let segments = group.iter().map(|&(_, place)| &incoming[place].segment);
            let progress = flow
                .connection
                .on_segments(ctx, flow.stream.as_mut(), burst, segments, &mut self.gather);
            self.settle(ctx, slot, progress);
        }
        self.order = order;
    }

    fn find_or_open(
        &mut self,
        ctx: &mut Context<'_>,
        item: &Incoming,
        frame: Option<&GuestFrame<'_>>,
    ) -> Option<usize> {
        let header = &item.segment.header;
        let is_syn = header.flags.has(TcpFlags::SYN) && !header.flags.has(TcpFlags::ACK);
        if let Some(slot) = self.slot_of(&item.key) {
            let reopens = is_syn && self.flows[slot].connection.state() == State::TimeWait;
            if !reopens {
                return Some(slot);
            }
            self.remove(slot);
        }
        if self.following.expects(ctx.now) && !is_syn {
            ctx.counters.count_drop(DropReason::TcpExpected);
        } else if is_syn && !header.flags.has(TcpFlags::RST) {
            self.open_from_guest(ctx, item, frame);
        } else {
            ctx.counters.count_drop(DropReason::TcpNoConnection);
            reset(ctx, item);
        }
        None
    }

    fn insert(&mut self, ctx: &mut Context<'_>, connection: Connection, stream: Socket, dscp: u8) {
        let slot = self.put_in(ctx, Flow::new(connection, Some(stream), dscp));
        let progress = self.flows[slot].connection.progress();
        self.settle(ctx, slot, progress);
    }

    /// Stores a flow in a slot and watches its socket.
    fn put_in(&mut self, ctx: &mut Context<'_>, mut flow: Flow) -> usize {
        let key = flow.key();
        flow.generation = self.next_generation;
        self.next_generation = (flow.generation + 1) & GENERATION_MASK;
        flow.claim = ctx.claim(key);
        flow.scheduled = Scheduled::default();
        (flow.is_queued, flow.awaits_room) = (false, false);
        flow.standing = Standing::default();
        let slot = self.flows.vacant_key();
        let watched = match &flow.stream {
            Some(stream) => ctx
                .poller
                .add(stream, token(slot, flow.generation), Interest::StreamEdge),
            None => {
                self.in_time_wait += 1;
                Ok(())
            }
        };
        let flows = &self.flows;
        self.slots.insert(&key, narrow(slot), |known| key_at(flows, known));
        self.flows.insert(flow);
        if watched.is_err() {
            ctx.counters.count_drop(DropReason::SocketError);
            self.flows[slot].connection.abort(ctx);
        }
        slot
    }

    /// Handles an event of a host socket or a listening socket.
    pub fn on_event(&mut self, ctx: &mut Context<'_>, token: Token, ready: Readiness) {
        if self.following.is_frozen() {
            return;
        }
        let slot = token.index as usize;
        if token.owner == event_owner::TCP_LISTENER {
            return self.accept(ctx, slot);
        }
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if flow.generation != token.generation {
            return;
        }
        let Some(stream) = flow.stream.as_mut() else { return };
        flow.awaits_room &= !ready.writable;
        let connection = &mut flow.connection;
        let error = if ready.error {
            stream.take_error().unwrap_or_else(Some)
        } else {
            None
        };
        if connection.state() == State::Connecting {
            match error {
                Some(e) => connect_failed(ctx, connection, &e, Some(stream)),
                None if ready.writable => {
                    forget_refusals(stream);
                    connection.on_connected(ctx);
                }
                None => {}
            }
        } else if error.is_some() {
            connection.abort(ctx);
        }
        // The event that reports the connection may also report bytes and the end of the stream.
        if ready.urgent {
            connection.on_urgent();
        }
        if ready.readable {
            connection.on_readable();
        }
        if ready.read_closed || ready.hung_up {
            connection.on_read_closed();
        }
        if ready.writable {
            connection.on_writable(ctx, stream);
        }
        let progress = connection.answer(ctx, stream);
        self.settle(ctx, slot, progress);
    }

    /// Continues after the guest has posted receive buffers, or after other work had its turn.
    pub fn on_room(&mut self, ctx: &mut Context<'_>) {
        self.is_starved = false;
        for _ in 0..self.backlog.len().min(TURNS) {
            if self.is_starved {
                break;
            }
            let Some(slot) = self.backlog.pop_front() else { break };
            let Some(flow) = self.flows.get_mut(slot) else { continue };
            if !std::mem::take(&mut flow.is_queued) {
                continue;
            }
            let Some(stream) = flow.stream.as_mut() else {
                flow.connection.send_ack_if_due(ctx);
                continue;
            };
            let progress = flow.connection.answer(ctx, stream);
            self.settle(ctx, slot, progress);
        }
    }

    /// True if flows wait for a turn instead of waiting for the guest.
    pub fn has_backlog(&self) -> bool {
        !self.is_starved && !self.backlog.is_empty()
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub fn deadline(&self) -> Option<Instant> {
        if self.following.is_frozen() {
            return self.driver.deadline();
        }
        let walk = self.walk.as_ref().map(|walk| walk.at);
        [self.timers.deadline(), self.accept_again, walk, self.driver.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Handles timers that are due.
    pub fn on_timer(&mut self, ctx: &mut Context<'_>) {
        if self.following.is_frozen() {
            return self.end_if_abandoned(ctx);
        }
        for _ in 0..TIMERS_PER_TURN {
            let Some((at, (slot, generation))) = self.timers.pop_due(ctx.now) else {
                break;
            };
            let slot = slot as usize;
            let Some(flow) = self.flows.get_mut(slot) else { continue };
            if flow.generation != generation || !flow.scheduled.fire(at) {
                continue;
            }
            let progress = flow.connection.on_timer(ctx, flow.stream.as_mut());
            self.settle(ctx, slot, progress);
        }
        let flows = &self.flows;
        self.timers.sweep(flows.len(), |at, (slot, generation)| {
            flows
                .get(slot as usize)
                .is_some_and(|flow| flow.generation == generation && flow.scheduled.is_at(at))
        });
        self.walk_on(ctx);
        self.end_if_abandoned(ctx);
        if self.accept_again.take_if(|at| *at <= ctx.now).is_some() {
            for _ in 0..LISTENERS_PER_TURN.min(self.listeners.waiting()) {
                if let Some(index) = self.listeners.next_waiting() {
                    self.accept(ctx, index);
                }
            }
            if self.accept_again.is_none() && self.listeners.waiting() > 0 {
                self.accept_again = Some(ctx.now);
            }
        }
    }

    /// Applies the result of a call to a connection: timers, turns, and its end.
    fn settle(&mut self, ctx: &mut Context<'_>, slot: usize, progress: Progress) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if flow.connection.is_over() {
            self.remove(slot);
            return;
        }
        if self.pressure.note(flow, narrow(slot)) {
            let flows = &self.flows;
            self.pressure.sweep(|slot| flows.get(slot as usize));
        }
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if flow.connection.state() == State::TimeWait && flow.stream.is_some() {
            if self.in_time_wait >= self.limit {
                // Linux does the same beyond net.ipv4.tcp_max_tw_buckets.
                return self.remove(slot);
            }
            flow.stream = None;
            self.in_time_wait += 1;
        }
        if flow.connection.is_window_tight()
            && !flow.awaits_room
            && let Some(stream) = &flow.stream
        {
            // The poller is armed only once, not at each call. Arming raises an event immediately if there is anything
            // to read or the peer has closed its side. It fails only for a descriptor that is not watched, which this
            // one is.
            let asked = ctx
                .poller
                .rearm(stream, token(slot, flow.generation), Interest::StreamEdge);
            flow.awaits_room = asked.is_ok();
        }
        if let Some(deadline) = flow.connection.deadline() {
            self.timers
                .schedule(&mut flow.scheduled, (narrow(slot), flow.generation), deadline);
        }
        if progress != Progress::Done {
            self.is_starved |= progress == Progress::Starved;
            if !std::mem::replace(&mut flow.is_queued, true) {
                self.backlog.push_back(slot);
            }
        }
    }

    fn remove(&mut self, slot: usize) {
        let flow = self.take_out(slot);
        if let Some(stream) = &flow.stream
            && flow.connection.state() == State::Aborted
        {
            host_socket::make_close_a_reset(stream);
        }
    }

    fn take_out(&mut self, slot: usize) -> Flow {
        let flow = self.flows.remove(slot);
        self.pressure.forget(&flow);
        self.slots.remove(&flow.key(), narrow(slot));
        self.in_time_wait -= usize::from(flow.stream.is_none());
        flow
    }

    fn is_full(&self) -> bool {
        self.flows.len() - self.in_time_wait >= self.limit
    }
}

fn token(slot: usize, generation: u32) -> Token {
    Token {
        owner: event_owner::TCP,
        generation,
        index: narrow(slot),
    }
}

/// Converts a slot to the 32-bit number that tokens, timers and the index use. The limit on flows is far below the
/// maximum.
fn narrow(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

fn key_at(flows: &Slab<Flow>, slot: u32) -> FlowId {
    flows[slot as usize].key()
}

/// DSCP of a segment's frame, in its position in the header field. ECN is not copied, because it applies only between
/// the guest and hawser.
fn dscp(frame: Option<&GuestFrame<'_>>) -> u8 {
    const DSCP: u8 = 0xfc;
    frame.map_or(0, |frame| frame.parsed.traffic_class(frame.head)) & DSCP
}

/// Answers a SYN with RST.
fn refuse(ctx: &mut Context<'_>, key: FlowId, syn: &TcpHeader) {
    let segment = Segment {
        frame: 0,
        header: *syn,
        payload_offset: 0,
        payload_len: 0,
    };
    reset(ctx, &Incoming { key, segment });
}

/// Answers a segment that belongs to no connection (RFC 9293 3.10.7.1).
fn reset(ctx: &mut Context<'_>, item: &Incoming) {
    let header = &item.segment.header;
    if header.flags.has(TcpFlags::RST) {
        return;
    }
    let mut answer = TcpHeader {
        src_port: item.key.remote_port,
        dst_port: item.key.guest_port,
        flags: TcpFlags::RST,
        seq: header.ack,
        ..TcpHeader::default()
    };
    if !header.flags.has(TcpFlags::ACK) {
        answer.flags = TcpFlags::RST | TcpFlags::ACK;
        answer.seq = 0;
        answer.ack = header.seq.wrapping_add(item.segment.sequence_len());
    }
    // If the guest has no buffer, it sends the segment again and is answered then.
    let _ = emit::control(ctx, item.key.remote, item.key.guest, &answer);
}
