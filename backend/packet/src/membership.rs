//! Messages by which hosts join and leave multicast groups: IGMPv1, v2 and v3 (RFC 1112, 2236, 3376), MLDv1 and v2 (RFC
//! 2710, 3810).
//!
//! Messages are parsed only as far as a snooping switch requires (RFC 4541): into a query, or into a list of groups and
//! the change that the host wants. Sources are ignored: a host that wants a group from some sources wants the group.
//! Queries are written in the newest version, which older hosts answer in their own version.

use super::checksum::Sum;
use super::icmp::{self, v6};
use super::{EtherType, EthernetHeader, Head, Ipv4Header, Ipv6Header, MacAddr, be16, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Types of IGMP.
mod igmp {
    pub(super) const QUERY: u8 = 0x11;
    pub(super) const REPORT1: u8 = 0x12;
    pub(super) const REPORT2: u8 = 0x16;
    pub(super) const LEAVE: u8 = 0x17;
    pub(super) const REPORT3: u8 = 0x22;
}

/// Record types in a report of IGMPv3 and MLDv2.
mod record {
    pub(super) const IS_INCLUDE: u8 = 1;
    pub(super) const IS_EXCLUDE: u8 = 2;
    pub(super) const TO_INCLUDE: u8 = 3;
    pub(super) const TO_EXCLUDE: u8 = 4;
    pub(super) const ALLOW: u8 = 5;
    pub(super) const BLOCK: u8 = 6;
}

/// TTL or hop limit of every message. Routers do not forward them.
const LINK_TTL: u8 = 1;
/// Length of an IGMP message, and of the fixed part of a report of version 3, in bytes.
const IGMP_LEN: usize = 8;
/// Length of an MLD message of version 1 in bytes.
const MLD_LEN: usize = 24;
/// Length of the fixed part of an MLDv2 report in bytes.
const MLD_REPORT_LEN: usize = 8;
/// Number of bytes before the group of a record.
const RECORD_HEADER: usize = 4;
/// The all-hosts group, 224.0.0.1.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// The all-nodes group, ff02::1.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Internetwork control, the precedence of IGMP (RFC 3376 4).
const PRECEDENCE: u8 = 0xc0;
/// Number of lost queries after which a membership ends (RFC 3376 8.1).
const ROBUSTNESS: u8 = 2;
/// The router alert option of IPv4 (RFC 2113).
const ALERT4: [u8; 4] = [0x94, 0x04, 0, 0];
/// Hop-by-hop options with the router alert of MLD (RFC 2711), before ICMPv6.
const ALERT6: [u8; 8] = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
/// Length of the longest query in bytes.
const QUERY_MAX: usize = EthernetHeader::LEN + Ipv6Header::LEN + ALERT6.len() + MLD_LEN + 4;

/// A message that is inconsistent, or that is not restricted to the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of IGMP or MLD is malformed")]
pub struct BadMembership;

/// A message from a host or router about groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership<'a> {
    /// A router asks which groups are wanted.
    Query {
        /// Address of the router. It is unspecified for a switch that queries on its own (RFC 4541 2.1.1).
        source: IpAddr,
        /// Group that the query is about. `None`: all groups.
        group: Option<IpAddr>,
    },
    /// A host reports which groups it wants or no longer wants.
    Report(Changes<'a>),
}

/// A group, and whether a host wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Address of the group.
    pub group: IpAddr,
    /// True if the host wants the group.
    pub is_wanted: bool,
}

/// Iterator over the changes of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes<'a> {
    /// A report about one group.
    One(Option<Change>),
    /// The records of IGMPv3, which lie within the message.
    V4(&'a [u8]),
    /// The records of MLDv2, which lie within the message.
    V6(&'a [u8]),
}

/// True for a frame with an IGMP or MLD message. `head` is the parsed form of `bytes`. The check is cheap.
#[inline]
pub fn is_membership(bytes: &[u8], head: &Head) -> bool {
    let Some(at) = head.whole_transport() else { return false };
    match (head.ethertype(), at.protocol) {
        (EtherType::Ipv4, protocol::IGMP) => true,
        (EtherType::Ipv6, protocol::ICMPV6) => {
            let kind = head.transport_bytes(bytes).first();
            kind.is_some_and(|kind| matches!(*kind, v6::MLD_QUERY..=v6::MLD_DONE | v6::MLD2_REPORT))
        }
        _ => false,
    }
}

impl<'a> Membership<'a> {
    /// Parses the message in a whole frame for which [`is_membership`] is true. Checksums are verified.
    ///
    /// # Errors
    /// [`BadMembership`]
    pub fn parse(frame: &'a [u8], head: &Head) -> Result<Self, BadMembership> {
        let at = head.whole_transport().ok_or(BadMembership)?;
        let message = frame.get(at.offset..at.offset + at.len).ok_or(BadMembership)?;
        let (src, dst) = head.addresses(frame).ok_or(BadMembership)?;
        if head.ttl(frame) != Some(LINK_TTL) {
            return Err(BadMembership);
        }
        match (src, dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => Self::igmp(src, message),
            (IpAddr::V6(from), _) => {
                // RFC 3810 5.2.13
                let is_local = from.is_unicast_link_local() || from.is_unspecified();
                if !is_local || !icmp::checksum_ok(src, dst, message) {
                    return Err(BadMembership);
                }
                Self::mld(src, message)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => Err(BadMembership),
        }
    }

    fn igmp(source: IpAddr, message: &'a [u8]) -> Result<Self, BadMembership> {
        let [kind, _, _, _, a, b, c, d] = *message.first_chunk::<IGMP_LEN>().ok_or(BadMembership)?;
        if Sum::default().bytes(message).finish() != 0 {
            return Err(BadMembership);
        }
        let group = Ipv4Addr::new(a, b, c, d);
        let one = |is_wanted| Self::one(group.into(), is_wanted);
        match kind {
            igmp::QUERY => Ok(Self::Query {
                source,
                group: group.is_multicast().then_some(group.into()),
            }),
            igmp::REPORT1 | igmp::REPORT2 => one(true),
            igmp::LEAVE => one(false),
            igmp::REPORT3 => {
                let records = records::<4>(&message[IGMP_LEN..], be16(message, 6)).ok_or(BadMembership)?;
                Ok(Self::Report(Changes::V4(records)))
            }
            _ => Err(BadMembership),
        }
    }

    fn mld(source: IpAddr, message: &'a [u8]) -> Result<Self, BadMembership> {
        if message.first() == Some(&v6::MLD2_REPORT) {
            let rest = message.get(MLD_REPORT_LEN..).ok_or(BadMembership)?;
            let records = records::<16>(rest, be16(message, 6)).ok_or(BadMembership)?;
            return Ok(Self::Report(Changes::V6(records)));
        }
        let fixed = message.first_chunk::<MLD_LEN>().ok_or(BadMembership)?;
        let group = fixed.last_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes));
        let group = group.ok_or(BadMembership)?;
        match fixed[0] {
            // RFC 3810 5.1.14
            v6::MLD_QUERY if source.is_unspecified() => Err(BadMembership),
            v6::MLD_QUERY => Ok(Self::Query {
                source,
                group: group.is_multicast().then_some(group.into()),
            }),
            v6::MLD_REPORT => Self::one(group.into(), true),
            v6::MLD_DONE => Self::one(group.into(), false),
            _ => Err(BadMembership),
        }
    }

    fn one(group: IpAddr, is_wanted: bool) -> Result<Self, BadMembership> {
        if !group.is_multicast() {
            return Err(BadMembership);
        }
        Ok(Self::Report(Changes::One(Some(Change { group, is_wanted }))))
    }
}

impl Iterator for Changes<'_> {
    type Item = Change;

    /// The next group that changes. Records without a change are skipped.
    fn next(&mut self) -> Option<Change> {
        loop {
            let change = match self {
                Self::One(change) => return change.take(),
                Self::V4(bytes) => take::<4>(bytes)?.change(),
                Self::V6(bytes) => take::<16>(bytes)?.change(),
            };
            if change.is_some() {
                return change;
            }
        }
    }
}

/// A record of a report: its type, number of sources, and group.
struct Record {
    kind: u8,
    sources: u16,
    group: IpAddr,
}

impl Record {
    /// The change of the record's group. A record that only blocks sources changes nothing.
    fn change(&self) -> Option<Change> {
        let is_wanted = match self.kind {
            record::IS_INCLUDE | record::TO_INCLUDE => self.sources != 0,
            record::IS_EXCLUDE | record::TO_EXCLUDE | record::ALLOW => true,
            record::BLOCK => return None,
            // RFC 3376 4.2.12: unknown types are ignored.
            _ => return None,
        };
        self.group.is_multicast().then_some(Change {
            group: self.group,
            is_wanted,
        })
    }
}

/// Removes the first of several records whose groups have `N` bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<Record> {
    let [kind, auxiliary, a, b] = *bytes.first_chunk::<RECORD_HEADER>()?;
    let sources = u16::from_be_bytes([a, b]);
    let group = bytes.get(RECORD_HEADER..RECORD_HEADER + N)?;
    let group = match *group {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(*group.first_chunk::<16>()?),
    };
    let len = RECORD_HEADER + N + usize::from(sources) * N + usize::from(auxiliary) * 4;
    *bytes = bytes.get(len..)?;
    Some(Record { kind, sources, group })
}

/// The bytes of `count` records; `None` if there are fewer.
fn records<const N: usize>(bytes: &[u8], count: u16) -> Option<&[u8]> {
    let mut rest = bytes;
    for _ in 0..count {
        take::<N>(&mut rest)?;
    }
    Some(&bytes[..bytes.len() - rest.len()])
}

/// A query of a router that is to be written as a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// MAC of the router.
    pub mac: MacAddr,
    /// Address of the router. For MLD it is a link-local address.
    pub source: IpAddr,
    /// Queried group, of the same family as `source`. `None`: all groups.
    pub group: Option<IpAddr>,
    /// Number of seconds within which a host must answer, at most 12.
    pub response_secs: u8,
    /// Number of seconds between two queries for all groups.
    pub interval_secs: u16,
}

impl Query {
    /// The query as a frame, and the length of the frame in bytes.
    pub fn frame(&self) -> ([u8; QUERY_MAX], usize) {
        let mut out = [0; QUERY_MAX];
        let (to, ethertype) = match self.source {
            IpAddr::V4(_) => (self.group.unwrap_or(ALL_HOSTS.into()), EtherType::Ipv4),
            IpAddr::V6(_) => (self.group.unwrap_or(ALL_NODES.into()), EtherType::Ipv6),
        };
        EthernetHeader {
            dst: group_mac(to),
            src: self.mac,
            ethertype,
        }
        .emit(&mut out);
        let packet = &mut out[EthernetHeader::LEN..];
        let len = match (self.source, to) {
            (IpAddr::V4(source), IpAddr::V4(to)) => self.igmp(source, to, packet),
            (IpAddr::V6(source), IpAddr::V6(to)) => self.mld(source, to, packet),
            // A query cannot be for a group of the other family.
            _ => 0,
        };
        (out, EthernetHeader::LEN + len)
    }

    fn igmp(&self, source: Ipv4Addr, to: Ipv4Addr, out: &mut [u8]) -> usize {
        const HEADER: usize = Ipv4Header::LEN + ALERT4.len();
        const LEN: usize = HEADER + IGMP_LEN + 4;
        Ipv4Header {
            src: source,
            dst: to,
            protocol: protocol::IGMP,
            ttl: LINK_TTL,
            tos: PRECEDENCE,
            dont_fragment: true,
            fragment: None,
            header_len: Ipv4Header::LEN,
            payload_len: LEN - Ipv4Header::LEN,
        }
        .emit(out);
        // The option follows the header that was written.
        out[0] = 0x40 | u8::try_from(HEADER / 4).unwrap_or(0);
        out[10..12].fill(0);
        out[Ipv4Header::LEN..HEADER].copy_from_slice(&ALERT4);
        let sum = Sum::default().bytes(&out[..HEADER]).finish();
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        let message = &mut out[HEADER..LEN];
        message[0] = igmp::QUERY;
        message[1] = self.response_secs.saturating_mul(10);
        if let Some(IpAddr::V4(group)) = self.group {
            message[4..8].copy_from_slice(&group.octets());
        }
        message[8] = ROBUSTNESS;
        message[9] = interval_code(self.interval_secs);
        let sum = Sum::default().bytes(message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        LEN
    }

    fn mld(&self, source: Ipv6Addr, to: Ipv6Addr, out: &mut [u8]) -> usize {
        const MESSAGE: usize = Ipv6Header::LEN + ALERT6.len();
        const LEN: usize = MESSAGE + MLD_LEN + 4;
        Ipv6Header {
            src: source,
            dst: to,
            protocol: protocol::HOP_BY_HOP,
            hop_limit: LINK_TTL,
            traffic_class: 0,
            fragment: None,
            header_len: Ipv6Header::LEN,
            payload_len: LEN - Ipv6Header::LEN,
        }
        .emit(out);
        out[Ipv6Header::LEN..MESSAGE].copy_from_slice(&ALERT6);
        let message = &mut out[MESSAGE..LEN];
        message[0] = v6::MLD_QUERY;
        let millis = u16::from(self.response_secs) * 1000;
        message[4..6].copy_from_slice(&millis.to_be_bytes());
        if let Some(IpAddr::V6(group)) = self.group {
            message[8..24].copy_from_slice(&group.octets());
        }
        message[24] = ROBUSTNESS;
        message[25] = interval_code(self.interval_secs);
        icmp::fill_checksum(source.into(), to.into(), message);
        LEN
    }
}

/// The MAC of frames to a group (RFC 1112 6.4, RFC 2464 7).
pub fn group_mac(group: IpAddr) -> MacAddr {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            MacAddr([0x33, 0x33, a, b, c, d])
        }
    }
}

/// True for a group of link scope, for which members need not send reports (RFC 4541 2.1.2, 3): 224.0.0.0/24,
/// ff02::/16, and groups of node scope.
pub const fn is_link_scope(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => matches!(group.octets(), [224, 0, 0, _]),
        IpAddr::V6(group) => matches!(group.octets(), [0xff, scope, ..] if scope & 0xf <= 2),
    }
}

/// Converts an interval to a code of eight bits, rounded down (RFC 3376 4.1.7).
fn interval_code(secs: u16) -> u8 {
    if secs < 128 {
        return u8::try_from(secs).unwrap_or(127);
    }
    let mut exponent = 0;
    while exponent < 7 && secs >> (exponent + 3) > 0x1f {
        exponent += 1;
    }
    let mantissa = u8::try_from((secs >> (exponent + 3)).min(0x1f) & 0xf).unwrap_or(0xf);
    0x80 | exponent << 4 | mantissa
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
