//! The flows of a worker that follow the guest to another process ([`Follow`]).
//!
//! | flow | its host socket | in the target |
//! |---|---|---|
//! | TCP connection | stays in the source as an anchor | a loopback socket |
//! | UDP flow | the same | a loopback socket; when the anchor has gone, a socket of its own |
//! | echo flow | stays until the replies that are on their way have arrived, which follow the guest as frames | a ping socket with the same identifier, if that is free |
//!
//! A UDP or ping socket of a guest that is stopped is not read, because there is no room for what it has. So datagrams
//! that arrive meanwhile wait in the socket, and the guest gets them where it runs next.

use super::context::Context;
use super::engine::Engine;
use super::saved::{LoadError, Payload, PayloadError, from_bytes, to_bytes};
use super::tcp::SavedTcpFlow;
use super::udp::SavedUdpFlow;
use crate::config::payload::kind;
use crate::counters::{Count, DropReason};
use crate::frame::{Awaited, Collected, GuestSink};
use crate::mode::{Follow, FollowingFlow, Late, LateFlow, PartedFlow};
use crate::nat::icmp::SavedEchoSocket;
use crate::packet::{FlowId, MacAddr};
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

/// What takes the place of the host socket of a flow that comes from another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Substitute {
    /// A connected stream socket.
    Stream,
    /// A connected datagram socket.
    Datagrams,
    /// Nothing.
    Nothing,
}

impl Substitute {
    /// The substitute for a flow with this payload. A payload that this process does not know needs none, because it
    /// cannot be loaded.
    ///
    /// # Errors
    /// The bytes are not a payload.
    pub fn of(payload: &[u8]) -> Result<Self, PayloadError> {
        Ok(match kind(payload)?.as_str() {
            SavedTcpFlow::KIND => Self::Stream,
            SavedUdpFlow::KIND => Self::Datagrams,
            _ => Self::Nothing,
        })
    }
}

/// What a worker knows about its guest. The target has not seen a frame of the guest when its first datagram arrives.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SeenGuest {
    /// MAC from which the guest sent last.
    mac: MacAddr,
    /// Address that the guest formed and used last.
    address: Option<Ipv6Addr>,
}

impl Payload for SeenGuest {
    const KIND: &'static str = "seen-guest";
    const VERSION: u32 = 1;
}

/// The kinds of payloads that follow a guest, with the version of each that this process writes. It reads all earlier ones.
pub fn formats() -> [(&'static str, u32); 4] {
    const fn of<T: Payload>() -> (&'static str, u32) {
        (T::KIND, T::VERSION)
    }
    [
        of::<SavedTcpFlow>(),
        of::<SavedUdpFlow>(),
        of::<SavedEchoSocket>(),
        of::<SeenGuest>(),
    ]
}

/// What a worker remembers while its guest moves.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// Number of connections and the UDP flows, in the order of the payloads, while the guest is about to leave.
    leaving: Option<(usize, Vec<FlowId>)>,
    /// True once the guest has left.
    has_left: bool,
    /// Frames that reached the process from which the guest came.
    late: Awaited,
}

impl Engine {
    /// Executes a step of a migration.
    ///
    /// # Errors
    /// The guest runs here, so its flows stay.
    pub fn follow(&mut self, now: Instant, step: Follow, sink: &mut dyn GuestSink) -> io::Result<()> {
        match step {
            Follow::Freeze(reply) => {
                self.must_be_down()?;
                // If the caller has given up, the flows continue with the next driver.
                let _ = reply.send(self.freeze(now));
            }
            Follow::Part(reply) => {
                let parted = self.part()?;
                self.surroundings.counters.add(Count::FlowsLeft, parted.len() as u64);
                // If the caller has given up, the sockets close here.
                let _ = reply.send(parted);
            }
            Follow::Expect => {
                self.must_be_down()?;
                if self.tcp.count() > 0 {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                self.following = Following::default();
                self.tcp.expect();
            }
            Follow::Come(flows, reply) => {
                let loaded = flows.into_iter().map(|flow| self.come(now, flow, sink));
                let loaded: Vec<_> = loaded.map(|loaded| loaded.map_err(|e| e.to_string())).collect();
                self.tcp.complete();
                // As above: a caller that has given up tells the other process nothing.
                let _ = reply.send(loaded);
            }
            Follow::Forget => {
                if self.tcp.is_frozen() {
                    self.udp.drop_all();
                    self.echo.drop_all();
                }
                self.tcp.forget();
            }
            Follow::Late(reply) => {
                if !self.following.has_left {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                let mut frames = Collected::default();
                let flows = self.receive_late(now, &mut frames);
                let frames = frames.into_frames();
                let _ = reply.send(Late { frames, flows });
            }
            Follow::Deliver(frames) => {
                let lost = self.following.late.add(frames);
                self.surroundings.counters.count_drops(DropReason::LateFull, lost);
                self.deliver_late(sink);
            }
        }
        Ok(())
    }

    /// Takes the replies that have reached this process for a guest that has left, and the first datagrams of clients,
    /// whose flows it returns.
    pub fn receive_late(&mut self, now: Instant, frames: &mut Collected) -> Vec<LateFlow> {
        let ctx = &mut self.surroundings.context(now, frames);
        self.echo.receive_all(ctx);
        self.udp.receive_clients(ctx);
        let flows = self.udp.save(now).map(|(flow, _)| flow);
        let flows: Vec<_> = flows.collect();
        let poller = &self.surroundings.poller;
        let parted = flows.iter().filter_map(|flow| {
            let socket = self.udp.part(&flow.id(), poller)?;
            Some((to_bytes(flow), socket.into()))
        });
        let parted: Vec<_> = parted.collect();
        self.surroundings.counters.add(Count::FlowsLeft, parted.len() as u64);
        parted
    }

    fn must_be_down(&self) -> io::Result<()> {
        if self.is_up {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Ok(())
    }

    fn freeze(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let tcp = self.tcp.freeze(now);
        let mut payloads: Vec<_> = tcp.iter().map(to_bytes).collect();
        let mut udp = Vec::with_capacity(self.udp.len());
        for (flow, _) in self.udp.save(now) {
            payloads.push(to_bytes(&flow));
            udp.push(flow.id());
        }
        payloads.extend(self.echo.save(now).map(|(flows, _)| to_bytes(&flows)));
        let link = &self.surroundings.link;
        payloads.push(to_bytes(&SeenGuest {
            mac: link.guest_mac,
            address: link.guest.autoconfigured.and_then(|own| own.last_used),
        }));
        self.echo.mute(&self.surroundings.poller, true);
        self.following.leaving = Some((tcp.len(), udp));
        payloads
    }

    fn part(&mut self) -> io::Result<Vec<PartedFlow>> {
        let poller = &self.surroundings.poller;
        let connections = self.tcp.part(poller).ok_or(io::ErrorKind::ResourceBusy)?;
        let mut parted: Vec<PartedFlow> = connections
            .into_iter()
            .map(|(number, socket)| (number, socket.map(OwnedFd::from)))
            .collect();
        let (first, flows) = self.following.leaving.take().unwrap_or_default();
        for (number, key) in (first..).zip(flows) {
            if let Some(socket) = self.udp.part(&key, poller) {
                parted.push((number, Some(socket.into())));
            }
        }
        self.udp.drop_all();
        self.following.has_left = true;
        Ok(parted)
    }

    fn come(&mut self, now: Instant, flow: FollowingFlow, sink: &mut dyn GuestSink) -> Result<(), LoadError> {
        let FollowingFlow { payload, socket } = flow;
        if kind(&payload)? == SeenGuest::KIND {
            let SeenGuest { mac, address } = from_bytes(&payload)?;
            self.surroundings.link.guest_mac = mac;
            if let Some(address) = address {
                self.surroundings.learn_guest_address(address);
            }
            return Ok(());
        }
        let ctx = &mut self.surroundings.context(now, sink);
        match kind(&payload)?.as_str() {
            SavedUdpFlow::KIND => {
                let saved: SavedUdpFlow = from_bytes(&payload)?;
                is_of_guest(ctx, &saved.id())?;
                let socket = socket.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
                self.udp.load_anchored(ctx, &saved, socket.into())?;
            }
            SavedEchoSocket::KIND => {
                let saved: SavedEchoSocket = from_bytes(&payload)?;
                saved.ids().try_for_each(|id| is_of_guest(ctx, &id))?;
                return match self.echo.load_elsewhere(ctx, &saved) {
                    // The guest's next request creates the flow, or is refused.
                    Err(LoadError::Socket(_)) => Ok(()),
                    other => other,
                };
            }
            _ => {
                let saved: SavedTcpFlow = from_bytes(&payload)?;
                is_of_guest(ctx, &saved.connection().id())?;
                // A connection that is closed has no socket.
                let socket = socket.filter(|_| saved.connection().has_socket());
                self.tcp.load(ctx, &saved, socket.map(Into::into))?;
            }
        }
        self.surroundings.counters.add(Count::FlowsCame, 1);
        Ok(())
    }

    /// Continues when the guest's driver has come up.
    pub(super) fn follow_driver(&mut self) {
        self.following.leaving = None;
        self.following.has_left = false;
        self.echo.mute(&self.surroundings.poller, false);
    }

    /// Delivers frames from the process that the guest has left, as far as there is room.
    pub(super) fn deliver_late(&mut self, sink: &mut dyn GuestSink) {
        // What has no room now is tried again when there is some.
        let _ = self.following.late.deliver(sink);
    }
}

/// Checks that a flow belongs to the guest of this port.
fn is_of_guest(ctx: &Context<'_>, id: &FlowId) -> Result<(), LoadError> {
    if ctx.link.guest.contain(id.guest) {
        return Ok(());
    }
    Err(LoadError::OutsideNetwork { address: id.guest })
}
