//! Bridge mode: the guest on an L2 segment of the host, with one queue of a TAP, macvtap or ipvtap device per worker.
//!
//! Frames pass unchanged, along with their pending offloads (checksum, segmentation). TUNSETOFFLOAD informs the kernel
//! which offloads the guest accepts, and the kernel does the others itself. [`outbound`] writes the guest's frames
//! directly from guest memory, and [`inbound`] reads the segment's frames directly into it.
//!
//! Where the segment has no DHCP server for the guest, or no neighbour discovery, [`services`] answer in its place.
//!
//! A NIC may be the [`standby`] of a failover pair, whose MAC the segment has to find anew whenever the guest moves to it.
//!
//! The device may go down or disappear while the guest runs. Frames are then counted as
//! [`DropReason::SegmentDown`](crate::counters::DropReason::SegmentDown) until the device is up again or a new queue is
//! provided ([`SegmentChange`](crate::mode::SegmentChange)).

mod announcement;
mod following;
mod inbound;
mod outbound;
mod segment;
mod services;
mod standby;

use crate::config::payload::{Payload, from_bytes, to_bytes};
use crate::config::{Forwarding, VlanConfig};
use crate::counters::Counters;
use crate::frame::{GuestBurst, GuestCaps, GuestSink};
use crate::mode::{Announcement, Following, HandoffError, Mode, ModeCommand, Origin, SavedMode};
use crate::packet::MacAddr;
use crate::policy::vlan::VlanRules;
use crate::poller::{Poller, Readiness, Token};
use crate::sys::tap::TapQueue;
use crate::time::Instant;
use inbound::Inbound;
use outbound::Outbound;
use segment::Segment;
use serde::{Deserialize, Serialize};
pub use services::Leases;
use services::Services;
use standby::Standby;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The reason why the mode could not be created.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The device has fewer queues than the guest has queue pairs.
    #[error("the device of the segment has fewer queues than the guest has queue pairs: give one queue per pair")]
    Queues,
    /// epoll does not accept the queue.
    #[error("cannot watch the device of the segment: {0}")]
    Watch(#[from] io::Error),
}

/// The parts from which a bridge is made, one set per queue pair.
pub struct BridgeSetup<'a> {
    /// The device queue that leads to the segment.
    pub queue: Arc<TapQueue>,
    /// Poller that watches the queue.
    pub poller: Poller,
    /// Whether the queue is that of another process, which this mode continues.
    pub origin: Origin,
    /// Counters of the worker.
    pub counters: Arc<Counters>,
    /// How VLAN tags are treated.
    pub vlan: &'a VlanConfig,
    /// Leases that are granted here instead of by the segment.
    pub lease: Leases<'a>,
    /// How frames find their receiver.
    pub forwarding: Forwarding,
    /// MAC of a failover pair whose standby this is; `None` for other NICs.
    pub standby: Option<MacAddr>,
}

debug_fields!(BridgeSetup<'_> {});

/// A queue pair of a guest on a segment.
pub struct Bridge {
    segment: Segment,
    inbound: Inbound,
    outbound: Outbound,
    services: Option<Services>,
    standby: Option<Standby>,
    following: Following,
    counters: Arc<Counters>,
}

debug_fields!(Bridge {});

impl Bridge {
    /// Creates the mode for one queue pair and one device queue.
    ///
    /// # Errors
    /// [`BridgeError::Watch`]
    pub fn new(setup: BridgeSetup<'_>) -> Result<Self, BridgeError> {
        let BridgeSetup {
            counters,
            vlan,
            forwarding,
            standby,
            ..
        } = setup;
        let mut inbound = Inbound::new(Arc::clone(&counters), VlanRules::new(vlan), forwarding);
        if let Some(mac) = standby {
            inbound.watch_claims(mac);
        }
        Ok(Self {
            segment: Segment::new(setup.queue, setup.poller, setup.origin)?,
            inbound,
            outbound: Outbound::new(Arc::clone(&counters), VlanRules::new(vlan), forwarding),
            standby: standby.map(|mac| Standby::new(mac, Arc::clone(&counters))),
            services: Services::new(setup.lease, forwarding, Arc::clone(&counters)),
            following: Following::default(),
            counters,
        })
    }

    /// Sends the frames of an announcement to the segment.
    fn announce(&mut self, announcement: &Announcement) {
        for frame in announcement::frames(announcement) {
            let frame = announcement::as_guest_frame(&frame);
            self.outbound.send(&mut self.segment, &[frame]);
        }
    }

    /// Delivers frames as far as the guest has room.
    fn receive(&mut self, sink: &mut dyn GuestSink) {
        self.inbound.receive(&mut self.segment, sink);
        // Room may be found before the guest's kick for it arrives, and no other call unmutes the segment then.
        if !self.inbound.is_blocked() {
            self.segment.unmute();
        }
    }
}

impl Mode for Bridge {
    fn on_burst(&mut self, now: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink) {
        if let Some(standby) = &mut self.standby {
            if self.inbound.take_claim() {
                standby.on_claim();
            }
            if let Some(arrival) = standby.on_burst(now) {
                self.announce(&arrival);
            }
        }
        let Some(services) = &mut self.services else {
            return self.outbound.send(&mut self.segment, burst);
        };
        for rest in burst.split(|frame| services.wants(frame)) {
            self.outbound.send(&mut self.segment, rest);
        }
        for frame in burst {
            if services.wants(frame) || services.hears(frame) {
                services.answer(now, frame, sink);
            }
        }
    }

    fn after_burst(&mut self, _: Instant, sink: &mut dyn GuestSink) {
        // The host's kernel acknowledges within the write call, so that one interrupt can serve both directions.
        self.segment.expect_frames();
        self.receive(sink);
    }

    fn on_event(&mut self, _: Instant, _: Token, ready: Readiness, sink: &mut dyn GuestSink) {
        self.segment.on_event(ready);
        self.receive(sink);
        if self.segment.is_readable() && self.inbound.is_blocked() {
            self.segment.mute();
        }
    }

    fn on_room(&mut self, _: Instant, sink: &mut dyn GuestSink) {
        self.following.deliver_late(sink);
        self.segment.unmute();
        self.receive(sink);
    }

    fn on_timer(&mut self, _: Instant, _: &mut dyn GuestSink) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn has_backlog(&self) -> bool {
        self.segment.is_readable() || self.inbound.has_pending()
    }

    fn on_offloads(&mut self, caps: GuestCaps) {
        self.segment.set_offloads(caps);
    }

    fn on_command(&mut self, now: Instant, command: ModeCommand, sink: &mut dyn GuestSink) -> io::Result<()> {
        match command {
            ModeCommand::Segment(change) => {
                self.segment.change(change);
                self.receive(sink);
            }
            ModeCommand::Resolvers(resolvers) => {
                if let Some(services) = &mut self.services {
                    services.set_resolvers(&resolvers);
                }
            }
            ModeCommand::Announce(announcement) => {
                self.announce(&announcement);
            }
            ModeCommand::Mtu(mtu) => {
                if let Some(services) = &mut self.services {
                    services.set_mtu(now, mtu);
                }
            }
            ModeCommand::TakeIn | ModeCommand::EndConnections => {}
            ModeCommand::Follow(step) => return self.follow(step, sink),
            ModeCommand::Forwards(_) | ModeCommand::Peers(_) | ModeCommand::Services(_) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
        }
        Ok(())
    }

    fn on_link_up(&mut self, _: Instant, sink: &mut dyn GuestSink) {
        self.segment.set_in_use(true);
        self.following.on_link_up(sink);
        self.receive(sink);
    }

    fn on_link_down(&mut self, _: Instant) {
        // The kernel moves flows to the remaining queues.
        self.segment.set_in_use(false);
        self.following.on_link_down();
        self.inbound.stop();
    }

    fn share(&self) -> Result<Vec<OwnedFd>, HandoffError> {
        Ok(vec![self.segment.queue().duplicate()?])
    }

    /// The mode has no state: what the guest and the segment know of each other is in them.
    fn save(&mut self, _: Instant) -> Result<SavedMode, HandoffError> {
        let payload = to_bytes(&BridgeRecord {});
        let descriptors = Vec::new();
        Ok(SavedMode { payload, descriptors })
    }

    fn load(&mut self, _: Instant, saved: SavedMode, _: &mut dyn GuestSink) -> Result<(), HandoffError> {
        let BridgeRecord {} = from_bytes(&saved.payload)?;
        Ok(())
    }
}

/// The mode on one worker between two processes.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct BridgeRecord {}

impl Payload for BridgeRecord {
    const KIND: &'static str = "bridge";
    const VERSION: u32 = 1;
}

/// The payload of the mode, with its newest version.
pub fn format() -> (&'static str, u32) {
    (BridgeRecord::KIND, BridgeRecord::VERSION)
}
