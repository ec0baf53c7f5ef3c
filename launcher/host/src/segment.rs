//! The holder of a MAC on the segment of a physical function, as far as this host can see.
//!
//! The segment joins the physical function, the links that are stacked on it, and, if it is a port of a bridge, that
//! bridge, its other ports, and the MACs that the bridge has learned behind these. MACs behind the port of the physical
//! function itself do not count: the virtual function that gets the MAC may have used it there before.

use super::link::Link;
use super::netlink::Netlink;
use hawser_packet::MacAddr;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;

/// An entry of a bridge's forwarding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Learned {
    mac: MacAddr,
    port: u32,
    bridge: u32,
}

impl Learned {
    /// `None` for an entry of a link that is not a port.
    fn from_message(message: &NeighbourMessage) -> Option<Self> {
        let (mut mac, mut bridge) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(MacAddr),
                NeighbourAttribute::Controller(index) => bridge = Some(*index),
                _ => {}
            }
        }
        Some(Self {
            mac: mac?,
            port: message.header.ifindex,
            bridge: bridge?,
        })
    }
}

impl Netlink {
    /// The holder of a MAC on the segment of the link `pf`, among `links`. The network device of the PCI function
    /// `besides` does not count.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn holder_of_mac(
        &mut self,
        mac: MacAddr,
        pf: &Link,
        links: &[Link],
        besides: &str,
    ) -> io::Result<Option<String>> {
        let learned = match pf.master {
            Some(_) => self.learned()?,
            None => Vec::new(),
        };
        Ok(holder(mac, pf, links, &learned, besides))
    }

    fn learned(&mut self) -> io::Result<Vec<Learned>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        let entries = self.dump(RouteNetlinkMessage::GetNeighbour(message))?;
        let entries = entries.iter().filter_map(|entry| match entry {
            RouteNetlinkMessage::NewNeighbour(entry) => Learned::from_message(entry),
            _ => None,
        });
        Ok(entries.collect())
    }
}

fn holder(mac: MacAddr, pf: &Link, links: &[Link], learned: &[Learned], besides: &str) -> Option<String> {
    let bridge = links
        .iter()
        .find(|link| Some(link.index) == pf.master && link.is("bridge"));
    let is_on_segment = |link: &&Link| {
        let is_stacked = [Some(pf), bridge]
            .into_iter()
            .flatten()
            .any(|lower| link.lower == Some(lower.index));
        let is_of_bridge = bridge.is_some_and(|bridge| link.index == bridge.index || link.master == Some(bridge.index));
        (is_stacked || is_of_bridge) && link.index != pf.index && link.device.as_deref() != Some(besides)
    };
    let mut on_segment = links.iter().filter(is_on_segment);
    if let Some(link) = on_segment.find(|link| link.mac == Some(mac)) {
        return Some(format!("the link {}", link.name));
    }
    let bridge = bridge?;
    let is_behind = |entry: &&Learned| entry.mac == mac && entry.bridge == bridge.index && entry.port != pf.index;
    let entry = learned.iter().find(is_behind)?;
    let port = links.iter().find(|link| link.index == entry.port);
    let port = port.filter(|port| port.device.as_deref() != Some(besides))?;
    Some(format!(
        "a device behind the port {} of the bridge {}",
        port.name, bridge.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PF: u32 = 2;
    const BRIDGE: u32 = 5;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mac: Some(mac(u8::try_from(index).unwrap())),
            ..Link::default()
        }
    }

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    #[test]
    fn a_mac_is_found_on_links_that_share_the_segment_and_behind_ports_of_its_bridge() {
        let pf = Link {
            master: Some(BRIDGE),
            ..link(PF, "eth0")
        };
        let bridge = Link {
            kind: "bridge".into(),
            ..link(BRIDGE, "br0")
        };
        let port = |index, name: &str| Link {
            master: Some(BRIDGE),
            ..link(index, name)
        };
        let on = |lower, index, name: &str| Link {
            lower: Some(lower),
            ..link(index, name)
        };
        let vf = Link {
            device: Some("0000:01:10.0".into()),
            ..port(9, "eth0v0")
        };
        let links = [
            pf.clone(),
            bridge,
            port(6, "tap0"),
            on(PF, 7, "macvtap0"),
            on(BRIDGE, 8, "br0.7"),
            vf,
            link(10, "eth1"),
        ];
        let entry = |last, port, bridge| Learned {
            mac: mac(last),
            port,
            bridge,
        };
        let learned = [entry(20, 6, BRIDGE), entry(21, PF, BRIDGE), entry(22, 10, 11)];
        let found = |last| holder(mac(last), &pf, &links, &learned, "0000:01:10.0").unwrap_or_default();
        assert_eq!(found(5), "the link br0");
        assert_eq!(found(6), "the link tap0");
        assert_eq!(found(7), "the link macvtap0");
        assert_eq!(found(8), "the link br0.7");
        assert_eq!(found(20), "a device behind the port tap0 of the bridge br0");
        for (last, why) in [
            (2, "the PF itself is checked with its VFs"),
            (9, "the VF has had the MAC before"),
            (10, "eth1 is on another segment"),
            (21, "the VF may have used it before"),
            (22, "the port is one of another bridge"),
        ] {
            assert_eq!(found(last), "", "{why}");
        }
        let alone = Link { master: None, ..pf };
        let found = |last| holder(mac(last), &alone, &links, &learned, "0000:01:10.0").unwrap_or_default();
        assert_eq!((&*found(7), &*found(6)), ("the link macvtap0", ""));
    }
}
