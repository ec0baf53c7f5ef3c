//! Compares the addresses and roles that guests claim with the bindings of the network.
//!
//! A frame from the tunnel has already been admitted by its MAC. Here, its ARP packet or neighbour discovery message is
//! dropped if it claims an address that belongs to another interface, to the gateway or to the guest itself. DHCP
//! servers among the guests are refused on a network that assigns addresses, and routers on a network with a gateway.
//! Claims in the guest's frames to other guests are checked in the same way.

use crate::config::{Families, Layer2Config, NetworkRole};
use crate::counters::DropReason;
use crate::forwarding::Table;
use crate::frame::{GuestFrame, HEAD_MAX};
use crate::packet::{EthernetHeader, Head, Ipv4Header, Ipv6Header, MacAddr, be16, protocol};
use crate::policy::Guard;
use crate::policy::claims::claim;
use crate::responder::MAX_FRAME;
use std::net::IpAddr;

/// UDP ports of DHCP and DHCPv6. Every message of a server has one of them.
const DHCP_PORTS: [u16; 4] = [67, 68, 546, 547];

/// The addresses that this process answers for, and the roles that no guest may have.
#[derive(Debug)]
pub(super) struct Claims {
    mac: Option<MacAddr>,
    /// Addresses of the guest.
    own: Vec<IpAddr>,
    /// Addresses of the gateway, or of the DHCP server of a network without one.
    station: Vec<IpAddr>,
    roles: Option<Guard>,
}

impl Claims {
    /// The claims on the network of a guest with this MAC.
    pub(super) fn new(mode: &Layer2Config, mac: Option<MacAddr>) -> Self {
        let assigned = mode.families();
        let (gateways, routed) = match &mode.role {
            NetworkRole::Primary(network) => {
                let ipv6 = network.ipv6.map(|link| link.gateway.into());
                (ipv6, assigned)
            }
            NetworkRole::Secondary(_) => (None, Families::default()),
        };
        let addresses = mode.addresses().into_iter().flatten().map(|net| net.addr());
        let link_local = mac.map(|mac| mac.link_local().into());
        let station = mode.station_addresses().into_iter().flatten().chain(gateways);
        Self {
            mac,
            own: addresses.chain(link_local).collect(),
            // Without a subnet there is no station.
            station: station.filter(|_| assigned.any()).collect(),
            roles: Guard::of_roles(assigned, routed),
        }
    }

    /// True for the guest's own MAC.
    pub(super) fn is_own(&self, mac: MacAddr) -> bool {
        self.mac == Some(mac)
    }

    /// Checks a frame that was admitted from the tunnel with source address `mac`.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline]
    pub(super) fn check_peer(&self, table: &Table, mac: MacAddr, frame: &[u8]) -> Result<(), DropReason> {
        if has_no_claim(frame) {
            return Ok(());
        }
        self.check_peer_closely(table, mac, frame).map_err(of_tunnel)
    }

    #[cold]
    fn check_peer_closely(&self, table: &Table, mac: MacAddr, frame: &[u8]) -> Result<(), DropReason> {
        let bytes = &frame[..frame.len().min(HEAD_MAX)];
        let head = Head::parse(bytes, frame.len());
        if let Some(roles) = &self.roles {
            roles.check(bytes, &head)?;
        }
        match claim(frame, &head)? {
            Some(claim) if claim.is_probe => Ok(()),
            Some(claim) if self.own.contains(&claim.address) => Err(spoofed(claim.address)),
            Some(claim) => self.check(table, mac, claim.address),
            None => Ok(()),
        }
    }

    /// Checks a frame of the guest to other guests.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline]
    pub(super) fn check_guest(&self, table: &Table, frame: &GuestFrame<'_>) -> Result<(), DropReason> {
        if has_no_claim(frame.head) {
            return Ok(());
        }
        self.check_guest_closely(table, frame)
    }

    #[cold]
    fn check_guest_closely(&self, table: &Table, frame: &GuestFrame<'_>) -> Result<(), DropReason> {
        // Options may be beyond the head. They must not escape the check in a longer frame.
        let mut copy = [0; MAX_FRAME];
        let len = frame.copy_to(0, &mut copy);
        match claim(&copy[..len], &frame.parsed)? {
            Some(claim) if claim.is_probe || self.own.contains(&claim.address) => Ok(()),
            Some(claim) => {
                let mac = self.mac.or(frame.parsed.source_mac(frame.head)).unwrap_or_default();
                self.check(table, mac, claim.address)
            }
            None => Ok(()),
        }
    }

    fn check(&self, table: &Table, mac: MacAddr, address: IpAddr) -> Result<(), DropReason> {
        if self.station.contains(&address) || !table.may_claim(mac, address) {
            return Err(spoofed(address));
        }
        Ok(())
    }
}

const fn spoofed(address: IpAddr) -> DropReason {
    match address {
        IpAddr::V4(_) => DropReason::SpoofedArp,
        IpAddr::V6(_) => DropReason::SpoofedNeighbour,
    }
}

/// The drop reason for a peer's guest that corresponds to this drop reason for the process's own guest.
const fn of_tunnel(reason: DropReason) -> DropReason {
    match reason {
        DropReason::SpoofedArp => DropReason::TunnelSpoofedArp,
        DropReason::SpoofedNeighbour => DropReason::TunnelSpoofedNeighbour,
        DropReason::DhcpGuard => DropReason::TunnelDhcpGuard,
        DropReason::RouterGuard => DropReason::TunnelRouterGuard,
        DropReason::HiddenTransport => DropReason::TunnelHiddenTransport,
        other => other,
    }
}

/// True for TCP and UDP without tags or extension headers, except for DHCP. Most frames are of this kind. They make no
/// claim and cannot come from a DHCP server or a router. The check costs a few instructions.
#[inline]
pub(super) fn has_no_claim(frame: &[u8]) -> bool {
    const IP: usize = EthernetHeader::LEN;
    /// Bytes up to the protocol of either family.
    const LEAST: usize = IP + 10;
    let Some(head) = frame.first_chunk::<LEAST>() else {
        return false;
    };
    let (protocol, transport) = match (be16(head, IP - 2), head[IP]) {
        (0x0800, 0x45) => (head[IP + 9], IP + Ipv4Header::LEN),
        (0x86dd, _) => (head[IP + 6], IP + Ipv6Header::LEN),
        _ => return false,
    };
    protocol == protocol::TCP || protocol == protocol::UDP && is_no_dhcp(frame, transport)
}

/// True for a UDP datagram, with its header at `transport`, from and to ports other than those of DHCP. A fragment of
/// IPv4 may have no such header.
#[inline]
fn is_no_dhcp(frame: &[u8], transport: usize) -> bool {
    const FLAGS: usize = EthernetHeader::LEN + 6;
    /// More fragments, and the offset.
    const FRAGMENT: u16 = 0x3fff;
    let is_fragment = transport == EthernetHeader::LEN + Ipv4Header::LEN && be16(frame, FLAGS) & FRAGMENT != 0;
    let ports = frame.get(transport..).and_then(<[u8]>::first_chunk::<4>);
    !is_fragment
        && ports.is_some_and(|ports| !DHCP_PORTS.contains(&be16(ports, 0)) && !DHCP_PORTS.contains(&be16(ports, 2)))
}
