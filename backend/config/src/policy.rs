//! The policy of a port: the frames that may cross it, in either direction and in any mode. The defaults are what
//! masquerade needs.

use hawser_packet::vlan::VlanId;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;

/// Filters between the guest and its mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyConfig {
    /// What VLAN tags mean.
    pub vlan: VlanConfig,
    /// Check of the source MAC of the guest's frames (`macspoofchk`).
    pub mac_check: MacCheck,
    /// Addresses the guest may use; `None`: any.
    pub addresses: Option<AddressCheck>,
    /// The guest may not serve DHCP or DHCPv6.
    pub dhcp_guard: bool,
    /// The guest may not advertise or redirect to routers.
    pub router_guard: bool,
    /// Rate limits.
    pub rates: Rates,
}

/// Rate limits of a port, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Towards the guest.
    pub to_guest: RateLimit,
    /// From the guest.
    pub from_guest: RateLimit,
}

/// Limits of one direction; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Bytes of frames, from the Ethernet header on; a large frame counts as it crosses the rings.
    pub bytes: Option<Rate>,
    /// Packets; a frame that stands for several segments counts once for each.
    pub packets: Option<Rate>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Tokens added per second, more than 0.
    pub per_second: u64,
    /// Tokens the bucket holds.
    pub burst: u64,
}

/// Check of the source MAC of the guest's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MacCheck {
    /// It must be the guest's, once that is known.
    #[default]
    Enforced,
    /// Any source: for a guest that is itself a bridge, or has virtual NICs of its own.
    Off,
}

/// Addresses a guest may use as its own, in IP headers, ARP and neighbour discovery. A family
/// without an address is closed to the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressCheck {
    /// IPv4
    pub ipv4: Vec<Ipv4Net>,
    /// IPv6. The link-local address made from the guest's MAC is always allowed.
    pub ipv6: Vec<Ipv6Net>,
}

/// What VLAN tags mean on a port. A guest on a VLAN by `Access` or `native` sends and receives
/// untagged frames, which carry a tag on the segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VlanConfig {
    /// Tagged frames of the guest are refused: the mode knows no VLANs.
    #[default]
    Refused,
    /// Tags cross unchanged, 802.1ad ones too, as on a bridge without VLAN filtering.
    Transparent,
    /// One VLAN, invisible to the guest (`vlan` of the bridge CNI).
    Access {
        /// The guest's VLAN.
        id: VlanId,
        /// The default VLAN stays on the port too (`preserveDefaultVlan`).
        keep_default: bool,
    },
    /// Several VLANs, with tags that the guest sends and receives (`vlanTrunk`).
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
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(VlanId, VlanId)>", into = "Vec<(VlanId, VlanId)>")]
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
    /// The first VLAN of the range that is in the set already.
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

    /// Adds or removes one VLAN. False if `vid` is not a VLAN's number.
    pub fn set(&mut self, vid: u16, member: bool) -> bool {
        if VlanId::new(vid).is_none() {
            return false;
        }
        let (word, bit) = (&mut self.0[usize::from(vid / 64)], 1 << (vid % 64));
        *word = if member { *word | bit } else { *word & !bit };
        true
    }

    /// True if VLAN number `vid` is in the set; always false for an invalid number.
    #[inline]
    pub fn contains(&self, vid: u16) -> bool {
        self.0
            .get(usize::from(vid / 64))
            .is_some_and(|word| word & (1 << (vid % 64)) != 0)
    }

    /// True without any VLAN.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl VlanSet {
    /// The runs of VLANs in the set, lowest first.
    fn ranges(&self) -> impl Iterator<Item = (VlanId, VlanId)> {
        let mut next = 1;
        std::iter::from_fn(move || {
            let first = (next..=VlanId::MAX.get()).find(|vid| self.contains(*vid))?;
            next = (first..=VlanId::MAX.get())
                .find(|vid| !self.contains(*vid))
                .unwrap_or(VlanId::MAX.get() + 1);
            VlanId::new(first).zip(VlanId::new(next - 1))
        })
    }
}

impl From<VlanSet> for Vec<(VlanId, VlanId)> {
    fn from(set: VlanSet) -> Self {
        set.ranges().collect()
    }
}

impl From<Vec<(VlanId, VlanId)>> for VlanSet {
    fn from(ranges: Vec<(VlanId, VlanId)>) -> Self {
        let mut set = Self::default();
        for (first, last) in ranges {
            for vid in first.get()..=last.get() {
                set.set(vid, true);
            }
        }
        set
    }
}

/// In the syntax of the option: `10,20-30`.
impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (first, last) in self.ranges() {
            match (first, last) {
                (first, last) if first == last => write!(f, "{separator}{first}")?,
                (first, last) => write!(f, "{separator}{first}-{last}")?,
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
