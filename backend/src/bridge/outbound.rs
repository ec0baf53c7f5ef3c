//! From the guest to the segment.

use super::segment::Segment;
use crate::counters::{Counters, DropReason};
use crate::frame::{GatherList, GuestBurst, GuestCaps, GuestFrame, GuestSlice};
use crate::virtio::net_header;
use std::io;
use std::sync::Arc;

/// Everything may be left to the kernel.
const KERNEL: GuestCaps = GuestCaps {
    checksum: true,
    tso4: true,
    tso6: true,
    ecn: true,
    uso4: true,
    uso6: true,
};

/// Writes frames to the device.
pub(super) struct Outbound {
    counters: Arc<Counters>,
    gather: GatherList,
}

impl Outbound {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            counters,
            gather: GatherList::default(),
        }
    }

    pub(super) fn send(&mut self, segment: &mut Segment, burst: &GuestBurst<'_>) {
        for frame in burst {
            if segment.is_gone() {
                self.counters.count_drop(DropReason::SegmentDown);
                continue;
            }
            match self.write(segment, frame) {
                Ok(()) => segment.on_success(),
                Err(error) => {
                    segment.on_error(&error);
                    self.counters.count_drop(reason(&error));
                }
            }
        }
    }

    fn write(&mut self, segment: &Segment, frame: &GuestFrame<'_>) -> io::Result<()> {
        let header = net_header::encode(frame.offload, frame.head, 0, KERNEL);
        let mut gather = self.gather.start();
        // What has been checked is what is sent, whatever the guest does to its memory.
        gather.push(GuestSlice::from_bytes(&header));
        gather.push(GuestSlice::from_bytes(frame.head));
        gather.push_range(frame.slices, frame.head.len(), frame.len - frame.head.len());
        segment.queue().write(gather.slices()).map(drop)
    }
}

fn reason(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EIO | libc::EBADFD | libc::ENODEV | libc::ENXIO) => DropReason::SegmentDown,
        _ => DropReason::SegmentRefused,
    }
}
