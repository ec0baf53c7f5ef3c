//! Forwarded ports: sockets that receive the first datagrams of new clients.
//!
//! The first datagram of a client creates a flow with its own socket, bound to the client's destination address and
//! connected to the client. From then on, the kernel delivers the client's datagrams to that socket, and answers leave
//! from the right address. Between bind and connect, that socket also receives datagrams of other clients. They are
//! read right after the connect and handled as if the listener had received them.

use super::flow::{Flow, FlowRef, Side};
use super::held::Arrived;
use super::receive::takes_runs;
use super::table::FlowTable;
use super::{Turn, UdpFlows, socket};
use crate::config::{Forward, Transport};
use crate::counters::{Count, DropReason};
use crate::frame::{Layout, Offload};
use crate::mode::{ForwardSocket, GuestPort};
use crate::nat::context::Context;
use crate::nat::event_owner;
use crate::nat::listen::{self, ListenError};
use crate::packet::FlowId;
use crate::poller::{Interest, Poller, Token};
use crate::sys::is_out_of_descriptors;
use crate::sys::receive_batch::ReceiveBatch;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Maximum datagrams of other clients read at a time from a newly connected socket.
const STRAY_BATCH: usize = 4;

/// Maximum number of such datagrams handled after one connect. If there are more, the flow is dropped, since the
/// senders of the remaining datagrams are no longer known.
const MAX_STRAYS: usize = 1024;

/// The ports of a listener.
#[derive(Clone, Copy, Debug)]
enum Ports {
    /// One host port, forwarded to one guest port.
    Forward { host: u16, guest: u16 },
    /// Any port, with the same number on both sides. Each datagram carries its port.
    Any,
}

/// A socket waiting for clients.
#[derive(Debug)]
pub(super) struct Listener {
    bound: ForwardSocket,
    /// True while the listener waits for its turn or for room in the guest.
    pub waiting: bool,
}

/// A datagram that arrived at a flow's socket before it was connected.
struct Stray {
    source: SocketAddr,
    local: SocketAddr,
    traffic_class: u8,
    body: Vec<u8>,
}

impl Ports {
    const fn of(bound: &ForwardSocket) -> Self {
        match bound.guest_port {
            GuestPort::One(guest) => Self::Forward {
                host: bound.at.port(),
                guest,
            },
            GuestPort::AsAsked => Self::Any,
        }
    }

    /// The host's port for a datagram that arrived at port `asked`, if known.
    fn host(self, asked: Option<u16>) -> Option<u16> {
        match self {
            Self::Forward { host, .. } => Some(host),
            Self::Any => asked,
        }
    }

    /// The guest's port for a datagram to the host's port `host`.
    fn guest(self, host: u16) -> u16 {
        match self {
            Self::Forward { guest, .. } => guest,
            Self::Any => host,
        }
    }
}

/// Source and local address of a datagram, and its ports.
#[derive(Clone, Copy)]
struct Arrival {
    source: SocketAddr,
    local: SocketAddr,
    ports: Ports,
}

/// Removes a listening socket's claim on its port. The socket for every port has no claim.
fn disown(table: &mut FlowTable, bound: &ForwardSocket) {
    if let (GuestPort::One(_), at) = (bound.guest_port, bound.at) {
        table.disown_port(socket::domain_of(at.ip()), at.port());
    }
}

impl UdpFlows {
    /// Listens on the UDP ports of `forwards`.
    ///
    /// # Errors
    /// The first port that cannot be bound. Earlier ports stay bound; drop `self` to release them.
    pub fn listen(&mut self, forwards: &[Forward], poller: &Poller) -> Result<(), ListenError> {
        let families = self.config.families;
        for forward in forwards.iter().filter(|f| f.transport == Transport::Udp) {
            listen::listen(families, forward, |at, guest_port| {
                self.listen_on(at, guest_port, poller)
            })?;
        }
        Ok(())
    }

    fn listen_on(&mut self, at: SocketAddr, guest_port: u16, poller: &Poller) -> io::Result<()> {
        let (socket, _) = socket::listening(at)?;
        let guest_port = GuestPort::One(guest_port);
        self.adopt(ForwardSocket { socket, at, guest_port }, poller)
    }

    /// Receives datagrams from one more socket that waits for clients.
    ///
    /// # Errors
    /// The poller cannot watch it.
    pub fn adopt(&mut self, bound: ForwardSocket, poller: &Poller) -> io::Result<()> {
        let index = u32::try_from(self.listeners.vacant_key()).unwrap_or(u32::MAX);
        let token = Token::new(event_owner::UDP_LISTENER, index);
        poller.add(&bound.socket, token, Interest::ReadEdge)?;
        if let (GuestPort::One(_), at) = (bound.guest_port, bound.at) {
            self.table.own_port(socket::domain_of(at.ip()), at.port());
        }
        self.listeners.insert(Listener { bound, waiting: false });
        Ok(())
    }

    /// Closes the sockets bound to `addresses`.
    pub fn unlisten(&mut self, addresses: &HashSet<SocketAddr>) {
        let table = &mut self.table;
        self.listeners.retain(|_, listener| {
            let stays = !addresses.contains(&listener.bound.at);
            if !stays {
                disown(table, &listener.bound);
            }
            stays
        });
    }

    /// Stops receiving from the sockets that wait for clients, and returns them still bound.
    pub fn release_listeners(&mut self, poller: &Poller) -> Vec<ForwardSocket> {
        let released = self.listeners.drain().map(|listener| listener.bound);
        released
            .inspect(|bound| {
                // Fails only for a socket that is not watched.
                let _ = poller.remove(&bound.socket);
                disown(&mut self.table, bound);
            })
            .collect()
    }

    /// Copies of the sockets that wait for clients.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn share_listeners(&self) -> io::Result<Vec<ForwardSocket>> {
        self.listeners
            .iter()
            .map(|(_, listener)| listener.bound.share())
            .collect()
    }

    /// Reads a limited number of datagrams from a listener.
    pub(super) fn serve_listener(&mut self, ctx: &mut Context<'_>, index: u32) -> Turn {
        let Some(listener) = self.listeners.get(index as usize) else {
            return Turn::Done;
        };
        // Room is needed before a datagram is read.
        let probe = Layout {
            header: crate::frame::HEAD_MAX,
            payload: 0,
            count: 1,
        };
        if ctx.sink.reserve(probe).is_err() {
            return Turn::NoRoom;
        }
        ctx.sink.commit(&[], &mut |_, _, _| Offload::NONE);
        let ports = Ports::of(&listener.bound);
        let Ok(n) = self.receiver.batch.receive_to_spill(&listener.bound.socket, usize::MAX) else {
            ctx.counters.count_drop(DropReason::SocketError);
            return Turn::Again;
        };
        let mut strays = Vec::new();
        for i in 0..n {
            let message = self.receiver.batch.message(i);
            let port = ports.host(message.local_port);
            let (Some(source), Some(local), Some(port)) = (message.source, message.local, port) else {
                ctx.counters.count_drop(DropReason::UdpNoFlow);
                continue;
            };
            let local = local_end(local, port, source);
            let arrival = Arrival { source, local, ports };
            if let Some(key) = self.admit(ctx, arrival, &mut strays) {
                self.receiver.pass_on(key, ctx, i);
            }
        }
        self.handle_strays(ctx, ports, strays);
        match n {
            _ if self.receiver.delivery.is_holding() => Turn::NoRoom,
            0 => Turn::Done,
            _ => Turn::Again,
        }
    }

    /// Reads what waits in the listeners, within a bound.
    pub fn receive_clients(&mut self, ctx: &mut Context<'_>) {
        const MAX_TURNS: usize = 64;
        let listeners: Vec<_> = self.listeners.iter().map(|(index, _)| index).collect();
        for index in listeners {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            for _ in 0..MAX_TURNS {
                if !matches!(self.serve_listener(ctx, index), Turn::Again) {
                    break;
                }
            }
        }
    }

    /// Handles stray datagrams. They may create flows, whose sockets may receive further strays.
    fn handle_strays(&mut self, ctx: &mut Context<'_>, ports: Ports, mut strays: Vec<Stray>) {
        let mut done = 0;
        while done < strays.len() {
            let Stray {
                source,
                local,
                traffic_class,
                ..
            } = strays[done];
            let arrival = Arrival { source, local, ports };
            let key = self.admit(ctx, arrival, &mut strays);
            if let Some(key) = key {
                let arrived = Arrived {
                    key,
                    traffic_class,
                    segment: None,
                    body: &strays[done].body,
                };
                self.receiver.delivery.send(ctx, &arrived);
            }
            done += 1;
        }
    }

    /// The flow of a datagram, which is created if necessary; `None` if the datagram is dropped.
    fn admit(&mut self, ctx: &mut Context<'_>, arrival: Arrival, strays: &mut Vec<Stray>) -> Option<FlowId> {
        let Arrival { source, local, ports } = arrival;
        let seen = ctx.nat.inbound(source.ip());
        let guest = seen.and_then(|seen| ctx.link.guest_address(seen));
        let (Some(seen), Some(guest)) = (seen, guest) else {
            ctx.counters.count_drop(DropReason::UdpNoFlow);
            return None;
        };
        let key = FlowId::udp(
            SocketAddr::new(guest, ports.guest(local.port())),
            SocketAddr::new(seen, source.port()),
        );
        if let Some(known) = self.table.find(&key)
            && self.table.get(known).is_some_and(|f| f.local == Some(local))
        {
            self.table.heard(known, Side::World, ctx.now);
            return Some(key);
        }
        if !self.table.make_room(Side::World) {
            ctx.counters.count_drop(DropReason::FlowLimit);
            return None;
        }
        let made = self.open_inbound(ctx, key, arrival)?;
        self.take_strays(ctx, made, source, strays);
        Some(key)
    }

    fn open_inbound(&mut self, ctx: &mut Context<'_>, key: FlowId, arrival: Arrival) -> Option<FlowRef> {
        let (local, client) = (arrival.local, arrival.source);
        let coalesce = takes_runs(&ctx.sink.caps(), key.guest);
        let open = || socket::inbound(local, client, coalesce);
        let opened = self.open_or_make_room(Side::World, open);
        let made = match opened {
            Ok(made) => made,
            Err(e) => {
                ctx.counters.count_drop(super::refusal_reason(&e));
                return None;
            }
        };
        let mut flow = Flow::new(key, made.socket, made.domain, Side::World, ctx.now);
        flow.local = Some(local);
        // A forward's listener holds the port anyway. Any other port belongs to the flow from now on, and the guest may
        // send from it to other peers.
        flow.kept_port = matches!(arrival.ports, Ports::Any).then_some(local.port());
        self.start(ctx, flow)
    }

    /// Reads the datagrams that arrived at a flow's socket before it was connected, including later ones of its peer.
    /// Drops the flow if there are too many.
    fn take_strays(&mut self, ctx: &mut Context<'_>, flow: FlowRef, peer: SocketAddr, strays: &mut Vec<Stray>) {
        let batch = self
            .stray_batch
            .get_or_insert_with(|| ReceiveBatch::with_capacity(STRAY_BATCH));
        let Some(found) = self.table.get(flow) else { return };
        let Some(local) = found.local else { return };
        while let Ok(n) = batch.receive_to_spill(&found.socket, STRAY_BATCH) {
            for i in 0..n {
                let body = batch.spilled(i);
                let size = batch.message(i).segment.map_or(body.len(), usize::from).max(1);
                let source = batch.message(i).source.unwrap_or(peer);
                let traffic_class = batch.message(i).traffic_class;
                let bodies = body.chunks(size).chain(body.is_empty().then_some(body));
                strays.extend(bodies.map(|body| Stray {
                    source,
                    local,
                    traffic_class,
                    body: body.to_vec(),
                }));
            }
            if n < STRAY_BATCH {
                return;
            }
            if strays.len() > MAX_STRAYS {
                ctx.counters.count_drop(DropReason::FlowLimit);
                self.table.remove(flow);
                return;
            }
        }
    }

    /// Stores a flow in the table and watches its socket.
    pub(super) fn start(&mut self, ctx: &mut Context<'_>, flow: Flow) -> Option<FlowRef> {
        let made = self.watch(ctx, flow)?;
        ctx.counters.add(Count::UdpFlows, 1);
        Some(made)
    }

    /// Assigns a slot to a flow and watches its socket.
    pub(super) fn watch(&mut self, ctx: &mut Context<'_>, mut flow: Flow) -> Option<FlowRef> {
        flow.claim = ctx.claim(flow.key);
        let made = self.table.insert(flow);
        let token = Token {
            owner: event_owner::UDP,
            generation: made.generation,
            index: made.index,
        };
        let flow = self.table.get(made)?;
        if ctx.poller.add(&flow.socket, token, Interest::ReadEdge).is_err() {
            ctx.counters.count_drop(DropReason::SocketError);
            self.table.remove(made);
            return None;
        }
        Some(made)
    }

    /// Opens a socket for a flow from `origin`; if no descriptor is left, retries after ending another flow.
    pub(super) fn open_or_make_room<T>(&mut self, origin: Side, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match open() {
            Err(e) if is_out_of_descriptors(&e) && self.table.give_way(origin) => open(),
            other => other,
        }
    }
}

/// The local endpoint of a datagram. Binding to a link-local address requires the client's scope.
fn local_end(address: IpAddr, port: u16, client: SocketAddr) -> SocketAddr {
    match (address, client) {
        (IpAddr::V6(a), SocketAddr::V6(client)) if a.is_unicast_link_local() => {
            std::net::SocketAddrV6::new(a, port, 0, client.scope_id()).into()
        }
        _ => SocketAddr::new(address, port),
    }
}
