//! The claim in an ARP packet or a neighbour discovery message: its sender states that it has an address.
//!
//! Receivers enter claims into their neighbour caches, so a false claim diverts the traffic of another host. The
//! link-layer addresses in a message must equal the MAC that it was sent from. Whether the address belongs to that MAC
//! is for the caller to decide.

use crate::counters::DropReason;
use crate::packet::icmp::v6;
use crate::packet::{ArpPacket, EtherType, Fragment, Head, MacAddr, protocol};
use std::net::{IpAddr, Ipv6Addr};

/// Length of a router solicitation before its options, in bytes.
const RS_LEN: usize = 8;
/// Length of a router advertisement before its options, in bytes.
const RA_LEN: usize = 16;
/// Length of a neighbour solicitation or advertisement before its options, in bytes.
const ND_LEN: usize = 24;
/// Offset of the target address in a neighbour solicitation or advertisement.
const ND_TARGET: usize = 8;
/// Options with a link-layer address: the sender's and the target's (RFC 4861 4.6.1).
const ND_LINK_ADDRESS: [u8; 2] = [1, 2];

/// A claim of a frame's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Address that the sender claims.
    pub address: IpAddr,
    /// True if the sender only checks whether the address is free before it uses it (RFC 5227 2.1.1, RFC 4862 5.4.2).
    /// Receivers then do not change their caches.
    pub is_probe: bool,
}

/// The claim in a frame that begins with `bytes`, whose parsed form is `head`, if it makes one.
///
/// # Errors
/// The message names another MAC than the frame does, or its end is not in `bytes`.
pub fn claim(bytes: &[u8], head: &Head) -> Result<Option<Claim>, DropReason> {
    let mac = head.source_mac(bytes).ok_or(DropReason::Truncated)?;
    match (head.ethertype(), head.transport()) {
        (EtherType::Arp, _) => of_arp(mac, bytes.get(head.packet()..).unwrap_or_default()).map(Some),
        // Messages in fragments must be ignored (RFC 6980 5), and a later fragment has no type.
        (EtherType::Ipv6, Some(at)) if at.protocol == protocol::ICMPV6 && head.fragment() != Fragment::Later => {
            let (source, _) = head.ipv6_addresses(bytes).ok_or(DropReason::Truncated)?;
            of_neighbour(mac, source, head.transport_bytes(bytes))
        }
        _ => Ok(None),
    }
}

/// The claim of an ARP packet that was sent from `mac`.
///
/// # Errors
/// [`DropReason::SpoofedArp`]
pub(super) fn of_arp(mac: MacAddr, packet: &[u8]) -> Result<Claim, DropReason> {
    let arp = ArpPacket::parse(packet)
        .filter(|arp| arp.sender_mac == mac)
        .ok_or(DropReason::SpoofedArp)?;
    let is_probe = arp.sender.is_unspecified() && arp.operation == ArpPacket::REQUEST;
    let address = if is_probe { arp.target } else { arp.sender };
    Ok(Claim {
        address: address.into(),
        is_probe,
    })
}

/// The claim of an ICMPv6 message that was sent from `mac` and `source`. A solicitation or a router advertisement
/// claims its source, a neighbour advertisement its target.
///
/// # Errors
/// [`DropReason::SpoofedNeighbour`], or [`DropReason::HiddenTransport`] if options are missing from `message`.
pub(super) fn of_neighbour(mac: MacAddr, source: Ipv6Addr, message: &[u8]) -> Result<Option<Claim>, DropReason> {
    let kind = message.first().ok_or(DropReason::HiddenTransport)?;
    let fixed = match *kind {
        v6::ROUTER_SOLICITATION => RS_LEN,
        v6::ROUTER_ADVERTISEMENT => RA_LEN,
        v6::NEIGHBOUR_SOLICITATION | v6::NEIGHBOUR_ADVERTISEMENT => ND_LEN,
        _ => return Ok(None),
    };
    let mut options = message.get(fixed..).ok_or(DropReason::HiddenTransport)?;
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * 8;
        let option = options
            .get(..len)
            .filter(|option| !option.is_empty())
            .ok_or(DropReason::HiddenTransport)?;
        if ND_LINK_ADDRESS.contains(&kind) && option[2..8] != mac.0 {
            return Err(DropReason::SpoofedNeighbour);
        }
        options = &options[len..];
    }
    let target = || message.get(ND_TARGET..).and_then(<[u8]>::first_chunk::<16>);
    let (address, is_probe) = match *kind {
        v6::NEIGHBOUR_ADVERTISEMENT => (target(), false),
        v6::NEIGHBOUR_SOLICITATION if source.is_unspecified() => (target(), true),
        _ if source.is_unspecified() => return Ok(None),
        _ => (Some(&source.octets()), false),
    };
    Ok(address.map(|address| Claim {
        address: Ipv6Addr::from(*address).into(),
        is_probe,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 6]);

    fn message(kind: u8, fixed: usize, options: &[(u8, MacAddr)]) -> Vec<u8> {
        let mut bytes = vec![0; fixed];
        bytes[0] = kind;
        if fixed == ND_LEN {
            bytes[ND_TARGET..].copy_from_slice(&target().octets());
        }
        for (kind, mac) in options {
            bytes.extend([*kind, 1]);
            bytes.extend(mac.0);
        }
        bytes
    }

    fn source() -> Ipv6Addr {
        "fe80::5".parse().unwrap()
    }

    fn target() -> Ipv6Addr {
        "fd00::5".parse().unwrap()
    }

    #[test]
    fn each_message_claims_the_address_that_receivers_enter_into_their_caches() {
        let none = Ipv6Addr::UNSPECIFIED;
        let (use_, probe) = (false, true);
        for (kind, fixed, from, claimed) in [
            (v6::ROUTER_SOLICITATION, RS_LEN, source(), Some((source(), use_))),
            (v6::ROUTER_SOLICITATION, RS_LEN, none, None),
            (v6::ROUTER_ADVERTISEMENT, RA_LEN, source(), Some((source(), use_))),
            (v6::NEIGHBOUR_SOLICITATION, ND_LEN, source(), Some((source(), use_))),
            (v6::NEIGHBOUR_SOLICITATION, ND_LEN, none, Some((target(), probe))),
            (v6::NEIGHBOUR_ADVERTISEMENT, ND_LEN, source(), Some((target(), use_))),
            (v6::ECHO_REQUEST, 8, source(), None),
        ] {
            let found = of_neighbour(MAC, from, &message(kind, fixed, &[])).unwrap();
            let expected = claimed.map(|(address, is_probe)| Claim {
                address: address.into(),
                is_probe,
            });
            assert_eq!(found, expected, "type {kind} from {from}");
        }
    }

    #[test]
    fn a_link_layer_address_other_than_the_senders_is_refused_in_any_option() {
        for (kind, fixed) in [
            (v6::ROUTER_SOLICITATION, RS_LEN),
            (v6::ROUTER_ADVERTISEMENT, RA_LEN),
            (v6::NEIGHBOUR_SOLICITATION, ND_LEN),
            (v6::NEIGHBOUR_ADVERTISEMENT, ND_LEN),
        ] {
            let of = |options: &[(u8, MacAddr)]| of_neighbour(MAC, source(), &message(kind, fixed, options));
            assert!(of(&[(1, MAC), (2, MAC)]).is_ok());
            assert!(of(&[(14, OTHER), (1, MAC)]).is_ok(), "another option");
            for option in ND_LINK_ADDRESS {
                let hidden = [(14, OTHER), (option, OTHER)];
                assert_eq!(of(&hidden), Err(DropReason::SpoofedNeighbour), "type {kind}");
            }
            let whole = message(kind, fixed, &[(1, MAC)]);
            let cut = of_neighbour(MAC, source(), &whole[..whole.len() - 1]);
            assert_eq!(cut, Err(DropReason::HiddenTransport));
        }
    }

    #[test]
    fn an_arp_packet_claims_its_sender_and_a_probe_its_target() {
        let mut packet = ArpPacket {
            operation: ArpPacket::REPLY,
            sender_mac: MAC,
            sender: [192, 0, 2, 5].into(),
            target_mac: OTHER,
            target: [192, 0, 2, 6].into(),
        };
        let of = |packet: &ArpPacket| {
            let mut bytes = [0; ArpPacket::LEN];
            packet.emit(&mut bytes);
            of_arp(MAC, &bytes).map(|claim| (claim.address.to_string(), claim.is_probe))
        };
        assert_eq!(of(&packet), Ok(("192.0.2.5".into(), false)));
        packet.sender = [0; 4].into();
        assert_eq!(of(&packet), Ok(("0.0.0.0".into(), false)), "only requests are probes");
        packet.operation = ArpPacket::REQUEST;
        assert_eq!(of(&packet), Ok(("192.0.2.6".into(), true)));
        packet.sender_mac = OTHER;
        assert_eq!(of(&packet), Err(DropReason::SpoofedArp));
    }
}
