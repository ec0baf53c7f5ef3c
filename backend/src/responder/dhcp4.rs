//! DHCPv4 server (RFC 2131) with exactly one lease, which never changes.
//!
//! As in KubeVirt, every reply has all options. Unlike in KubeVirt, a client that requests another address gets
//! DHCPNAK, so that it does not keep an old lease.
//!
//! Requests are read through the codec's borrowed view, which parses only the needed options. Replies start as a copy
//! of the request's fixed fields.

use super::names::OfferedNames;
use super::replies::{Ports, Route};
use super::{Answer, Convention, HOP_LIMIT, HeldLeases, Packet, Replies, Station};
use crate::config::{Ipv4Link, Layer2Config};
use crate::counters::{Count, Counters, DropReason};
use crate::packet::{Ipv4Header, MacAddr, UdpHeader};
use dhcproto::v4::borrowed;
use dhcproto::v4::{
    CLIENT_PORT, Decodable, Decoder, DhcpOption, DhcpOptions, Encodable, HType, MIN_PACKET_SIZE, Message, MessageType,
    Opcode, OptionCode, SERVER_PORT, UnknownOption,
};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Bytes of the fixed fields and the magic cookie.
const FIXED_LEN: usize = 240;
/// Length of an IP packet that every client accepts (RFC 2131 2).
const MIN_MAX_MESSAGE: usize = 576;
/// Length of an Ethernet address.
const ETHERNET_LEN: u8 = 6;

/// Contents of the lease and of the server's replies.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// Network of the link.
    pub network: Ipv4Net,
    /// Address of the DHCP server.
    pub server: Ipv4Addr,
    /// The server as a station of its own: its MAC, and the gateway's address, which reaches it too. `None`: it is the
    /// gateway.
    pub station: Option<(MacAddr, Ipv4Addr)>,
    /// Duration of the lease.
    pub lease_secs: u32,
    /// Address leased to the guest.
    pub guest: Ipv4Addr,
    /// MAC of the client to serve. `None` serves any client.
    pub client: Option<MacAddr>,
    /// Default router of the guest, if there is one.
    pub router: Option<Ipv4Addr>,
    /// Static routes and their routers; 0.0.0.0 means on-link.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// MTU of the link, in bytes.
    pub mtu: u16,
}

impl Terms {
    /// Terms of a link whose gateway is the server and, unless it serves addresses only, also the default router. A
    /// gateway outside the network gets a route of its own, as the guest of a pod with a single address needs it.
    pub(super) fn of_link(link: &Ipv4Link, station: Station, convention: Convention, mtu: u16) -> Self {
        let (server, own_station) = match convention {
            Convention::KubeVirt => (link.gateway, None),
            Convention::OvnKubernetes => {
                let own = (Layer2Config::SERVER_MAC, link.gateway);
                (Layer2Config::SERVER_IPV4, Some(own))
            }
        };
        let router = match station {
            Station::Router => Some(link.gateway),
            Station::AddressServer => None,
        };
        let far = router.filter(|router| !link.network.contains(router));
        let routes = far.map(|router| {
            let on_link = (Ipv4Net::from(router), Ipv4Addr::UNSPECIFIED);
            vec![on_link, (Ipv4Net::default(), router)]
        });
        Self {
            network: link.network,
            server,
            station: own_station,
            lease_secs: convention.lease4_secs(),
            guest: link.guest,
            client: None,
            router,
            routes: routes.unwrap_or_default(),
            mtu,
        }
    }
}

/// The DHCPv4 server of one link.
#[derive(Debug)]
pub(super) struct Server {
    terms: Terms,
    /// Options of every reply besides message type, server and lease.
    parameters: DhcpOptions,
    held: Arc<HeldLeases>,
}

/// The fields of a request that the server uses.
struct Request<'a> {
    message: borrowed::Message<'a>,
    chaddr: MacAddr,
    kind: MessageType,
    server: Option<Ipv4Addr>,
    requested: Option<Ipv4Addr>,
    max_message: Option<u16>,
    client_id: Option<Vec<u8>>,
    rapid_commit: bool,
}

/// The reply to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Offer,
    Ack {
        rapid_commit: bool,
    },
    /// The answer to DHCPINFORM: parameters, but no lease.
    Inform,
    Nak,
}

impl Server {
    /// A server for `terms` that hands out the options in `told`; `held` records whether the guest holds the lease.
    pub(super) fn new(terms: Terms, told: &OfferedNames, held: Arc<HeldLeases>) -> Self {
        let parameters = parameters(&terms, told);
        Self {
            terms,
            parameters,
            held,
        }
    }

    /// Replaces the options, starting with the next answer.
    pub(super) fn tell(&mut self, told: &OfferedNames) {
        self.parameters = parameters(&self.terms, told);
    }

    /// Replaces the MTU of the link, starting with the next answer.
    pub(super) fn set_mtu(&mut self, mtu: u16, told: &OfferedNames) {
        self.terms.mtu = mtu;
        self.tell(told);
    }

    /// True if a UDP datagram to `dst` can be for the server.
    pub(super) fn is_for_us(&self, dst: Ipv4Addr) -> bool {
        let is_gateway = self.terms.station.is_some_and(|(_, gateway)| gateway == dst);
        dst.is_broadcast() || dst == self.terms.server || is_gateway || dst == self.terms.network.broadcast()
    }

    /// Answers the UDP datagram in `packet`. The checksum is not verified, because a guest may leave it to the device.
    pub(super) fn answer(&self, packet: &Packet<'_, Ipv4Addr>, counters: &Counters, replies: &mut Replies) -> Answer {
        let Some(request) = udp_payload(packet.payload).and_then(Request::parse) else {
            return Answer::Refused(DropReason::BadService);
        };
        if let Some(client) = self.terms.client.filter(|client| *client != request.chaddr) {
            self.held.refuse(client, request.chaddr);
            return Answer::Refused(DropReason::LeaseOfOtherMac);
        }
        let verdict = match request.kind {
            MessageType::Discover if request.rapid_commit => Verdict::Ack { rapid_commit: true },
            MessageType::Discover => Verdict::Offer,
            MessageType::Request => match self.judge(&request) {
                Some(verdict) => verdict,
                None => return Answer::Done,
            },
            MessageType::Inform if self.terms.network.contains(&request.message.ciaddr()) => Verdict::Inform,
            MessageType::Decline => {
                counters.add(Count::Dhcp4Declines, 1);
                if request.requested == Some(self.terms.guest) {
                    self.held.set_v4(false);
                }
                return Answer::Done;
            }
            MessageType::Release => {
                counters.add(Count::Dhcp4Releases, 1);
                if request.message.ciaddr() == self.terms.guest {
                    self.held.set_v4(false);
                }
                return Answer::Done;
            }
            _ => return Answer::Refused(DropReason::BadService),
        };
        let Some(reply) = self.encode(&request, verdict) else {
            return Answer::Refused(DropReason::BadService);
        };
        if matches!(verdict, Verdict::Ack { .. }) {
            counters.add(Count::Dhcp4Leases, 1);
            self.held.set_v4(true);
        }
        let ports = Ports {
            src: SERVER_PORT,
            dst: CLIENT_PORT,
        };
        let route = self.route(&request, verdict);
        match self.terms.station {
            Some((mac, _)) => replies.as_station(mac, |replies| replies.udp(&route, ports, &reply)),
            None => replies.udp(&route, ports, &reply),
        }
        Answer::Done
    }

    /// The answer to a DHCPREQUEST (RFC 2131 4.3.2); `None` if it is for another server.
    fn judge(&self, request: &Request<'_>) -> Option<Verdict> {
        if request.server.is_some_and(|server| server != self.terms.server) {
            return None;
        }
        // Clients that select or reboot name the requested address in an option; clients that renew or rebind already
        // use it.
        let wanted = request.requested.unwrap_or_else(|| request.message.ciaddr());
        Some(if wanted == self.terms.guest {
            Verdict::Ack { rapid_commit: false }
        } else {
            Verdict::Nak
        })
    }

    /// Addressing of a reply (RFC 2131 4.1).
    fn route(&self, request: &Request<'_>, verdict: Verdict) -> Route<Ipv4Addr> {
        let ciaddr = request.message.ciaddr();
        let (mac, dst) = if verdict == Verdict::Nak {
            (MacAddr::BROADCAST, Ipv4Addr::BROADCAST)
        } else if self.terms.network.contains(&ciaddr) {
            (request.chaddr, ciaddr)
        } else if request.message.flags().broadcast() {
            (MacAddr::BROADCAST, Ipv4Addr::BROADCAST)
        } else {
            (request.chaddr, self.terms.guest)
        };
        Route {
            mac,
            src: self.terms.server,
            dst,
            hop_limit: HOP_LIMIT,
        }
    }

    /// The UDP payload of the reply, within the client's limit. Search domains are removed from the end until it fits.
    fn encode(&self, request: &Request<'_>, verdict: Verdict) -> Option<Vec<u8>> {
        let mut reply = request.reply()?;
        let kind = match verdict {
            Verdict::Offer => MessageType::Offer,
            Verdict::Ack { .. } | Verdict::Inform => MessageType::Ack,
            Verdict::Nak => MessageType::Nak,
        };
        let mut options = if verdict == Verdict::Nak {
            let why = format!("the address of this guest is {}", self.terms.guest);
            [DhcpOption::Message(why)].into_iter().collect()
        } else {
            self.parameters.clone()
        };
        options.insert(DhcpOption::ServerIdentifier(self.terms.server));
        if let Some(id) = &request.client_id {
            // RFC 6842
            options.insert(DhcpOption::ClientIdentifier(id.clone()));
        }
        if matches!(verdict, Verdict::Offer | Verdict::Ack { .. }) {
            options.insert(DhcpOption::AddressLeaseTime(self.terms.lease_secs));
            reply.set_yiaddr(self.terms.guest);
        }
        if verdict == (Verdict::Ack { rapid_commit: true }) {
            options.insert(DhcpOption::RapidCommit);
        }
        if matches!(verdict, Verdict::Ack { .. } | Verdict::Inform) {
            reply.set_ciaddr(request.message.ciaddr());
        }
        let mut bytes = reply.to_vec().ok()?;
        // Small clients expect the message type as the first option.
        bytes.extend(DhcpOption::MessageType(kind).to_vec().ok()?);
        let room = self.max_payload(request) - bytes.len();
        let mut encoded = options.to_vec().ok()?;
        while encoded.len() > room && drop_last_domain(&mut options) {
            encoded = options.to_vec().ok()?;
        }
        bytes.extend(encoded);
        // BOOTP relays and old clients expect at least this length (RFC 1542 2.1).
        bytes.resize(bytes.len().max(MIN_PACKET_SIZE), 0);
        Some(bytes)
    }

    /// Longest UDP payload: limited by the client (option 57) and the link, but never below the
    /// length that every client must accept.
    fn max_payload(&self, request: &Request<'_>) -> usize {
        let said = request.max_message.map_or(MIN_MAX_MESSAGE, usize::from);
        said.min(usize::from(self.terms.mtu)).max(MIN_MAX_MESSAGE) - Ipv4Header::LEN - UdpHeader::LEN
    }
}

impl<'a> Request<'a> {
    /// Parses a client's message; `None` if it is malformed or came through a relay agent.
    fn parse(payload: &'a [u8]) -> Option<Self> {
        let message = borrowed::Message::new(payload).ok()?;
        let is_ethernet = message.htype() == HType::Eth && message.hlen() == ETHERNET_LEN;
        if message.opcode() != Opcode::BootRequest || !is_ethernet || !message.giaddr().is_unspecified() {
            return None;
        }
        let chaddr = MacAddr(message.chaddr().try_into().ok()?);
        if chaddr.is_multicast() || chaddr == MacAddr::default() {
            return None;
        }
        let mut kind = None;
        let mut request = Self {
            message,
            chaddr,
            kind: MessageType::Unknown(0),
            server: None,
            requested: None,
            max_message: None,
            client_id: None,
            rapid_commit: false,
        };
        for option in request.message.opts() {
            match (option.code(), option.data()) {
                (OptionCode::MessageType, &[code]) => kind = Some(MessageType::from(code)),
                (OptionCode::ServerIdentifier, &[a, b, c, d]) => request.server = Some([a, b, c, d].into()),
                (OptionCode::RequestedIpAddress, &[a, b, c, d]) => request.requested = Some([a, b, c, d].into()),
                (OptionCode::MaxMessageSize, &[a, b]) => request.max_message = Some(u16::from_be_bytes([a, b])),
                (OptionCode::RapidCommit, _) => request.rapid_commit = true,
                // RFC 2132 9.14: at least two bytes; a value longer than one option is not an
                // identifier.
                (OptionCode::ClientIdentifier, id) if (2..=usize::from(u8::MAX)).contains(&id.len()) => {
                    request.client_id = Some(id.to_vec());
                }
                _ => {}
            }
        }
        request.kind = kind?;
        Some(request)
    }

    /// A reply with fields copied from the request: transaction, flags, hardware address.
    fn reply(&self) -> Option<Message> {
        let message = &self.message;
        let mut fixed = [0; FIXED_LEN];
        fixed[0] = Opcode::BootReply.into();
        fixed[1] = message.htype().into();
        fixed[2] = message.hlen();
        fixed[4..8].copy_from_slice(&message.xid().to_be_bytes());
        fixed[10..12].copy_from_slice(&u16::from(message.flags()).to_be_bytes());
        fixed[28..34].copy_from_slice(&self.chaddr.0);
        fixed[236..].copy_from_slice(&dhcproto::v4::MAGIC);
        Message::decode(&mut Decoder::new(&fixed)).ok()
    }
}

/// Options of every reply besides message type, server and lease.
fn parameters(terms: &Terms, told: &OfferedNames) -> DhcpOptions {
    let mut parameters = DhcpOptions::new();
    parameters.insert(DhcpOption::SubnetMask(terms.network.netmask()));
    parameters.insert(DhcpOption::InterfaceMtu(terms.mtu));
    if let Some(router) = terms.router {
        parameters.insert(DhcpOption::Router(vec![router]));
    }
    if !terms.routes.is_empty() {
        // RFC 3442: a client that knows this option ignores the router option.
        parameters.insert(DhcpOption::ClasslessStaticRoute(terms.routes.clone()));
    }
    if !told.dns4.is_empty() {
        parameters.insert(DhcpOption::DomainNameServer(told.dns4.clone()));
    }
    if let Some(hostname) = &told.hostname {
        parameters.insert(DhcpOption::Hostname(hostname.clone()));
    }
    if let Some(domain) = told.search.domain() {
        // Windows ignores option 119.
        parameters.insert(DhcpOption::DomainName(domain.to_owned()));
        parameters.insert(DhcpOption::DomainSearch(told.search.names()));
    }
    // These are sent whether or not the client requests them, and replace options that are already set.
    for (code, data) in &told.options {
        let option = UnknownOption::new(OptionCode::from(*code), data.clone());
        parameters.insert(DhcpOption::Unknown(option));
    }
    parameters
}

fn udp_payload(datagram: &[u8]) -> Option<&[u8]> {
    let header = UdpHeader::parse(datagram, datagram.len(), false).ok()?;
    datagram.get(UdpHeader::LEN..UdpHeader::LEN + header.payload_len)
}

/// Removes the last domain of the search list. False if the list is empty.
fn drop_last_domain(options: &mut DhcpOptions) -> bool {
    let Some(DhcpOption::DomainSearch(names)) = options.get_mut(OptionCode::DomainSearch) else {
        return false;
    };
    names.pop();
    if names.is_empty() {
        options.remove(OptionCode::DomainSearch);
    }
    true
}
