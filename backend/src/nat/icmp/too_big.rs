//! Reports to the guest that its packet is larger than the MTU of the path (RFC 1191 4, RFC 4443 3.2).

use super::error::{IcmpError, refuse_on};
use super::error_rate::ErrorRate;
use crate::frame::{GuestFrame, GuestSink};
use crate::nat::link::Link;
use crate::packet::EtherType;
use crate::time::Instant;

/// True if a packet that exceeds the MTU is reported to its sender. An IPv4 packet that may be fragmented causes no
/// error.
pub fn is_too_big_reported(frame: &GuestFrame<'_>) -> bool {
    frame.parsed.ethertype() == EtherType::Ipv6 || frame.parsed.is_unfragmentable(frame.head)
}

/// Reports packets that exceed the MTU, on a link without NAT.
#[derive(Debug)]
pub struct TooBigReporter {
    link: Link,
    rate: ErrorRate,
}

impl TooBigReporter {
    /// A reporter that sends its errors from the gateway of `link`.
    pub fn new(link: Link) -> Self {
        Self {
            link,
            rate: ErrorRate::default(),
        }
    }

    /// Tells the guest that its packet in `frame` exceeds `mtu` bytes, the MTU of the path. The rate is limited as RFC
    /// 4443 requires.
    pub fn report(&mut self, now: Instant, frame: &GuestFrame<'_>, mtu: u16, sink: &mut dyn GuestSink) {
        if is_too_big_reported(frame) && self.rate.take(now) {
            // If the guest has no buffer, the error is lost, as on any busy network.
            let _ = refuse_on(&self.link, sink, IcmpError::TooBig { mtu }, frame);
        }
    }
}
