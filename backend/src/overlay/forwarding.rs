//! The ports of a network: which endpoint of the tunnel a MAC is behind, and which MAC an address
//! has.
//!
//! A [`Table`] is complete and never changes. Its owner makes the next one and hands it to the
//! workers as a whole, which read it without a lock. Nothing is learned from traffic: a frame
//! neither creates an entry nor moves one, so that no sender can take over the address of another.

use crate::config::Layer2Config;
use crate::counters::DropReason;
use crate::packet::MacAddr;
use crate::packet::geneve::Vni;
use crate::responder::Neighbours;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// Number of an endpoint in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId(u32);

/// The ports of one network that other processes serve.
#[derive(Clone, Debug)]
pub struct Table {
    vni: Vni,
    endpoints: Vec<SocketAddr>,
    by_mac: HashMap<MacAddr, EndpointId>,
    by_address: HashMap<IpAddr, MacAddr>,
    /// Addresses of all endpoints.
    sources: HashSet<IpAddr>,
    /// Addresses of endpoints that may send from any MAC without an entry.
    open: HashSet<IpAddr>,
}

impl Table {
    /// The table of the peers that a configuration names.
    pub fn new(config: &Layer2Config) -> Self {
        let mut table = Self {
            vni: config.vni,
            endpoints: Vec::new(),
            by_mac: HashMap::new(),
            by_address: HashMap::new(),
            sources: HashSet::new(),
            open: HashSet::new(),
        };
        for peer in &config.peers {
            let id = table.endpoint(peer.vtep);
            table.sources.insert(peer.vtep.ip());
            if peer.macs.is_empty() {
                table.open.insert(peer.vtep.ip());
            }
            table.by_mac.extend(peer.macs.iter().map(|mac| (*mac, id)));
            if let Some(mac) = peer.macs.first() {
                let addresses = peer.addresses.iter().map(|address| (*address, *mac));
                table.by_address.extend(addresses);
            }
        }
        table
    }

    /// Identifier of the network.
    pub const fn vni(&self) -> Vni {
        self.vni
    }

    /// The endpoint that `mac` is behind.
    #[inline]
    pub fn endpoint_of(&self, mac: MacAddr) -> Option<SocketAddr> {
        let id = self.by_mac.get(&mac)?;
        self.endpoints.get(id.0 as usize).copied()
    }

    /// All endpoints: those that broadcast goes to.
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    /// Checks a frame of the network that came from `source` and claims to be from `mac`. The
    /// port that it came from is the sender's choice and says nothing.
    ///
    /// # Errors
    /// Why the frame is dropped.
    #[inline]
    pub fn admit(&self, source: IpAddr, mac: MacAddr) -> Result<(), DropReason> {
        if let Some(endpoint) = self.endpoint_of(mac) {
            return if endpoint.ip() == source {
                Ok(())
            } else {
                Err(DropReason::TunnelSpoofedMac)
            };
        }
        if self.open.contains(&source) && !mac.is_multicast() {
            return Ok(());
        }
        if self.sources.contains(&source) {
            return Err(DropReason::TunnelUnknownMac);
        }
        Err(DropReason::TunnelUnknownPeer)
    }

    fn endpoint(&mut self, vtep: SocketAddr) -> EndpointId {
        let known = self.endpoints.iter().position(|known| *known == vtep);
        let index = known.unwrap_or_else(|| {
            self.endpoints.push(vtep);
            self.endpoints.len() - 1
        });
        EndpointId(u32::try_from(index).unwrap_or(u32::MAX))
    }
}

impl Neighbours for Table {
    fn mac_of(&self, address: IpAddr) -> Option<MacAddr> {
        self.by_address.get(&address).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NameConfig, PeerConfig};

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    fn table() -> Table {
        let peer = |vtep: &str, macs: &[u8], addresses: &[&str]| PeerConfig {
            vtep: vtep.parse().unwrap(),
            macs: macs.iter().map(|last| mac(*last)).collect(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        Table::new(&Layer2Config {
            vni: Vni::new(7).unwrap(),
            vtep: "192.0.2.1:6081".parse().unwrap(),
            ipv4: None,
            ipv6: None,
            names: NameConfig::default(),
            dns_forward: Vec::new(),
            peers: vec![
                peer("192.0.2.2:6081", &[2], &["10.0.0.2", "fd00::2"]),
                peer("192.0.2.2:7000", &[3, 4], &["10.0.0.3"]),
                peer("192.0.2.9:6081", &[], &[]),
            ],
        })
    }

    #[test]
    fn a_mac_leads_to_its_endpoint_and_an_address_to_its_mac() {
        let table = table();
        assert_eq!(table.endpoint_of(mac(2)), Some("192.0.2.2:6081".parse().unwrap()));
        assert_eq!(table.endpoint_of(mac(4)), Some("192.0.2.2:7000".parse().unwrap()));
        assert_eq!(table.endpoint_of(mac(9)), None);
        assert_eq!(table.mac_of("fd00::2".parse().unwrap()), Some(mac(2)));
        assert_eq!(table.mac_of("10.0.0.3".parse().unwrap()), Some(mac(3)));
        assert_eq!(table.mac_of("10.0.0.9".parse().unwrap()), None);
        assert_eq!(table.endpoints().len(), 3);
    }

    #[test]
    fn only_the_endpoint_of_a_mac_may_send_from_it() {
        let table = table();
        let admit = |source: &str, mac| table.admit(source.parse().unwrap(), mac);
        assert_eq!(admit("192.0.2.2", mac(2)), Ok(()));
        assert_eq!(admit("192.0.2.9", mac(2)), Err(DropReason::TunnelSpoofedMac));
        assert_eq!(admit("192.0.2.2", mac(9)), Err(DropReason::TunnelUnknownMac));
        assert_eq!(admit("192.0.2.9", mac(9)), Ok(()), "any MAC may be behind it");
        assert_eq!(
            admit("192.0.2.9", MacAddr::BROADCAST),
            Err(DropReason::TunnelUnknownMac)
        );
        assert_eq!(admit("192.0.2.7", mac(9)), Err(DropReason::TunnelUnknownPeer));
    }
}
