//! Bridge mode: the guest on an L2 segment of the host, through one queue of a TAP,
//! macvtap or ipvtap device per worker.
//!
//! Frames pass unchanged, with the offloads (checksum, segmentation) that are still to be done:
//! TUNSETOFFLOAD gives the kernel those the guest takes, and the kernel does the rest itself.
//! [`outbound`] writes the guest's frames straight from guest memory, [`inbound`] reads the
//! segment's frames straight into it.
//!
//! Where the segment has no DHCP server for the guest, or no neighbour discovery, [`services`]
//! answer in its place.
//!
//! The device may go down or away while the guest runs. Frames are then counted as
//! [`DropReason::SegmentDown`](crate::counters::DropReason::SegmentDown) until the device is
//! up again or another queue is handed in ([`SegmentChange`](crate::mode::SegmentChange)).

mod inbound;
mod outbound;
mod segment;
mod services;

use crate::config::{Forwarding, VlanConfig};
use crate::counters::Counters;
use crate::frame::{GuestBurst, GuestCaps, GuestSink};
use crate::mode::{Mode, ModeCommand};
use crate::policy::vlan::VlanRules;
use crate::poller::{Poller, Readiness, Token};
use crate::sys::tap::TapQueue;
use crate::time::Instant;
use inbound::Inbound;
use outbound::Outbound;
use segment::Segment;
pub use services::Leases;
use services::Services;
use std::io;
use std::sync::Arc;

/// Why the mode could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// Fewer queues than queue pairs.
    #[error("the device of the segment has fewer queues than the guest has queue pairs: give one queue per pair")]
    Queues,
    /// epoll does not take the queue.
    #[error("cannot watch the device of the segment: {0}")]
    Watch(#[from] io::Error),
}

/// What a bridge is made from, once per queue pair.
pub struct BridgeSetup<'a> {
    /// The way to the segment.
    pub queue: Arc<TapQueue>,
    /// Where the queue is watched.
    pub poller: Poller,
    /// Where the worker counts.
    pub counters: Arc<Counters>,
    /// What VLAN tags mean.
    pub vlan: &'a VlanConfig,
    /// Leases served here instead of by the segment.
    pub lease: Leases<'a>,
    /// How frames find their receiver.
    pub forwarding: Forwarding,
}

debug_fields!(BridgeSetup<'_> {});

/// One queue pair of a guest on a segment.
pub struct Bridge {
    segment: Segment,
    inbound: Inbound,
    outbound: Outbound,
    services: Option<Services>,
}

debug_fields!(Bridge {});

impl Bridge {
    /// Frames between a queue pair and a queue of the device.
    ///
    /// # Errors
    /// [`BridgeError::Watch`]
    pub fn new(setup: BridgeSetup<'_>) -> Result<Self, BridgeError> {
        let BridgeSetup {
            counters,
            vlan,
            forwarding,
            ..
        } = setup;
        Ok(Self {
            segment: Segment::new(setup.queue, setup.poller)?,
            inbound: Inbound::new(Arc::clone(&counters), VlanRules::new(vlan), forwarding),
            outbound: Outbound::new(Arc::clone(&counters), VlanRules::new(vlan), forwarding),
            services: Services::new(setup.lease, forwarding, counters),
        })
    }
}

impl Mode for Bridge {
    fn on_burst(&mut self, now: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink) {
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
        // The host's kernel acknowledges within the write: one interrupt for both directions.
        self.segment.expect_frames();
        self.inbound.receive(&mut self.segment, sink);
    }

    fn on_event(&mut self, _: Instant, _: Token, ready: Readiness, sink: &mut dyn GuestSink) {
        self.segment.on_event(ready);
        self.inbound.receive(&mut self.segment, sink);
        if self.segment.is_readable() && self.inbound.is_blocked() {
            self.segment.mute();
        }
    }

    fn on_room(&mut self, _: Instant, sink: &mut dyn GuestSink) {
        self.segment.unmute();
        self.inbound.receive(&mut self.segment, sink);
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

    fn on_command(&mut self, _: Instant, command: ModeCommand, sink: &mut dyn GuestSink) -> io::Result<()> {
        match command {
            ModeCommand::Segment(change) => {
                self.segment.change(change);
                self.inbound.receive(&mut self.segment, sink);
            }
            ModeCommand::Resolvers(resolvers) => {
                if let Some(services) = &mut self.services {
                    services.set_resolvers(&resolvers);
                }
            }
            ModeCommand::Forwards(_) => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(())
    }

    fn on_link_up(&mut self, _: Instant, sink: &mut dyn GuestSink) {
        self.segment.set_in_use(true);
        self.inbound.receive(&mut self.segment, sink);
    }

    fn on_link_down(&mut self, _: Instant) {
        // Flows go to the queues that are left.
        self.segment.set_in_use(false);
        self.inbound.stop();
    }
}
