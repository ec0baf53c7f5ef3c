//! UDP flows as plain values, with their sockets beside them: see [`saved`](crate::nat::saved).
//!
//! A value holds the ends, which sides have sent and when, and what hawser has set on the socket.
//! Those options are set again at load: a socket that was passed has them, one that was made for
//! the flow on another host has not. Datagrams that were read from the socket while the guest had no
//! room are part of the value. Datagrams in the socket's queue are not: they come with
//! the descriptor, or the other side has to read them first.
//!
//! What the flow has learned from the traffic of its socket (how much comes at a time, whether
//! the kernel segments) is learned again.

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

/// A flow between two processes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedUdpFlow {
    guest: SocketAddr,
    remote: SocketAddr,
    #[serde(with = "SavedSide")]
    origin: Side,
    /// For a flow the world began: the local address it came to.
    local: Option<SocketAddr>,
    /// How long ago both sides had sent something; `None` if one side has not.
    both_since: Option<Nanos>,
    /// How long ago anything was sent.
    idle: Nanos,
    ip_options: SavedIpOptions,
    class_watch: SavedClassWatch,
    /// The guest's port, if the socket has the same.
    kept_port: Option<u16>,
    /// What the guest had no room for, in order.
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
    /// The ends, as the guest sees them.
    pub const fn id(&self) -> FlowId {
        FlowId::udp(self.guest, self.remote)
    }

    fn save(flow: &Flow, held: Vec<SavedHeld>, now: Instant) -> Self {
        let Flow {
            key,
            // Travels beside the value, and has a family.
            socket: _,
            domain: _,
            origin,
            local,
            exchange,
            last_used,
            // Of the table: made anew.
            scheduled: _,
            generation: _,
            waiting: _,
            claim: _,
            ip_options,
            // Learned again.
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

    /// The flow, with the options of `socket` set as they were.
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
            "its socket is of no family of IP",
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
            // What the other process had may not be what this socket has.
            kept_port: self.kept_port.filter(|port| own.map(|own| own.port()) == Some(*port)),
            ..Flow::new(self.id(), socket, domain, self.origin, now)
        })
    }
}

impl UdpFlows {
    /// All flows as plain values, each with its socket, the one idle longest first. They stay in
    /// the table, which must not run between this and the passing of the sockets.
    pub fn save(&self, now: Instant) -> impl Iterator<Item = (SavedUdpFlow, &Socket)> {
        let mut flows: Vec<_> = self.table.iter().collect();
        flows.sort_by_key(|flow| flow.last_used);
        flows.into_iter().map(move |flow| {
            let held = self.receiver.delivery.save(&flow.key);
            (SavedUdpFlow::save(flow, held, now), &flow.socket)
        })
    }

    /// Takes a flow of another process. `socket` is its socket, or one connected to the same peer.
    ///
    /// # Errors
    /// [`LoadError`]: the flow is not in the table, and the socket is closed.
    pub fn load(&mut self, ctx: &mut Context<'_>, saved: &SavedUdpFlow, socket: Socket) -> Result<(), LoadError> {
        let limit = self.config.max_flows;
        if self.table.len() >= limit {
            return Err(LoadError::Full { limit });
        }
        if self.has(&saved.id()) {
            return Err(LoadError::Duplicate);
        }
        let flow = saved.load(socket, ctx.now)?;
        self.receiver.delivery.load(saved.id(), &saved.held)?;
        let watched = self.watch(ctx, flow);
        if watched.is_none() {
            self.receiver.delivery.take(&saved.id());
            return Err(io::Error::other("it cannot be watched").into());
        }
        Ok(())
    }
}
