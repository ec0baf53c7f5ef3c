//! Flows of echo requests, and the sockets that they share.
//!
//! A flow is identified by the guest's address, a peer and an identifier. All flows with the same identifier share a
//! ping socket, so a sweep of a network takes one descriptor. Raw sockets receive each other's replies, so one raw
//! socket serves all flows. If the table is full, the flow that has been idle longest is dropped.

use super::echo_socket::{self, EchoSupport};
use crate::nat::event_owner;
use crate::nat::ip_options::SocketIpOptions;
use crate::nat::recency::Recency;
use crate::packet::FlowId;
use crate::poller::{GENERATION_MASK, Interest, Poller, Token};
use crate::time::Instant;
use crate::timers::{Scheduled, TimerQueue};
use slab::Slab;
use socket2::{Domain, Socket};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// Lifetime of a flow without a request or a reply.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// Maximum flows at a time, enough for a sweep of a /18.
pub(super) const MAX_FLOWS: usize = 16_384;

/// Maximum sockets at a time. Each takes a descriptor and has its own identifiers.
pub(super) const MAX_SOCKETS: usize = 1024;

/// Events of a socket. Level-triggered, because one turn does not read everything.
const WATCHED: Interest = Interest::ReadLevel;

/// Timers that are handled in one turn of the worker.
const TIMERS_PER_TURN: usize = 1024;

/// Identifies a flow as a socket sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct WireKey {
    socket: u32,
    peer: IpAddr,
    ident: u16,
}

/// The flows that share a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SocketKey {
    /// Flows with the same guest address and identifier. A peer whose address differs on the host has a socket of its
    /// own, because two such peers may be the same host.
    Ping {
        guest: IpAddr,
        ident: u16,
        mapped: Option<IpAddr>,
    },
    /// All flows of a family.
    Raw { ipv6: bool },
}

impl SocketKey {
    /// The key of the socket for requests of the flow `id` to `peer`, an address as the host sees it.
    pub(super) fn of(support: EchoSupport, id: &FlowId, peer: IpAddr) -> Self {
        match support {
            EchoSupport::Raw => Self::Raw { ipv6: peer.is_ipv6() },
            EchoSupport::Ping | EchoSupport::None => Self::Ping {
                guest: id.guest,
                ident: id.guest_port,
                mapped: (peer != id.remote).then_some(id.remote),
            },
        }
    }
}

/// An echo flow.
#[derive(Debug)]
pub(super) struct EchoFlow {
    pub key: FlowId,
    /// Address of the peer, as the host sees it.
    pub peer: IpAddr,
    /// Identifier on the wire.
    pub ident: u16,
    pub socket: u32,
    pub(super) last_used: Instant,
    pub(super) scheduled: Scheduled,
    pub(super) generation: u32,
}

/// A socket and the data that its flows share.
#[derive(Debug)]
pub(super) struct EchoSocket {
    pub(super) key: SocketKey,
    pub socket: Socket,
    pub domain: Domain,
    pub support: EchoSupport,
    pub ip_options: SocketIpOptions,
    /// Identifier of a ping socket.
    pub(super) ident: u16,
    /// Number of flows that use the socket.
    pub(super) users: usize,
    pub(super) generation: u32,
}

type FlowRef = (u32, u32);

/// All echo flows of a port.
#[derive(Debug, Default)]
pub(super) struct EchoTable {
    pub(super) flows: Slab<EchoFlow>,
    by_key: HashMap<FlowId, u32>,
    by_wire: HashMap<WireKey, u32>,
    order: Recency<1>,
    timers: TimerQueue<FlowRef>,
    pub(super) sockets: Slab<EchoSocket>,
    pub(super) by_use: HashMap<SocketKey, u32>,
    next_generation: u32,
    /// A private number that is mixed into identifiers, because raw sockets of several processes receive each other's
    /// replies.
    salt: u16,
}

impl EchoTable {
    pub(super) fn new(salt: u16) -> Self {
        Self {
            salt,
            ..Self::default()
        }
    }

    /// Number of flows.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    #[cfg(test)]
    pub(super) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &FlowId> {
        self.by_key.keys()
    }

    /// Slot of a flow.
    pub(super) fn find(&self, key: &FlowId) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Slot of the flow for a reply from `peer` on a socket.
    pub(super) fn find_on_wire(&self, socket: u32, peer: IpAddr, ident: u16) -> Option<u32> {
        self.by_wire.get(&WireKey { socket, peer, ident }).copied()
    }

    pub(super) fn flow(&self, flow: u32) -> Option<&EchoFlow> {
        self.flows.get(flow as usize)
    }

    /// A flow and its socket.
    pub(super) fn flow_and_socket(&mut self, flow: u32) -> Option<(&EchoFlow, &mut EchoSocket)> {
        let flow = self.flows.get(flow as usize)?;
        Some((flow, self.sockets.get_mut(flow.socket as usize)?))
    }

    pub(super) fn socket(&self, socket: u32) -> Option<&EchoSocket> {
        self.sockets.get(socket as usize)
    }

    /// True if an event is for the current socket of its slot.
    pub(super) fn is_current(&self, token: Token) -> bool {
        self.socket(token.index)
            .is_some_and(|s| s.generation == token.generation)
    }

    /// Records a request or a reply.
    pub(super) fn used(&mut self, flow: u32, now: Instant) {
        if let Some(found) = self.flows.get_mut(flow as usize) {
            found.last_used = now;
            self.order.touch(0, flow);
        }
    }

    /// Adds a flow to `peer`, an address as the host sees it.
    ///
    /// # Errors
    /// No socket can be created for the flow.
    pub(super) fn open(
        &mut self,
        now: Instant,
        poller: &Poller,
        support: EchoSupport,
        key: FlowId,
        peer: IpAddr,
    ) -> io::Result<u32> {
        while self.flows.len() >= MAX_FLOWS && self.give_way() {}
        let wanted = SocketKey::of(support, &key, peer);
        let socket = match self.by_use.get(&wanted) {
            Some(&socket) => socket,
            None => self.open_socket(poller, support, wanted, key.guest_port, peer)?,
        };
        let ident = match support {
            EchoSupport::Raw => self.free_ident(socket, peer, key.guest_port ^ self.salt),
            EchoSupport::Ping | EchoSupport::None => self.sockets[socket as usize].ident,
        };
        Ok(self.add(key, peer, (socket, ident), now))
    }

    /// Adds a flow that uses a given socket and identifier on the wire.
    pub(super) fn add(&mut self, key: FlowId, peer: IpAddr, (socket, ident): (u32, u16), last_used: Instant) -> u32 {
        let mut flow = EchoFlow {
            key,
            peer,
            ident,
            socket,
            last_used,
            scheduled: Scheduled::default(),
            generation: self.next_generation,
        };
        let index = u32::try_from(self.flows.vacant_key()).unwrap_or(u32::MAX);
        self.next_generation = (self.next_generation + 1) & GENERATION_MASK;
        self.timers
            .schedule(&mut flow.scheduled, (index, flow.generation), last_used + IDLE);
        self.by_key.insert(flow.key, index);
        self.by_wire.insert(wire_key(&flow), index);
        self.order.touch(0, index);
        self.sockets[flow.socket as usize].users += 1;
        self.flows.insert(flow);
        let flows = &self.flows;
        self.timers.sweep(flows.len(), |_, (index, generation)| {
            flows.get(index as usize).is_some_and(|f| f.generation == generation)
        });
        index
    }

    /// Chooses an identifier towards `peer` that no other flow of a raw socket uses. Several guest addresses may use
    /// the same identifier, and several peers may be the same host. There are more identifiers than flows.
    fn free_ident(&self, socket: u32, peer: IpAddr, wanted: u16) -> u16 {
        (0..=u16::MAX)
            .map(|i| wanted.wrapping_add(i))
            .find(|&ident| self.find_on_wire(socket, peer, ident).is_none())
            .unwrap_or(wanted)
    }

    fn open_socket(
        &mut self,
        poller: &Poller,
        support: EchoSupport,
        key: SocketKey,
        ident: u16,
        peer: IpAddr,
    ) -> io::Result<u32> {
        if self.sockets.len() >= MAX_SOCKETS {
            self.give_up_socket();
        }
        let open = || match support {
            EchoSupport::Raw => echo_socket::raw(peer).map(|socket| (socket, 0)),
            EchoSupport::Ping | EchoSupport::None => echo_socket::ping(peer, ident),
        };
        let (socket, ident) = match open() {
            Err(e) if crate::sys::is_out_of_descriptors(&e) && self.give_up_socket() => open()?,
            other => other?,
        };
        self.add_socket(poller, |generation| EchoSocket {
            key,
            socket,
            domain: if peer.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 },
            support,
            ip_options: SocketIpOptions::default(),
            ident,
            users: 0,
            generation,
        })
    }

    /// Adds a new socket and watches it.
    pub(super) fn add_socket(&mut self, poller: &Poller, make: impl FnOnce(u32) -> EchoSocket) -> io::Result<u32> {
        let socket = make(self.next_generation);
        let index = u32::try_from(self.sockets.vacant_key()).unwrap_or(u32::MAX);
        let token = Token {
            owner: event_owner::ECHO,
            generation: socket.generation,
            index,
        };
        poller.add(&socket.socket, token, WATCHED)?;
        self.next_generation = (self.next_generation + 1) & GENERATION_MASK;
        self.by_use.insert(socket.key, index);
        self.sockets.insert(socket);
        Ok(index)
    }

    /// The slots of all sockets.
    pub(super) fn slots(&self) -> Vec<u32> {
        let slots = self.sockets.iter().map(|(slot, _)| u32::try_from(slot));
        slots.filter_map(Result::ok).collect()
    }

    /// Turns the events of all sockets on or off.
    pub(super) fn watch_all(&self, poller: &Poller, on: bool) {
        for index in self.slots() {
            let Some(socket) = self.socket(index) else { continue };
            let token = Token {
                owner: event_owner::ECHO,
                generation: socket.generation,
                index,
            };
            let interest = if on { WATCHED } else { Interest::Nothing };
            // Fails only for a descriptor that is not watched.
            let _ = poller.rearm(&socket.socket, token, interest);
        }
    }

    /// Drops all flows and sockets.
    pub(super) fn drop_all(&mut self) {
        while self.give_way() {}
    }

    /// Drops the flow that has been idle longest; false if there is none.
    fn give_way(&mut self) -> bool {
        let oldest = self.order.oldest(0);
        oldest.into_iter().for_each(|flow| self.remove(flow));
        oldest.is_some()
    }

    /// Drops the longest idle flows until a socket loses its last flow. False if no flow is left.
    fn give_up_socket(&mut self) -> bool {
        let before = self.sockets.len();
        while self.sockets.len() == before && self.give_way() {}
        self.sockets.len() < before
    }

    /// Drops a flow, and its socket if no other flow uses it.
    fn remove(&mut self, flow: u32) {
        let Some(gone) = self.flows.try_remove(flow as usize) else {
            return;
        };
        self.order.remove(flow);
        self.by_key.remove(&gone.key);
        self.by_wire.remove(&wire_key(&gone));
        let slot = gone.socket as usize;
        let Some(socket) = self.sockets.get_mut(slot) else {
            return;
        };
        socket.users -= 1;
        if socket.users == 0 {
            self.by_use.remove(&socket.key);
            self.sockets.remove(slot);
        }
    }

    /// Drops expired flows.
    pub(super) fn on_timer(&mut self, now: Instant) {
        for _ in 0..TIMERS_PER_TURN {
            let Some((at, entry)) = self.timers.pop_due(now) else {
                return;
            };
            let Some(flow) = self.flows.get_mut(entry.0 as usize) else {
                continue;
            };
            if flow.generation != entry.1 || !flow.scheduled.fire(at) {
                continue;
            }
            let expires = flow.last_used + IDLE;
            if expires <= now {
                self.remove(entry.0);
            } else {
                self.timers.schedule(&mut flow.scheduled, entry, expires);
            }
        }
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }
}

const fn wire_key(flow: &EchoFlow) -> WireKey {
    WireKey {
        socket: flow.socket,
        peer: flow.peer,
        ident: flow.ident,
    }
}
