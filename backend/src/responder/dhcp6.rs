//! DHCPv6 server (RFC 8415) with exactly one lease, which never changes.
//!
//! It keeps no state: the first IA_NA of a message always gets the guest's address, from any client. Every other
//! identity association is refused with the status that its message type requires. Messages are accepted on the
//! servers' multicast address and on the gateway's own address.
//!
//! Requests are parsed here instead of by the codec's decoder, which parses every option it knows, however deeply
//! nested, and trusts their lengths. The codec writes the replies.

mod request;

use super::names::OfferedNames;
use super::replies::{Ports, Route};
use super::{Answer, Convention, HOP_LIMIT, HeldLeases, Packet, Replies};
use crate::config::{Ipv6Link, mac_of_address};
use crate::counters::{Count, Counters, DropReason};
use crate::packet::{MacAddr, UdpHeader};
use dhcproto::v6::{
    CLIENT_PORT, DhcpOption, DhcpOptions, Encodable, IAAddr, IANA, IAPD, IATA, MessageType, OptionCode, SERVER_PORT,
    Status, StatusCode, UnknownOption,
};
use request::{Association, Kind, Request};
use std::net::Ipv6Addr;
use std::sync::Arc;

/// All_DHCP_Relay_Agents_and_Servers
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// The highest preference: a client accepts this offer without waiting for others (RFC 8415 18.2.1).
const MAX_PREFERENCE: u8 = 255;
/// Flags of option 39 (RFC 4704 4.1): the server is to update DNS (S), it does not as requested (O), it updates nothing
/// (N).
const FQDN_UPDATE: u8 = 1;
const FQDN_OVERRIDDEN: u8 = 2;
const FQDN_NO_UPDATE: u8 = 4;
/// The address from which OVN-Kubernetes derives the MAC of its server.
const OVN_SERVER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// DUID-LL over Ethernet (RFC 8415 11.4): type 3, hardware type 1, the MAC.
const DUID_HEAD: [u8; 4] = [0, 3, 0, 1];

/// The terms of a lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// MAC of the server, which its DUID and its link-local address contain.
    pub server: MacAddr,
    /// Preferred and valid lifetime.
    pub secs: u32,
    /// Times to renew and rebind.
    pub renew_secs: u32,
    pub rebind_secs: u32,
}

impl Terms {
    /// The terms of a convention, for a link with this gateway.
    pub(super) fn new(convention: Convention, gateway: MacAddr) -> Self {
        match convention {
            // 999 days, so that renewals do not wake an idle guest. Half and four fifths of it: RFC 8415 21.4.
            Convention::KubeVirt => {
                let secs = 999 * 24 * 60 * 60;
                Self {
                    server: gateway,
                    secs,
                    renew_secs: secs / 2,
                    rebind_secs: secs / 5 * 4,
                }
            }
            Convention::OvnKubernetes => Self {
                server: mac_of_address(OVN_SERVER.into()),
                secs: u32::MAX,
                renew_secs: u32::MAX,
                rebind_secs: u32::MAX,
            },
        }
    }
}

/// The DHCPv6 server of one link.
#[derive(Debug)]
pub(super) struct Server {
    link: Ipv6Link,
    /// Link-local address of the gateway.
    link_local: Ipv6Addr,
    terms: Terms,
    duid: Vec<u8>,
    /// The guest's name, in the form of option 39; empty: none.
    fqdn: Vec<u8>,
    /// Options for every client besides its address.
    parameters: Vec<DhcpOption>,
    held: Arc<HeldLeases>,
}

/// Message type and options of a reply. Functions return `None` if the RFC requires silence.
type Reply = (MessageType, Vec<DhcpOption>);

impl Server {
    /// The server at the gateway of `link`. It hands out `told` and records in `held` whether the guest holds its
    /// lease.
    pub(super) fn new(
        gateway: MacAddr,
        link: Ipv6Link,
        terms: Terms,
        told: &OfferedNames,
        held: Arc<HeldLeases>,
    ) -> Self {
        Self {
            link,
            link_local: gateway.link_local(),
            terms,
            duid: [&DUID_HEAD[..], &terms.server.0].concat(),
            fqdn: told.fqdn(),
            parameters: parameters(told),
            held,
        }
    }

    /// Replaces the options, starting with the next answer.
    pub(super) fn tell(&mut self, told: &OfferedNames) {
        self.parameters = parameters(told);
        self.fqdn = told.fqdn();
    }

    /// True if a UDP datagram to `dst` can be for the server.
    pub(super) fn is_for_us(&self, dst: Ipv6Addr) -> bool {
        let own = [
            ALL_SERVERS,
            self.link.gateway,
            self.link_local,
            self.terms.server.link_local(),
        ];
        own.contains(&dst)
    }

    /// Answers the UDP datagram in `packet`. The checksum is not verified, because a guest may leave it to the device.
    pub(super) fn answer(&self, packet: &Packet<'_, Ipv6Addr>, counters: &Counters, replies: &mut Replies) -> Answer {
        let has_source = !packet.src.is_unspecified() && !packet.src.is_multicast();
        let request = UdpHeader::parse(packet.payload, packet.payload.len(), false)
            .ok()
            .and_then(|udp| packet.payload.get(UdpHeader::LEN..UdpHeader::LEN + udp.payload_len))
            .and_then(Request::parse)
            .filter(|request| has_source && self.is_valid(request));
        let Some(request) = request else {
            return Answer::Refused(DropReason::BadService);
        };
        let Some((kind, options)) = self.decide(&request, counters) else {
            return Answer::Done;
        };
        let Some(payload) = self.encode(&request, kind, options) else {
            return Answer::Refused(DropReason::BadService);
        };
        let src = if packet.dst.is_multicast() {
            self.terms.server.link_local()
        } else {
            packet.dst
        };
        let route = Route {
            mac: packet.guest_mac,
            src,
            dst: packet.src,
            hop_limit: HOP_LIMIT,
        };
        let ports = Ports {
            src: SERVER_PORT,
            dst: CLIENT_PORT,
        };
        replies.as_station(self.terms.server, |replies| replies.udp(&route, ports, &payload));
        Answer::Done
    }

    /// True if a message has the required identifiers and no forbidden ones (RFC 8415 16).
    fn is_valid(&self, request: &Request<'_>) -> bool {
        let is_ours = request.server == Some(&self.duid[..]);
        match request.kind {
            MessageType::Solicit | MessageType::Confirm | MessageType::Rebind => {
                request.client.is_some() && request.server.is_none()
            }
            MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline => {
                request.client.is_some() && is_ours
            }
            MessageType::InformationRequest => (request.server.is_none() || is_ours) && request.associations.is_empty(),
            _ => false,
        }
    }

    fn decide(&self, request: &Request<'_>, counters: &Counters) -> Option<Reply> {
        match request.kind {
            MessageType::Solicit if !request.rapid_commit => {
                let mut options = self.assign(request, None);
                options.push(DhcpOption::Preference(MAX_PREFERENCE));
                Some((MessageType::Advertise, options))
            }
            MessageType::Solicit => {
                let mut options = self.assign(request, Some(counters));
                options.push(DhcpOption::RapidCommit);
                Some((MessageType::Reply, options))
            }
            MessageType::Request => Some((MessageType::Reply, self.assign(request, Some(counters)))),
            MessageType::Renew | MessageType::Rebind => Some((MessageType::Reply, self.extend(request, counters))),
            MessageType::Confirm => self.confirm(request),
            MessageType::Release => {
                counters.add(Count::Dhcp6Releases, 1);
                self.give_back(request);
                Some((MessageType::Reply, acknowledge(request, self.terms)))
            }
            MessageType::Decline => {
                counters.add(Count::Dhcp6Declines, 1);
                self.give_back(request);
                Some((MessageType::Reply, acknowledge(request, self.terms)))
            }
            MessageType::InformationRequest => Some((MessageType::Reply, self.parameters.clone())),
            _ => None,
        }
    }

    /// SOLICIT and REQUEST (RFC 8415 18.3.1, 18.3.2, 18.3.9). A lease, unlike an offer, is counted in `committed`.
    fn assign(&self, request: &Request<'_>, committed: Option<&Counters>) -> Vec<DhcpOption> {
        let mut options = self.parameters.clone();
        for (ia, is_ours) in request.associations() {
            // Only a REQUEST is refused because it is on the wrong link. The addresses in a SOLICIT are mere
            // preferences.
            let is_wrong = request.kind == MessageType::Request && !ia.addresses().all(|a| self.is_on_link(a));
            let contents = match ia.kind {
                Kind::Addresses if is_ours && is_wrong => status(Status::NotOnLink, "not an address of this link"),
                Kind::Addresses if is_ours => {
                    if let Some(counters) = committed {
                        self.give(counters);
                    }
                    address(self.link.guest, self.terms.secs)
                }
                Kind::Addresses | Kind::Temporary => status(Status::NoAddrsAvail, "a guest has one address"),
                Kind::Prefixes => status(Status::NoPrefixAvail, "no prefixes are delegated"),
            };
            options.push(association(ia, self.terms, vec![contents]));
        }
        options
    }

    fn give(&self, counters: &Counters) {
        counters.add(Count::Dhcp6Leases, 1);
        self.held.set_v6(true);
    }

    /// Ends the lease if the client names the guest's own address in its message.
    fn give_back(&self, request: &Request<'_>) {
        let names_it =
            |(ia, is_ours): (&Association<'_>, bool)| is_ours && ia.addresses().any(|a| a == self.link.guest);
        if request.associations().any(names_it) {
            self.held.set_v6(false);
        }
    }

    /// RENEW and REBIND (RFC 8415 18.3.4, 18.3.5).
    fn extend(&self, request: &Request<'_>, counters: &Counters) -> Vec<DhcpOption> {
        let mut options = self.parameters.clone();
        for (ia, is_ours) in request.associations() {
            let contents = if is_ours {
                self.give(counters);
                let others = ia.addresses().filter(|a| *a != self.link.guest);
                // A lifetime of zero tells the client to stop using an address.
                let ended = others.take(request::MAX_ADDRESSES).map(|a| address(a, 0));
                std::iter::once(address(self.link.guest, self.terms.secs))
                    .chain(ended)
                    .collect()
            } else {
                vec![status(Status::NoBinding, "not an association of this guest")]
            };
            options.push(association(ia, self.terms, contents));
        }
        options
    }

    /// CONFIRM (RFC 8415 18.3.3). Any address except the guest's own counts as wrong, even one on the link: the guest
    /// could not send from it.
    fn confirm(&self, request: &Request<'_>) -> Option<Reply> {
        let mut addresses = request.associations.iter().flat_map(Association::addresses).peekable();
        addresses.peek()?;
        let verdict = if addresses.all(|a| a == self.link.guest) {
            status(Status::Success, "still right")
        } else {
            status(Status::NotOnLink, "not the address of this guest")
        };
        Some((MessageType::Reply, vec![verdict]))
    }

    fn is_on_link(&self, address: Ipv6Addr) -> bool {
        self.link.network.contains(&address)
    }

    fn encode(&self, request: &Request<'_>, kind: MessageType, mut options: Vec<DhcpOption>) -> Option<Vec<u8>> {
        options.push(DhcpOption::ServerId(self.duid.clone()));
        if let Some(client) = request.client {
            options.push(DhcpOption::ClientId(client.to_vec()));
        }
        // RFC 4704 6: only a client that sends the option gets it.
        if let Some(flags) = request.fqdn.filter(|_| !self.fqdn.is_empty()) {
            let overridden = if flags & FQDN_UPDATE == 0 { 0 } else { FQDN_OVERRIDDEN };
            let body = [&[FQDN_NO_UPDATE | overridden][..], &self.fqdn].concat();
            options.push(DhcpOption::Unknown(UnknownOption::new(OptionCode::ClientFqdn, body)));
        }
        let mut payload = vec![kind.into()];
        payload.extend(request.transaction);
        payload.extend(options.into_iter().collect::<DhcpOptions>().to_vec().ok()?);
        Some(payload)
    }
}

/// Options for every client besides its address.
fn parameters(told: &OfferedNames) -> Vec<DhcpOption> {
    let mut parameters = Vec::new();
    if !told.dns6.is_empty() {
        parameters.push(DhcpOption::DomainNameServers(told.dns6.clone()));
    }
    if !told.search.is_empty() {
        // Written as bytes: the codec would compress the names, which RFC 8415 10 forbids.
        let list = UnknownOption::new(OptionCode::DomainSearchList, told.search.wire().to_vec());
        parameters.push(DhcpOption::Unknown(list));
    }
    parameters
}

/// RELEASE and DECLINE (RFC 8415 18.3.7, 18.3.8): the server has no state to change.
fn acknowledge(request: &Request<'_>, terms: Terms) -> Vec<DhcpOption> {
    let mut options = vec![status(Status::Success, "noted")];
    for (ia, is_ours) in request.associations() {
        if !is_ours {
            let contents = status(Status::NoBinding, "not an association of this guest");
            options.push(association(ia, terms, vec![contents]));
        }
    }
    options
}

fn status(status: Status, why: &str) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode {
        status,
        msg: why.to_owned(),
    })
}

fn address(addr: Ipv6Addr, lifetime: u32) -> DhcpOption {
    DhcpOption::IAAddr(IAAddr {
        addr,
        preferred_life: lifetime,
        valid_life: lifetime,
        opts: DhcpOptions::new(),
    })
}

/// The answer to the association `ia`, with `contents` as its options.
fn association(ia: &Association<'_>, terms: Terms, contents: Vec<DhcpOption>) -> DhcpOption {
    let opts = contents.into_iter().collect();
    let (id, t1, t2) = (ia.iaid, terms.renew_secs, terms.rebind_secs);
    match ia.kind {
        Kind::Addresses => DhcpOption::IANA(IANA { id, t1, t2, opts }),
        Kind::Temporary => DhcpOption::IATA(IATA { id, opts }),
        Kind::Prefixes => DhcpOption::IAPD(IAPD { id, t1, t2, opts }),
    }
}
