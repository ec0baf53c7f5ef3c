//! Which frames cross a port, in either direction, whatever its mode. The default is
//! what masquerade needs.

use crate::packet::vlan::VlanId;
use ipnet::{Ipv4Net, Ipv6Net};
use std::fmt;
use std::ops::RangeInclusive;

/// What is let through between the guest and its mode.
#[derive(Clone, Debug, Default)]
pub struct PolicyConfig {
    /// What VLAN tags mean.
    pub vlan: VlanConfig,
    /// Whether frames must have the guest's MAC as their source (`macspoofchk`).
    pub mac_check: MacCheck,
    /// The addresses the guest may use; `None`: any.
    pub addresses: Option<AddressCheck>,
    /// The guest may not serve DHCP or DHCPv6.
    pub dhcp_guard: bool,
    /// The guest may not advertise or redirect to routers.
    pub router_guard: bool,
    /// How much may cross.
    pub rates: Rates,
}

/// How much may cross a port, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Towards the guest.
    pub to_guest: RateLimit,
    /// From the guest.
    pub from_guest: RateLimit,
}

/// Limits of one direction; `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Bytes of frames, from the Ethernet header on, a large one as it crosses the rings.
    pub bytes: Option<Rate>,
    /// Packets: a frame that stands for several segments counts as so many.
    pub packets: Option<Rate>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come in a second, more than 0.
    pub per_second: u64,
    /// Tokens the bucket holds.
    pub burst: u64,
}

/// Whether the source MAC of the guest's frames is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MacCheck {
    /// It must be the guest's, where that is known.
    #[default]
    Enforced,
    /// It may be any card's: for a guest that is itself a bridge, or has virtual
    /// cards of its own.
    Off,
}

/// Addresses a guest may use as its own, in IP headers, ARP and neighbour discovery.
/// A family without any is closed to the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressCheck {
    /// IPv4
    pub ipv4: Vec<Ipv4Net>,
    /// IPv6; the link-local address made from the guest's MAC is among them unsaid.
    pub ipv6: Vec<Ipv6Net>,
}

/// What VLAN tags mean on a port. A guest that is on a VLAN by `Access` or `native`
/// sends and receives untagged frames, which carry a tag on the segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VlanConfig {
    /// Tagged frames of the guest are refused: the mode knows no VLANs.
    #[default]
    Refused,
    /// Tags are not looked at, like on a bridge without VLAN filtering: they cross as
    /// they are, 802.1ad ones too.
    Transparent,
    /// One VLAN, which the guest does not see (`vlan` of the bridge CNI).
    Access {
        /// The guest's VLAN.
        id: VlanId,
        /// The default VLAN stays on the port too (`preserveDefaultVlan`).
        keep_default: bool,
    },
    /// Several VLANs, whose tags the guest sends and sees (`vlanTrunk`).
    Trunk {
        /// The VLANs.
        tagged: VlanSet,
        /// The VLAN of untagged frames of the guest (`vlan` beside `vlanTrunk`).
        native: Option<VlanId>,
        /// The default VLAN stays on the port too (`preserveDefaultVlan`).
        keep_default: bool,
    },
}

const WORDS: usize = 64;

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; WORDS]>);

impl Default for VlanSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl VlanSet {
    /// Adds the VLANs of a range.
    ///
    /// # Errors
    /// One of them is in the set already: the first such.
    pub fn add(&mut self, range: RangeInclusive<VlanId>) -> Result<(), VlanId> {
        let numbers = || range.start().get()..=range.end().get();
        if let Some(id) = numbers().find(|n| self.contains(*n)).and_then(VlanId::new) {
            return Err(id);
        }
        for n in numbers() {
            self.0[usize::from(n / 64)] |= 1 << (n % 64);
        }
        Ok(())
    }

    /// Adds one VLAN or takes it out, whether it is in the set or not. False if `vid` is
    /// no VLAN's number.
    pub fn set(&mut self, vid: u16, member: bool) -> bool {
        if VlanId::new(vid).is_none() {
            return false;
        }
        let (word, bit) = (&mut self.0[usize::from(vid / 64)], 1 << (vid % 64));
        *word = if member { *word | bit } else { *word & !bit };
        true
    }

    /// True if VLAN number `vid` is in the set. Numbers that are no VLAN's never are.
    pub fn contains(&self, vid: u16) -> bool {
        self.0
            .get(usize::from(vid / 64))
            .is_some_and(|word| word & (1 << (vid % 64)) != 0)
    }

    /// True if no VLAN is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// As the option is written: `10,20-30`.
impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut next = 1;
        while next <= VlanId::MAX.get() {
            let first = next;
            next += 1;
            if !self.contains(first) {
                continue;
            }
            while self.contains(next) {
                next += 1;
            }
            match next - 1 {
                last if last == first => write!(f, "{separator}{first}")?,
                last => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VlanSet({self})")
    }
}

impl fmt::Display for VlanConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keeps = match self {
            Self::Refused => return f.write_str("no VLANs"),
            Self::Transparent => return f.write_str("VLAN tags as they are"),
            Self::Access { id, keep_default } => {
                write!(f, "VLAN {id}")?;
                keep_default
            }
            Self::Trunk {
                tagged,
                native,
                keep_default,
            } => {
                write!(f, "VLANs {tagged}")?;
                if let Some(id) = native {
                    write!(f, ", native {id}")?;
                }
                keep_default
            }
        };
        f.write_str(if *keeps { ", default VLAN kept" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> RangeInclusive<VlanId> {
        VlanId::new(first).unwrap()..=VlanId::new(last).unwrap()
    }

    #[test]
    fn ranges_that_share_a_vlan_are_told_apart_by_it() {
        let mut set = VlanSet::default();
        assert!(set.is_empty());
        assert_eq!(set.add(range(20, 30)), Ok(()));
        assert_eq!(set.add(range(10, 10)), Ok(()));
        assert_eq!(set.add(range(25, 40)), Err(VlanId::new(25).unwrap()));
        assert_eq!(set.add(range(1, 4094)), Err(VlanId::new(10).unwrap()));
        assert_eq!(set.to_string(), "10,20-30");
    }

    #[test]
    fn the_ends_of_the_numbers_are_in_reach_and_what_is_beyond_never_is() {
        let mut set = VlanSet::default();
        set.add(range(1, 4094)).unwrap();
        assert!(set.contains(1) && set.contains(63) && set.contains(64) && set.contains(4094));
        assert!(!set.contains(0) && !set.contains(4095) && !set.contains(u16::MAX));
        assert_eq!(set.to_string(), "1-4094");
    }
}
