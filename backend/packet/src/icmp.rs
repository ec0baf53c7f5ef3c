//! ICMP (RFC 792) and ICMPv6 (RFC 4443): the common header and the checksum of both.

use super::checksum::Sum;
use super::{Malformed, be16, protocol};
use std::net::IpAddr;

/// Types of ICMP for IPv4 (RFC 792).
pub mod v4 {
    /// Echo reply
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable
    pub const UNREACHABLE: u8 = 3;
    /// Echo request
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem
    pub const PARAMETER_PROBLEM: u8 = 12;

    /// Codes of [`UNREACHABLE`] (RFC 792, RFC 1122 3.2.2.1, RFC 1812 5.2.7.1).
    pub mod unreachable {
        /// Network unreachable
        pub const NETWORK: u8 = 0;
        /// Host unreachable
        pub const HOST: u8 = 1;
        /// Protocol unreachable
        pub const PROTOCOL: u8 = 2;
        /// Port unreachable
        pub const PORT: u8 = 3;
        /// Fragmentation needed and don't-fragment set. The MTU is in the lower 16 bits of [`IcmpHeader::rest`] (RFC
        /// 1191 4)
        pub const FRAGMENTATION_NEEDED: u8 = 4;
        /// Communication administratively prohibited
        pub const PROHIBITED: u8 = 13;
    }
}

/// Types of ICMPv6 (RFC 4443, RFC 4861, RFC 2710, RFC 3810).
pub mod v6 {
    /// Destination unreachable
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big. The MTU is in [`IcmpHeader::rest`]
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply
    pub const ECHO_REPLY: u8 = 129;
    /// Multicast listener query
    pub const MLD_QUERY: u8 = 130;
    /// Multicast listener report, version 1
    pub const MLD_REPORT: u8 = 131;
    /// Multicast listener done
    pub const MLD_DONE: u8 = 132;
    /// Router solicitation
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect
    pub const REDIRECT: u8 = 137;
    /// Multicast listener report, version 2
    pub const MLD2_REPORT: u8 = 143;

    /// Codes of [`UNREACHABLE`] (RFC 4443 3.1).
    pub mod unreachable {
        /// No route to destination
        pub const NO_ROUTE: u8 = 0;
        /// Communication administratively prohibited
        pub const PROHIBITED: u8 = 1;
        /// Beyond scope of source address
        pub const BEYOND_SCOPE: u8 = 2;
        /// Address unreachable
        pub const ADDRESS: u8 = 3;
        /// Port unreachable
        pub const PORT: u8 = 4;
    }
}

/// The first eight bytes of every ICMP and ICMPv6 message, without the checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IcmpHeader {
    /// Message type, one of [`v4`] or [`v6`].
    pub kind: u8,
    /// Code, whose meaning depends on the type.
    pub code: u8,
    /// The second four bytes, whose meaning depends on the type.
    pub rest: [u8; 4],
}

impl IcmpHeader {
    /// Length on the wire in bytes.
    pub const LEN: usize = 8;
    const CHECKSUM: std::ops::Range<usize> = 2..4;

    /// Parses the header at the start of `bytes`. The checksum is not verified.
    ///
    /// # Errors
    /// [`Malformed::Truncated`]
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [kind, code, _, _, rest @ ..] = *bytes.first_chunk::<{ Self::LEN }>().ok_or(Malformed::Truncated)?;
        Ok(Self { kind, code, rest })
    }

    /// The header of an echo request or reply.
    #[inline]
    pub const fn echo(kind: u8, ident: u16, sequence: u16) -> Self {
        let [a, b] = ident.to_be_bytes();
        let [c, d] = sequence.to_be_bytes();
        Self {
            kind,
            code: 0,
            rest: [a, b, c, d],
        }
    }

    /// Identifier of an echo request or reply.
    #[inline]
    pub fn echo_ident(&self) -> u16 {
        be16(&self.rest, 0)
    }

    /// Sequence number of an echo request or reply.
    #[inline]
    pub fn echo_sequence(&self) -> u16 {
        be16(&self.rest, 2)
    }

    /// Writes the header with the checksum field `checksum` to the start of `out`.
    #[inline]
    pub fn emit(&self, out: &mut [u8], checksum: u16) {
        out[0] = self.kind;
        out[1] = self.code;
        out[Self::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        out[4..Self::LEN].copy_from_slice(&self.rest);
    }
}

/// The one's complement sum of a whole message. For ICMPv6 it includes the pseudo-header (RFC 4443 2.3).
#[inline]
fn sum(src: IpAddr, dst: IpAddr, message: &[u8]) -> Sum {
    let sum = Sum::default().bytes(message);
    match src {
        IpAddr::V4(_) => sum,
        IpAddr::V6(_) => sum.pseudo_header(src, dst, protocol::ICMPV6, message.len()),
    }
}

/// True if the checksum of `message`, which must be complete, is correct.
#[inline]
pub fn checksum_ok(src: IpAddr, dst: IpAddr, message: &[u8]) -> bool {
    sum(src, dst, message).finish() == 0
}

/// Writes the checksum of `message`, which must be complete and at least a header long, into it.
#[inline]
pub fn fill_checksum(src: IpAddr, dst: IpAddr, message: &mut [u8]) {
    message[IcmpHeader::CHECKSUM].fill(0);
    let checksum = sum(src, dst, message).finish();
    message[IcmpHeader::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [IpAddr; 2] = [
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 2)),
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 1)),
    ];

    /// An echo request as Linux `ping` sends it: header 0800 xxxx 1234 0001, four bytes.
    #[test]
    fn the_checksum_of_an_ipv4_echo_has_no_pseudo_header() {
        let mut message = [8, 0, 0xff, 0xff, 0x12, 0x34, 0, 1, 0xde, 0xad, 0xbe, 0xef];
        fill_checksum(V4[0], V4[1], &mut message);
        // 0800 + 1234 + 0001 + dead + beef = 1b7d1, folded b7d2, complemented 482d.
        assert_eq!(message[2..4], [0x48, 0x2d]);
        assert!(checksum_ok(V4[0], V4[1], &message));
        message[8] ^= 1;
        assert!(!checksum_ok(V4[0], V4[1], &message));
    }

    #[test]
    fn the_checksum_of_icmpv6_covers_the_addresses() {
        let [a, b, c] = ["fe80::1", "ff02::1", "ff02::2"].map(|a| a.parse().expect("an address"));
        let mut message = [128, 0, 0, 0, 0x12, 0x34, 0, 1, 7];
        fill_checksum(a, b, &mut message);
        assert!(checksum_ok(a, b, &message));
        assert!(!checksum_ok(a, c, &message));
    }

    #[test]
    fn a_header_survives_emit_and_parse() {
        let header = IcmpHeader::echo(v4::ECHO_REPLY, 0xbeef, 0x0102);
        let mut bytes = [0; 8];
        header.emit(&mut bytes, 0xaabb);
        assert_eq!(bytes, [0, 0, 0xaa, 0xbb, 0xbe, 0xef, 1, 2]);
        let back = IcmpHeader::parse(&bytes).expect("eight bytes");
        assert_eq!(back, header);
        assert_eq!((back.echo_ident(), back.echo_sequence()), (0xbeef, 0x0102));
        assert_eq!(IcmpHeader::parse(&bytes[..7]), Err(Malformed::Truncated));
    }
}
