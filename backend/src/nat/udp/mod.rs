//! UDP, with one connected host socket per pair of endpoints.
//!
//! From the guest: the datagrams of a burst are sorted by flow. Those of each flow go to its socket in one call, with
//! the payload directly from guest memory ([`transmit`]). To the guest: events are edge-triggered, and the kernel
//! writes into guest memory ([`receive`]). A socket with datagrams waits in a queue until the guest has room, and a
//! socket with many datagrams yields to others, so the worker never busy-waits. Network errors about a datagram are
//! returned to the guest as ICMP ([`errors`]).
//!
//! The host-side destination may differ from the destination that the guest sees, even in its family (a name server
//! behind the gateway). A flow has the guest's view in its key and the host's view in its socket. No other code deals
//! with both.
//!
//! The TTL of the guest's datagrams is kept. The gateway does not count as a hop: the guest takes the pod's position in
//! the network, and a traceroute begins with the pod's first router.

mod class_watch;
mod errors;
mod flow;
mod held;
mod inbound;
mod moving;
mod readdress;
mod receive;
mod saved;
mod socket;
mod table;
mod transmit;

pub use self::moving::MovedFlow;
pub use self::saved::SavedUdpFlow;

use super::addresses::Walk;
use super::icmp::{IcmpError, refuse};
use crate::config::Families;
use crate::counters::DropReason;
use crate::frame::GuestBurst;
use crate::nat::address_map::Destination;
use crate::nat::context::Context;
use crate::nat::event_owner;
use crate::packet::FlowId;
use crate::poller::{Readiness, Token};
use crate::sys::receive_batch::ReceiveBatch;
use crate::time::Instant;
use flow::{Flow, FlowRef, Side};
use inbound::Listener;
use receive::{Receiver, Round};
use slab::Slab;
use socket::PortUse;
pub use socket::listening_at_any_port as listen_at_any_port;
use socket2::Socket;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use table::FlowTable;
use transmit::{FlowBurst, Stranded, Transmitter, Try};

/// A socket that waits for clients on an address.
///
/// # Errors
/// The error of socket(2) or bind(2).
pub fn listen(at: SocketAddr) -> io::Result<Socket> {
    socket::listening(at).map(|(socket, _)| socket)
}

/// Maximum receive rounds of one source before others get their turn.
const ROUNDS_PER_TURN: usize = 8;

/// Maximum postponed sources that are served in one turn of the worker.
const SOURCES_PER_TURN: usize = 16;

/// Limits and families of a port's UDP.
#[derive(Clone, Copy, Debug)]
pub struct UdpConfig {
    /// Maximum flows at a time. Each takes a file descriptor.
    pub max_flows: usize,
    /// Families that the guest has.
    pub families: Families,
}

/// A datagram of the guest, or several in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Index of the frame in the burst.
    pub frame: usize,
    /// Flow that it belongs to.
    pub key: FlowId,
    /// Offset of the payload from the start of the Ethernet header, in bytes.
    pub payload_offset: usize,
    /// Length of the payload in bytes.
    pub payload_len: usize,
    /// Set if the payload consists of datagrams of this many bytes each. The last one may be shorter (USO).
    pub segment_size: Option<u16>,
}

/// Something from which datagrams for the guest are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Flow(FlowRef),
    Listener(u32),
}

/// Result of serving a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Done,
    Again,
    NoRoom,
}

/// All UDP flows and listeners of a port.
pub struct UdpFlows {
    config: UdpConfig,
    table: FlowTable,
    listeners: Slab<Listener>,
    transmitter: Transmitter,
    receiver: Receiver,
    /// Batch for stray datagrams, created when the first client arrives.
    stray_batch: Option<ReceiveBatch>,
    /// Sources that have, or may have, datagrams for the guest.
    waiting: VecDeque<Source>,
    /// True if the guest had no room at the last attempt.
    starved: bool,
    /// Datagrams of a burst by flow, and those of one flow. Both are kept for their allocation.
    by_flow: Vec<(FlowRef, u32)>,
    members: Vec<u32>,
    /// The flows that are still to be checked after an address was removed.
    walk: Option<Walk>,
    /// True while flows of a guest that comes here have not all arrived.
    is_expecting: bool,
}

debug_fields!(UdpFlows { starved });

impl UdpFlows {
    /// UDP without any flow yet.
    pub fn new(config: UdpConfig) -> Self {
        Self {
            config,
            table: FlowTable::new(config.max_flows),
            listeners: Slab::new(),
            transmitter: Transmitter::default(),
            receiver: Receiver::default(),
            stray_batch: None,
            waiting: VecDeque::new(),
            starved: false,
            by_flow: Vec::new(),
            members: Vec::new(),
            walk: None,
            is_expecting: false,
        }
    }

    /// Sets whether flows of a guest that comes here are on their way. A flow that is not here yet is not opened anew
    /// then, because it would get another port.
    pub const fn expect(&mut self, is_expecting: bool) {
        self.is_expecting = is_expecting;
    }

    /// True if the flow is in the table.
    pub fn has(&self, key: &FlowId) -> bool {
        self.table.find(key).is_some()
    }

    /// Number of flows.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True if there is no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forwards datagrams of the guest. They must have the guest's own source address.
    pub fn on_datagrams(&mut self, ctx: &mut Context<'_>, burst: &GuestBurst<'_>, datagrams: &[Datagram]) {
        self.sort_by_flow(ctx, burst, datagrams);
        let mut rest = std::mem::take(&mut self.by_flow);
        let mut members = std::mem::take(&mut self.members);
        for group in rest.chunk_by(|a, b| a.0 == b.0) {
            let flow = group[0].0;
            members.clear();
            members.extend(group.iter().map(|(_, datagram)| *datagram));
            self.table.heard(flow, Side::Guest, ctx.now);
            let Some(found) = self.table.get(flow) else {
                // The flow was ended to make room for a later flow of the same burst.
                ctx.counters.count_drops(DropReason::FlowLimit, group.len() as u64);
                continue;
            };
            let work = FlowBurst {
                burst,
                datagrams,
                members: &members,
            };
            if let Err(Stranded { from }) = self.transmitter.send(found, ctx, work, Try::First) {
                self.readdress(ctx, flow);
                let Some(found) = self.table.get(flow) else { continue };
                let rest = work.from(from);
                // Errors of the second attempt are reported to the guest.
                let _ = self.transmitter.send(found, ctx, rest, Try::Last);
            }
        }
        rest.clear();
        self.by_flow = rest;
        self.members = members;
    }

    fn sort_by_flow(&mut self, ctx: &mut Context<'_>, burst: &GuestBurst<'_>, datagrams: &[Datagram]) {
        self.by_flow.clear();
        let mut last: Option<(FlowId, FlowRef)> = None;
        // Most bursts are of one flow, whose datagrams need no sorting.
        let mut is_sorted = true;
        for (i, datagram) in datagrams.iter().enumerate() {
            let key = datagram.key;
            let same = last.filter(|(k, _)| *k == key).map(|(_, flow)| flow);
            let found = same
                .or_else(|| self.table.find(&key))
                .or_else(|| self.open_outbound(ctx, key, burst, datagram));
            if let Some(flow) = found {
                if same.is_none() {
                    is_sorted &= last.is_none_or(|(_, before)| before <= flow);
                    last = Some((key, flow));
                }
                self.by_flow.push((flow, u32::try_from(i).unwrap_or(u32::MAX)));
            }
        }
        if !is_sorted {
            self.by_flow.sort_unstable();
        }
    }

    fn open_outbound(
        &mut self,
        ctx: &mut Context<'_>,
        key: FlowId,
        burst: &GuestBurst<'_>,
        datagram: &Datagram,
    ) -> Option<FlowRef> {
        let give_up = |ctx: &mut Context<'_>, error: Option<IcmpError>| {
            if let Some(error) = error
                && refuse(ctx, error, &burst[datagram.frame]).is_err()
            {
                ctx.counters.count_drop(DropReason::NoRoom);
            }
            None
        };
        if self.is_expecting {
            ctx.counters.count_drop(DropReason::UdpExpected);
            return None;
        }
        let peer = match ctx.nat.outbound_of(ctx.now, &key) {
            Destination::World(peer) => peer,
            Destination::Gateway => return give_up(ctx, Some(IcmpError::PortUnreachable)),
            Destination::Refused(reason) => {
                ctx.counters.count_drop(reason);
                return give_up(ctx, refusal_error(reason));
            }
        };
        if !self.table.make_room(Side::Guest) {
            ctx.counters.count_drop(DropReason::FlowLimit);
            return None;
        }
        let port = key.guest_port;
        let port_use = if self.table.owns_port(socket::domain_of(peer.ip()), port) {
            PortUse::Shared
        } else {
            PortUse::First
        };
        let coalesce = receive::takes_runs(&ctx.sink.caps(), key.guest);
        let opened = self.open_or_make_room(Side::Guest, || socket::outbound(peer, port, port_use, coalesce));
        let made = match opened {
            Ok(made) => made,
            Err(e) => {
                ctx.counters.count_drop(refusal_reason(&e));
                return give_up(ctx, e.raw_os_error().and_then(IcmpError::from_errno));
            }
        };
        if made.kept_port.is_some() {
            self.discard_strays(&made.socket);
        }
        let mut flow = Flow::new(key, made.socket, made.domain, Side::Guest, ctx.now);
        flow.kept_port = made.kept_port;
        self.start(ctx, flow)
    }

    /// Discards datagrams that other senders sent to the socket between bind and connect, because the guest would
    /// mistake them for its peer's. They are at the head of the queue, which holds fewer datagrams than these rounds
    /// read.
    fn discard_strays(&mut self, socket: &Socket) {
        const MAX_ROUNDS: usize = 1024;
        for _ in 0..MAX_ROUNDS {
            let came = self.receiver.batch.receive_to_spill(socket, usize::MAX);
            if !came.is_ok_and(|n| n > 0) {
                return;
            }
        }
    }

    /// Ends a flow because the guest has refused a datagram with an ICMP error. False if the flow
    /// does not exist.
    ///
    /// The client of a forward gets no error. The kernel sends "port unreachable" only if no socket
    /// has the port, and the forward's socket has it. A raw socket could send one, but workers drop
    /// that privilege. A peer of the guest gets the kernel's error when it sends its next datagram.
    pub fn on_refusal(&mut self, ctx: &Context<'_>, key: &FlowId) -> bool {
        let Some(flow) = self.table.find(key) else {
            return false;
        };
        self.table.remove(flow);
        ctx.counters.count_drop(DropReason::UdpRefused);
        true
    }

    /// Handles an event of one of the sockets.
    pub fn on_event(&mut self, ctx: &mut Context<'_>, token: Token, ready: Readiness) {
        let source = match token.owner {
            event_owner::UDP_LISTENER => Source::Listener(token.index),
            _ => Source::Flow(FlowRef {
                index: token.index,
                generation: token.generation,
            }),
        };
        if ready.error
            && let Source::Flow(at) = source
            && let Some(flow) = self.table.get(at)
        {
            if flow.is_anchored {
                // Nothing else refuses datagrams on this host than an anchor that has gone.
                self.leave_anchor(ctx, at);
            } else {
                errors::report(flow, ctx);
            }
        }
        if ready.readable && !self.mark_waiting(source, true) {
            self.serve(ctx, source);
        }
    }

    /// Sets whether a source is in the waiting queue, and returns the previous value.
    fn mark_waiting(&mut self, source: Source, waiting: bool) -> bool {
        let mark = match source {
            Source::Flow(flow) => self.table.get(flow).map(|f| &mut f.waiting),
            Source::Listener(index) => self.listeners.get_mut(index as usize).map(|l| &mut l.waiting),
        };
        mark.is_some_and(|mark| std::mem::replace(mark, waiting))
    }

    /// Serves a source that is marked as waiting, and puts it back into the queue if it has more datagrams.
    fn serve(&mut self, ctx: &mut Context<'_>, source: Source) -> Turn {
        let mut turn = Turn::Again;
        for _ in 0..ROUNDS_PER_TURN {
            turn = match source {
                // Held datagrams are delivered first.
                _ if self.receiver.delivery.flush(ctx).is_err() => Turn::NoRoom,
                Source::Flow(flow) => self.serve_flow(ctx, flow),
                Source::Listener(index) => self.serve_listener(ctx, index),
            };
            if turn != Turn::Again {
                break;
            }
        }
        match turn {
            Turn::Done => {
                self.mark_waiting(source, false);
            }
            Turn::Again => self.waiting.push_back(source),
            Turn::NoRoom => {
                self.starved = true;
                self.waiting.push_front(source);
            }
        }
        turn
    }

    fn serve_flow(&mut self, ctx: &mut Context<'_>, flow: FlowRef) -> Turn {
        let Some(found) = self.table.get(flow) else {
            return Turn::Done;
        };
        let (round, came) = self.receiver.round(found, ctx);
        if came {
            self.table.heard(flow, Side::World, ctx.now);
        }
        match round {
            Round::Empty => Turn::Done,
            Round::More => Turn::Again,
            Round::NoRoom => Turn::NoRoom,
        }
    }

    /// Continues after the guest has posted buffers, or when it is the turn of postponed work.
    pub fn on_room(&mut self, ctx: &mut Context<'_>) {
        self.starved = self.receiver.delivery.flush(ctx).is_err();
        if self.starved {
            return;
        }
        for _ in 0..self.waiting.len().min(SOURCES_PER_TURN) {
            let Some(source) = self.waiting.pop_front() else { break };
            if self.serve(ctx, source) == Turn::NoRoom {
                break;
            }
        }
    }

    /// Call this when the guest's driver is up. Datagrams that waited for room in an earlier driver's rings are tried
    /// again now, because the new rings have not refused any yet.
    pub fn on_link_up(&mut self) {
        self.starved = false;
    }

    /// Drops the flows to peers for which `is_gone` is true; the guest's next datagram creates them
    /// again.
    pub fn drop_peers(&mut self, is_gone: impl Fn(SocketAddr) -> bool) {
        self.table.drop_peers(is_gone);
    }

    /// True if there is work that does not wait for the guest.
    pub fn has_backlog(&self) -> bool {
        !self.starved && (!self.waiting.is_empty() || self.receiver.delivery.is_holding())
    }

    /// Drops expired flows.
    pub fn on_timer(&mut self, ctx: &mut Context<'_>) {
        self.table.on_timer(ctx.now);
        self.walk_on(ctx);
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub fn deadline(&self) -> Option<Instant> {
        let walk = self.walk.as_ref().map(|walk| walk.at);
        [self.table.deadline(), walk].into_iter().flatten().min()
    }
}

/// The ICMP error for a refused destination. There is none for multicast (RFC 1122 3.2.2).
const fn refusal_error(reason: DropReason) -> Option<IcmpError> {
    match reason {
        DropReason::ForbiddenDestination => Some(IcmpError::Prohibited),
        DropReason::NoSuchNeighbour => Some(IcmpError::HostUnreachable),
        _ => None,
    }
}

/// The drop reason for a socket that could not be created.
fn refusal_reason(error: &io::Error) -> DropReason {
    if crate::sys::is_out_of_descriptors(error) {
        DropReason::FlowLimit
    } else {
        DropReason::SocketError
    }
}

#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod tests;
