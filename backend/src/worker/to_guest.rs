//! The stages that a frame passes on its way to the receive ring: the rate limit, the port's rule if it has one, the
//! NIC's filter, and the capture.

use super::receive_filter::ReceiveFilter;
use crate::capture::CaptureTap;
use crate::counters::DropReason;
use crate::frame::{Budget, GuestSlice, Segmentation};
use crate::policy::Rule;
use crate::policy::rate::Gate;
use crate::virtio::receive::Passage;
use std::sync::Arc;

/// The stages as one worker applies them.
pub(super) struct ToGuest {
    /// Applies the rate limit.
    pub gate: Gate,
    /// Decides which frames may pass. Without a rule all frames pass.
    pub rule: Option<Arc<dyn Rule>>,
    /// Selects the frames that the driver wants.
    pub filter: ReceiveFilter,
    /// Captures the frames.
    pub capture: CaptureTap,
}

impl Passage for ToGuest {
    #[inline]
    fn budget(&self) -> Budget {
        self.gate.budget()
    }

    #[inline]
    fn admits(&mut self) -> bool {
        self.gate.admits()
    }

    #[inline]
    fn check(&self, head: &[u8]) -> Result<(), DropReason> {
        if let Some(rule) = &self.rule {
            rule.check(head)?;
        }
        if self.filter.takes(head) {
            Ok(())
        } else {
            Err(DropReason::NotAskedFor)
        }
    }

    #[inline]
    fn is_watched(&self) -> bool {
        self.capture.is_on()
    }

    fn show(&self, head: &[u8], payload: &[GuestSlice<'_>], len: usize, dropped: Option<DropReason>) {
        self.capture.to_guest(head, payload, len, dropped);
    }

    fn show_parts(&self, parts: &[&[u8]], dropped: Option<DropReason>) {
        self.capture.parts_to_guest(parts, dropped);
    }

    #[inline]
    fn pass(&mut self, bytes: usize, segmentation: Segmentation) {
        self.gate.pass(bytes, segmentation);
    }

    #[inline]
    fn settle(&mut self) {
        self.gate.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counters;
    use crate::frame::{GuestSink, Layout, Offload};
    use crate::virtio::features::Features;
    use crate::virtio::receive::Receive;
    use crate::virtio::ring::Ring;
    use crate::virtio::testing::{Buffer, DriverRing, TestMemory};

    /// A rule that drops multicast frames.
    struct NoGroups;

    impl Rule for NoGroups {
        fn check(&self, head: &[u8]) -> Result<(), DropReason> {
            if head[0] & 1 == 0 {
                Ok(())
            } else {
                Err(DropReason::VlanNotMember)
            }
        }
    }

    #[test]
    fn a_frame_that_the_rule_refuses_is_counted_and_takes_no_buffer() {
        const MODERN: Features = Features(1 << 32);
        let mut memory = TestMemory::new(0x1_0000);
        let mut driver = DriverRing::new(&mut memory, 8);
        for _ in 0..4 {
            let buffer = Buffer {
                address: memory.take(256, 16),
                len: 256,
                writable: true,
            };
            driver.post(&memory, &[buffer]);
        }
        let way = ToGuest {
            gate: Gate::default(),
            rule: Some(Arc::new(NoGroups)),
            filter: ReceiveFilter::default(),
            capture: CaptureTap::new(Arc::default()),
        };
        let counters = Arc::new(Counters::default());
        let mut receive = Receive::behind(way, Arc::clone(&counters));
        receive.set_features(MODERN);
        receive.start(Ring::new(Arc::clone(&memory.map), driver.layout, MODERN).unwrap());
        for first in [2, 3, 1, 4] {
            receive.send(Offload::NONE, &[&[first; 60]]).unwrap();
            let layout = Layout {
                header: 14,
                payload: 46,
                count: 1,
            };
            receive.reserve(layout).unwrap();
            receive.commit(&[46], &mut |_, _, head| {
                head.fill(first);
                Offload::NONE
            });
        }
        receive.publish();
        assert_eq!(counters.dropped(DropReason::VlanNotMember), 4);
        assert_eq!(driver.take_used(&memory), [(0, 72), (1, 72), (2, 72), (3, 72)]);
    }
}
