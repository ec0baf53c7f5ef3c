//! Echo flows as plain values: see [`saved`](crate::nat::saved).
//!
//! Flows share sockets, so a value contains a socket and the flows that use it. Each value travels with one descriptor:
//! a ping socket bound to the identifier on the wire, or a raw socket. A ping socket that was created on another host
//! may have a different identifier. The kernel writes it into each request, so the flows continue, but replies to
//! earlier requests are lost.

use super::EchoFlows;
use super::echo_socket::EchoSupport;
use super::echo_table::{EchoFlow, EchoSocket, EchoTable, MAX_FLOWS, MAX_SOCKETS, SocketKey};
use crate::nat::context::Context;
use crate::nat::ip_options::{SavedIpOptions, SocketIpOptions};
use crate::nat::saved::{LoadError, Nanos, Payload, ensure};
use crate::packet::FlowId;
use crate::poller::Poller;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use std::net::IpAddr;

/// A socket for echo requests and its flows, between two processes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedEchoSocket {
    use_of: SavedUse,
    ip_options: SavedIpOptions,
    /// The flows, beginning with the one that has been idle longest.
    flows: Vec<SavedEchoFlow>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum SavedUse {
    /// A ping socket for flows with one guest address and one identifier.
    Ping {
        guest: IpAddr,
        ident: u16,
        /// Address of the peer on the host, if it differs from the one that the guest sees.
        mapped: Option<IpAddr>,
        /// Identifier on the wire.
        wire_ident: u16,
    },
    /// A raw socket for all flows of a family.
    Raw { ipv6: bool },
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct SavedEchoFlow {
    guest: IpAddr,
    remote: IpAddr,
    ident: u16,
    /// Address of the peer on the host.
    peer: IpAddr,
    /// Identifier on the wire.
    wire_ident: u16,
    /// Time since the last request or reply.
    idle: Nanos,
}

impl Payload for SavedEchoSocket {
    const KIND: &'static str = "echo-socket";
    const VERSION: u32 = 1;
}

impl SavedUse {
    const fn key(self) -> SocketKey {
        match self {
            Self::Ping {
                guest, ident, mapped, ..
            } => SocketKey::Ping { guest, ident, mapped },
            Self::Raw { ipv6 } => SocketKey::Raw { ipv6 },
        }
    }

    const fn support(self) -> EchoSupport {
        match self {
            Self::Ping { .. } => EchoSupport::Ping,
            Self::Raw { .. } => EchoSupport::Raw,
        }
    }
}

impl SavedEchoFlow {
    fn save(flow: &EchoFlow, now: Instant) -> Self {
        let EchoFlow {
            key,
            peer,
            ident,
            // These fields belong to the table, which creates them again.
            socket: _,
            scheduled: _,
            generation: _,
            last_used,
        } = flow;
        Self {
            guest: key.guest,
            remote: key.remote,
            ident: key.guest_port,
            peer: *peer,
            wire_ident: *ident,
            idle: Nanos::since(*last_used, now),
        }
    }

    const fn id(&self) -> FlowId {
        FlowId::echo(self.guest, self.remote, self.ident)
    }
}

impl SavedEchoSocket {
    /// The identifier that a ping socket created for the flows should be bound to; `None` for a raw socket.
    pub const fn wire_ident(&self) -> Option<u16> {
        match self.use_of {
            SavedUse::Ping { wire_ident, .. } => Some(wire_ident),
            SavedUse::Raw { .. } => None,
        }
    }

    /// The flows.
    pub fn ids(&self) -> impl Iterator<Item = FlowId> {
        self.flows.iter().map(SavedEchoFlow::id)
    }

    /// Returns an error if the flows could not share a socket of this family.
    fn check(&self, domain: Domain) -> Result<(), LoadError> {
        ensure(!self.flows.is_empty(), "a socket for echo requests has no flows")?;
        for flow in &self.flows {
            let family = |address: IpAddr| address.is_ipv4();
            ensure(
                family(flow.guest) == family(flow.remote) && family(flow.peer) == (domain == Domain::IPV4),
                "its addresses are of two families",
            )?;
            ensure(
                SocketKey::of(self.use_of.support(), &flow.id(), flow.peer) == self.use_of.key(),
                "an echo flow belongs to another socket",
            )?;
        }
        Ok(())
    }
}

impl EchoTable {
    fn save(&self, now: Instant) -> impl Iterator<Item = (SavedEchoSocket, &Socket)> {
        let mut by_socket: Vec<Vec<&EchoFlow>> = Vec::new();
        for (_, flow) in &self.flows {
            let slot = flow.socket as usize;
            if by_socket.len() <= slot {
                by_socket.resize_with(slot + 1, Vec::new);
            }
            by_socket[slot].push(flow);
        }
        by_socket.into_iter().enumerate().filter_map(move |(slot, mut flows)| {
            let socket = self.sockets.get(slot)?;
            flows.sort_by_key(|flow| flow.last_used);
            let saved = SavedEchoSocket {
                use_of: match socket.key {
                    SocketKey::Ping { guest, ident, mapped } => SavedUse::Ping {
                        guest,
                        ident,
                        mapped,
                        wire_ident: socket.ident,
                    },
                    SocketKey::Raw { ipv6 } => SavedUse::Raw { ipv6 },
                },
                ip_options: socket.ip_options.save(),
                flows: flows.into_iter().map(|flow| SavedEchoFlow::save(flow, now)).collect(),
            };
            Some((saved, &socket.socket))
        })
    }

    fn load(
        &mut self,
        now: Instant,
        poller: &Poller,
        saved: &SavedEchoSocket,
        socket: Socket,
    ) -> Result<(), LoadError> {
        let (use_of, support) = (saved.use_of, saved.use_of.support());
        let is_raw = support == EchoSupport::Raw;
        let domain = socket.domain()?;
        saved.check(domain)?;
        let kind = if is_raw { Type::RAW } else { Type::DGRAM };
        ensure(socket.r#type()? == kind, "its socket is of another type")?;
        if self.len() + saved.flows.len() > MAX_FLOWS {
            return Err(LoadError::Full { limit: MAX_FLOWS });
        }
        if self.sockets.len() >= MAX_SOCKETS {
            return Err(LoadError::Full { limit: MAX_SOCKETS });
        }
        if self.by_use.contains_key(&use_of.key()) || saved.flows.iter().any(|flow| self.find(&flow.id()).is_some()) {
            return Err(LoadError::Duplicate);
        }
        socket.set_nonblocking(true)?;
        let ident = match use_of {
            SavedUse::Ping { .. } => socket.local_addr()?.as_socket().map_or(0, |at| at.port()),
            SavedUse::Raw { .. } => 0,
        };
        let ip_options = SocketIpOptions::load(&saved.ip_options, &socket, domain);
        let slot = self.add_socket(poller, |generation| EchoSocket {
            key: use_of.key(),
            socket,
            domain,
            support,
            ip_options,
            ident,
            users: 0,
            generation,
        })?;
        for flow in &saved.flows {
            let wire_ident = if is_raw { flow.wire_ident } else { ident };
            // If two flows are identical, the first is kept.
            if self.find(&flow.id()).is_none() && self.find_on_wire(slot, flow.peer, wire_ident).is_none() {
                self.add(flow.id(), flow.peer, (slot, wire_ident), flow.idle.before(now));
            }
        }
        Ok(())
    }
}

impl EchoFlows {
    /// All sockets with their flows as plain values, each with its descriptor. They stay in the table, which must not
    /// run until the descriptors have been passed on.
    pub fn save(&self, now: Instant) -> impl Iterator<Item = (SavedEchoSocket, &Socket)> {
        self.table.save(now)
    }

    /// Continues flows of a guest that comes from another host, whose socket stays there. The new socket has the same
    /// identifier if that is free. A raw socket serves all flows and has none, so the next request creates it.
    ///
    /// # Errors
    /// [`LoadError`]: the flows are not in the table. The next request creates them.
    pub fn load_elsewhere(&mut self, ctx: &Context<'_>, saved: &SavedEchoSocket) -> Result<(), LoadError> {
        let peer = saved.flows.first().map(|flow| flow.peer);
        let (Some(ident), Some(peer)) = (saved.wire_ident(), peer) else {
            return Ok(());
        };
        let (socket, _) = super::echo_socket::ping(peer, ident)?;
        self.load(ctx, saved, socket)
    }

    /// Takes over a socket and its flows from another process.
    ///
    /// # Errors
    /// [`LoadError`]: the flows are not in the table, and the socket is closed.
    pub fn load(&mut self, ctx: &Context<'_>, saved: &SavedEchoSocket, socket: Socket) -> Result<(), LoadError> {
        self.table.load(ctx.now, ctx.poller, saved, socket)
    }
}
