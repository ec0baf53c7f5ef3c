use super::*;
use crate::frame::HEAD_MAX;
use crate::packet::ArpPacket;

const GUEST: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const OTHER: MacAddr = MacAddr([0x52, 0x54, 0, 0x65, 0x43, 0x21]);

fn ip6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn guard(change: impl FnOnce(&mut PolicyConfig)) -> Guard {
    let mut policy = PolicyConfig::default();
    change(&mut policy);
    Guard::new(Some(GUEST), &policy).unwrap()
}

fn servers() -> Guard {
    guard(|policy| (policy.dhcp_guard, policy.router_guard) = (true, true))
}

fn addresses() -> Guard {
    guard(|policy| {
        policy.addresses = Some(AddressCheck {
            ipv4: vec!["192.0.2.5/32".parse().unwrap(), "198.51.100.0/24".parse().unwrap()],
            ipv6: vec!["2001:db8::5/128".parse().unwrap()],
        });
    })
}

/// A frame of the guest, cut to the number of bytes that the port copies.
fn frame(tags: &[u16], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut bytes = [MacAddr::BROADCAST.0, GUEST.0].concat();
    for tpid in tags {
        bytes.extend(tpid.to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    bytes.truncate(HEAD_MAX);
    bytes
}

fn udp(src_port: u16, dst_port: u16) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[..2].copy_from_slice(&src_port.to_be_bytes());
    bytes[2..4].copy_from_slice(&dst_port.to_be_bytes());
    bytes[5] = 16;
    bytes
}

#[derive(Clone, Copy)]
struct V4 {
    src: [u8; 4],
    dst: [u8; 4],
    /// Number of four-byte words of options.
    options: usize,
    /// Field with the fragment flags and offset.
    fragment: u16,
}

const V4_OWN: V4 = V4 {
    src: [192, 0, 2, 5],
    dst: [192, 0, 2, 1],
    options: 0,
    fragment: 0,
};

fn ipv4(header: V4, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + header.options * 4;
    let mut bytes = vec![0; header_len];
    bytes[0] = 0x40 | u8::try_from(header_len / 4).unwrap();
    let total = u16::try_from(header_len + payload.len()).unwrap();
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[6..8].copy_from_slice(&header.fragment.to_be_bytes());
    bytes[9] = protocol;
    bytes[12..16].copy_from_slice(&header.src);
    bytes[16..20].copy_from_slice(&header.dst);
    bytes.extend(payload);
    bytes
}

/// An IPv6 packet with extension headers. Each is given as a type and its bytes. The first byte is replaced by the next
/// header's type.
fn ipv6(src: &str, extensions: &[(u8, Vec<u8>)], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    let mut next = protocol;
    for (kind, bytes) in extensions.iter().rev() {
        let mut bytes = bytes.clone();
        bytes[0] = next;
        rest = [bytes, rest].concat();
        next = *kind;
    }
    rest.extend(payload);
    let mut bytes = vec![0; 40];
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes[6] = next;
    bytes[7] = 255;
    bytes[8..24].copy_from_slice(&ip6(src).octets());
    bytes[24..40].copy_from_slice(&ip6("ff02::1").octets());
    bytes.extend(rest);
    bytes
}

/// Destination options of `units + 1` times eight bytes.
fn options(units: u8) -> (u8, Vec<u8>) {
    let mut bytes = vec![0; (usize::from(units) + 1) * 8];
    bytes[1] = units;
    (60, bytes)
}

fn fragment(offset: u16, more: bool) -> (u8, Vec<u8>) {
    let mut bytes = vec![0; 8];
    bytes[2..4].copy_from_slice(&(offset | u16::from(more)).to_be_bytes());
    (44, bytes)
}

fn icmpv6(kind: u8) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[0] = kind;
    bytes
}

fn neighbour(kind: u8, target: &str, option: Option<(u8, MacAddr)>) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes[0] = kind;
    bytes[8..].copy_from_slice(&ip6(target).octets());
    if let Some((kind, mac)) = option {
        bytes.extend([kind, 1]);
        bytes.extend(mac.0);
    }
    bytes
}

fn arp(operation: u16, mac: MacAddr, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let packet = ArpPacket {
        operation,
        sender_mac: mac,
        sender: sender.into(),
        target_mac: MacAddr::default(),
        target: target.into(),
    };
    let mut bytes = [0; ArpPacket::LEN];
    packet.emit(&mut bytes);
    frame(&[], 0x0806, &bytes)
}

fn v4(packet: &[u8]) -> Vec<u8> {
    frame(&[], 0x0800, packet)
}

fn v6(packet: &[u8]) -> Vec<u8> {
    frame(&[], 0x86dd, packet)
}

#[track_caller]
fn passes(guard: &Guard, frame: &[u8]) {
    assert_eq!(guard.check(frame, &Head::parse(frame, frame.len())), Ok(()));
}

#[track_caller]
fn drops(guard: &Guard, frame: &[u8], reason: DropReason) {
    assert_eq!(guard.check(frame, &Head::parse(frame, frame.len())), Err(reason));
}

#[test]
fn a_policy_without_guards_makes_none() {
    assert!(Guard::new(Some(GUEST), &PolicyConfig::default()).is_none());
}

#[test]
fn a_guest_may_ask_for_a_lease_and_not_give_one() {
    let guard = servers();
    passes(&guard, &v4(&ipv4(V4_OWN, 17, &udp(68, 67))));
    passes(&guard, &v6(&ipv6("fe80::5", &[], 17, &udp(546, 547))));
    passes(&guard, &v4(&ipv4(V4_OWN, 17, &udp(1234, 53))));
    for (from, to) in [(67, 68), (1234, 68), (67, 67)] {
        drops(&guard, &v4(&ipv4(V4_OWN, 17, &udp(from, to))), DropReason::DhcpGuard);
    }
    for (from, to) in [(547, 546), (1234, 546), (547, 547)] {
        drops(
            &guard,
            &v6(&ipv6("fe80::5", &[], 17, &udp(from, to))),
            DropReason::DhcpGuard,
        );
    }
}

#[test]
fn a_guest_may_ask_for_a_router_and_not_be_one() {
    let guard = servers();
    for kind in [128, 133, 135, 136, 143] {
        passes(&guard, &v6(&ipv6("fe80::5", &[], 58, &icmpv6(kind))));
    }
    for kind in [134, 137] {
        drops(
            &guard,
            &v6(&ipv6("fe80::5", &[], 58, &icmpv6(kind))),
            DropReason::RouterGuard,
        );
    }
    passes(&guard, &v4(&ipv4(V4_OWN, 1, &[8, 0, 0, 0, 0, 0, 0, 0])));
    for kind in [5, 9] {
        drops(
            &guard,
            &v4(&ipv4(V4_OWN, 1, &[kind, 0, 0, 0, 0, 0, 0, 0])),
            DropReason::RouterGuard,
        );
    }
}

#[test]
fn each_guard_is_switched_by_itself() {
    let (lease, route) = (
        v4(&ipv4(V4_OWN, 17, &udp(67, 68))),
        v6(&ipv6("fe80::5", &[], 58, &icmpv6(134))),
    );
    let dhcp = guard(|policy| policy.dhcp_guard = true);
    drops(&dhcp, &lease, DropReason::DhcpGuard);
    passes(&dhcp, &route);
    let router = guard(|policy| policy.router_guard = true);
    passes(&router, &lease);
    drops(&router, &route, DropReason::RouterGuard);
}

#[test]
fn servers_do_not_hide_behind_options_and_tags() {
    let guard = servers();
    let advertisement = ipv6("fe80::5", &[options(0), options(1)], 58, &icmpv6(134));
    drops(&guard, &v6(&advertisement), DropReason::RouterGuard);
    let long = V4 { options: 10, ..V4_OWN };
    drops(&guard, &v4(&ipv4(long, 17, &udp(67, 68))), DropReason::DhcpGuard);
    let offer = ipv4(V4_OWN, 17, &udp(67, 68));
    for tags in [&[0x8100][..], &[0x88a8], &[0x8100, 0x8100]] {
        drops(&guard, &frame(tags, 0x0800, &offer), DropReason::DhcpGuard);
        drops(&guard, &frame(tags, 0x86dd, &advertisement), DropReason::RouterGuard);
        passes(&guard, &frame(tags, 0x0800, &ipv4(V4_OWN, 17, &udp(68, 67))));
    }
}

#[test]
fn a_value_without_a_form_does_not_pass() {
    let guard = servers();
    let hidden = DropReason::HiddenTransport;
    // The extension headers reach beyond the head.
    drops(&guard, &v6(&ipv6("fe80::5", &[options(15)], 58, &icmpv6(134))), hidden);
    // A first fragment without the transport header (RFC 7113).
    drops(&guard, &v6(&ipv6("fe80::5", &[fragment(0, true)], 58, &[])), hidden);
    drops(
        &guard,
        &v6(&ipv6("fe80::5", &[fragment(0, true), options(0)], 17, &[])),
        hidden,
    );
    // There are more tags than the parser skips, and encapsulation in LLC.
    let offer = ipv4(V4_OWN, 17, &udp(67, 68));
    drops(&guard, &frame(&[0x8100; 3], 0x0800, &offer), hidden);
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &offer[..]].concat();
    drops(&guard, &frame(&[], 0x0100, &snap), hidden);
    drops(&guard, &frame(&[0x8100], 0x0100, &snap), hidden);
    // Malformed headers.
    drops(&guard, &v4(&[0x44; 30]), hidden);
    drops(&guard, &v4(&offer[..22]), hidden);
    // Spanning tree also uses LLC, but carries no such protocol.
    passes(&guard, &frame(&[], 0x0026, &[0x42, 0x42, 3, 0, 0, 0]));
}

#[test]
fn fragments_pass_but_for_the_first_that_makes_a_server() {
    let guard = servers();
    passes(&guard, &v6(&ipv6("fe80::5", &[fragment(8, true)], 58, &icmpv6(134))));
    passes(&guard, &v4(&ipv4(V4 { fragment: 1, ..V4_OWN }, 17, &udp(67, 68))));
    passes(
        &guard,
        &v6(&ipv6("fe80::5", &[fragment(0, true)], 17, &udp(1000, 2000))),
    );
    let first = &[fragment(0, true), options(0)];
    drops(
        &guard,
        &v6(&ipv6("fe80::5", first, 58, &icmpv6(134))),
        DropReason::RouterGuard,
    );
    let more = V4 {
        fragment: 0x2000,
        ..V4_OWN
    };
    drops(&guard, &v4(&ipv4(more, 17, &udp(67, 68))), DropReason::DhcpGuard);
}

#[test]
fn sources_are_the_guests_own() {
    let guard = addresses();
    let from = |src| v4(&ipv4(V4 { src, ..V4_OWN }, 6, &[0; 20]));
    passes(&guard, &from([192, 0, 2, 5]));
    passes(&guard, &from([198, 51, 100, 77]));
    for stranger in [[192, 0, 2, 6], [0, 0, 0, 0], [127, 0, 0, 1], [255, 255, 255, 255]] {
        drops(&guard, &from(stranger), DropReason::SpoofedAddress);
    }
    let own_link_local = GUEST.link_local().to_string();
    for own in ["2001:db8::5", &own_link_local] {
        passes(&guard, &v6(&ipv6(own, &[], 6, &[0; 20])));
    }
    for stranger in ["2001:db8::6", "fe80::1", "::", "ff02::1"] {
        drops(
            &guard,
            &v6(&ipv6(stranger, &[], 6, &[0; 20])),
            DropReason::SpoofedAddress,
        );
    }
}

#[test]
fn a_guest_without_an_address_may_get_one() {
    let guard = addresses();
    let nobody = V4 {
        src: [0; 4],
        dst: [255; 4],
        ..V4_OWN
    };
    passes(&guard, &v4(&ipv4(nobody, 17, &udp(68, 67))));
    drops(&guard, &v4(&ipv4(nobody, 17, &udp(68, 69))), DropReason::SpoofedAddress);
    let second = V4 { fragment: 1, ..nobody };
    drops(&guard, &v4(&ipv4(second, 17, &udp(68, 67))), DropReason::SpoofedAddress);
    for kind in [131, 133, 143] {
        passes(&guard, &v6(&ipv6("::", &[options(0)], 58, &icmpv6(kind))));
    }
    drops(
        &guard,
        &v6(&ipv6("::", &[], 58, &icmpv6(128))),
        DropReason::SpoofedAddress,
    );
    let link_local = GUEST.link_local().to_string();
    passes(&guard, &v6(&ipv6(&link_local, &[], 17, &udp(546, 547))));
}

#[test]
fn duplicate_address_detection_is_for_the_guests_own_addresses() {
    let guard = addresses();
    let link_local = GUEST.link_local().to_string();
    for own in ["2001:db8::5", &link_local] {
        passes(&guard, &v6(&ipv6("::", &[], 58, &neighbour(135, own, None))));
    }
    let other = v6(&ipv6("::", &[], 58, &neighbour(135, "2001:db8::6", None)));
    drops(&guard, &other, DropReason::SpoofedNeighbour);
    passes(&guard, &arp(1, GUEST, [0; 4], [192, 0, 2, 5]));
    drops(&guard, &arp(1, GUEST, [0; 4], [192, 0, 2, 6]), DropReason::SpoofedArp);
    drops(&guard, &arp(2, GUEST, [0; 4], [192, 0, 2, 5]), DropReason::SpoofedArp);
}

#[test]
fn arp_says_the_guests_address_and_mac() {
    let guard = addresses();
    for operation in [1, 2] {
        passes(&guard, &arp(operation, GUEST, [192, 0, 2, 5], [192, 0, 2, 1]));
        drops(
            &guard,
            &arp(operation, GUEST, [192, 0, 2, 1], [192, 0, 2, 5]),
            DropReason::SpoofedArp,
        );
        drops(
            &guard,
            &arp(operation, OTHER, [192, 0, 2, 5], [192, 0, 2, 1]),
            DropReason::SpoofedArp,
        );
    }
    drops(
        &guard,
        &frame(&[], 0x0806, &[0, 1, 8, 0, 6, 4, 0]),
        DropReason::SpoofedArp,
    );
    // Only an address check inspects ARP.
    passes(&servers(), &arp(2, OTHER, [192, 0, 2, 1], [192, 0, 2, 5]));
}

#[test]
fn neighbour_messages_claim_the_guests_address_and_mac() {
    let guard = addresses();
    let own = "2001:db8::5";
    let message = |kind, target, option| v6(&ipv6(own, &[], 58, &neighbour(kind, target, option)));
    // A solicitation for another host's address is normal.
    passes(&guard, &message(135, "2001:db8::1", Some((1, GUEST))));
    passes(&guard, &message(136, own, Some((2, GUEST))));
    passes(&guard, &message(136, own, None));
    let spoofed = DropReason::SpoofedNeighbour;
    drops(&guard, &message(135, "2001:db8::1", Some((1, OTHER))), spoofed);
    drops(&guard, &message(136, own, Some((2, OTHER))), spoofed);
    drops(&guard, &message(136, "2001:db8::1", Some((2, GUEST))), spoofed);
    // An option whose length is zero, or reaches beyond the packet.
    let mut endless = neighbour(136, own, Some((2, GUEST)));
    endless[25] = 0;
    drops(&guard, &v6(&ipv6(own, &[], 58, &endless)), DropReason::HiddenTransport);
    endless[25] = 9;
    drops(&guard, &v6(&ipv6(own, &[], 58, &endless)), DropReason::HiddenTransport);
}

#[test]
fn a_family_without_addresses_is_closed() {
    let only_ipv4 = guard(|policy| {
        policy.addresses = Some(AddressCheck {
            ipv4: vec!["192.0.2.5/32".parse().unwrap()],
            ipv6: Vec::new(),
        });
    });
    let link_local = GUEST.link_local().to_string();
    drops(
        &only_ipv4,
        &v6(&ipv6(&link_local, &[], 6, &[0; 20])),
        DropReason::ClosedFamily,
    );
    drops(
        &only_ipv4,
        &v6(&ipv6("::", &[], 58, &icmpv6(133))),
        DropReason::ClosedFamily,
    );
    let only_ipv6 = guard(|policy| {
        policy.addresses = Some(AddressCheck {
            ipv4: Vec::new(),
            ipv6: vec!["2001:db8::5/128".parse().unwrap()],
        });
    });
    drops(
        &only_ipv6,
        &arp(1, GUEST, [0; 4], [192, 0, 2, 5]),
        DropReason::ClosedFamily,
    );
}

proptest::proptest! {
    #[test]
    fn no_frame_whatever_makes_a_guard_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..HEAD_MAX), kind in 0..4usize) {
        let mut bytes = bytes;
        if bytes.len() > 14 {
            let (ethertype, version) = [(0x0800u16, 0x45), (0x86dd, 0x60), (0x8100, 0), (0x0806, 0)][kind];
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            bytes[14] = version;
        }
        for guard in [servers(), addresses()] {
            let _ = guard.check(&bytes, &Head::parse(&bytes, bytes.len()));
        }
    }
}
