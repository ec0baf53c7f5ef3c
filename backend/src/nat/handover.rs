//! A NAT engine that continues in another process: its listening sockets, its flows, and what it has learned.
//!
//! The sockets are duplicated, so the engine that was saved can go on if the other process cannot. Both have the same
//! sockets then: until one of them is given up, neither may run. An engine that is given up must leave the sockets as
//! they are ([`Engine::leave_sockets`]).
//!
//! Connections go ahead ([`Engine::save_ahead`]), so that little is left to do while the guest's rings rest.
//!
//! Fragments that wait for others, and frames on their way between workers, are lost as on a network.

use super::engine::Engine;
use super::icmp::SavedEchoSocket;
use super::saved::{LoadError, Nanos};
use super::tcp::{SavedDriver, SavedSecret, SavedTcpFlow};
use super::udp::SavedUdpFlow;
use crate::config::Transport;
use crate::config::handover::{Descriptors, Handover as _, HandoverError, next_of};
use crate::config::payload::{Payload, Sealed, from_bytes, to_bytes};
use crate::frame::GuestSink;
use crate::mode::{BoundForward, ForwardRecord, SavedMode, Unwritten};
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
    /// Connections that have not gone ahead. In version 1 none has.
    tcp: Sealed<Vec<SavedTcpFlow>>,
    #[serde(default)]
    ahead: AheadRecord,
    udp: Sealed<Vec<SavedUdpFlow>>,
    echo: Sealed<Vec<SavedEchoSocket>>,
}

impl Payload for EngineRecord {
    const KIND: &'static str = "nat-engine";
    const VERSION: u32 = 2;
}

/// What has happened to the connections that have gone ahead, by their position there. Those in neither list have ended.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct AheadRecord {
    elapsed: Nanos,
    unchanged: Vec<u32>,
    changed: Vec<u32>,
    /// Values of those that have changed.
    values: Sealed<Vec<SavedTcpFlow>>,
}

/// Connections of another process that have gone ahead, with their sockets.
pub(super) type ComeAhead = Vec<Option<(SavedTcpFlow, Option<Socket>)>>;

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
        let mut tcp = Vec::new();
        let since = self.tcp.save_since(now);
        for (flow, socket) in since.new {
            socket.map_or(Ok(()), &mut duplicate)?;
            tcp.push(flow);
        }
        let (changed, values) = since.changed.into_iter().unzip();
        let ahead = AheadRecord {
            elapsed: since.elapsed.into(),
            unchanged: since.unchanged,
            changed,
            values: Sealed(values),
        };
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
            ahead,
            udp: Sealed(udp),
            echo: Sealed(echo),
        };
        Ok((record, descriptors))
    }

    /// Converts all connections to plain values and duplicated descriptors, while the engine goes on. The next
    /// [`save`](Self::save) contains only what has changed since.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn save_ahead(&mut self, now: Instant) -> io::Result<Unwritten> {
        let mut descriptors = Vec::with_capacity(self.tcp.count());
        let flows = self.tcp.save_ahead(now, |socket| {
            descriptors.push(socket.try_clone()?.into());
            Ok(())
        })?;
        Ok(Unwritten {
            write: Box::new(move || to_bytes(&flows)),
            descriptors,
        })
    }

    /// Keeps connections of another process until [`load`](Self::load).
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn load_ahead(&mut self, saved: SavedMode) -> Result<(), LoadError> {
        let flows: Vec<SavedTcpFlow> = from_bytes(&saved.payload)?;
        let mut descriptors = saved.descriptors.into_iter();
        let mut next = || next_of("a flow", &mut descriptors).map(Socket::from).map_err(missing);
        let come = flows.into_iter().map(|flow| {
            let socket = flow.connection().has_socket().then(&mut next).transpose()?;
            Ok(Some((flow, socket)))
        });
        self.come_ahead = come.collect::<Result<_, LoadError>>()?;
        Ok(())
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
        let mut come = std::mem::take(&mut self.come_ahead);
        let mut take = |number: &u32| {
            let place = usize::try_from(*number).ok().and_then(|number| come.get_mut(number));
            place.and_then(Option::take).ok_or(LoadError::NotAhead)
        };
        let then = record.ahead.elapsed.before(now);
        for number in &record.ahead.unchanged {
            let (flow, socket) = take(number)?;
            self.tcp.load_as_of(then, ctx, &flow, socket)?;
        }
        let Sealed(values) = &record.ahead.values;
        for (number, flow) in record.ahead.changed.iter().zip(values) {
            let (_, socket) = take(number)?;
            let socket = socket.filter(|_| flow.connection().has_socket());
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
