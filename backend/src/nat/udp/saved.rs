//! UDP flows as plain values, together with their sockets. See [`saved`](crate::nat::saved).
//!
//! A value contains the endpoints, which sides have sent and when, and the options that hawser has set on the socket.
//! The options are set again at load. A socket that was passed already has them, but a socket that was created for the
//! flow on another host does not. Datagrams that were read from the socket while the guest had no room are part of the
//! value. Datagrams in the socket's queue are not: they travel with the descriptor, or the other side must read them
//! first.
//!
//! Properties that the flow has learned from its socket's traffic (how much arrives at a time, whether the kernel
//! segments) are learned again.

use super::UdpFlows;
use super::class_watch::SavedClassWatch;
use super::flow::{Exchange, Flow, Side};
use super::held::SavedHeld;
use crate::nat::context::Context;
use crate::nat::ip_options::{SavedIpOptions, SocketIpOptions};
use crate::nat::saved::{LoadError, Nanos, Payload, ensure};
use crate::packet::FlowId;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket};
use std::io;
use std::net::SocketAddr;

/// A flow while it moves between two processes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedUdpFlow {
    guest: SocketAddr,
    remote: SocketAddr,
    #[serde(with = "SavedSide")]
    origin: Side,
    /// Local address on which the flow arrived, for a flow that the remote peer opened.
    local: Option<SocketAddr>,
    /// Time since both sides had sent something. `None` if one side has not.
    both_since: Option<Nanos>,
    /// Time since the last datagram in either direction.
    idle: Nanos,
    ip_options: SavedIpOptions,
    class_watch: SavedClassWatch,
    /// Port of the guest, if the socket has the same port.
    kept_port: Option<u16>,
    /// Datagrams for which the guest had no room, in order.
    held: Vec<SavedHeld>,
}

impl Payload for SavedUdpFlow {
    const KIND: &'static str = "udp-flow";
    const VERSION: u32 = 1;
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "Side", rename_all = "kebab-case")]
enum SavedSide {
    Guest,
    World,
}

impl SavedUdpFlow {
    /// The two endpoints, as the guest sees them.
    pub const fn id(&self) -> FlowId {
        FlowId::udp(self.guest, self.remote)
    }

    fn save(flow: &Flow, held: Vec<SavedHeld>, now: Instant) -> Self {
        let Flow {
            key,
            // The descriptor of the socket is passed beside the value.
            socket: _,
            domain: _,
            origin,
            local,
            exchange,
            last_used,
            // These belong to the table, which creates them again.
            scheduled: _,
            generation: _,
            waiting: _,
            claim: _,
            is_anchored: _,
            ip_options,
            // These are learned again.
            segmenting: _,
            intake: _,
            class_watch,
            kept_port,
        } = flow;
        Self {
            guest: key.guest_end(),
            remote: key.remote_end(),
            origin: *origin,
            local: *local,
            both_since: match exchange {
                Exchange::From(_) => None,
                Exchange::BothSince(since) => Some(Nanos::since(*since, now)),
            },
            idle: Nanos::since(*last_used, now),
            ip_options: ip_options.save(),
            class_watch: class_watch.save(now),
            kept_port: *kept_port,
            held,
        }
    }

    /// Restores the flow, and sets the options of `socket` to the saved ones.
    fn load(&self, socket: Socket, now: Instant) -> Result<Flow, LoadError> {
        ensure(
            self.guest.is_ipv4() == self.remote.is_ipv4(),
            "its ends are of two families",
        )?;
        socket.set_nonblocking(true)?;
        let domain = socket.domain()?;
        let own = socket.local_addr()?.as_socket();
        ensure(
            matches!(domain, Domain::IPV4 | Domain::IPV6) && own.is_some(),
            "its socket is neither an IPv4 nor an IPv6 socket",
        )?;
        let exchange = match self.both_since {
            None => Exchange::From(self.origin),
            Some(since) => Exchange::BothSince(since.before(now)),
        };
        Ok(Flow {
            local: self.local,
            exchange,
            // A flow that was idle for too long ends with the next timer.
            last_used: self.idle.before(now),
            ip_options: SocketIpOptions::load(&self.ip_options, &socket, domain),
            class_watch: self.class_watch.load(&socket, domain, now)?,
            // The port of the other process's socket may differ from the port of this socket.
            kept_port: self.kept_port.filter(|port| own.map(|own| own.port()) == Some(*port)),
            ..Flow::new(self.id(), socket, domain, self.origin, now)
        })
    }
}

impl UdpFlows {
    /// Converts all flows to plain values, each with its socket, the longest idle first. They stay in the table, which
    /// must not be used until the sockets have been passed on.
    pub fn save(&self, now: Instant) -> impl Iterator<Item = (SavedUdpFlow, &Socket)> {
        let mut flows: Vec<_> = self.table.iter().collect();
        flows.sort_by_key(|flow| flow.last_used);
        flows.into_iter().map(move |flow| {
            let held = self.receiver.delivery.save(&flow.key);
            (SavedUdpFlow::save(flow, held, now), &flow.socket)
        })
    }

    /// Takes over a flow from another process. `socket` is its socket, or a socket connected to the same peer.
    ///
    /// # Errors
    /// [`LoadError`]: the flow is not in the table, and the socket is closed.
    pub fn load(&mut self, ctx: &mut Context<'_>, saved: &SavedUdpFlow, socket: Socket) -> Result<(), LoadError> {
        self.load_as(ctx, saved, socket, false)
    }

    /// Takes over a flow whose socket stays in another process, to which `socket` leads.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_anchored(
        &mut self,
        ctx: &mut Context<'_>,
        saved: &SavedUdpFlow,
        socket: Socket,
    ) -> Result<(), LoadError> {
        self.load_as(ctx, saved, socket, true)
    }

    fn load_as(
        &mut self,
        ctx: &mut Context<'_>,
        saved: &SavedUdpFlow,
        socket: Socket,
        is_anchored: bool,
    ) -> Result<(), LoadError> {
        let limit = self.config.max_flows;
        if self.table.len() >= limit {
            return Err(LoadError::Full { limit });
        }
        if self.has(&saved.id()) {
            return Err(LoadError::Duplicate);
        }
        let mut flow = saved.load(socket, ctx.now)?;
        flow.is_anchored = is_anchored;
        self.receiver.delivery.load(saved.id(), &saved.held)?;
        let watched = self.watch(ctx, flow);
        if watched.is_none() {
            self.receiver.delivery.take(&saved.id());
            return Err(io::Error::other("it cannot be watched").into());
        }
        Ok(())
    }
}
