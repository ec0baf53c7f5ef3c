use super::*;
use std::time::Duration;

const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn ethernet(ethertype: u16, tag: Option<u16>, packet: &[u8]) -> Vec<u8> {
    let mut frame = [MacAddr::BROADCAST.0, GUEST.0].concat();
    if let Some(vid) = tag {
        frame.extend([0x81, 0x00]);
        frame.extend(vid.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

fn arp(sender: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(GUEST.0);
    packet.extend(sender);
    packet.extend([0; 6]);
    packet.extend([192, 0, 2, 1]);
    packet
}

fn nd(kind: u8, source: &str, target: &str) -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
    packet.extend(address(source));
    packet.extend(address("ff02::1"));
    packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend(address(target));
    packet
}

fn dhcp(ciaddr: [u8; 4], server_port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
    packet.extend(68u16.to_be_bytes());
    packet.extend(server_port.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([0; 12]);
    packet.extend(ciaddr);
    packet.resize(300, 0);
    // The length of the packet.
    packet[2..4].copy_from_slice(&300u16.to_be_bytes());
    packet
}

fn look(sightings: &Snooping, now: Instant, frame: &[u8]) {
    sightings.look(now, frame, &Head::parse(frame, frame.len()));
}

fn seen(frames: &[Vec<u8>]) -> Vec<(SnoopSource, String)> {
    let sightings = Snooping::default();
    for (n, frame) in (0..).zip(frames) {
        look(&sightings, Instant::from_nanos(n), frame);
    }
    let all = sightings.all().into_iter();
    all.map(|sighting| (sighting.source, sighting.address.to_string()))
        .collect()
}

#[test]
fn arp_neighbour_discovery_and_dhcp_give_addresses_away_tagged_or_not() {
    use SnoopSource::{Arp, Dhcp, NeighbourDiscovery};
    for tag in [None, Some(7)] {
        let frames = [
            ethernet(0x0806, tag, &arp([192, 0, 2, 5])),
            ethernet(0x86dd, tag, &nd(135, "fe80::9", "fe80::1")),
            ethernet(0x86dd, tag, &nd(135, "::", "2001:db8::9")),
            ethernet(0x86dd, tag, &nd(136, "fe80::9", "2001:db8::a")),
            ethernet(0x0800, tag, &dhcp([192, 0, 2, 6], 67)),
        ];
        let expected = [
            (Dhcp, "192.0.2.6"),
            (NeighbourDiscovery, "2001:db8::a"),
            (NeighbourDiscovery, "2001:db8::9"),
            (NeighbourDiscovery, "fe80::9"),
            (Arp, "192.0.2.5"),
        ];
        let expected: Vec<_> = expected.map(|(source, text)| (source, text.to_owned())).into();
        assert_eq!(seen(&frames), expected);
    }
}

#[test]
fn what_says_nothing_of_an_address_in_use_is_passed_over() {
    let frames = [
        // Probes (RFC 5227), requests without an address yet, and other messages and ports.
        ethernet(0x0806, None, &arp([0; 4])),
        ethernet(0x0800, None, &dhcp([0; 4], 67)),
        ethernet(0x0800, None, &dhcp([192, 0, 2, 6], 53)),
        ethernet(0x86dd, None, &nd(133, "fe80::9", "fe80::1")),
        ethernet(0x86dd, None, &nd(136, "fe80::9", "ff02::1")),
        ethernet(0x88b5, None, &[0; 60]),
    ];
    assert_eq!(seen(&frames), []);
}

#[test]
fn frames_cut_anywhere_are_no_harm() {
    let whole = [
        ethernet(0x0806, Some(7), &arp([192, 0, 2, 5])),
        ethernet(0x86dd, None, &nd(136, "fe80::9", "2001:db8::a")),
        ethernet(0x0800, None, &dhcp([192, 0, 2, 6], 67)),
    ];
    let sightings = Snooping::default();
    for frame in &whole {
        for len in 0..frame.len() {
            look(&sightings, Instant::default(), &frame[..len]);
        }
    }
    assert!(sightings.all().len() <= whole.len());
}

#[test]
fn a_guest_that_makes_up_addresses_fills_the_table_and_no_more() {
    let sightings = Snooping::default();
    let mut now = Instant::default();
    let own = ethernet(0x0806, None, &arp([192, 0, 2, 5]));
    for n in 0..10_000u16 {
        now = now + Duration::from_millis(1);
        let [high, low] = n.to_be_bytes();
        look(&sightings, now, &ethernet(0x0806, None, &arp([10, 0, high, low])));
        if n % 16 == 0 {
            look(&sightings, now, &own);
        }
    }
    let all = sightings.all();
    assert_eq!(all.len(), SNOOPED_MAX);
    // An address that is in use stays.
    assert!(all.iter().any(|sighting| sighting.address.to_string() == "192.0.2.5"));
}
