//! The VLANs of a port of a VLAN-filtering bridge (`bridge vlan`).
//!
//! hawser adds and removes tags itself, so the port is a tagged member of each of the guest's VLANs. The kernel makes a
//! new port an untagged member of the bridge's default VLAN. A port with VLANs of its own is removed from the default
//! VLAN.

use super::netlink::Netlink;
use hawser_config::VlanConfig;
use hawser_packet::vlan::VlanId;
use netlink_packet_route::link::{AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::RangeInclusive;

/// VLANs of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortVlans {
    /// VLANs of which it is a tagged member, in ascending order.
    pub tagged: Vec<RangeInclusive<u16>>,
    /// True if it stays a member of the bridge's default VLAN.
    pub keep_default: bool,
}

impl PortVlans {
    /// The VLANs that a bridge must carry for a port; `None` if the default for new ports is enough.
    pub fn of(config: &VlanConfig) -> Option<Self> {
        match config {
            VlanConfig::Refused | VlanConfig::Transparent => None,
            VlanConfig::Access { id, keep_default } => Some(Self {
                tagged: vec![id.get()..=id.get()],
                keep_default: *keep_default,
            }),
            VlanConfig::Trunk {
                tagged,
                native,
                keep_default,
            } => {
                let is_member = |id: &u16| tagged.contains(*id) || native.is_some_and(|native| native.get() == *id);
                Some(Self {
                    tagged: runs((1..=VlanId::MAX.get()).filter(is_member)),
                    keep_default: *keep_default,
                })
            }
        }
    }
}

/// Combines ascending numbers into ranges.
fn runs(numbers: impl Iterator<Item = u16>) -> Vec<RangeInclusive<u16>> {
    let mut runs: Vec<RangeInclusive<u16>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if *run.end() + 1 == number => *run = *run.start()..=number,
            _ => runs.push(number..=number),
        }
    }
    runs
}

/// A message with VLANs of a port. They have no flags, so they are tagged.
fn message(port: u32, runs: &[RangeInclusive<u16>]) -> LinkMessage {
    let info = |flags, vid| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid });
    let infos = runs.iter().flat_map(|run| {
        let (first, last) = (*run.start(), *run.end());
        if first == last {
            vec![info(BridgeVlanInfoFlags::empty(), first)]
        } else {
            vec![
                info(BridgeVlanInfoFlags::RangeBegin, first),
                info(BridgeVlanInfoFlags::RangeEnd, last),
            ]
        }
    });
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = port;
    message.attributes = vec![LinkAttribute::AfSpecBridge(infos.collect())];
    message
}

impl Netlink {
    /// Makes a port a member of `vlans`. `default` is the VLAN of which the kernel made it a member by default, 0 for
    /// none.
    ///
    /// # Errors
    /// The kernel's error: EOPNOTSUPP if it does not support VLANs on bridges.
    pub fn set_port_vlans(&mut self, port: u32, vlans: &PortVlans, default: u16) -> io::Result<()> {
        if default != 0 && !vlans.keep_default {
            let leave = RouteNetlinkMessage::DelLink(message(port, &[default..=default]));
            match self.request(leave, 0) {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
                _ => {}
            }
        }
        if vlans.tagged.is_empty() {
            return Ok(());
        }
        let join = RouteNetlinkMessage::SetLink(message(port, &vlans.tagged));
        self.request(join, 0).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_config::VlanSet;
    use netlink_packet_core::Emitable as _;

    #[test]
    fn a_port_is_a_tagged_member_of_the_vlans_the_guest_is_in() {
        let id = |n| VlanId::new(n).unwrap();
        let access = VlanConfig::Access {
            id: id(100),
            keep_default: true,
        };
        let expected = PortVlans {
            tagged: vec![100..=100],
            keep_default: true,
        };
        assert_eq!(PortVlans::of(&access), Some(expected));
        let mut tagged = VlanSet::default();
        tagged.add(id(20)..=id(29)).unwrap();
        tagged.add(id(4094)..=id(4094)).unwrap();
        let trunk = VlanConfig::Trunk {
            tagged,
            native: Some(id(30)),
            keep_default: false,
        };
        let expected = PortVlans {
            tagged: vec![20..=30, 4094..=4094],
            keep_default: false,
        };
        assert_eq!(PortVlans::of(&trunk), Some(expected));
        assert_eq!(PortVlans::of(&VlanConfig::Transparent), None);
    }

    #[test]
    fn the_kernel_gets_vlan_ranges_by_their_ends_as_from_bridge_vlan_add() {
        let message = message(7, &[20..=30, 100..=100]);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        // struct ifinfomsg: family AF_BRIDGE, index.
        assert_eq!((bytes[0], &bytes[4..8]), (7, &7i32.to_ne_bytes()[..]));
        let words: Vec<u16> = bytes[16..]
            .chunks(2)
            .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
            .collect();
        // IFLA_AF_SPEC (26) of three IFLA_BRIDGE_VLAN_INFO (2): flags and number.
        const BEGIN: u16 = 1 << 3;
        const END: u16 = 1 << 4;
        let expected = [28, 26, 8, 2, BEGIN, 20, 8, 2, END, 30, 8, 2, 0, 100];
        assert_eq!(words, expected);
    }
}
