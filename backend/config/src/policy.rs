//! The policy of a port: the frames that may cross it in each direction, whatever the mode. The defaults are those that
//! masquerade needs.

use hawser_packet::vlan::VlanId;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;

/// Filters between the guest and its mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyConfig {
    /// How VLAN tags are treated.
    pub vlan: VlanConfig,
    /// Check of the source MAC of the guest's frames (`macspoofchk`).
    pub mac_check: MacCheck,
    /// Addresses that the guest may use. `None`: any.
    pub addresses: Option<AddressCheck>,
    /// True if the guest may not act as a DHCP or DHCPv6 server.
    pub dhcp_guard: bool,
    /// True if the guest may not send router advertisements or redirects.
    pub router_guard: bool,
    /// Rate limits in both directions.
    pub rates: Rates,
}

/// Rate limits of a port, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Limits on frames to the guest.
    pub to_guest: RateLimit,
    /// Limits on frames from the guest.
    pub from_guest: RateLimit,
}

/// Limits of one direction. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Limit on bytes of frames, counted from the Ethernet header. A large frame counts once, with the size at which it
    /// crosses the rings.
    pub bytes: Option<Rate>,
    /// Limit on packets. A frame that carries several segments counts once per segment.
    pub packets: Option<Rate>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Tokens added per second. It is more than 0.
    pub per_second: u64,
    /// Tokens that the bucket can hold.
    pub burst: u64,
}

/// Check of the source MAC of the guest's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MacCheck {
    /// The source must be the guest's MAC, once that is known.
    #[default]
    Enforced,
    /// Any source is accepted, for a guest that is itself a bridge or has virtual NICs of its own.
    Off,
}

/// Addresses that a guest may use as its own in IP headers, ARP and neighbour discovery. The guest cannot use a family
/// for which no address is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressCheck {
    /// Permitted IPv4 addresses.
    pub ipv4: Vec<Ipv4Net>,
    /// Permitted IPv6 addresses. The link-local address made from the guest's MAC is always allowed.
    pub ipv6: Vec<Ipv6Net>,
}

/// How a port treats VLAN tags. A guest whose VLAN comes from `Access` or `native` sends and receives untagged frames.
/// They are tagged on the segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VlanConfig {
    /// Tagged frames from the guest are dropped, because the mode does not support VLANs.
    #[default]
    Refused,
    /// Tags, including 802.1ad tags, pass unchanged, as on a bridge without VLAN filtering.
    Transparent,
    /// One VLAN, invisible to the guest (`vlan` of the bridge CNI).
    Access {
        /// VLAN of the guest.
        id: VlanId,
        /// True if the port also stays in the default VLAN (`preserveDefaultVlan`).
        keep_default: bool,
    },
    /// Several VLANs. The guest sends and receives tagged frames (`vlanTrunk`).
    Trunk {
        /// VLANs of the guest's tagged frames.
        tagged: VlanSet,
        /// VLAN of the guest's untagged frames (`vlan` beside `vlanTrunk`).
        native: Option<VlanId>,
        /// True if the port also stays in the default VLAN (`preserveDefaultVlan`).
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
    /// The first VLAN of the range that is already in the set.
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

    /// Adds or removes one VLAN. Returns false if `vid` is not a valid VLAN number.
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

    /// True if the set is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl VlanSet {
    /// The ranges of VLANs in the set, lowest first.
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

/// Writes the option's syntax, such as `10,20-30`.
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
    fn ranges_that_share_a_vlan_are_distinguished_by_it() {
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
