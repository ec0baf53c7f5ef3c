//! Forwards the guest's echo requests through host sockets.
//!
//! The permitted kind of socket is determined once ([`super::echo_socket`]). Replies are assigned
//! to the flow of their peer and identifier ([`super::echo_table`]). The identifier on the wire may
//! differ from the guest's; sequence number and payload are kept.
//!
//! Only echo requests are forwarded, because a ping socket sends nothing else. Other messages of the guest are counted
//! ([`DropReason::IcmpNotServed`]), and IP options are not forwarded ([`Count::IpOptions`]).

use super::echo_socket::{EchoAvailability, EchoSupport};
use super::echo_table::{EchoFlow, EchoSocket, EchoTable};
use super::error::{IcmpError, refuse, send_error};
use crate::counters::{Count, DropReason};
use crate::frame::{GuestFrame, GuestSlice, Offload};
use crate::nat::address_map::Destination;
use crate::nat::context::Context;
use crate::nat::fragmenter::Fragmenter;
use crate::nat::ip_options::IpOptions;
use crate::nat::link::Packet;
use crate::packet::checksum::Sum;
use crate::packet::icmp::{v4, v6};
use crate::packet::{FlowId, IcmpHeader, TransportAt, protocol};
use crate::poller::{Poller, Readiness, Token};
use crate::sys::error_queue::{self, Origin};
use crate::sys::receive_batch::{ReceiveBatch, Received};
use crate::sys::send_batch::SendBatch;
use crate::time::Instant;
use socket2::Domain;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Replies received per system call, and system calls per event.
const BATCH: usize = 4;
const MAX_ROUNDS: usize = 16;

/// Bytes of a request that an error quotes.
const MAX_QUOTED: usize = 1200;

/// Attempts to send a request. An attempt may fail because of errors about earlier requests.
const SEND_ATTEMPTS: usize = 4;

/// Maximum entries of an error queue handled in one turn.
const MAX_ENTRIES: usize = 64;

/// An ICMP message of the guest.
#[derive(Clone, Copy, Debug)]
pub struct IcmpMessage {
    /// Source address, which is the guest's.
    pub src: IpAddr,
    /// Destination as the guest sees it, of the same family.
    pub dst: IpAddr,
    /// Header of the message.
    pub header: IcmpHeader,
    /// Offset of the ICMP header from the start of the Ethernet header.
    pub offset: usize,
    /// Length of the ICMP message in bytes.
    pub len: usize,
}

impl IcmpMessage {
    /// Parses the message at `at` in a frame from `src` to `dst`.
    ///
    /// # Errors
    /// The header is incomplete.
    pub fn of(frame: &GuestFrame<'_>, src: IpAddr, dst: IpAddr, at: TransportAt) -> Result<Self, DropReason> {
        Ok(Self {
            src,
            dst,
            header: IcmpHeader::parse(frame.parsed.transport_bytes(frame.head))?,
            offset: at.offset,
            len: at.len,
        })
    }
}

/// The echo flows of a port.
pub struct EchoFlows {
    availability: EchoAvailability,
    pub(super) table: EchoTable,
    send: SendBatch,
    receive: ReceiveBatch,
    fragmenter: Fragmenter,
    /// True while the sockets cause no events.
    is_muted: bool,
}

debug_fields!(EchoFlows {});

impl Default for EchoFlows {
    fn default() -> Self {
        Self::new()
    }
}

/// Contents of a socket's error queue.
#[derive(Clone, Copy, Debug, Default)]
struct Report {
    /// Number of entries about earlier requests.
    earlier: usize,
    /// The host's own error about the request that it has just refused.
    own: Option<IcmpError>,
}

impl EchoFlows {
    /// Number of echo flows.
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// An empty table. Determines which sockets the system permits.
    pub fn new() -> Self {
        Self::with(EchoAvailability::find_out())
    }

    fn with(availability: EchoAvailability) -> Self {
        let salt = getrandom::u32().unwrap_or(0).to_ne_bytes();
        Self {
            availability,
            table: EchoTable::new(u16::from_ne_bytes([salt[0], salt[1]])),
            send: SendBatch::default(),
            receive: ReceiveBatch::with_capacity(BATCH),
            fragmenter: Fragmenter::default(),
            is_muted: false,
        }
    }

    /// The kinds of socket that the system permits.
    pub const fn availability(&self) -> EchoAvailability {
        self.availability
    }

    /// Forwards an ICMP message of the guest if it is an echo request. Counts all other messages.
    pub fn on_echo(&mut self, ctx: &mut Context<'_>, frame: &GuestFrame<'_>, request: &IcmpMessage) {
        let header = request.header;
        if (header.kind, header.code) != (request_kind(request.src), 0) {
            ctx.counters.count_drop(DropReason::IcmpNotServed);
            return;
        }
        let peer = match ctx.nat.outbound(SocketAddr::new(request.dst, 0)) {
            Destination::World(peer) => peer.ip(),
            Destination::Gateway => return self.answer(ctx, frame, request),
            Destination::Refused(reason) => return ctx.counters.count_drop(reason),
        };
        let key = FlowId::echo(request.src, request.dst, header.echo_ident());
        let flow = match self.table.find(&key) {
            Some(flow) => Ok(flow),
            None => self.open(ctx, key, peer),
        };
        match flow {
            Ok(flow) => self.pass_on(ctx, frame, request, flow),
            Err((reason, news)) => {
                ctx.counters.count_drop(reason);
                if let Some(news) = news {
                    tell(ctx, news, frame);
                }
            }
        }
    }

    /// Answers a request to the gateway itself.
    fn answer(&mut self, ctx: &mut Context<'_>, frame: &GuestFrame<'_>, request: &IcmpMessage) {
        let mut body = vec![0; request.len - IcmpHeader::LEN];
        frame.copy_to(request.offset + IcmpHeader::LEN, &mut body);
        let [guest, gateway] = [request.src, request.dst];
        let [a, b] = [request.header.echo_ident(), request.header.echo_sequence()];
        // A Linux host does the same (net/ipv4/icmp.c, icmp_reply).
        let class = frame.parsed.traffic_class(frame.head);
        send_reply(&mut self.fragmenter, ctx, [gateway, guest], [a, b], class, &body);
    }

    fn open(
        &mut self,
        ctx: &mut Context<'_>,
        key: FlowId,
        peer: IpAddr,
    ) -> Result<u32, (DropReason, Option<IcmpError>)> {
        let support = self.availability.of(peer);
        if support == EchoSupport::None {
            return Err((DropReason::EchoForbidden, Some(IcmpError::Prohibited)));
        }
        let made = self.table.open(ctx.now, ctx.poller, support, key, peer);
        made.map_err(|e: io::Error| {
            let news = e.raw_os_error().and_then(IcmpError::from_errno);
            (DropReason::SocketError, news)
        })
    }

    fn pass_on(&mut self, ctx: &mut Context<'_>, frame: &GuestFrame<'_>, request: &IcmpMessage, flow: u32) {
        self.table.used(flow, ctx.now);
        let Some((flow, socket)) = self.table.flow_and_socket(flow) else {
            return;
        };
        if frame.parsed.has_ipv4_options() {
            ctx.counters.add(Count::IpOptions, 1);
        }
        let ip_options = IpOptions::of(frame, false, ctx.link);
        socket.ip_options.adapt(&socket.socket, socket.domain, ip_options);
        let mut head = [0; IcmpHeader::LEN];
        frame.copy_to(request.offset, &mut head);
        // The kernel writes identifier and checksum of packets from a ping socket.
        let head = with_ident(head, flow.ident);
        let (peer, slot) = (flow.peer, flow.socket);
        let mut out = self.send.start();
        out.push(None, |gather| {
            gather.push(GuestSlice::from_bytes(&head));
            let body = request.len - IcmpHeader::LEN;
            frame.gather(request.offset + IcmpHeader::LEN, body, gather);
        });
        out.address(SocketAddr::new(peer, 0));
        let mut news = None;
        for attempt in 0..SEND_ATTEMPTS {
            let Some(socket) = self.table.socket(slot) else { return };
            let error = match out.transmit(&socket.socket, 0) {
                Ok(_) => return ctx.counters.add(Count::Echos, 1),
                Err(error) => error,
            };
            // An error about an earlier request makes the next call fail, whatever that call is for.
            let found = report(&self.table, slot, ctx);
            news = found
                .own
                .or_else(|| error.raw_os_error().and_then(IcmpError::from_errno));
            if found.own.is_some() || (attempt > 0 && found.earlier == 0) {
                break;
            }
        }
        ctx.counters.count_drop(DropReason::SocketError);
        if let Some(news) = news {
            tell(ctx, news, frame);
        }
    }

    /// Handles an event of one of the sockets.
    pub fn on_event(&mut self, ctx: &mut Context<'_>, token: Token, ready: Readiness) {
        if !self.table.is_current(token) {
            return;
        }
        if ready.error {
            report(&self.table, token.index, ctx);
        }
        self.receive_from(ctx, token.index);
    }

    /// Receives the replies that wait in all sockets.
    pub fn receive_all(&mut self, ctx: &mut Context<'_>) {
        for slot in self.table.slots() {
            self.receive_from(ctx, slot);
        }
    }

    /// Turns the events of the sockets off, so that replies wait in them, or on again.
    pub fn mute(&mut self, poller: &Poller, is_muted: bool) {
        if std::mem::replace(&mut self.is_muted, is_muted) != is_muted {
            self.table.watch_all(poller, !is_muted);
        }
    }

    /// Drops all flows.
    pub fn drop_all(&mut self) {
        self.table.drop_all();
    }

    fn receive_from(&mut self, ctx: &mut Context<'_>, slot: u32) {
        for _ in 0..MAX_ROUNDS {
            let Some(socket) = self.table.socket(slot) else { return };
            let Ok(n) = self.receive.receive_to_spill(&socket.socket, BATCH) else {
                report(&self.table, slot, ctx);
                continue;
            };
            for i in 0..n {
                self.on_reply(ctx, slot, i);
            }
            if n < BATCH {
                break;
            }
        }
    }

    /// Assigns the reply with number `index` of the last call to its flow.
    fn on_reply(&mut self, ctx: &mut Context<'_>, slot: u32, index: usize) {
        let Some(socket) = self.table.socket(slot) else { return };
        let Received {
            source, traffic_class, ..
        } = *self.receive.message(index);
        let reply = parse_reply(socket, self.receive.spilled(index));
        let (Some(source), Some((header, body))) = (source, reply) else {
            return;
        };
        let Some(index) = self.table.find_on_wire(slot, source.ip(), header.echo_ident()) else {
            // A raw socket also receives replies to other programs.
            if socket.support != EchoSupport::Raw {
                ctx.counters.count_drop(DropReason::EchoNoFlow);
            }
            return;
        };
        let Some(&EchoFlow { key, .. }) = self.table.flow(index) else {
            return;
        };
        self.table.used(index, ctx.now);
        send_reply(
            &mut self.fragmenter,
            ctx,
            [key.remote, key.guest],
            [key.guest_port, header.echo_sequence()],
            traffic_class,
            body,
        );
    }

    /// Drops expired flows.
    pub fn on_timer(&mut self, now: Instant) {
        self.table.on_timer(now);
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub fn deadline(&self) -> Option<Instant> {
        self.table.deadline()
    }
}

/// Header and payload of an echo reply.
fn parse_reply<'a>(socket: &EchoSocket, bytes: &'a [u8]) -> Option<(IcmpHeader, &'a [u8])> {
    let message = match socket.domain {
        // Only IPv4 raw sockets return the network header.
        Domain::IPV4 if socket.support == EchoSupport::Raw => bytes.get(usize::from(bytes.first()? & 0xf) * 4..)?,
        _ => bytes,
    };
    let header = IcmpHeader::parse(message).ok()?;
    let kind = match socket.domain {
        Domain::IPV6 => v6::ECHO_REPLY,
        _ => v4::ECHO_REPLY,
    };
    (header.kind == kind).then_some((header, &message[IcmpHeader::LEN..]))
}

/// Empties a socket's error queue and reports errors about earlier requests to the guest. An error of the host's own
/// stack concerns the request that is being sent, and has no quoted packet.
fn report(table: &EchoTable, slot: u32, ctx: &mut Context<'_>) -> Report {
    let mut found = Report::default();
    let Some(socket) = table.socket(slot) else {
        return found;
    };
    let mut quoted = [0; MAX_QUOTED];
    for _ in 0..MAX_ENTRIES {
        let Ok(Some(entry)) = error_queue::take(&socket.socket, &mut quoted) else {
            break;
        };
        let error = IcmpError::from_queue(&entry);
        if entry.origin == Origin::Local {
            found.own = error.or(found.own);
            continue;
        }
        found.earlier += 1;
        let known = &quoted[..entry.len.min(MAX_QUOTED)];
        let flow = entry
            .destination
            .zip(IcmpHeader::parse(known).ok())
            .and_then(|(to, request)| {
                let flow = table.find_on_wire(slot, to.ip(), request.echo_ident())?;
                Some((table.flow(flow)?, request))
            });
        let (Some(error), Some((flow, request))) = (error, flow) else {
            continue;
        };
        let FlowId {
            guest,
            remote,
            guest_port: ident,
            ..
        } = flow.key;
        let mut header = [0; IcmpHeader::LEN];
        IcmpHeader::echo(request_kind(guest), ident, request.echo_sequence()).emit(&mut header, 0);
        let quote = Packet {
            src: guest,
            dst: remote,
            protocol: icmp_protocol(guest),
            traffic_class: 0,
            header: &header,
            body: known.get(IcmpHeader::LEN..).unwrap_or_default(),
        };
        if send_error(ctx, error, entry.offender, &quote).is_err() {
            ctx.counters.count_drop(DropReason::NoRoom);
        }
    }
    let _ = socket.socket.take_error();
    found
}

/// Sends an echo reply with `[ident, sequence]` from one address to the other.
fn send_reply(
    fragmenter: &mut Fragmenter,
    ctx: &mut Context<'_>,
    [src, dst]: [IpAddr; 2],
    [ident, sequence]: [u16; 2],
    traffic_class: u8,
    body: &[u8],
) {
    let (kind, sum) = match src {
        IpAddr::V4(_) => (v4::ECHO_REPLY, Sum::default()),
        IpAddr::V6(_) => {
            let len = IcmpHeader::LEN + body.len();
            (
                v6::ECHO_REPLY,
                Sum::default().pseudo_header(src, dst, protocol::ICMPV6, len),
            )
        }
    };
    let reply = IcmpHeader::echo(kind, ident, sequence);
    let mut header = [0; IcmpHeader::LEN];
    reply.emit(&mut header, 0);
    let sum = sum.bytes(&header).bytes(body).finish();
    reply.emit(&mut header, sum);
    let packet = Packet {
        src,
        dst,
        protocol: icmp_protocol(src),
        traffic_class,
        header: &header,
        body,
    };
    if fragmenter.send(ctx, &packet, Offload::NONE).is_err() {
        ctx.counters.count_drop(DropReason::NoRoom);
    }
}

fn tell(ctx: &mut Context<'_>, news: IcmpError, frame: &GuestFrame<'_>) {
    if refuse(ctx, news, frame).is_err() {
        ctx.counters.count_drop(DropReason::NoRoom);
    }
}

const fn request_kind(like: IpAddr) -> u8 {
    match like {
        IpAddr::V4(_) => v4::ECHO_REQUEST,
        IpAddr::V6(_) => v6::ECHO_REQUEST,
    }
}

const fn icmp_protocol(like: IpAddr) -> u8 {
    match like {
        IpAddr::V4(_) => protocol::ICMP,
        IpAddr::V6(_) => protocol::ICMPV6,
    }
}

/// An ICMP header with another identifier and an updated checksum (RFC 1624); the payload is not
/// read.
fn with_ident(mut header: [u8; IcmpHeader::LEN], ident: u16) -> [u8; IcmpHeader::LEN] {
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (checksum, old) = (word(2), word(4));
    let sum = Sum::default().word(!checksum).word(!old).word(ident).finish();
    header[2..4].copy_from_slice(&sum.to_be_bytes());
    header[4..6].copy_from_slice(&ident.to_be_bytes());
    header
}

#[cfg(test)]
#[path = "echo_tests.rs"]
pub(super) mod tests;
