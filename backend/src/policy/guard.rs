//! Guards that keep a guest from acting as another host, a DHCP server or a router.
//!
//! Decisions are made on the head of a frame, which was copied once. The guards skip VLAN tags, IPv4 options and IPv6
//! extension headers. Fragments other than the first pass, because they cannot be reassembled without the first. The
//! first must contain the transport header; otherwise it is dropped (RFC 7113 section 2). Frames that still cannot be
//! decided (headers beyond the head, LLC encapsulation, more than two tags) are dropped as
//! [`DropReason::HiddenTransport`], because these are known ways around such guards (CVE-2021-27853, CVE-2021-27854,
//! CVE-2021-27861, CVE-2021-27862).

use crate::config::{AddressCheck, PolicyConfig};
use crate::counters::DropReason;
use crate::packet::icmp::v6;
use crate::packet::vlan::is_tag;
use crate::packet::{ArpPacket, EtherType, EthernetHeader, Fragment, Head, MacAddr, be16, protocol};
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// EtherType fields below this value are lengths, and LLC follows (IEEE 802.3 3.2.6).
const MIN_ETHERTYPE: u16 = 0x0600;
/// LLC service access points that carry other protocols: SNAP and IP (IEEE 802, RFC 948).
const ENCAPSULATING_SAPS: [u8; 2] = [0xaa, 0x06];
const DHCP4_SERVER: u16 = 67;
const DHCP4_CLIENT: u16 = 68;
const DHCP6_CLIENT: u16 = 546;
const DHCP6_SERVER: u16 = 547;
/// ICMP redirect (RFC 792) and router advertisement (RFC 1256).
const ICMP_REDIRECT: u8 = 5;
const ICMP_ROUTER_ADVERTISEMENT: u8 = 9;
/// Type of a version 2 multicast listener report (RFC 3810).
const MLD2_REPORT: u8 = 143;
/// Length of a neighbour solicitation or advertisement before its options, in bytes.
const ND_LEN: usize = 24;
/// Offset of the target address in a neighbour solicitation or advertisement.
const ND_TARGET: usize = 8;
/// Options with a link-layer address: the sender's and the target's (RFC 4861 4.6.1).
const ND_LINK_ADDRESS: [u8; 2] = [1, 2];

/// The enabled guards of a port.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    dhcp: bool,
    router: bool,
    addresses: Option<Addresses>,
}

/// The addresses that belong to the guest.
#[derive(Clone, Debug)]
struct Addresses {
    ipv4: Vec<Ipv4Net>,
    ipv6: Vec<Ipv6Net>,
}

/// The part of a frame after its IP headers.
struct Transport<'a> {
    protocol: u8,
    /// The part of these bytes that is in the head.
    bytes: &'a [u8],
}

impl Guard {
    /// The guards that a policy enables; `None` if it enables none.
    pub(super) fn new(mac: Option<MacAddr>, policy: &PolicyConfig) -> Option<Self> {
        let guard = Self {
            dhcp: policy.dhcp_guard,
            router: policy.router_guard,
            addresses: policy.addresses.as_ref().map(|check| Addresses::new(mac, check)),
        };
        (guard.dhcp || guard.router || guard.addresses.is_some()).then_some(guard)
    }

    /// Checks a frame by its first bytes, `bytes`, whose parsed form is `head`.
    ///
    /// # Errors
    /// The role that the guest pretends to have, or [`DropReason::HiddenTransport`].
    pub(super) fn check(&self, bytes: &[u8], head: &Head) -> Result<(), DropReason> {
        let packet = bytes.get(head.packet()..).unwrap_or_default();
        let mac = EthernetHeader::parse(bytes)?.src;
        match head.ethertype() {
            EtherType::Ipv4 => self.check_ipv4(bytes, head),
            EtherType::Ipv6 => self.check_ipv6(mac, bytes, head),
            EtherType::Arp => match &self.addresses {
                Some(addresses) => addresses.check_arp(mac, packet),
                None => Ok(()),
            },
            EtherType::Other(tag) if is_tag(tag) => Err(DropReason::HiddenTransport),
            EtherType::Other(length) if length < MIN_ETHERTYPE => check_llc(packet),
            EtherType::Other(_) => Ok(()),
        }
    }

    fn check_ipv4(&self, bytes: &[u8], head: &Head) -> Result<(), DropReason> {
        let transport = Transport::of(bytes, head)?;
        let (src, dst) = head.ipv4_addresses(bytes).ok_or(DropReason::HiddenTransport)?;
        let visible = head.fragment() != Fragment::Later;
        if let Some(addresses) = &self.addresses
            && !addresses.ipv4.iter().any(|net| net.contains(&src))
        {
            let configures = !addresses.ipv4.is_empty()
                && src.is_unspecified()
                && dst == Ipv4Addr::BROADCAST
                && visible
                && transport.ports() == Some((DHCP4_CLIENT, DHCP4_SERVER));
            if !configures {
                return Err(DropReason::SpoofedAddress);
            }
        }
        if !visible {
            return Ok(());
        }
        match transport.protocol {
            protocol::UDP if self.dhcp => transport.check_ports(DHCP4_SERVER, DHCP4_CLIENT),
            protocol::ICMP if self.router => match transport.kind()? {
                ICMP_REDIRECT | ICMP_ROUTER_ADVERTISEMENT => Err(DropReason::RouterGuard),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn check_ipv6(&self, mac: MacAddr, bytes: &[u8], head: &Head) -> Result<(), DropReason> {
        let transport = Transport::of(bytes, head)?;
        let (src, _) = head.ipv6_addresses(bytes).ok_or(DropReason::HiddenTransport)?;
        let visible = head.fragment() != Fragment::Later;
        if let Some(addresses) = &self.addresses {
            addresses.check_ipv6_source(src, visible, &transport)?;
        }
        if !visible {
            return Ok(());
        }
        match transport.protocol {
            protocol::UDP if self.dhcp => transport.check_ports(DHCP6_SERVER, DHCP6_CLIENT),
            protocol::ICMPV6 => self.check_icmpv6(mac, src, &transport),
            _ => Ok(()),
        }
    }

    fn check_icmpv6(&self, mac: MacAddr, source: Ipv6Addr, transport: &Transport<'_>) -> Result<(), DropReason> {
        if !self.router && self.addresses.is_none() {
            return Ok(());
        }
        match (transport.kind()?, &self.addresses) {
            (v6::ROUTER_ADVERTISEMENT | v6::REDIRECT, _) if self.router => Err(DropReason::RouterGuard),
            (v6::NEIGHBOUR_SOLICITATION, Some(addresses)) => {
                // A solicitation from the unspecified address claims its target (RFC 4862 5.4.2).
                let claims = source.is_unspecified();
                addresses.check_neighbour(mac, claims, transport)
            }
            (v6::NEIGHBOUR_ADVERTISEMENT, Some(addresses)) => addresses.check_neighbour(mac, true, transport),
            _ => Ok(()),
        }
    }
}

/// Drops frames whose LLC header may be followed by a protocol that the guards inspect.
fn check_llc(packet: &[u8]) -> Result<(), DropReason> {
    let [destination, source] = *packet.first_chunk().ok_or(DropReason::HiddenTransport)?;
    // The lowest bit distinguishes group from individual addresses, and responses from commands.
    if [destination, source]
        .iter()
        .any(|sap| ENCAPSULATING_SAPS.contains(&(sap & !1)))
    {
        return Err(DropReason::HiddenTransport);
    }
    Ok(())
}

impl<'a> Transport<'a> {
    fn of(bytes: &'a [u8], head: &Head) -> Result<Self, DropReason> {
        let at = head.transport().ok_or(DropReason::HiddenTransport)?;
        Ok(Self {
            protocol: at.protocol,
            bytes: head.transport_bytes(bytes),
        })
    }

    /// Source and destination port, if this is UDP and both are in the head.
    fn ports(&self) -> Option<(u16, u16)> {
        (self.protocol == protocol::UDP && self.bytes.len() >= 4).then(|| (be16(self.bytes, 0), be16(self.bytes, 2)))
    }

    /// Drops packets from a server's port or to a client's port.
    fn check_ports(&self, server: u16, client: u16) -> Result<(), DropReason> {
        match self.ports() {
            None => Err(DropReason::HiddenTransport),
            Some((from, to)) if from == server || to == client => Err(DropReason::DhcpGuard),
            Some(_) => Ok(()),
        }
    }

    /// Type of the ICMP message.
    fn kind(&self) -> Result<u8, DropReason> {
        self.bytes.first().copied().ok_or(DropReason::HiddenTransport)
    }
}

impl Addresses {
    /// Creates the sets of addresses that belong to the guest. A family without an address is closed to the guest,
    /// including its link-local address. Otherwise the link-local address made from the MAC is allowed or, if the MAC
    /// is unknown, any link-local address.
    fn new(mac: Option<MacAddr>, check: &AddressCheck) -> Self {
        let mut ipv6 = check.ipv6.clone();
        if !ipv6.is_empty() {
            ipv6.push(mac.map_or_else(
                || Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
                |mac| Ipv6Net::from(mac.link_local()),
            ));
        }
        Self {
            ipv4: check.ipv4.clone(),
            ipv6,
        }
    }

    fn has_ipv6(&self, address: Ipv6Addr) -> bool {
        self.ipv6.iter().any(|net| net.contains(&address))
    }

    /// Checks that the sender of an ARP packet is the guest, or unspecified as in a probe (RFC 5227 2.1.1).
    fn check_arp(&self, mac: MacAddr, packet: &[u8]) -> Result<(), DropReason> {
        let arp = ArpPacket::parse(packet).ok_or(DropReason::SpoofedArp)?;
        let is_probe = arp.sender.is_unspecified() && arp.operation == ArpPacket::REQUEST;
        let claimed = if is_probe { arp.target } else { arp.sender };
        if arp.sender_mac == mac && self.ipv4.iter().any(|net| net.contains(&claimed)) {
            Ok(())
        } else {
            Err(DropReason::SpoofedArp)
        }
    }

    /// Checks that the source is the guest's, or unspecified in messages that acquire an address.
    fn check_ipv6_source(&self, source: Ipv6Addr, visible: bool, transport: &Transport<'_>) -> Result<(), DropReason> {
        if self.has_ipv6(source) {
            return Ok(());
        }
        let configures = source.is_unspecified()
            && visible
            && !self.ipv6.is_empty()
            && transport.protocol == protocol::ICMPV6
            && matches!(
                transport.kind()?,
                v6::NEIGHBOUR_SOLICITATION | v6::ROUTER_SOLICITATION | v6::MLD_REPORT | v6::MLD_DONE | MLD2_REPORT
            );
        if configures {
            Ok(())
        } else {
            Err(DropReason::SpoofedAddress)
        }
    }

    /// Checks that a neighbour message claims only the guest's addresses and MAC. `claims` is true if the message
    /// claims that the target is the sender's.
    fn check_neighbour(&self, mac: MacAddr, claims: bool, transport: &Transport<'_>) -> Result<(), DropReason> {
        let bytes = transport.bytes;
        let fixed = bytes.first_chunk::<ND_LEN>().ok_or(DropReason::HiddenTransport)?;
        let target: [u8; 16] = *fixed[ND_TARGET..].first_chunk().ok_or(DropReason::HiddenTransport)?;
        if claims && !self.has_ipv6(target.into()) {
            return Err(DropReason::SpoofedNeighbour);
        }
        let mut options = &bytes[ND_LEN..];
        while let [kind, units, ..] = *options {
            let len = usize::from(units) * 8;
            let option = options
                .get(..len)
                .filter(|o| !o.is_empty())
                .ok_or(DropReason::HiddenTransport)?;
            if ND_LINK_ADDRESS.contains(&kind) && option[2..8] != mac.0 {
                return Err(DropReason::SpoofedNeighbour);
            }
            options = &options[len..];
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
