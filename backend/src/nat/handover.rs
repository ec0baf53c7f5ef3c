//! A NAT engine that continues in another process: its listening sockets, its flows, and what it has learned.
//!
//! The sockets are duplicated, so the engine that was saved can go on if the other process cannot. Both have the same
//! sockets then: until one of them is given up, neither may run. An engine that is given up must leave the sockets as
//! they are ([`Engine::leave_sockets`]).
//!
//! Fragments that wait for others, and frames on their way between workers, are lost as on a network.

use super::engine::Engine;
use super::icmp::SavedEchoSocket;
use super::saved::LoadError;
use super::tcp::{SavedDriver, SavedSecret, SavedTcpFlow};
use super::udp::SavedUdpFlow;
use crate::config::Transport;
use crate::config::handover::{Descriptors, Handover as _, HandoverError, next_of};
use crate::config::payload::{Payload, Sealed};
use crate::frame::GuestSink;
use crate::mode::{BoundForward, ForwardRecord};
use crate::packet::MacAddr;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use socket2::Socket;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

/// An engine between two processes. Its descriptors are those of the forwards, the connections, the UDP flows and the
/// echo sockets, in this order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EngineRecord {
    /// MAC from which the guest sent last.
    guest_mac: MacAddr,
    /// Address that the guest formed and used last.
    guest_address: Option<Ipv6Addr>,
    driver: SavedDriver,
    forwards: Vec<Sealed<ForwardRecord>>,
    secret: Sealed<SavedSecret>,
    tcp: Sealed<Vec<SavedTcpFlow>>,
    udp: Sealed<Vec<SavedUdpFlow>>,
    echo: Sealed<Vec<SavedEchoSocket>>,
}

impl Payload for EngineRecord {
    const KIND: &'static str = "nat-engine";
    const VERSION: u32 = 1;
}

/// The payloads of an engine, with the newest version of each.
pub fn formats() -> Vec<(&'static str, u32)> {
    const fn of<T: Payload>() -> (&'static str, u32) {
        (T::KIND, T::VERSION)
    }
    vec![
        of::<EngineRecord>(),
        of::<ForwardRecord>(),
        of::<SavedSecret>(),
        of::<SavedTcpFlow>(),
        of::<SavedUdpFlow>(),
        of::<SavedEchoSocket>(),
    ]
}

impl Engine {
    /// Converts the engine to a plain value and duplicated descriptors. The guest's driver must be down, and the engine
    /// must not be used until the value has been loaded or given up.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn save(&mut self, now: Instant) -> io::Result<(EngineRecord, Vec<OwnedFd>)> {
        let mut descriptors = Vec::new();
        let mut forwards = Vec::new();
        for bound in self.share_listeners()? {
            let (record, of_forward) = bound.into_handover();
            forwards.push(record);
            descriptors.extend(of_forward);
        }
        let mut duplicate = |socket: &Socket| -> io::Result<()> {
            descriptors.push(socket.try_clone()?.into());
            Ok(())
        };
        let mut tcp = Vec::with_capacity(self.tcp.count());
        for (flow, socket) in self.tcp.save(now) {
            socket.map_or(Ok(()), &mut duplicate)?;
            tcp.push(flow);
        }
        let mut udp = Vec::with_capacity(self.udp.len());
        for (flow, socket) in self.udp.save(now) {
            duplicate(socket)?;
            udp.push(flow);
        }
        let mut echo = Vec::new();
        for (flows, socket) in self.echo.save(now) {
            duplicate(socket)?;
            echo.push(flows);
        }
        let link = &self.surroundings.link;
        let record = EngineRecord {
            guest_mac: link.guest_mac,
            guest_address: link.guest.autoconfigured.and_then(|own| own.last_used),
            driver: self.tcp.save_driver(now),
            forwards,
            secret: Sealed(self.tcp.save_secret(now)),
            tcp: Sealed(tcp),
            udp: Sealed(udp),
            echo: Sealed(echo),
        };
        Ok((record, descriptors))
    }

    /// Continues an engine of another process, in one that has neither forwards nor flows.
    ///
    /// # Errors
    /// [`LoadError`], after which the engine has a part of the state: drop it after [`leave_sockets`](Self::leave_sockets).
    pub fn load(
        &mut self,
        now: Instant,
        record: EngineRecord,
        descriptors: &mut Descriptors,
        sink: &mut dyn GuestSink,
    ) -> Result<(), LoadError> {
        for forward in record.forwards {
            let bound = BoundForward::take_over(forward, descriptors).map_err(missing)?;
            self.add_forward(bound)?;
        }
        self.surroundings.link.guest_mac = record.guest_mac;
        if let Some(address) = record.guest_address {
            self.surroundings.learn_guest_address(address);
        }
        if let Some(steering) = &self.surroundings.steering {
            steering.tell_guest_mac(record.guest_mac);
        }
        let Sealed(secret) = record.secret;
        self.tcp.load_secret(&secret, now);
        self.tcp.load_driver(&record.driver, now)?;
        let mut next = || next_of("a flow", descriptors).map(Socket::from).map_err(missing);
        let ctx = &mut self.surroundings.context(now, sink);
        let (Sealed(tcp), Sealed(udp), Sealed(echo)) = (record.tcp, record.udp, record.echo);
        for flow in &tcp {
            let socket = flow.connection().has_socket().then(&mut next).transpose()?;
            self.tcp.load(ctx, flow, socket)?;
        }
        for flow in &udp {
            self.udp.load(ctx, flow, next()?)?;
        }
        for flows in &echo {
            self.echo.load(ctx, flows, next()?)?;
        }
        Ok(())
    }

    /// Leaves the sockets as they are when the engine is dropped, because another process has them too.
    pub fn leave_sockets(&mut self) {
        self.tcp.leave();
    }

    fn share_listeners(&self) -> io::Result<Vec<BoundForward>> {
        let tcp = self.tcp.share_listeners()?;
        let udp = self.udp.share_listeners()?;
        let all = [(Transport::Tcp, tcp), (Transport::Udp, udp)];
        Ok(all
            .map(|(transport, sockets)| BoundForward { transport, sockets })
            .into())
    }
}

fn missing(error: HandoverError) -> LoadError {
    LoadError::Socket(io::Error::other(error))
}
