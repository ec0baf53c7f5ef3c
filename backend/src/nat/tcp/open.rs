//! Opens connections. The guest's SYN becomes a connecting socket, and an accepted client becomes a SYN to the guest.

use super::connection::{Connection, Opening};
use super::listener::{Accepted, Client};
use super::local_ports::OwnPort;
use super::pressure::{Side, Standing};
use super::{Incoming, RETRY, TURNS, TcpFlows, dscp, host_socket, refuse};
use crate::counters::{Count, DropReason};
use crate::frame::GuestFrame;
use crate::nat::address_map::Destination;
use crate::nat::context::Context;
use crate::nat::icmp::{self, IcmpError};
use crate::nat::link::Packet;
use crate::packet::{FlowId, protocol};
use crate::sys::datagram;
use crate::sys::error_queue::{self, Origin};
use crate::time::Instant;
use socket2::{Domain, Socket};
use std::io;
use std::net::SocketAddr;

impl TcpFlows {
    /// Opens a connection for `item`, a SYN from the guest in this frame.
    pub(super) fn open_from_guest(&mut self, ctx: &mut Context<'_>, item: &Incoming, frame: Option<&GuestFrame<'_>>) {
        let (key, syn) = (item.key, &item.segment.header);
        let target = match ctx.nat.outbound_of(ctx.now, &key) {
            Destination::World(target) => target,
            Destination::Gateway => return refuse(ctx, key, syn),
            Destination::Refused(reason) => {
                ctx.counters.count_drop(reason);
                return refuse(ctx, key, syn);
            }
        };
        self.keep_share(ctx, Standing::OpeningOut);
        if self.is_full() && !self.make_room(ctx, Side::Guest) {
            ctx.counters.count_drop(DropReason::FlowLimit);
            return;
        }
        let opened = match socket_like(target, frame) {
            Err(e) if is_limit(&e) && self.make_room(ctx, Side::Guest) => socket_like(target, frame),
            other => other,
        };
        let opened = opened.and_then(|stream| self.connect(ctx.now, stream, key.guest_port, (target, frame)));
        let (stream, connected) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                let reason = if is_limit(&e) {
                    DropReason::FlowLimit
                } else {
                    DropReason::SocketError
                };
                ctx.counters.count_drop(reason);
                return;
            }
        };
        if matches!(&connected, Err(e) if e.raw_os_error() == Some(libc::EAGAIN)) {
            // The guest retries after a second. By then, TIME_WAIT may have ended.
            ctx.counters.count_drop(DropReason::FlowLimit);
            return;
        }
        ctx.counters.add(Count::TcpOut, 1);
        let opening = self.opening(ctx, key);
        let mut connection = Connection::from_guest(&opening, syn);
        match connected {
            Ok(()) => {
                forget_refusals(&stream);
                connection.on_connected(ctx);
            }
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return connect_failed(ctx, &mut connection, &e, None),
        }
        self.insert(ctx, connection, stream, dscp(frame));
    }

    /// Connects `stream`, or another socket with the same options, from `port` if that is available.
    fn connect(
        &mut self,
        now: Instant,
        stream: Socket,
        port: u16,
        (target, frame): (SocketAddr, Option<&GuestFrame<'_>>),
    ) -> io::Result<(Socket, io::Result<()>)> {
        let stream = match self.local_ports.connect_from_own(&stream, port, target) {
            OwnPort::Used(connected) => return Ok((stream, connected)),
            OwnPort::Unavailable => stream,
            OwnPort::Bound => {
                drop(stream);
                socket_like(target, frame)?
            }
        };
        let connected = self.local_ports.connect(now, &stream, port, target);
        Ok((stream, connected))
    }

    /// Accepts clients of a listening socket.
    pub(super) fn accept(&mut self, ctx: &mut Context<'_>, index: usize) {
        for _ in 0..TURNS {
            // If the clients' share is full of connections that the guest has not answered, ending some other
            // connection would not help.
            if !self.has_share(ctx, Standing::OpeningIn) {
                return self.accept_later(ctx, index);
            }
            match self.listeners.accept(index, ctx.counters) {
                Accepted::Client(client) => self.take_client(ctx, client),
                Accepted::NoClient => return,
                Accepted::Limited if self.make_room(ctx, Side::World) => {}
                Accepted::Limited => return self.accept_later(ctx, index),
            }
        }
        self.listeners.put_off(index);
        self.accept_again = Some(ctx.now);
    }

    /// Postpones clients until a descriptor is free or the guest has answered other clients.
    fn accept_later(&mut self, ctx: &Context<'_>, index: usize) {
        ctx.counters.count_drop(DropReason::FlowLimit);
        self.listeners.put_off(index);
        self.accept_again.get_or_insert(ctx.now + RETRY);
    }

    fn take_client(&mut self, ctx: &mut Context<'_>, client: Client) {
        let Some((guest, remote)) = inbound_ends(ctx, client.address, client.guest_port) else {
            return;
        };
        self.keep_share(ctx, Standing::OpeningIn);
        let has_room = !self.is_full() || self.make_room(ctx, Side::World);
        let Some(key) = self.free_key(guest, remote).filter(|_| has_room) else {
            ctx.counters.count_drop(DropReason::FlowLimit);
            return host_socket::make_close_a_reset(&client.stream);
        };
        ctx.counters.add(Count::TcpIn, 1);
        let opening = self.opening(ctx, key);
        let connection = Connection::to_guest(&opening, ctx);
        self.insert(ctx, connection, client.stream, 0);
    }

    /// The flow identifier for a client. It contains the client's real port, unless the guest could not distinguish two
    /// clients then.
    fn free_key(&self, guest: SocketAddr, mut remote: SocketAddr) -> Option<FlowId> {
        const TRIES: u16 = 64;
        (0..TRIES).find_map(|i| {
            remote.set_port(remote.port().wrapping_add(i).max(1));
            let key = FlowId::tcp(guest, remote);
            (!self.has(&key)).then_some(key)
        })
    }

    fn opening(&self, ctx: &Context<'_>, key: FlowId) -> Opening {
        let (iss, clock) = self.secret.initial(ctx.now, key.guest_end(), key.remote_end());
        Opening {
            id: key,
            iss,
            clock,
            mtu: ctx.link.mtu,
            spill: self.spill.clone(),
        }
    }
}

/// A socket towards `target` with the TTL and DSCP of the guest's frame.
fn socket_like(target: SocketAddr, frame: Option<&GuestFrame<'_>>) -> io::Result<Socket> {
    let stream = host_socket::open(target)?;
    let dscp = dscp(frame);
    if dscp != 0 {
        host_socket::set_dscp(&stream, dscp);
    }
    // Traceroute finds routers by the TTL, and protocols between neighbours (BGP, RFC 5082) set it on purpose.
    if let Some(ttl) = frame.and_then(|frame| frame.parsed.ttl(frame.head)) {
        host_socket::set_ttl(&stream, ttl);
    }
    watch_refusals(&stream, target);
    Ok(stream)
}

/// True if no descriptor or no memory is left for a socket.
fn is_limit(error: &io::Error) -> bool {
    let limits = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| limits.contains(&errno))
}

fn inbound_ends(ctx: &Context<'_>, peer: SocketAddr, guest_port: u16) -> Option<(SocketAddr, SocketAddr)> {
    let remote = ctx.nat.inbound(peer.ip())?;
    let guest = ctx.link.guest_address(remote)?;
    Some((SocketAddr::new(guest, guest_port), SocketAddr::new(remote, peer.port())))
}

/// Enables the error queue for ICMPv6 messages that end a connection while it opens. IPv4 queues such messages by
/// default.
fn watch_refusals(stream: &Socket, target: SocketAddr) {
    if target.is_ipv6() {
        // If this fails, only the error number is known.
        let _ = datagram::watch_errors(stream, Domain::IPV6);
    }
}

/// Disables the error queue again, so that an ICMPv6 message does not end an established connection.
pub(super) fn forget_refusals(stream: &Socket) {
    // The family may differ from the guest's: a name server may be behind the gateway.
    if stream.domain().is_ok_and(|domain| domain == Domain::IPV6) {
        let _ = datagram::ignore_errors(stream, Domain::IPV6);
    }
}

/// Reports a failed connect to the guest as a router or the peer answered it.
///
/// The error number carries less information than the ICMP message that caused it. That message is on the error queue
/// of `stream` (tcp_v4_err in net/ipv4/tcp_ipv4.c, for a connection that is being opened).
pub(super) fn connect_failed(
    ctx: &mut Context<'_>,
    connection: &mut Connection,
    error: &io::Error,
    stream: Option<&Socket>,
) {
    let said = stream.and_then(|stream| error_queue::take(stream, &mut []).ok()?);
    let reporter = said.and_then(|entry| entry.offender);
    let said = said.filter(|entry| entry.origin != Origin::Local);
    let said = said.and_then(|entry| IcmpError::from_queue(&entry));
    let errno = error.raw_os_error().unwrap_or_default();
    match errno {
        libc::ECONNREFUSED if said.is_none() => connection.abort(ctx),
        // No answer arrived, so the guest gets none either. It times out or tries again.
        libc::ETIMEDOUT => connection.refuse(),
        _ => match said.or(IcmpError::from_errno(errno)) {
            Some(why) => {
                let header = connection.syn();
                let quote = Packet {
                    src: connection.id.guest,
                    dst: connection.id.remote,
                    protocol: protocol::TCP,
                    traffic_class: 0,
                    header: &header,
                    body: &[],
                };
                // If the guest has no buffer, it retransmits the SYN, and gets the error then.
                let _ = icmp::send_error(ctx, why, reporter, &quote);
                connection.refuse();
            }
            None => connection.abort(ctx),
        },
    }
}
