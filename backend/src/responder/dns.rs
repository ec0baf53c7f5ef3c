//! DNS for the names of a network, on the gateway (RFC 1035).
//!
//! The server answers two kinds of query: for the address of a guest, by its name alone or in the network's domain, and
//! for the name of a guest's address. If the guest has no address of the requested family, or no record of the
//! requested type, the answer contains no records. A resolver would take a refusal for a failure of the server, and "no
//! such name" for a statement about all families. All other queries are left to the name servers behind the gateway.

use super::replies::{Family, Ports, Route};
use super::{Answer, HOP_LIMIT, Replies};
use crate::packet::{EtherType, Head, MacAddr, UdpHeader, be16, protocol};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, rdata};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// UDP port of the server.
pub const PORT: u16 = 53;
/// Seconds for which a resolver may cache an answer. It is short, because a guest may get another address.
const TTL: u32 = 30;
/// Longest query that is examined. Longer ones are left to other servers.
const MAX_QUERY: usize = 512;
/// Size of messages that the server accepts, in bytes (RFC 6891 6.2.5).
const MAX_PAYLOAD: u16 = 1232;
/// Maximum length of the headers before a query.
const MAX_HEADERS: usize = 128;

/// The names of a network's guests.
pub trait Names: fmt::Debug + Send + Sync {
    /// The addresses of the guest with this lower-case name; `None` if no guest has the name.
    fn addresses_of(&self, name: &str) -> Option<Vec<IpAddr>>;
    /// The name of the guest that has `address`.
    fn name_of(&self, address: IpAddr) -> Option<String>;
}

/// The name server of the gateway.
#[derive(Debug)]
pub struct Dns {
    /// Addresses of the gateway.
    gateways: Vec<IpAddr>,
    domain: Option<Name>,
    /// The guest's own name and addresses.
    own: Option<(String, Vec<IpAddr>)>,
    peers: Arc<dyn Names>,
}

impl Dns {
    /// A name server at `gateways`, for names in `domain`. `own` is the guest that sends the queries.
    pub fn new(
        gateways: impl IntoIterator<Item = IpAddr>,
        domain: Option<&str>,
        own: Option<(String, Vec<IpAddr>)>,
        peers: Arc<dyn Names>,
    ) -> Self {
        let mut domain = domain.and_then(|domain| Name::from_ascii(domain).ok());
        domain.iter_mut().for_each(|domain| domain.set_fqdn(true));
        Self {
            gateways: gateways.into_iter().collect(),
            domain,
            own: own.map(|(name, addresses)| (name.to_ascii_lowercase(), addresses)),
            peers,
        }
    }

    /// Replaces the names of the other guests.
    pub fn set_peers(&mut self, peers: Arc<dyn Names>) {
        self.peers = peers;
    }

    /// True for a frame that may be a query to this server. The check is cheap.
    #[inline]
    pub fn wants(&self, bytes: &[u8], head: &Head) -> bool {
        let Some(at) = head.whole_transport().filter(|at| at.protocol == protocol::UDP) else {
            return false;
        };
        let to_server = bytes.get(at.offset..).and_then(<[u8]>::first_chunk::<4>);
        to_server.is_some_and(|ports| be16(ports, 2) == PORT)
            && at.len <= MAX_QUERY + UdpHeader::LEN
            && at.offset <= MAX_HEADERS
            && head.addresses(bytes).is_some_and(|(_, to)| self.gateways.contains(&to))
    }

    /// Handles a whole frame of the guest for which [`wants`](Self::wants) is true. A query that is
    /// for other servers is not handled.
    pub fn answer(&self, frame: &[u8], head: &Head, replies: &mut Replies) -> Answer {
        self.reply(frame, head, replies)
            .map_or(Answer::NotMine, |()| Answer::Done)
    }

    fn reply(&self, frame: &[u8], head: &Head, replies: &mut Replies) -> Option<()> {
        let datagram = head.transport_bytes(frame);
        let udp = UdpHeader::parse(datagram, datagram.len(), false).ok()?;
        let query = datagram.get(UdpHeader::LEN..UdpHeader::LEN + udp.payload_len)?;
        let reply = self.answer_message(query)?;
        let ports = Ports {
            src: udp.dst_port,
            dst: udp.src_port,
        };
        let mac = head.source_mac(frame)?;
        match head.ethertype() {
            EtherType::Ipv4 => {
                let (guest, gateway) = head.ipv4_addresses(frame)?;
                replies.udp(&route(mac, gateway, guest), ports, &reply);
            }
            _ => {
                let (guest, gateway) = head.ipv6_addresses(frame)?;
                replies.udp(&route(mac, gateway, guest), ports, &reply);
            }
        }
        Some(())
    }

    /// The answer to a message; `None` if it is not for this server.
    pub fn answer_message(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let message = Message::from_vec(bytes).ok()?;
        let metadata = &message.metadata;
        let is_query = metadata.message_type == MessageType::Query && metadata.op_code == OpCode::Query;
        let [query] = &message.queries[..] else { return None };
        if !is_query || query.query_class() != DNSClass::IN {
            return None;
        }
        let records = self.records(query)?;
        let mut reply = Message::response(metadata.id, OpCode::Query);
        reply.metadata.authoritative = true;
        reply.metadata.recursion_desired = metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.add_query(query.clone());
        let record = |data| Record::from_rdata(query.name().clone(), TTL, data);
        reply.add_answers(records.into_iter().map(record));
        if message.edns.is_some() {
            // RFC 6891 6.1.1
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_PAYLOAD);
            reply.set_edns(edns);
        }
        reply.to_vec().ok()
    }

    /// The records for the guest's name or address in a query; `None` if no guest has it.
    fn records(&self, query: &Query) -> Option<Vec<RData>> {
        let kind = query.query_type();
        if let Ok(address) = query.name().parse_arpa_name() {
            let is_whole = address.prefix_len() == address.max_prefix_len();
            let name = self.name_of(address).filter(|_| is_whole)?;
            let wanted = matches!(kind, RecordType::PTR | RecordType::ANY);
            return Some(wanted.then_some(RData::PTR(rdata::PTR(name))).into_iter().collect());
        }
        let addresses = self.addresses_of(query.name())?;
        let record = |address| match (address, kind) {
            (IpAddr::V4(address), RecordType::A | RecordType::ANY) => Some(RData::A(address.into())),
            (IpAddr::V6(address), RecordType::AAAA | RecordType::ANY) => Some(RData::AAAA(address.into())),
            _ => None,
        };
        Some(addresses.into_iter().filter_map(record).collect())
    }

    fn addresses_of(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let mut labels = name.iter();
        let label = std::str::from_utf8(labels.next()?).ok()?.to_ascii_lowercase();
        let is_bare = name.num_labels() == 1;
        let is_in_domain = || self.domain.as_ref().is_some_and(|domain| name.base_name() == *domain);
        if !is_bare && !is_in_domain() {
            return None;
        }
        match &self.own {
            Some((own, addresses)) if *own == label => Some(addresses.clone()),
            _ => self.peers.addresses_of(&label),
        }
    }

    fn name_of(&self, network: IpNet) -> Option<Name> {
        let address = network.addr();
        let own = self.own.as_ref().filter(|(_, addresses)| addresses.contains(&address));
        let label = own
            .map(|(name, _)| name.clone())
            .or_else(|| self.peers.name_of(address))?;
        let mut name = Name::from_labels([label.as_bytes()]).ok()?;
        if let Some(domain) = &self.domain {
            name = name.append_domain(domain).ok()?;
        }
        name.set_fqdn(true);
        Some(name)
    }
}

/// The answer to a query that no server has answered (SERVFAIL); `None` if the message is malformed.
pub fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    let mut reply = Message::response(message.metadata.id, message.metadata.op_code);
    reply.metadata.recursion_desired = message.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = ResponseCode::ServFail;
    reply.add_queries(message.queries);
    reply.to_vec().ok()
}

fn route<A: Family>(mac: MacAddr, src: A, dst: A) -> Route<A> {
    Route {
        mac,
        src,
        dst,
        hop_limit: HOP_LIMIT,
    }
}

#[cfg(test)]
#[path = "tests/dns.rs"]
mod tests;
