//! Services of the guest's private network: ARP, neighbour and router discovery, DHCPv4, DHCPv6, and echo replies from
//! the gateway's own addresses.
//!
//! A mode passes the copied head of a frame to [`Responders::wants`]. The few frames for the gateway itself are copied
//! whole out of guest memory and passed to [`Responders::answer`], which appends whole frames to a [`Replies`] buffer.
//! Nothing here owns a socket, reads a clock or trusts the guest. An invalid message is refused with a [`DropReason`],
//! which the mode counts.

mod arp;
mod dhcp4;
mod dhcp6;
pub mod dns;
mod echo;
mod held;
mod lease;
mod lease6;
mod names;
mod ndp;
mod proxy;
mod replies;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use held::{HeldLeases, SavedLeases};
pub use lease::LeaseServer;
pub use lease6::Lease6Server;
pub use ndp::{is_router_solicitation, solicited};
pub use proxy::NeighbourProxy;
pub use replies::Replies;

use crate::config::{Ipv4Link, Ipv6Link, NameConfig, Neighbourhood, Resolvers};
use crate::counters::{Counters, DropReason};
use crate::packet::{ArpPacket, EtherType, Head, MacAddr, be16, icmp, protocol};
use crate::time::Instant;
use names::OfferedNames;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// Hop limit of replies that may cross a router.
const HOP_LIMIT: u8 = 64;
/// Announcements of the gateway's MAC after the link came up. A guest may ask for the gateway, in vain, until it has
/// seen that its link is up.
const ANNOUNCEMENTS: u8 = 4;
/// Time between two of them.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(25);
/// Longest frame that is handled; a mode need not copy more. Longer echo requests are answered without a copy.
pub const MAX_FRAME: usize = 2048;

/// Configuration of the services of one link.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// MAC of the gateway.
    pub gateway: MacAddr,
    /// The station's role for the guest.
    pub station: Station,
    /// The link in IPv4; `None` disables its services.
    pub ipv4: Option<Ipv4Link>,
    /// The link in IPv6; `None` disables its services.
    pub ipv6: Option<Ipv6Link>,
    /// Further addresses of the link that resolve to the gateway's MAC.
    pub aliases: Vec<IpAddr>,
    /// Domain names and name servers that the guest gets.
    pub names: NameConfig,
    /// MTU of the link, in bytes.
    pub mtu: u16,
    /// Record of granted and released leases, shared with the status API.
    pub held: Arc<HeldLeases>,
    /// True if unsolicited advertisements are sent: of the router, and of the gateway's MAC. Only one of a guest's workers
    /// does that.
    pub advertise: bool,
    /// True if the guest may form its own addresses (RFC 4862), which requires a 64-bit prefix.
    pub autoconfigures: bool,
    /// The values that guests expect.
    pub convention: Convention,
    /// What the other addresses of the link are.
    pub neighbourhood: Neighbourhood,
}

/// The network plugin whose lease times, identifiers and router advertisements the services have, so that a guest that
/// moves from there notices no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// KubeVirt's, for a guest behind masquerade.
    KubeVirt,
    /// Those of OVN-Kubernetes, for a guest on a layer2 network.
    OvnKubernetes,
}

impl Convention {
    /// Seconds of a DHCPv4 lease. KubeVirt's 999 days do not wake an idle guest.
    const fn lease4_secs(self) -> u32 {
        match self {
            Self::KubeVirt => 999 * 24 * 60 * 60,
            Self::OvnKubernetes => 3500,
        }
    }
}

/// The role, for the guest, of the station that the services answer for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Station {
    /// The guest's default router.
    Router,
    /// A server of addresses and names: neither DHCPv4 nor an advertisement names a router.
    AddressServer,
}

/// Stations of a link other than the guest and the gateway, for which the services answer.
pub trait Neighbours: fmt::Debug + Send + Sync {
    /// The MAC of the station that has `address`; `None` if it is unknown.
    fn mac_of(&self, address: IpAddr) -> Option<MacAddr>;
}

/// A link with only the guest and the gateway.
#[derive(Debug)]
struct NoNeighbours;

impl Neighbours for NoNeighbours {
    fn mac_of(&self, _: IpAddr) -> Option<MacAddr> {
        None
    }
}

/// What the services did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The frame is for another receiver.
    NotMine,
    /// The frame was handled; replies, if any, were appended.
    Done,
    /// The frame is for a service, but is malformed or requests something that does not exist.
    Refused(DropReason),
}

/// Splits `addresses` by family, in their order.
fn by_family(addresses: &[IpAddr]) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => v4.push(*address),
            IpAddr::V6(address) => v6.push(*address),
        }
    }
    (v4, v6)
}

/// Adds a frame that announces to the guest that `address` is now at `mac`.
pub fn announce(address: IpAddr, mac: MacAddr, replies: &mut Replies) {
    match address {
        IpAddr::V4(address) => arp::announce(address, mac, replies),
        IpAddr::V6(address) => ndp::announce(address, mac, replies),
    }
}

/// The services of one link.
#[derive(Debug)]
pub struct Responders {
    gateway: MacAddr,
    advertisement: Advertisement,
    /// Stations for which the services answer, besides the gateway.
    peers: Arc<dyn Neighbours>,
    names: NameConfig,
    ipv4: Option<Ipv4Services>,
    ipv6: Option<Ipv6Services>,
    /// True if the gateway's MAC is announced. Only one of a guest's workers does that.
    announces: bool,
    /// Announcements of the gateway's MAC that are still to be sent, and the time of the next one.
    announcements: u8,
    announce_at: Option<Instant>,
}

#[derive(Debug)]
struct Ipv4Services {
    link: Ipv4Link,
    /// Addresses that resolve to the gateway's MAC.
    neighbours: Vec<Ipv4Addr>,
    neighbourhood: Neighbourhood,
    dhcp: dhcp4::Server,
}

#[derive(Debug)]
struct Ipv6Services {
    link: Ipv6Link,
    neighbourhood: Neighbourhood,
    dhcp: dhcp6::Server,
    router: ndp::Router,
}

/// The service that a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Arp,
    Dhcp4,
    Echo4,
    Dhcp6,
    Echo6,
    NeighbourDiscovery,
    /// Group membership (IGMP, MLD): recognised and ignored. The gateway forwards no multicast.
    Groups,
}

/// A packet of the guest to one of the gateway's addresses.
struct Packet<'a, A> {
    guest_mac: MacAddr,
    src: A,
    dst: A,
    hop_limit: u8,
    /// The bytes after the IP header.
    payload: &'a [u8],
}

impl Responders {
    /// The services of a link. Invalid names are left out, with a warning in the log.
    pub fn new(config: ServiceConfig) -> Self {
        let ServiceConfig {
            gateway,
            station,
            ipv4,
            ipv6,
            aliases,
            names,
            mtu,
            held,
            advertise,
            autoconfigures,
            convention,
            neighbourhood,
        } = config;
        let (aliases4, aliases6) = by_family(&aliases);
        let told = OfferedNames::of(&names);
        let advertisement = Advertisement {
            gateway,
            station,
            autoconfigures,
            convention,
            neighbourhood,
            mtu,
        };
        let cadence = advertise.then(|| ndp::Cadence::of(convention));
        Self {
            announces: advertise && (ipv4.is_some() || ipv6.is_some()),
            ipv4: ipv4.map(|link| Ipv4Services {
                link,
                neighbours: [vec![link.gateway], aliases4].concat(),
                neighbourhood,
                dhcp: dhcp4::Server::new(
                    dhcp4::Terms::of_link(&link, station, convention, mtu),
                    &told,
                    Arc::clone(&held),
                ),
            }),
            ipv6: ipv6.map(|link| Ipv6Services {
                link,
                neighbourhood,
                router: ndp::Router::new(
                    [vec![link.gateway, gateway.link_local()], aliases6].concat(),
                    station,
                    advertisement.message(&link, &told),
                    cadence,
                ),
                dhcp: dhcp6::Server::new(gateway, link, dhcp6::Terms::new(convention, gateway), &told, held),
            }),
            gateway,
            advertisement,
            peers: Arc::new(NoNeighbours),
            names,
            announcements: 0,
            announce_at: None,
        }
    }

    /// Replaces the stations for which the services answer, besides the gateway.
    pub fn set_peers(&mut self, peers: Arc<dyn Neighbours>) {
        self.peers = peers;
    }

    /// Replaces name servers and search domains, starting with the next answer. If the guest's driver is up, the guest
    /// soon gets a router advertisement.
    pub fn set_resolvers(&mut self, now: Instant, resolvers: &Resolvers) {
        self.names.follow(resolvers);
        let told = OfferedNames::of(&self.names);
        if let Some(ipv4) = &mut self.ipv4 {
            ipv4.dhcp.tell(&told);
        }
        if let Some(ipv6) = &mut self.ipv6 {
            ipv6.dhcp.tell(&told);
        }
        self.change_advertisement(now, &told);
    }

    /// Replaces the MTU of the link, starting with the next answer. If the guest's driver is up, the guest soon gets a
    /// router advertisement.
    pub fn set_mtu(&mut self, now: Instant, mtu: u16) {
        let told = OfferedNames::of(&self.names);
        if let Some(ipv4) = &mut self.ipv4 {
            ipv4.dhcp.set_mtu(mtu, &told);
        }
        self.advertisement.mtu = mtu;
        self.change_advertisement(now, &told);
    }

    fn change_advertisement(&mut self, now: Instant, told: &OfferedNames) {
        if let Some(ipv6) = &mut self.ipv6 {
            let advertisement = self.advertisement.message(&ipv6.link, told);
            ipv6.router.set_advertisement(now, advertisement);
        }
    }

    /// True if [`answer`](Self::answer) would handle the frame that begins with `bytes`, whose parsed form is `head`.
    /// The check is cheap, and false for all frames to destinations beyond the gateway.
    #[inline]
    pub fn wants(&self, bytes: &[u8], head: &Head) -> bool {
        self.classify(bytes, head).is_some()
    }

    /// Handles a whole frame of the guest, whose parsed head is `head`. ICMP checksums must be complete; UDP checksums
    /// may be left to the device.
    pub fn answer(
        &mut self,
        now: Instant,
        frame: &[u8],
        head: &Head,
        counters: &Counters,
        replies: &mut Replies,
    ) -> Answer {
        if let Some(fault) = head.fault() {
            return Answer::Refused(fault.into());
        }
        let Some(service) = self.classify(frame, head) else {
            return Answer::NotMine;
        };
        match (service, &self.ipv4, &mut self.ipv6) {
            (Service::Groups, ..) => Answer::Refused(DropReason::Multicast),
            (Service::Arp, Some(ipv4), _) => {
                let (gateway, peers) = (self.gateway, &self.peers);
                let mac_of = |request: &ArpPacket| {
                    let own = ipv4.is_behind_gateway(request.target).then_some(gateway);
                    own.or_else(|| peers.mac_of(request.target.into()))
                };
                arp::answer(mac_of, frame, head, replies)
            }
            (Service::Dhcp4 | Service::Echo4, Some(ipv4), _) => {
                let Some(packet) = Packet::v4(frame, head) else {
                    return Answer::NotMine;
                };
                match service {
                    Service::Dhcp4 => ipv4.dhcp.answer(&packet, counters, replies),
                    _ if packet.src != ipv4.link.guest => Answer::Refused(DropReason::SpoofedAddress),
                    _ => echo::answer(&packet, replies),
                }
            }
            (_, _, Some(ipv6)) => {
                let Some(packet) = Packet::v6(frame, head) else {
                    return Answer::NotMine;
                };
                match service {
                    Service::Dhcp6 => ipv6.dhcp.answer(&packet, counters, replies),
                    Service::Echo6 if !ipv6.is_guest(packet.src) => Answer::Refused(DropReason::SpoofedAddress),
                    Service::Echo6 => echo::answer(&packet, replies),
                    _ => ipv6.router.answer(now, &packet, &*self.peers, counters, replies),
                }
            }
            _ => Answer::NotMine,
        }
    }

    /// The address that the guest has probed before using it (RFC 4862 5.4), if it has since the last call.
    pub const fn take_claimed(&mut self) -> Option<Ipv6Addr> {
        match &mut self.ipv6 {
            Some(ipv6) => ipv6.router.take_claimed(),
            None => None,
        }
    }

    /// Call this when the guest's driver is up. Sends it the gateway's MAC and a router advertisement.
    ///
    /// A guest forgets its neighbours when its link goes down, as QEMU shows it when hawser restarts. Its next request
    /// for the gateway is lost while the link is down, and it would repeat the request only after a second.
    pub fn on_link_up(&mut self, now: Instant, counters: &Counters, replies: &mut Replies) {
        if self.announces {
            self.announcements = ANNOUNCEMENTS;
            self.announce(now, replies);
        }
        self.advertise(now, counters, replies);
    }

    fn advertise(&mut self, now: Instant, counters: &Counters, replies: &mut Replies) {
        if let Some(ipv6) = &mut self.ipv6 {
            ipv6.router.advertise(now, counters, replies);
        }
    }

    fn announce(&mut self, now: Instant, replies: &mut Replies) {
        if let Some(ipv4) = &self.ipv4 {
            arp::announce(ipv4.link.gateway, self.gateway, replies);
        }
        if let Some(ipv6) = &self.ipv6 {
            ipv6.router.announce(replies);
        }
        self.announcements -= 1;
        self.announce_at = (self.announcements > 0).then(|| now + ANNOUNCE_AGAIN);
    }

    /// Call this when the guest's driver has stopped. Timers are off until it is up again.
    pub fn on_link_down(&mut self) {
        self.announce_at = None;
        if let Some(ipv6) = &mut self.ipv6 {
            ipv6.router.stop();
        }
    }

    /// Sends the advertisements that are due.
    pub fn on_timer(&mut self, now: Instant, counters: &Counters, replies: &mut Replies) {
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce(now, replies);
        }
        if self.advertise_at().is_some_and(|at| at <= now) {
            self.advertise(now, counters, replies);
        }
    }

    /// The time of the next [`on_timer`](Self::on_timer).
    pub fn deadline(&self) -> Option<Instant> {
        [self.announce_at, self.advertise_at()].into_iter().flatten().min()
    }

    fn advertise_at(&self) -> Option<Instant> {
        self.ipv6.as_ref()?.router.deadline()
    }

    #[inline]
    fn classify(&self, bytes: &[u8], head: &Head) -> Option<Service> {
        let is_short = head.transport().is_none_or(|at| at.offset + at.len <= MAX_FRAME);
        if head.tags() != 0 || head.fault().is_some() || !is_short {
            return None;
        }
        match head.ethertype() {
            EtherType::Arp => self.ipv4.as_ref().map(|_| Service::Arp),
            EtherType::Ipv4 => self.ipv4.as_ref()?.classify(bytes, head),
            EtherType::Ipv6 => self.ipv6.as_ref()?.classify(self.gateway, bytes, head),
            EtherType::Other(_) => None,
        }
    }
}

/// Contents of router advertisements besides the link and the names.
#[derive(Clone, Copy, Debug)]
struct Advertisement {
    gateway: MacAddr,
    station: Station,
    autoconfigures: bool,
    convention: Convention,
    neighbourhood: Neighbourhood,
    mtu: u16,
}

impl Advertisement {
    fn message(self, link: &Ipv6Link, told: &OfferedNames) -> Vec<u8> {
        let prefix = ndp::Prefix {
            autonomous: self.autoconfigures && link.autoconfigures(),
            on_link: self.neighbourhood == Neighbourhood::Private,
        };
        let advertised = ndp::Advertised {
            gateway: self.gateway,
            link: *link,
            prefix,
            announcement: ndp::Announcement::of(self.convention, self.station),
            mtu: self.mtu,
        };
        ndp::advertisement(advertised, &told.dns6, &told.search)
    }
}

impl Ipv4Services {
    /// True for addresses that resolve to the gateway's MAC. In a shared network these are all but the guest's.
    fn is_behind_gateway(&self, address: Ipv4Addr) -> bool {
        let is_host = address != self.link.guest && self.link.network.contains(&address);
        self.neighbours.contains(&address) || self.neighbourhood == Neighbourhood::Shared && is_host
    }

    fn classify(&self, bytes: &[u8], head: &Head) -> Option<Service> {
        let at = head.transport()?;
        if head.is_fragment() {
            return None;
        }
        let dst = || head.ipv4_addresses(bytes).map(|(_, dst)| dst);
        match at.protocol {
            protocol::UDP if udp_dst(bytes, head) == Some(dhcproto::v4::SERVER_PORT) => {
                self.dhcp.is_for_us(dst()?).then_some(Service::Dhcp4)
            }
            protocol::ICMP => {
                let is_request = head.transport_bytes(bytes).first() == Some(&icmp::v4::ECHO_REQUEST);
                // In a shared network the address is that of another host, which answers itself.
                let is_private = self.neighbourhood == Neighbourhood::Private;
                (is_request && is_private && dst()? == self.link.gateway).then_some(Service::Echo4)
            }
            protocol::IGMP => Some(Service::Groups),
            _ => None,
        }
    }
}

impl Ipv6Services {
    /// True for an address that the guest may use towards the gateway: its own address, or any link-local address,
    /// since the guest chooses that itself.
    fn is_guest(&self, src: Ipv6Addr) -> bool {
        self.link.may_be_guest(src) || src.is_unicast_link_local()
    }

    fn classify(&self, gateway: MacAddr, bytes: &[u8], head: &Head) -> Option<Service> {
        let at = head.transport()?;
        // Fragments of neighbour discovery must be ignored (RFC 6980 5).
        if head.is_fragment() {
            return None;
        }
        let dst = || head.ipv6_addresses(bytes).map(|(_, dst)| dst);
        match at.protocol {
            protocol::UDP if udp_dst(bytes, head) == Some(dhcproto::v6::SERVER_PORT) => {
                self.dhcp.is_for_us(dst()?).then_some(Service::Dhcp6)
            }
            protocol::ICMPV6 => match *head.transport_bytes(bytes).first()? {
                icmp::v6::ECHO_REQUEST => {
                    let dst = dst()?;
                    let is_gateway = self.neighbourhood == Neighbourhood::Private && dst == self.link.gateway;
                    (is_gateway || dst == gateway.link_local()).then_some(Service::Echo6)
                }
                icmp::v6::ROUTER_SOLICITATION..=icmp::v6::REDIRECT => Some(Service::NeighbourDiscovery),
                icmp::v6::MLD_QUERY..=icmp::v6::MLD_DONE | icmp::v6::MLD2_REPORT => Some(Service::Groups),
                _ => None,
            },
            _ => None,
        }
    }
}

impl<'a> Packet<'a, Ipv4Addr> {
    /// The packet in a frame with the parsed head `head`, if it is IPv4.
    fn v4(frame: &'a [u8], head: &Head) -> Option<Self> {
        let (src, dst) = head.ipv4_addresses(frame)?;
        Self::new(frame, head, src, dst)
    }
}

impl<'a> Packet<'a, Ipv6Addr> {
    /// The packet in a frame with the parsed head `head`, if it is IPv6.
    fn v6(frame: &'a [u8], head: &Head) -> Option<Self> {
        let (src, dst) = head.ipv6_addresses(frame)?;
        Self::new(frame, head, src, dst)
    }
}

impl<'a, A> Packet<'a, A> {
    fn new(frame: &'a [u8], head: &Head, src: A, dst: A) -> Option<Self> {
        Some(Self {
            guest_mac: head.source_mac(frame)?,
            src,
            dst,
            hop_limit: head.ttl(frame)?,
            payload: head.transport_bytes(frame),
        })
    }
}

/// The destination port of a UDP packet.
fn udp_dst(bytes: &[u8], head: &Head) -> Option<u16> {
    let ports = head.transport_bytes(bytes).first_chunk::<4>()?;
    Some(be16(ports, 2))
}
