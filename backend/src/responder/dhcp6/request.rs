//! Parses the parts of a client's DHCPv6 message that the server uses.

use crate::packet::{be16, be32};
use dhcproto::v6::{MessageType, OptionCode};
use std::net::Ipv6Addr;

/// Maximum identity associations answered in one message. The rest are ignored, so that a reply fits into one packet.
const MAX_ASSOCIATIONS: usize = 4;
/// Maximum addresses answered in one association, for the same reason.
pub(super) const MAX_ADDRESSES: usize = 4;
/// Length of the message type and the transaction identifier.
const HEADER_LEN: usize = 4;
/// Lengths of a DUID: two bytes of type, and 1 to 128 bytes of identifier (RFC 8415 11.1).
const DUID_LEN: std::ops::RangeInclusive<usize> = 3..=130;
const ADDRESS_LEN: usize = 24;

/// The kinds of identity association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// IA_NA
    Addresses,
    /// IA_TA
    Temporary,
    /// IA_PD
    Prefixes,
}

/// An identity association.
#[derive(Clone, Copy, Debug)]
pub(super) struct Association<'a> {
    pub kind: Kind,
    pub iaid: u32,
    options: &'a [u8],
}

/// A message of a client.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub kind: MessageType,
    pub transaction: [u8; 3],
    pub client: Option<&'a [u8]>,
    pub server: Option<&'a [u8]>,
    pub rapid_commit: bool,
    /// Flags of option 39.
    pub fqdn: Option<u8>,
    pub associations: Vec<Association<'a>>,
}

impl<'a> Request<'a> {
    /// Parses a message; `None` if it is malformed.
    pub(super) fn parse(payload: &'a [u8]) -> Option<Self> {
        let (&[kind, a, b, c], options) = payload.split_first_chunk::<HEADER_LEN>()?;
        let mut request = Self {
            kind: kind.into(),
            transaction: [a, b, c],
            client: None,
            server: None,
            rapid_commit: false,
            fqdn: None,
            associations: Vec::new(),
        };
        if !is_sound(options) {
            return None;
        }
        for (code, body) in Options(options) {
            match code {
                OptionCode::ClientId if DUID_LEN.contains(&body.len()) => request.client = Some(body),
                OptionCode::ServerId => request.server = Some(body),
                OptionCode::RapidCommit => request.rapid_commit = true,
                OptionCode::ClientFqdn => request.fqdn = body.first().copied(),
                OptionCode::IANA | OptionCode::IATA | OptionCode::IAPD => {
                    let association = Association::parse(code, body)?;
                    if request.associations.len() < MAX_ASSOCIATIONS {
                        request.associations.push(association);
                    }
                }
                _ => {}
            }
        }
        Some(request)
    }

    /// The associations. The flag is true for the first IA_NA, which gets the guest's address.
    pub(super) fn associations(&self) -> impl Iterator<Item = (&Association<'a>, bool)> {
        let ours = self.associations.iter().position(|ia| ia.kind == Kind::Addresses);
        self.associations
            .iter()
            .enumerate()
            .map(move |(i, ia)| (ia, Some(i) == ours))
    }
}

impl<'a> Association<'a> {
    fn parse(code: OptionCode, body: &'a [u8]) -> Option<Self> {
        let (kind, fixed) = match code {
            OptionCode::IANA => (Kind::Addresses, 12),
            OptionCode::IATA => (Kind::Temporary, 4),
            _ => (Kind::Prefixes, 12),
        };
        let options = body.get(fixed..)?;
        is_sound(options).then_some(Self {
            kind,
            iaid: be32(body, 0),
            options,
        })
    }

    /// The addresses in the association.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> + use<'a> {
        Options(self.options)
            .filter(|(code, body)| *code == OptionCode::IAAddr && body.len() >= ADDRESS_LEN)
            .filter_map(|(_, body)| body.first_chunk::<16>().map(|a| Ipv6Addr::from(*a)))
    }
}

/// True if the options fill `bytes` exactly.
fn is_sound(bytes: &[u8]) -> bool {
    let mut options = Options(bytes);
    options.by_ref().for_each(drop);
    options.0.is_empty()
}

/// Iterator over the options in a slice. It stops at the first one with an invalid length.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (OptionCode, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        let len = usize::from(be16(head, 2));
        let (body, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((OptionCode::from(be16(head, 0)), body))
    }
}
