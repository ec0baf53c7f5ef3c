//! Moves flows whose address the pod has lost to new sockets.
//!
//! A connected socket keeps its local address. Once that address is removed, the socket's datagrams go nowhere, and
//! IPv6 does not even report that. An unconnected socket of the pod would use the new address. So such a flow gets a
//! new socket. It keeps the port if that is the guest's or the one that the client used. The kernel's masquerade has
//! the same effect by removing the flow (`masq_inet_event` in net/netfilter/nf_nat_masquerade.c).

use super::UdpFlows;
use super::class_watch::ClassWatch;
use super::flow::{FlowRef, Side};
use super::receive::{Intake, takes_runs};
use super::socket::{self, PortUse};
use crate::nat::address_map::Destination;
use crate::nat::addresses::{FLOWS_PER_TURN, LocalAddresses, Walk};
use crate::nat::context::Context;
use crate::nat::event_owner;
use crate::nat::ip_options::SocketIpOptions;
use crate::poller::{Interest, Token};
use std::io;

impl UdpFlows {
    /// Call this when the pod has lost one or more addresses. Moves flows from them to other addresses.
    pub fn on_addresses_removed(&mut self, ctx: &mut Context<'_>) {
        // A walk in progress starts again with the current addresses.
        self.walk = Some(Walk::begin(ctx.now));
        self.walk_on(ctx);
    }

    /// Checks some more flows if a walk is in progress.
    pub(super) fn walk_on(&mut self, ctx: &mut Context<'_>) {
        let Some(mut walk) = self.walk.take() else { return };
        let (flows, is_more) = self.table.slots(walk.next, FLOWS_PER_TURN);
        for flow in flows {
            let local = self.table.get(flow).and_then(|flow| flow.local_addr());
            if local.is_some_and(|local| !walk.addresses.have(local)) {
                self.move_to_new_socket(ctx, flow);
            }
        }
        walk.next += FLOWS_PER_TURN;
        walk.at = ctx.now;
        self.walk = is_more.then_some(walk);
    }

    /// Gives a flow that cannot send a new socket if its address has been removed.
    pub(super) fn readdress(&mut self, ctx: &mut Context<'_>, flow: FlowRef) {
        let local = self.table.get(flow).and_then(|flow| flow.local_addr());
        if local.is_some_and(|local| !LocalAddresses::default().have(local)) {
            self.move_to_new_socket(ctx, flow);
        }
    }

    /// Gives a flow whose anchor has gone a socket of its own.
    pub(super) fn leave_anchor(&mut self, ctx: &mut Context<'_>, flow: FlowRef) {
        self.move_to_new_socket(ctx, flow);
    }

    /// On failure, for example because the pod has no address at the moment, the flow keeps its old
    /// socket until it sends again.
    fn move_to_new_socket(&mut self, ctx: &mut Context<'_>, flow: FlowRef) {
        // An error affects only this flow, which cannot continue anyway.
        let _ = self.try_new_socket(ctx, flow);
    }

    fn try_new_socket(&mut self, ctx: &mut Context<'_>, at: FlowRef) -> io::Result<()> {
        let Some(flow) = self.table.get(at) else { return Ok(()) };
        let peer = if flow.is_anchored {
            // The socket's peer is in this host.
            match ctx.nat.outbound_of(ctx.now, &flow.key) {
                Destination::World(peer) => Some(peer),
                Destination::Gateway | Destination::Refused(_) => None,
            }
        } else {
            flow.socket.peer_addr()?.as_socket()
        };
        let Some(peer) = peer else {
            self.table.remove(at);
            return Ok(());
        };
        let coalesce = takes_runs(&ctx.sink.caps(), flow.key.guest);
        // The port is ours if another of our sockets has it: the old socket or a listener.
        let (port, port_use) = match (flow.origin, flow.local, flow.kept_port) {
            (Side::World, Some(local), _) => (local.port(), PortUse::Shared),
            (_, _, Some(port)) => (port, PortUse::Shared),
            _ => (flow.key.guest_port, PortUse::First),
        };
        let made = socket::outbound(peer, port, port_use, coalesce)?;
        self.discard_strays(&made.socket);
        let token = Token {
            owner: event_owner::UDP,
            generation: at.generation,
            index: at.index,
        };
        ctx.poller.add(&made.socket, token, Interest::ReadEdge)?;
        let Some(flow) = self.table.get(at) else { return Ok(()) };
        flow.local = flow
            .local
            .and(made.socket.local_addr().ok().and_then(|at| at.as_socket()));
        flow.socket = made.socket;
        flow.is_anchored = false;
        flow.class_watch = ClassWatch::default();
        flow.ip_options = SocketIpOptions::default();
        flow.segmenting = true;
        flow.intake = Intake::default();
        let before = std::mem::replace(&mut flow.kept_port, made.kept_port);
        let domain = std::mem::replace(&mut flow.domain, made.domain);
        if let Some(port) = made.kept_port {
            self.table.own_port(made.domain, port);
        }
        if let Some(port) = before {
            self.table.disown_port(domain, port);
        }
        Ok(())
    }
}
