//! Neighbour discovery (RFC 4861): the gateway as neighbour and as router.
//!
//! A guest learns its default route, the MTU and name servers (RFC 8106) from router advertisements. Its address comes
//! from DHCPv6, so the M and O flags are set. A prefix of 64 bits also allows autoconfiguration, for guests without
//! DHCPv6. Advertisements are sent when the guest's link comes up, when the guest solicits one, and otherwise just
//! often enough that their lifetimes do not expire, because each one wakes an idle guest.

use super::names::{MAX_SERVERS, SearchList};
use super::replies::Route;
use super::{Answer, Convention, Neighbours, Packet, Replies, Station};
use crate::config::Ipv6Link;
use crate::counters::{Count, Counters, DropReason};
use crate::packet::{EtherType, Head, IcmpHeader, MacAddr, be16, icmp, protocol};
use crate::time::Instant;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Hop limit of all neighbour discovery messages. It proves that no router has forwarded them.
const LINK_HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Lifetime of the router and of name servers under masquerade: three times the interval, the default of RFC 4861 6.2.1
/// and RFC 8106 5.1.
const LIFETIME_SECS: u16 = 1800;
/// Lifetime of name servers on a layer2 network: three times the longest interval.
const OVN_NAMES_SECS: u16 = 2700;
/// Router lifetime of an advertiser that is not a router (RFC 4861 4.2).
const NO_ROUTER: u16 = 0;
/// Lifetime of a prefix that never expires.
const INFINITE: u32 = u32::MAX;
/// Minimum MTU of IPv6; receivers ignore an MTU option below it.
const MIN_MTU: u16 = 1280;

mod option {
    pub(super) const SOURCE_LINK_LAYER: u8 = 1;
    pub(super) const TARGET_LINK_LAYER: u8 = 2;
    pub(super) const PREFIX: u8 = 3;
    pub(super) const MTU: u8 = 5;
    pub(super) const RDNSS: u8 = 25;
    pub(super) const DNSSL: u8 = 31;
    /// Unit of option lengths, in bytes.
    pub(super) const UNIT: usize = 8;
}

/// Length of a neighbour message before its options: header and target address.
const NEIGHBOUR_LEN: usize = IcmpHeader::LEN + 16;
const NA_ROUTER: u8 = 0x80;
const NA_SOLICITED: u8 = 0x40;
const NA_OVERRIDE: u8 = 0x20;
/// Flags M and O: DHCPv6 provides addresses and other configuration.
const RA_MANAGED: u8 = 0x80;
const RA_OTHER: u8 = 0x40;
/// Low preference of the router.
const RA_LOW: u8 = 0x18;
const PREFIX_ON_LINK: u8 = 0x80;
const PREFIX_AUTONOMOUS: u8 = 0x40;
/// Hop limit for the guest's packets.
const GUEST_HOP_LIMIT: u8 = 64;

/// Flags of the prefix in an advertisement (RFC 4861 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    /// The addresses in it are on-link. Otherwise the guest sends to all of them through the router.
    pub on_link: bool,
    /// The guest may form its own address from it (RFC 4862).
    pub autonomous: bool,
}

impl Prefix {
    const fn flags(self) -> u8 {
        let on_link = if self.on_link { PREFIX_ON_LINK } else { 0 };
        let autonomous = if self.autonomous { PREFIX_AUTONOMOUS } else { 0 };
        on_link | autonomous
    }
}

/// The gateway in neighbour discovery.
#[derive(Debug)]
pub(super) struct Router {
    /// Addresses that resolve to the gateway's MAC.
    neighbours: Vec<Ipv6Addr>,
    station: Station,
    /// The advertisement without its checksum.
    advertisement: Vec<u8>,
    schedule: Schedule,
    cadence: Cadence,
    /// The address that the guest has probed last.
    claimed: Option<Ipv6Addr>,
}

/// The times between unsolicited advertisements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cadence {
    min: Duration,
    max: Duration,
}

impl Cadence {
    /// The cadence of a convention.
    pub(super) const fn of(convention: Convention) -> Self {
        let (min, max) = match convention {
            // The default of MaxRtrAdvInterval. Each advertisement wakes an idle guest.
            Convention::KubeVirt => (600, 600),
            Convention::OvnKubernetes => (300, 900),
        };
        Self {
            min: Duration::from_secs(min),
            max: Duration::from_secs(max),
        }
    }

    /// The time of the next advertisement after one at `now`, whose nanoseconds serve as a random number.
    fn next(self, now: Instant) -> Instant {
        let span = u64::try_from((self.max - self.min).as_nanos()).unwrap_or(u64::MAX);
        let part = now.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15) % span.saturating_add(1);
        now + self.min + Duration::from_nanos(part)
    }
}

/// What an advertisement says about its sender.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announcement {
    hop_limit: u8,
    /// The flags M and O, and the preference of the router (RFC 4191 2.2).
    flags: u8,
    router_secs: u16,
    names_secs: u16,
}

impl Announcement {
    /// The announcement of a station.
    pub(super) const fn of(convention: Convention, station: Station) -> Self {
        let base = match convention {
            Convention::KubeVirt => Self {
                hop_limit: GUEST_HOP_LIMIT,
                flags: RA_MANAGED | RA_OTHER,
                router_secs: LIFETIME_SECS,
                names_secs: LIFETIME_SECS,
            },
            Convention::OvnKubernetes => Self {
                hop_limit: u8::MAX,
                flags: RA_MANAGED | RA_LOW,
                router_secs: u16::MAX,
                names_secs: OVN_NAMES_SECS,
            },
        };
        match station {
            Station::Router => base,
            // RFC 4191 2.2: without a router there is no preference.
            Station::AddressServer => Self {
                flags: base.flags & !RA_LOW,
                router_secs: NO_ROUTER,
                ..base
            },
        }
    }
}

/// Schedule of unsolicited advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schedule {
    /// Never, because another worker sends them.
    Never,
    /// As soon as the link comes up.
    LinkUp,
    /// At this time.
    At(Instant),
}

impl Router {
    /// The station that answers for the addresses `own`. `advertisement` is sent on solicitation, and also unsolicited
    /// if there is a cadence.
    pub(super) fn new(own: Vec<Ipv6Addr>, station: Station, advertisement: Vec<u8>, cadence: Option<Cadence>) -> Self {
        Self {
            neighbours: own,
            station,
            advertisement,
            claimed: None,
            schedule: cadence.map_or(Schedule::Never, |_| Schedule::LinkUp),
            cadence: cadence.unwrap_or(Cadence::of(Convention::KubeVirt)),
        }
    }

    /// Takes the address that the guest has probed since the last call.
    pub(super) const fn take_claimed(&mut self) -> Option<Ipv6Addr> {
        self.claimed.take()
    }

    /// Time of the next unsolicited advertisement.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self.schedule {
            Schedule::At(at) => Some(at),
            Schedule::Never | Schedule::LinkUp => None,
        }
    }

    /// Sends an advertisement to all nodes, because the link is up or the next one is due.
    pub(super) fn advertise(&mut self, now: Instant, counters: &Counters, replies: &mut Replies) {
        if self.schedule != Schedule::Never {
            self.advertise_to(now, ALL_NODES_MAC, ALL_NODES, counters, replies);
        }
    }

    /// Tells the guest the MAC of the gateway without a solicitation, for all of the gateway's addresses.
    pub(super) fn announce(&self, replies: &mut Replies) {
        let gateway = Neighbour {
            mac: replies.gateway,
            is_router: self.station == Station::Router,
        };
        for address in &self.neighbours {
            advertise_unsolicited(gateway, *address, replies);
        }
    }

    /// Stops unsolicited advertisements, because the link is down.
    pub(super) fn stop(&mut self) {
        self.reschedule(Schedule::LinkUp);
    }

    /// Replaces the advertisement. If unsolicited ones are scheduled, the next is due immediately.
    pub(super) fn set_advertisement(&mut self, now: Instant, advertisement: Vec<u8>) {
        self.advertisement = advertisement;
        if matches!(self.schedule, Schedule::At(_)) {
            self.schedule = Schedule::At(now);
        }
    }

    fn reschedule(&mut self, schedule: Schedule) {
        if self.schedule != Schedule::Never {
            self.schedule = schedule;
        }
    }

    /// Answers a neighbour discovery message.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        packet: &Packet<'_, Ipv6Addr>,
        peers: &dyn Neighbours,
        counters: &Counters,
        replies: &mut Replies,
    ) -> Answer {
        match kind(packet) {
            Some(icmp::v6::NEIGHBOUR_SOLICITATION) => {
                let (neighbours, claimed, gateway) = (&self.neighbours, &mut self.claimed, replies.gateway);
                let is_router = self.station == Station::Router;
                let neighbour_of = |target: &Ipv6Addr, is_probe| {
                    let own = neighbours.contains(target).then_some(Neighbour {
                        mac: gateway,
                        is_router,
                    });
                    let neighbour = own.or_else(|| peers.mac_of((*target).into()).map(Neighbour::host));
                    if is_probe && neighbour.is_none() {
                        *claimed = Some(*target);
                    }
                    neighbour
                };
                on_solicitation(neighbour_of, packet, replies)
            }
            Some(icmp::v6::ROUTER_SOLICITATION) => self.on_router_solicitation(now, packet, counters, replies),
            // The guest announces itself, but it is the only neighbour and is already known.
            Some(icmp::v6::NEIGHBOUR_ADVERTISEMENT) => Answer::Done,
            // A guest is not a router.
            _ => Answer::Refused(DropReason::BadService),
        }
    }

    fn on_router_solicitation(
        &mut self,
        now: Instant,
        packet: &Packet<'_, Ipv6Addr>,
        counters: &Counters,
        replies: &mut Replies,
    ) -> Answer {
        let Some(options) = packet.payload.get(IcmpHeader::LEN..).and_then(Options::check) else {
            return Answer::Refused(DropReason::BadService);
        };
        if !packet.src.is_unspecified() {
            self.advertise_to(now, packet.guest_mac, packet.src, counters, replies);
            return Answer::Done;
        }
        // RFC 4861 6.1.1
        if options.has_source {
            return Answer::Refused(DropReason::BadService);
        }
        self.advertise_to(now, ALL_NODES_MAC, ALL_NODES, counters, replies);
        Answer::Done
    }

    fn advertise_to(&mut self, now: Instant, mac: MacAddr, dst: Ipv6Addr, counters: &Counters, replies: &mut Replies) {
        let route = Route {
            mac,
            src: replies.gateway.link_local(),
            dst,
            hop_limit: LINK_HOP_LIMIT,
        };
        let advertisement = &self.advertisement;
        replies.icmp(&route, advertisement.len(), |message| {
            message.copy_from_slice(advertisement);
        });
        counters.add(Count::RouterAdvertisements, 1);
        self.reschedule(Schedule::At(self.cadence.next(now)));
    }
}

/// The message type, if the message is valid neighbour discovery.
pub(super) fn kind(packet: &Packet<'_, Ipv6Addr>) -> Option<u8> {
    let (src, dst) = (packet.src.into(), packet.dst.into());
    let header = IcmpHeader::parse(packet.payload).ok()?;
    let is_sound = packet.hop_limit == LINK_HOP_LIMIT
        && header.code == 0
        && !packet.src.is_multicast()
        && icmp::checksum_ok(src, dst, packet.payload);
    is_sound.then_some(header.kind)
}

/// True for a router solicitation in the frame whose parsed head is `head`.
pub fn is_router_solicitation(bytes: &[u8], head: &Head) -> bool {
    let kind = || head.transport_bytes(bytes).first();
    is_ipv6(head, protocol::ICMPV6) && kind() == Some(&icmp::v6::ROUTER_SOLICITATION)
}

/// The target of the neighbour solicitation in a frame whose parsed head is `head`; `None` for any other frame.
pub fn solicited(bytes: &[u8], head: &Head) -> Option<Ipv6Addr> {
    let message = head.transport_bytes(bytes);
    if !is_ipv6(head, protocol::ICMPV6) || message.first() != Some(&icmp::v6::NEIGHBOUR_SOLICITATION) {
        return None;
    }
    let target = message.get(IcmpHeader::LEN..)?.first_chunk::<16>()?;
    Some(Ipv6Addr::from(*target))
}

/// Announces to all hosts that `address` is at `mac`, by an unsolicited advertisement (RFC 4861 7.2.6).
pub(super) fn announce(address: Ipv6Addr, mac: MacAddr, replies: &mut Replies) {
    advertise_unsolicited(Neighbour::host(mac), address, replies);
}

/// Tells all nodes that `address` is that of `neighbour`.
fn advertise_unsolicited(neighbour: Neighbour, address: Ipv6Addr, replies: &mut Replies) {
    let route = Route {
        mac: ALL_NODES_MAC,
        src: address,
        dst: ALL_NODES,
        hop_limit: LINK_HOP_LIMIT,
    };
    advertise(neighbour, address, &route, NA_OVERRIDE, replies);
}

/// Adds an advertisement of `neighbour`, which has the address `target`.
fn advertise(neighbour: Neighbour, target: Ipv6Addr, route: &Route<Ipv6Addr>, flags: u8, replies: &mut Replies) {
    let router = if neighbour.is_router { NA_ROUTER } else { 0 };
    replies.as_station(neighbour.mac, |replies| {
        replies.icmp(route, NEIGHBOUR_LEN + option::UNIT, |message| {
            let header = IcmpHeader {
                kind: icmp::v6::NEIGHBOUR_ADVERTISEMENT,
                code: 0,
                rest: [router | flags, 0, 0, 0],
            };
            header.emit(message, 0);
            message[IcmpHeader::LEN..NEIGHBOUR_LEN].copy_from_slice(&target.octets());
            message[NEIGHBOUR_LEN..].copy_from_slice(&link_layer_option(option::TARGET_LINK_LAYER, neighbour.mac));
        });
    });
}

/// True for a whole IPv6 packet that carries `protocol`, in a frame without tags.
pub(super) fn is_ipv6(head: &Head, protocol: u8) -> bool {
    head.transport().is_some_and(|at| at.protocol == protocol)
        && head.ethertype() == EtherType::Ipv6
        && head.tags() == 0
        && head.fault().is_none()
        && !head.is_fragment()
}

/// A station whose address is requested by a solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) mac: MacAddr,
    pub(super) is_router: bool,
}

impl Neighbour {
    const fn host(mac: MacAddr) -> Self {
        Self { mac, is_router: false }
    }
}

/// Answers a neighbour solicitation if `neighbour_of` returns a station for the requested address. Its arguments are
/// the target, and whether the guest probes the address for its own use (duplicate address detection).
pub(super) fn on_solicitation(
    mut neighbour_of: impl FnMut(&Ipv6Addr, bool) -> Option<Neighbour>,
    packet: &Packet<'_, Ipv6Addr>,
    replies: &mut Replies,
) -> Answer {
    let (Some(target), Some(options)) = (
        packet.payload.get(8..).and_then(<[u8]>::first_chunk::<16>),
        packet.payload.get(NEIGHBOUR_LEN..).and_then(Options::check),
    ) else {
        return Answer::Refused(DropReason::BadService);
    };
    let target = Ipv6Addr::from(*target);
    let is_probe = packet.src.is_unspecified();
    // RFC 4861 7.1.1
    let is_odd_probe = is_probe && (options.has_source || packet.dst != solicited_node(target));
    if target.is_multicast() || is_odd_probe {
        return Answer::Refused(DropReason::BadService);
    }
    let Some(neighbour) = neighbour_of(&target, is_probe) else {
        // Duplicate address detection (RFC 4862 5.4) of the guest's own address must stay
        // unanswered.
        return if is_probe {
            Answer::Done
        } else {
            Answer::Refused(DropReason::NoSuchNeighbour)
        };
    };
    let (mac, dst, solicited) = if is_probe {
        (ALL_NODES_MAC, ALL_NODES, 0)
    } else {
        (packet.guest_mac, packet.src, NA_SOLICITED)
    };
    let route = Route {
        mac,
        src: target,
        dst,
        hop_limit: LINK_HOP_LIMIT,
    };
    advertise(neighbour, target, &route, NA_OVERRIDE | solicited, replies);
    Answer::Done
}

/// The relevant properties of a message's options.
struct Options {
    /// True if a source link-layer address is present.
    has_source: bool,
}

impl Options {
    /// Checks the options; `None` if one has length zero or exceeds the message (RFC 4861 6.1.1 and
    /// 7.1.1: such a message must be dropped).
    fn check(mut bytes: &[u8]) -> Option<Self> {
        let mut has_source = false;
        while let [kind, units, ..] = *bytes {
            let len = usize::from(units) * option::UNIT;
            bytes = bytes.get(len..).filter(|_| len > 0)?;
            has_source |= kind == option::SOURCE_LINK_LAYER;
        }
        bytes.is_empty().then_some(Self { has_source })
    }
}

/// Solicited-node address ff02::1:ffXX:XXXX of `address` (RFC 4291 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), be16(&[b, c], 0))
}

fn link_layer_option(kind: u8, mac: MacAddr) -> [u8; option::UNIT] {
    let mut bytes = [kind, 1, 0, 0, 0, 0, 0, 0];
    bytes[2..].copy_from_slice(&mac.0);
    bytes
}

/// Properties of the link that an advertisement contains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Advertised {
    pub(super) gateway: MacAddr,
    pub(super) link: Ipv6Link,
    pub(super) prefix: Prefix,
    pub(super) announcement: Announcement,
    pub(super) mtu: u16,
}

/// An advertisement without its checksum.
pub(super) fn advertisement(advertised: Advertised, dns: &[Ipv6Addr], search: &SearchList) -> Vec<u8> {
    let Advertised {
        gateway,
        link,
        prefix,
        announcement,
        mtu,
    } = advertised;
    let lifetime = announcement.router_secs.to_be_bytes();
    let header = IcmpHeader {
        kind: icmp::v6::ROUTER_ADVERTISEMENT,
        code: 0,
        rest: [announcement.hop_limit, announcement.flags, lifetime[0], lifetime[1]],
    };
    let mut message = vec![0; IcmpHeader::LEN];
    header.emit(&mut message, 0);
    // Reachable time and retransmission timer: unspecified.
    message.extend([0; 8]);
    message.extend(link_layer_option(option::SOURCE_LINK_LAYER, gateway));
    if mtu >= MIN_MTU {
        push_option(&mut message, option::MTU, |body| {
            body.extend([0; 2]);
            body.extend(u32::from(mtu).to_be_bytes());
        });
    }
    // A private prefix is on-link, just as the netmask makes the IPv4 network on-link: the gateway's ::1 is then a
    // neighbour with or without a default route. The prefix is autonomous only if the guest may send from any address in it.
    push_option(&mut message, option::PREFIX, |body| {
        body.extend([link.network.prefix_len(), prefix.flags()]);
        body.extend(INFINITE.to_be_bytes());
        body.extend(INFINITE.to_be_bytes());
        body.extend([0; 4]);
        body.extend(link.network.network().octets());
    });
    if !dns.is_empty() {
        push_option(&mut message, option::RDNSS, |body| {
            body.extend([0; 2]);
            body.extend(u32::from(announcement.names_secs).to_be_bytes());
            body.extend(dns.iter().take(MAX_SERVERS).flat_map(Ipv6Addr::octets));
        });
    }
    if !search.is_empty() {
        push_option(&mut message, option::DNSSL, |body| {
            body.extend([0; 2]);
            body.extend(u32::from(announcement.names_secs).to_be_bytes());
            body.extend(search.wire());
        });
    }
    message
}

/// Appends an option with the body that `write` produces, padded with zeros.
fn push_option(message: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = message.len();
    message.extend([kind, 0]);
    write(message);
    let len = (message.len() - start).next_multiple_of(option::UNIT);
    message.resize(start + len, 0);
    message[start + 1] = u8::try_from(len / option::UNIT).unwrap_or(u8::MAX);
}
