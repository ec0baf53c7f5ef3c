//! Guards that keep a guest from acting as another host, a DHCP server or a router.
//!
//! Decisions are made on the head of a frame, which was copied once. The guards skip VLAN tags, IPv4 options and IPv6
//! extension headers. Fragments other than the first pass, because they cannot be reassembled without the first. The
//! first must contain the transport header; otherwise it is dropped (RFC 7113 section 2). Frames that still cannot be
//! decided (headers beyond the head, LLC encapsulation, more than two tags) are dropped as
//! [`DropReason::HiddenTransport`], because these are known ways around such guards (CVE-2021-27853, CVE-2021-27854,
//! CVE-2021-27861, CVE-2021-27862).

use super::claims;
use crate::config::{AddressCheck, Families, PolicyConfig};
use crate::counters::DropReason;
use crate::packet::icmp::v6;
use crate::packet::vlan::is_tag;
use crate::packet::{EtherType, EthernetHeader, Fragment, Head, MacAddr, be16, protocol};
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// The enabled guards of a port.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Families in which a DHCP server is refused.
    dhcp: Families,
    /// Families in which a router is refused.
    router: Families,
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
        let both = |on| Families { ipv4: on, ipv6: on };
        let guard = Self {
            dhcp: both(policy.dhcp_guard),
            router: both(policy.router_guard),
            addresses: policy.addresses.as_ref().map(|check| Addresses::new(mac, check)),
        };
        (policy.dhcp_guard || policy.router_guard || guard.addresses.is_some()).then_some(guard)
    }

    /// Guards against DHCP servers in the families `dhcp` and routers in the families `router`; `None` if both are
    /// empty.
    pub fn of_roles(dhcp: Families, router: Families) -> Option<Self> {
        (dhcp.any() || router.any()).then_some(Self {
            dhcp,
            router,
            addresses: None,
        })
    }

    /// Checks a frame by its first bytes, `bytes`, whose parsed form is `head`.
    ///
    /// # Errors
    /// The role that the guest pretends to have, [`DropReason::ClosedFamily`], or [`DropReason::HiddenTransport`].
    pub fn check(&self, bytes: &[u8], head: &Head) -> Result<(), DropReason> {
        let packet = bytes.get(head.packet()..).unwrap_or_default();
        let mac = EthernetHeader::parse(bytes)?.src;
        if let Some(addresses) = &self.addresses
            && addresses.is_closed(head.ethertype())
        {
            return Err(DropReason::ClosedFamily);
        }
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
            let configures = src.is_unspecified()
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
            protocol::UDP if self.dhcp.ipv4 => transport.check_ports(DHCP4_SERVER, DHCP4_CLIENT),
            protocol::ICMP if self.router.ipv4 => match transport.kind()? {
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
            protocol::UDP if self.dhcp.ipv6 => transport.check_ports(DHCP6_SERVER, DHCP6_CLIENT),
            protocol::ICMPV6 => self.check_icmpv6(mac, src, &transport),
            _ => Ok(()),
        }
    }

    fn check_icmpv6(&self, mac: MacAddr, source: Ipv6Addr, transport: &Transport<'_>) -> Result<(), DropReason> {
        if !self.router.ipv6 && self.addresses.is_none() {
            return Ok(());
        }
        match (transport.kind()?, &self.addresses) {
            (v6::ROUTER_ADVERTISEMENT | v6::REDIRECT, _) if self.router.ipv6 => Err(DropReason::RouterGuard),
            (v6::NEIGHBOUR_SOLICITATION | v6::NEIGHBOUR_ADVERTISEMENT, Some(addresses)) => {
                addresses.check_neighbour(mac, source, transport)
            }
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

    /// True for packets of a family in which the guest has no address.
    const fn is_closed(&self, ethertype: EtherType) -> bool {
        match ethertype {
            EtherType::Ipv4 | EtherType::Arp => self.ipv4.is_empty(),
            EtherType::Ipv6 => self.ipv6.is_empty(),
            EtherType::Other(_) => false,
        }
    }

    fn has_ipv6(&self, address: Ipv6Addr) -> bool {
        self.ipv6.iter().any(|net| net.contains(&address))
    }

    fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.iter().any(|net| net.contains(&address)),
            IpAddr::V6(address) => self.has_ipv6(address),
        }
    }

    /// Checks that an ARP packet claims an address of the guest. A probe claims its target, which the guest is about to
    /// use.
    fn check_arp(&self, mac: MacAddr, packet: &[u8]) -> Result<(), DropReason> {
        if self.has(claims::of_arp(mac, packet)?.address) {
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

    /// Checks that a neighbour message claims only the guest's addresses and MAC.
    fn check_neighbour(&self, mac: MacAddr, source: Ipv6Addr, transport: &Transport<'_>) -> Result<(), DropReason> {
        match claims::of_neighbour(mac, source, transport.bytes)? {
            Some(claim) if !self.has(claim.address) => Err(DropReason::SpoofedNeighbour),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
