//! The guest's echo requests, passed on through sockets of the host.
//!
//! A ping socket (SOCK_DGRAM, IPPROTO_ICMP) needs no privilege but a group within the
//! sysctl net.ipv4.ping_group_range; a raw socket needs CAP_NET_RAW. What the system
//! permits is found out once. Each triple of guest, peer and identifier has a socket of
//! its own, so the kernel sorts the replies. The identifier on the wire may be another
//! than the guest's; sequence number and payload are kept.

use super::super::fragmenter::Fragmenter;
use super::super::manner::{Manner, SocketManner};
use super::super::{Context, Destination, Packet};
use super::error::{IcmpError, refuse, send_error};
use crate::counters::{Count, DropReason};
use crate::frame::{GuestFrame, GuestSlice, Offload};
use crate::packet::checksum::Sum;
use crate::packet::icmp::{v4, v6};
use crate::packet::{IcmpHeader, protocol};
use crate::poller::{GENERATION_MASK, Interest, Owner, Readiness, Token};
use crate::sys::datagram;
use crate::sys::error_queue;
use crate::sys::receive_batch::ReceiveBatch;
use crate::sys::send_batch::SendBatch;
use crate::time::Instant;
use crate::timers::{Scheduled, TimerQueue};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// How long a flow lives without a request or a reply.
const IDLE: Duration = Duration::from_secs(60);

/// Flows at a time; then the one idle longest gives way.
const MAX_FLOWS: usize = 256;

/// Replies taken per system call, and calls per event.
const BATCH: usize = 4;
const MAX_ROUNDS: usize = 16;

/// Bytes quoted from a request that met an error.
const MAX_QUOTED: usize = 1200;

/// What the system lets us send echo requests with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoSupport {
    /// Ping sockets.
    Ping,
    /// Raw sockets only.
    Raw,
    /// Nothing: the guest's echo requests to the world go unanswered.
    None,
}

/// What the system lets us do, by family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoAvailability {
    /// IPv4.
    pub ipv4: EchoSupport,
    /// IPv6.
    pub ipv6: EchoSupport,
}

impl EchoSupport {
    fn find_out(domain: Domain, protocol: Protocol) -> Self {
        let works = |kind: Type| Socket::new(domain, kind.cloexec(), Some(protocol)).is_ok();
        if works(Type::DGRAM) {
            Self::Ping
        } else if works(Type::RAW) {
            Self::Raw
        } else {
            Self::None
        }
    }
}

/// An echo request of the guest.
#[derive(Clone, Copy, Debug)]
pub struct EchoRequest {
    /// The guest.
    pub src: IpAddr,
    /// Whom it asks, as the guest sees it; same family.
    pub dst: IpAddr,
    /// Where the ICMP header begins, in bytes from the Ethernet header on.
    pub offset: usize,
    /// Bytes of ICMP message.
    pub len: usize,
    /// TTL or hop limit.
    pub ttl: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct EchoKey {
    guest: IpAddr,
    peer: IpAddr,
    ident: u16,
}

#[derive(Debug)]
struct EchoFlow {
    key: EchoKey,
    socket: Socket,
    domain: Domain,
    support: EchoSupport,
    manner: SocketManner,
    last_used: Instant,
    scheduled: Scheduled,
    generation: u32,
}

type FlowRef = (u32, u32);

/// The echo flows of a port.
pub struct EchoFlows {
    availability: EchoAvailability,
    flows: Slab<EchoFlow>,
    by_key: HashMap<EchoKey, u32>,
    timers: TimerQueue<FlowRef>,
    next_generation: u32,
    /// Raw sockets of several processes see each other's replies: identifiers are
    /// mixed with a number of our own.
    salt: u16,
    send: SendBatch,
    receive: ReceiveBatch,
    fragmenter: Fragmenter,
}

impl Default for EchoFlows {
    fn default() -> Self {
        Self::new()
    }
}

impl EchoFlows {
    /// Number of conversations.
    pub fn count(&self) -> usize {
        self.flows.len()
    }

    /// No flows yet. Finds out what the system permits.
    pub fn new() -> Self {
        Self::with(EchoAvailability {
            ipv4: EchoSupport::find_out(Domain::IPV4, Protocol::ICMPV4),
            ipv6: EchoSupport::find_out(Domain::IPV6, Protocol::ICMPV6),
        })
    }

    fn with(availability: EchoAvailability) -> Self {
        let salt = getrandom::u32().unwrap_or(0).to_ne_bytes();
        Self {
            availability,
            flows: Slab::new(),
            by_key: HashMap::new(),
            timers: TimerQueue::default(),
            next_generation: 0,
            salt: u16::from_ne_bytes([salt[0], salt[1]]),
            send: SendBatch::default(),
            receive: ReceiveBatch::with_capacity(BATCH),
            fragmenter: Fragmenter::default(),
        }
    }

    /// What the system permits.
    pub const fn availability(&self) -> EchoAvailability {
        self.availability
    }

    /// Passes an ICMP message of the guest on if it is an echo request; counts any other.
    pub fn on_echo(&mut self, ctx: &mut Context<'_>, frame: &GuestFrame<'_>, request: &EchoRequest) {
        let mut head = [0; IcmpHeader::LEN];
        let n = frame.copy_to(request.offset, &mut head);
        let header = IcmpHeader::parse(&head[..n.min(request.len)]);
        let Ok(header) = header.map_err(|e| ctx.counters.count_drop(e.into())) else {
            return;
        };
        if (header.kind, header.code) != (request_kind(request.src), 0) {
            ctx.counters.count_drop(DropReason::BadService);
            return;
        }
        let peer = match ctx.nat.outbound(SocketAddr::new(request.dst, 0)) {
            Destination::World(peer) => peer.ip(),
            Destination::Gateway => return self.answer(ctx, frame, request, header),
            Destination::Refused(reason) => return ctx.counters.count_drop(reason),
        };
        let key = EchoKey {
            guest: request.src,
            peer: request.dst,
            ident: header.echo_ident(),
        };
        let known = self.by_key.get(&key).copied();
        match known.map_or_else(|| self.open(ctx, key, peer), Ok) {
            Ok(index) => self.pass_on(ctx, frame, request, index, &head),
            Err(reason) => {
                ctx.counters.count_drop(reason.0);
                if let Some(news) = reason.1 {
                    tell(ctx, news, frame);
                }
            }
        }
    }

    /// Answers a request to the gateway itself.
    fn answer(&mut self, ctx: &mut Context<'_>, frame: &GuestFrame<'_>, request: &EchoRequest, header: IcmpHeader) {
        let mut body = vec![0; request.len - IcmpHeader::LEN];
        frame.copy_to(request.offset + IcmpHeader::LEN, &mut body);
        let [guest, gateway] = [request.src, request.dst];
        let [a, b] = [header.echo_ident(), header.echo_sequence()];
        send_reply(&mut self.fragmenter, ctx, [gateway, guest], [a, b], &body);
    }

    fn open(
        &mut self,
        ctx: &mut Context<'_>,
        key: EchoKey,
        peer: IpAddr,
    ) -> Result<u32, (DropReason, Option<IcmpError>)> {
        if self.flows.len() >= MAX_FLOWS {
            let oldest = self.flows.iter().min_by_key(|(_, f)| f.last_used).map(|(i, _)| i);
            oldest.into_iter().for_each(|i| self.remove(i));
        }
        let support = match peer {
            IpAddr::V4(_) => self.availability.ipv4,
            IpAddr::V6(_) => self.availability.ipv6,
        };
        if support == EchoSupport::None {
            return Err((DropReason::EchoForbidden, Some(IcmpError::Prohibited)));
        }
        let failed = |e: io::Error| {
            let news = e.raw_os_error().and_then(IcmpError::from_errno);
            (DropReason::SocketError, news)
        };
        let (socket, domain) = open_socket(support, key.ident, peer).map_err(failed)?;
        let index = u32::try_from(self.flows.vacant_key()).map_err(|_| (DropReason::FlowLimit, None))?;
        let token = Token {
            owner: Owner::Echo,
            generation: self.next_generation,
            index,
        };
        ctx.poller.add(&socket, token, Interest::ReadLevel).map_err(failed)?;
        let mut flow = EchoFlow {
            key,
            socket,
            domain,
            support,
            manner: SocketManner::default(),
            last_used: ctx.now,
            scheduled: Scheduled::default(),
            generation: self.next_generation,
        };
        self.next_generation = (self.next_generation + 1) & GENERATION_MASK;
        let entry = (index, flow.generation);
        self.timers.schedule(&mut flow.scheduled, entry, ctx.now + IDLE);
        self.flows.insert(flow);
        self.by_key.insert(key, index);
        Ok(index)
    }

    /// `head`: the ICMP header as the guest sent it.
    fn pass_on(
        &mut self,
        ctx: &mut Context<'_>,
        frame: &GuestFrame<'_>,
        request: &EchoRequest,
        index: u32,
        head: &[u8; IcmpHeader::LEN],
    ) {
        let Some(flow) = self.flows.get_mut(index as usize) else {
            return;
        };
        flow.last_used = ctx.now;
        let manner = Manner::of(frame, request.src, request.ttl, false, ctx.link);
        flow.manner.adapt(&flow.socket, flow.domain, manner);
        let head = match flow.support {
            // The kernel writes identifier and checksum.
            EchoSupport::Ping | EchoSupport::None => *head,
            EchoSupport::Raw => with_ident(*head, flow.key.ident ^ self.salt),
        };
        let mut out = self.send.start();
        out.push(None, |gather| {
            gather.push(GuestSlice::from_bytes(&head));
            let body = request.len - IcmpHeader::LEN;
            frame.gather(request.offset + IcmpHeader::LEN, body, gather);
        });
        let mut sent = out.transmit(&flow.socket, 0);
        if sent.is_err() {
            // It may be about an earlier request; the socket says so once.
            flow.report(ctx);
            sent = out.transmit(&flow.socket, 0);
        }
        match sent {
            Ok(_) => ctx.counters.add(Count::Echos, 1),
            Err(e) => {
                ctx.counters.count_drop(DropReason::SocketError);
                flow.report(ctx);
                if let Some(news) = e.raw_os_error().and_then(IcmpError::from_errno) {
                    tell(ctx, news, frame);
                }
            }
        }
    }

    /// A socket of ours is ready.
    pub fn on_event(&mut self, ctx: &mut Context<'_>, token: Token, ready: Readiness) {
        let Some(flow) = self.flows.get_mut(token.index as usize) else {
            return;
        };
        if flow.generation != token.generation {
            return;
        }
        if ready.error {
            flow.report(ctx);
        }
        for _ in 0..MAX_ROUNDS {
            let Ok(n) = self.receive.receive_to_spill(&flow.socket, BATCH) else {
                flow.report(ctx);
                continue;
            };
            for i in 0..n {
                let Some((sequence, body)) = flow.reply(self.receive.spilled(i), self.salt) else {
                    continue;
                };
                flow.last_used = ctx.now;
                let EchoKey { guest, peer, ident } = flow.key;
                send_reply(&mut self.fragmenter, ctx, [peer, guest], [ident, sequence], body);
            }
            if n < BATCH {
                break;
            }
        }
    }

    fn remove(&mut self, index: usize) {
        let gone = self.flows.remove(index);
        self.by_key.remove(&gone.key);
    }

    /// Drops the flows whose time is up.
    pub fn on_timer(&mut self, now: Instant) {
        while let Some((at, entry)) = self.timers.pop_due(now) {
            let (index, generation) = (entry.0 as usize, entry.1);
            let Some(flow) = self.flows.get_mut(index) else {
                continue;
            };
            if flow.generation != generation || !flow.scheduled.fire(at) {
                continue;
            }
            let expires = flow.last_used + IDLE;
            if expires <= now {
                self.remove(index);
            } else {
                self.timers.schedule(&mut flow.scheduled, entry, expires);
            }
        }
    }

    /// When [`on_timer`](Self::on_timer) wants to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }
}

impl EchoFlow {
    /// Sequence number and payload of a reply that is for this flow.
    fn reply<'a>(&self, bytes: &'a [u8], salt: u16) -> Option<(u16, &'a [u8])> {
        let is_raw = self.support == EchoSupport::Raw;
        let message = match self.domain {
            // Only IPv4 raw sockets show the network header.
            Domain::IPV4 if is_raw => bytes.get(usize::from(bytes.first()? & 0xf) * 4..)?,
            _ => bytes,
        };
        let header = IcmpHeader::parse(message).ok()?;
        let kind = match self.domain {
            Domain::IPV6 => v6::ECHO_REPLY,
            _ => v4::ECHO_REPLY,
        };
        let is_ours = !is_raw || header.echo_ident() == self.key.ident ^ salt;
        (header.kind == kind && is_ours).then_some((header.echo_sequence(), &message[IcmpHeader::LEN..]))
    }

    /// Empties the socket's error queue and tells the guest.
    fn report(&self, ctx: &mut Context<'_>) {
        let mut quoted = [0; MAX_QUOTED];
        while let Ok(Some(entry)) = error_queue::take(&self.socket, &mut quoted) {
            let Some(error) = IcmpError::from_queue(&entry) else {
                continue;
            };
            let known = &quoted[..entry.len.min(MAX_QUOTED)];
            let sequence = IcmpHeader::parse(known).map_or(0, |h| h.echo_sequence());
            let mut header = [0; IcmpHeader::LEN];
            IcmpHeader::echo(request_kind(self.key.guest), self.key.ident, sequence).emit(&mut header, 0);
            let quote = Packet {
                src: self.key.guest,
                dst: self.key.peer,
                protocol: icmp_protocol(self.key.guest),
                header: &header,
                body: known.get(IcmpHeader::LEN..).unwrap_or_default(),
            };
            if send_error(ctx, error, entry.offender, &quote).is_err() {
                ctx.counters.count_drop(DropReason::NoRoom);
            }
        }
        let _ = self.socket.take_error();
    }
}

/// Sends an echo reply with `[ident, sequence]` from one address to the other.
fn send_reply(
    fragmenter: &mut Fragmenter,
    ctx: &mut Context<'_>,
    [src, dst]: [IpAddr; 2],
    [ident, sequence]: [u16; 2],
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

fn open_socket(support: EchoSupport, ident: u16, peer: IpAddr) -> io::Result<(Socket, Domain)> {
    let (domain, protocol, reply, any): (_, _, _, IpAddr) = match peer {
        IpAddr::V4(_) => (
            Domain::IPV4,
            Protocol::ICMPV4,
            v4::ECHO_REPLY,
            Ipv4Addr::UNSPECIFIED.into(),
        ),
        IpAddr::V6(_) => (
            Domain::IPV6,
            Protocol::ICMPV6,
            v6::ECHO_REPLY,
            Ipv6Addr::UNSPECIFIED.into(),
        ),
    };
    let socket = if support == EchoSupport::Raw {
        let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        datagram::pass_only_icmp_type(&socket, domain, reply)?;
        socket
    } else {
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(protocol))?;
        // The port of a ping socket is its identifier. Taken: the kernel chooses one.
        let _ = socket.bind(&SocketAddr::new(any, ident).into());
        socket
    };
    datagram::watch_errors(&socket, domain)?;
    socket.connect(&SocketAddr::new(peer, 0).into())?;
    Ok((socket, domain))
}

/// An ICMP header with another identifier and the checksum moved by the difference
/// (RFC 1624); the payload need not be looked at.
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
