//! Records the addresses that the guest of a port uses.
//!
//! Only frames that announce addresses are parsed: ARP, neighbour discovery, and DHCP of a client that has its address
//! (`ciaddr`, RFC 2131 table 1). For other frames, only the EtherType and protocol are checked. The table has a fixed
//! length and evicts the address that was seen longest ago, so invented addresses cost no memory. A worker never waits
//! for a reader of the table. It skips frames that arrive in the meantime.

use crate::packet::icmp::v6;
use crate::packet::{ArpPacket, EtherType, Head, MacAddr, be16, protocol};
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

/// Maximum number of addresses kept for a guest.
pub const SNOOPED_MAX: usize = 32;

const ND_TARGET: usize = 8;
const UDP_LEN: usize = 8;
const DHCP_CLIENT_PORT: u16 = 68;
const DHCP_SERVER_PORT: u16 = 67;
/// Offset of the client's address in a DHCP message.
const DHCP_CIADDR: usize = 12;

/// The kind of message in which an address was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnoopSource {
    /// The sender field of an ARP packet.
    Arp,
    /// A neighbour message, as its source or target.
    NeighbourDiscovery,
    /// A DHCPv4 message of a client that has an address.
    Dhcp,
}

/// An address that the guest has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnoopedAddress {
    /// The address itself.
    pub address: IpAddr,
    /// MAC with which the address was used.
    pub mac: MacAddr,
    /// Kind of the message in which the address was last seen.
    pub source: SnoopSource,
    /// Time at which the address was last seen.
    pub seen: Instant,
}

/// The addresses of the guest of one port.
#[derive(Debug)]
pub struct Snooping(Mutex<Vec<SnoopedAddress>>);

impl Default for Snooping {
    fn default() -> Self {
        Self(Mutex::new(Vec::with_capacity(SNOOPED_MAX)))
    }
}

impl Snooping {
    /// Inspects an admitted frame of the guest by its first bytes, `bytes`, whose parsed form is `head`.
    #[inline]
    pub fn look(&self, now: Instant, bytes: &[u8], head: &Head) {
        if let Some((source, address)) = address_of(bytes, head)
            && let Some(mac) = head.source_mac(bytes)
        {
            self.note(now, mac, source, address);
        }
    }

    /// The addresses, most recently seen first.
    pub fn all(&self) -> Vec<SnoopedAddress> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by_key(|sighting| std::cmp::Reverse(sighting.seen));
        all
    }

    /// Continues with the addresses of another process, up to [`SNOOPED_MAX`].
    pub fn load(&self, mut saved: Vec<SnoopedAddress>) {
        saved.truncate(SNOOPED_MAX);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.clear();
        table.extend(saved);
    }

    #[cold]
    fn note(&self, now: Instant, mac: MacAddr, source: SnoopSource, address: IpAddr) {
        let Ok(mut table) = self.0.try_lock() else { return };
        let sighting = SnoopedAddress {
            address,
            mac,
            source,
            seen: now,
        };
        let known = table.iter().position(|known| known.address == address);
        if known.is_none() && table.len() < SNOOPED_MAX {
            table.push(sighting);
            return;
        }
        let oldest = || (0..table.len()).min_by_key(|&at| table[at].seen);
        if let Some(at) = known.or_else(oldest) {
            table[at] = sighting;
        }
    }
}

/// The address that a frame announces, if it announces one.
#[inline]
fn address_of(bytes: &[u8], head: &Head) -> Option<(SnoopSource, IpAddr)> {
    let transport = head.transport();
    match (head.ethertype(), transport.map(|at| at.protocol)) {
        (EtherType::Ipv4, Some(protocol::UDP)) => dhcp(bytes, head),
        (EtherType::Ipv6, Some(protocol::ICMPV6)) => neighbour(bytes, head),
        (EtherType::Arp, _) => arp(bytes.get(head.packet()..)?),
        _ => None,
    }
}

fn arp(packet: &[u8]) -> Option<(SnoopSource, IpAddr)> {
    let arp = ArpPacket::parse(packet)?;
    let usable = !arp.sender.is_unspecified() && !arp.sender.is_multicast() && !arp.sender.is_broadcast();
    usable.then(|| (SnoopSource::Arp, arp.sender.into()))
}

/// A solicitation from the unspecified address is for an address that the guest is about to use (RFC 4862 5.4.2).
fn neighbour(bytes: &[u8], head: &Head) -> Option<(SnoopSource, IpAddr)> {
    let (source, _) = head.ipv6_addresses(bytes)?;
    let message = head.transport_bytes(bytes);
    if head.is_fragment() {
        return None;
    }
    let target = address6(message, ND_TARGET)?;
    let address = match *message.first()? {
        v6::NEIGHBOUR_SOLICITATION if source.is_unspecified() => target,
        v6::NEIGHBOUR_SOLICITATION => source,
        v6::NEIGHBOUR_ADVERTISEMENT => target,
        _ => return None,
    };
    let usable = !address.is_unspecified() && !address.is_multicast();
    usable.then(|| (SnoopSource::NeighbourDiscovery, address.into()))
}

fn dhcp(bytes: &[u8], head: &Head) -> Option<(SnoopSource, IpAddr)> {
    let datagram = head.transport_bytes(bytes);
    let ports = datagram.first_chunk::<4>()?;
    if head.is_fragment() || (be16(ports, 0), be16(ports, 2)) != (DHCP_CLIENT_PORT, DHCP_SERVER_PORT) {
        return None;
    }
    let at = UDP_LEN + DHCP_CIADDR;
    let address = Ipv4Addr::from(*datagram.get(at..)?.first_chunk::<4>()?);
    let usable = !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast();
    usable.then(|| (SnoopSource::Dhcp, address.into()))
}

fn address6(packet: &[u8], at: usize) -> Option<Ipv6Addr> {
    packet.get(at..)?.first_chunk::<16>().map(|bytes| (*bytes).into())
}

#[cfg(test)]
#[path = "snooping_tests.rs"]
mod tests;
