//! Decides whether a frame from the guest is admitted.

use super::guard::Guard;
use super::vlan::VlanRules;
use crate::config::{MacCheck, PolicyConfig};
use crate::counters::DropReason;
use crate::frame::Offload;
use crate::packet::{EthernetHeader, Head, MacAddr};

/// The rules of a port. They depend only on the frame, so each worker has its own copy.
#[derive(Clone, Debug)]
pub struct Admission {
    source: Source,
    vlan: VlanRules,
    guard: Option<Box<Guard>>,
}

/// The source addresses that belong to the guest.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// Only this address.
    Fixed(MacAddr),
    /// Any unicast address, because the MAC is unknown or not checked.
    Any,
}

impl Admission {
    /// The rules of a port whose guest has the MAC `mac`, if it is known.
    pub fn new(mac: Option<MacAddr>, policy: &PolicyConfig) -> Self {
        let checked = mac.filter(|_| policy.mac_check == MacCheck::Enforced);
        Self {
            source: checked.map_or(Source::Any, Source::Fixed),
            vlan: VlanRules::new(&policy.vlan),
            guard: Guard::new(mac, policy).map(Box::new),
        }
    }

    /// Checks a frame by its first bytes, `bytes`, whose parsed form is `head`.
    ///
    /// # Errors
    /// The reason to drop the frame.
    #[inline]
    pub fn admit(&self, bytes: &[u8], head: &Head, offload: Offload) -> Result<(), DropReason> {
        if !offload.suits(head) {
            return Err(DropReason::BadOffload);
        }
        let source = EthernetHeader::parse(bytes)?.src;
        let is_own = match self.source {
            Source::Fixed(mac) => source == mac,
            Source::Any => !source.is_multicast(),
        };
        if !is_own {
            return Err(DropReason::SpoofedMac);
        }
        // The mode applies the edit.
        self.vlan.outgoing(head)?;
        match &self.guard {
            Some(guard) => guard.check(bytes, head),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn admit(rules: &Admission, bytes: &[u8]) -> Result<(), DropReason> {
        rules.admit(bytes, &Head::parse(bytes, bytes.len()), Offload::NONE)
    }

    fn frame(src: MacAddr, ethertype: u16) -> [u8; 14] {
        let mut bytes = [0; 14];
        EthernetHeader {
            dst: MacAddr::BROADCAST,
            src,
            ethertype: ethertype.into(),
        }
        .emit(&mut bytes);
        bytes
    }

    #[test]
    fn only_the_configured_source_comes_in() {
        let rules = Admission::new(Some(GUEST), &PolicyConfig::default());
        assert_eq!(admit(&rules, &frame(GUEST, 0x0800)), Ok(()));
        let other = MacAddr([2, 0, 0, 0, 0, 8]);
        assert_eq!(admit(&rules, &frame(other, 0x0800)), Err(DropReason::SpoofedMac));
    }

    #[test]
    fn without_a_configured_source_any_unicast_one_comes_in() {
        let rules = Admission::new(None, &PolicyConfig::default());
        assert_eq!(admit(&rules, &frame(GUEST, 0x0806)), Ok(()));
        let group = MacAddr([3, 0, 0, 0, 0, 8]);
        assert_eq!(admit(&rules, &frame(group, 0x0806)), Err(DropReason::SpoofedMac));
    }

    #[test]
    fn any_cards_source_comes_in_where_the_check_is_off() {
        let policy = PolicyConfig {
            mac_check: MacCheck::Off,
            ..PolicyConfig::default()
        };
        let rules = Admission::new(Some(GUEST), &policy);
        let (other, group) = (MacAddr([2, 0, 0, 0, 0, 8]), MacAddr([3, 0, 0, 0, 0, 8]));
        assert_eq!(admit(&rules, &frame(other, 0x0800)), Ok(()));
        assert_eq!(admit(&rules, &frame(group, 0x0800)), Err(DropReason::SpoofedMac));
    }

    #[test]
    fn tagged_frames_and_frames_without_a_header_stay_out() {
        let rules = Admission::new(None, &PolicyConfig::default());
        for tag in [0x8100, 0x88a8, 0x9100] {
            assert_eq!(admit(&rules, &frame(GUEST, tag)), Err(DropReason::UnexpectedVlan));
        }
        assert_eq!(admit(&rules, &frame(GUEST, 0x0800)[..13]), Err(DropReason::Truncated));
    }
}
