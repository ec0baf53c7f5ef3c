//! Tests of lookup and admission.

use super::*;
use crate::config::PeerConfig;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

const BLUE: Vni = Vni::new(5).expect("24 bits");

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn at(endpoint: &str) -> SocketAddr {
    endpoint.parse().unwrap()
}

fn own() -> SocketAddr {
    at("192.0.2.100:6081")
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn hawser(endpoint: &str) -> Peer {
    Peer {
        endpoint: at(endpoint),
        knows_frame_option: true,
        has_other_macs: false,
    }
}

fn kernel(endpoint: &str) -> Peer {
    Peer {
        endpoint: at(endpoint),
        knows_frame_option: false,
        has_other_macs: true,
    }
}

fn binding(last: u8, endpoint: &str, epoch: Option<u32>) -> Binding {
    Binding {
        mac: mac(last),
        addresses: vec![ip(&format!("10.0.0.{last}")), ip(&format!("fd00::{last:x}"))],
        endpoint: at(endpoint),
        epoch,
    }
}

fn option(epoch: u32) -> FrameOption {
    FrameOption {
        segmented: None,
        is_checksum_partial: true,
        epoch,
    }
}

/// Two processes on one node, one process on another node, and a kernel tunnel.
fn table() -> Table {
    let peers = [
        hawser("192.0.2.1:6081"),
        hawser("192.0.2.1:6082"),
        hawser("192.0.2.2:6081"),
        kernel("192.0.2.9:6081"),
    ];
    let bindings = [
        binding(1, "192.0.2.1:6081", Some(3)),
        binding(2, "192.0.2.1:6082", Some(1)),
        binding(3, "192.0.2.2:6081", Some(7)),
        binding(9, "192.0.2.9:6081", None),
    ];
    let (table, errors) = Table::of(BLUE, own(), peers, bindings);
    assert_eq!(errors, []);
    table
}

#[test]
fn a_frame_goes_to_the_port_of_the_process_that_has_its_mac() {
    let table = table();
    let endpoint = |last| table.endpoint_of(mac(last));
    assert_eq!(endpoint(1), Some(at("192.0.2.1:6081")));
    assert_eq!(endpoint(2), Some(at("192.0.2.1:6082")));
    assert_eq!(endpoint(3), Some(at("192.0.2.2:6081")));
    assert_eq!(endpoint(4), None);
    assert_eq!((table.endpoints().len(), table.vni()), (4, BLUE));
}

#[test]
fn known_addresses_of_both_families_have_their_mac() {
    let table = table();
    assert_eq!(table.mac_of(ip("10.0.0.2")), Some(mac(2)));
    assert_eq!(table.mac_of(ip("::ffff:10.0.0.2")), Some(mac(2)));
    assert_eq!(table.mac_of(ip("fd00::3")), Some(mac(3)));
    assert_eq!(table.mac_of(ip("10.0.0.4")), None);
}

#[test]
fn an_interface_may_claim_its_own_addresses_and_none_of_another() {
    let peers = [
        hawser("192.0.2.1:6081"),
        hawser("192.0.2.2:6081"),
        kernel("192.0.2.9:6081"),
    ];
    let ipv4_only = Binding {
        addresses: vec![ip("10.0.0.4")],
        ..binding(4, "192.0.2.2:6081", None)
    };
    let bindings = [
        binding(1, "192.0.2.1:6081", None),
        binding(2, "192.0.2.2:6081", None),
        ipv4_only,
    ];
    let (table, errors) = Table::of(BLUE, own(), peers, bindings);
    assert_eq!(errors, []);
    let may = |last, address: &str| table.may_claim(mac(last), ip(address));
    for own in [
        "10.0.0.1",
        "::ffff:10.0.0.1",
        "fd00::1",
        "fe80::ff:fe00:1",
        "fe80::1:2:3:4",
    ] {
        assert!(may(1, own), "{own}");
    }
    for other in [
        "10.0.0.2",
        "fd00::2",
        "fe80::ff:fe00:2",
        "10.0.0.77",
        "fd00::77",
        "0.0.0.0",
    ] {
        assert!(!may(1, other), "{other}");
    }
    // The table has no address of the interface in this family, or the host is behind an endpoint with any MACs.
    for (last, address) in [
        (4, "fd00::77"),
        (9, "fd00::77"),
        (9, "10.0.0.77"),
        (9, "fe80::ff:fe00:9"),
    ] {
        assert!(may(last, address), "{address}");
    }
    for (last, address) in [
        (4, "10.0.0.77"),
        (4, "fd00::1"),
        (9, "10.0.0.1"),
        (9, "fe80::ff:fe00:1"),
    ] {
        assert!(!may(last, address), "{address}");
    }
}

#[test]
fn a_frame_is_admitted_from_where_its_mac_is_bound_and_from_nowhere_else() {
    let table = table();
    let admit = |source: &str, last| table.admit(ip(source), mac(last), None);
    assert_eq!(admit("192.0.2.1", 1), Ok(Admitted::Known));
    assert_eq!(admit("192.0.2.1", 2), Ok(Admitted::Known));
    assert_eq!(admit("::ffff:192.0.2.1", 2), Ok(Admitted::Known));
    assert_eq!(admit("192.0.2.2", 3), Ok(Admitted::Known));
    assert_eq!(admit("192.0.2.1", 3), Err(DropReason::TunnelSpoofedMac));
    assert_eq!(admit("192.0.2.1", 4), Err(DropReason::TunnelUnknownMac));
    for last in [1, 4] {
        assert_eq!(admit("192.0.2.7", last), Err(DropReason::TunnelUnknownPeer));
    }
}

#[test]
fn a_peer_of_another_kind_may_have_macs_that_are_bound_nowhere() {
    let table = table();
    let kernel = ip("192.0.2.9");
    let admit = |mac, epoch: Option<u32>| table.admit(kernel, mac, epoch.map(option).as_ref());
    for (last, admitted) in [(9, Admitted::Known), (77, Admitted::Unbound)] {
        assert_eq!(admit(mac(last), None), Ok(admitted));
        assert_eq!(admit(mac(last), Some(1)), Err(DropReason::TunnelOption));
    }
    assert_eq!(table.endpoint_with_other_macs(kernel), Some(at("192.0.2.9:6081")));
    assert_eq!(table.endpoint_with_other_macs(ip("192.0.2.1")), None);
    assert_eq!(admit(mac(1), None), Err(DropReason::TunnelSpoofedMac));
    assert_eq!(admit(mac(1), Some(3)), Err(DropReason::TunnelSpoofedMac));
    assert_eq!(admit(mac(1), Some(4)), Err(DropReason::TunnelOption));
    assert_eq!(admit(MacAddr::BROADCAST, None), Err(DropReason::TunnelUnknownMac));
}

#[test]
fn a_lower_epoch_is_refused_and_a_higher_one_is_ahead_of_the_table() {
    let table = table();
    let admit = |source: &str, epoch| table.admit(ip(source), mac(1), Some(&option(epoch)));
    assert_eq!(admit("192.0.2.1", 3), Ok(Admitted::Known));
    assert_eq!(admit("192.0.2.1", 2), Err(DropReason::TunnelStaleEpoch));
    assert_eq!(admit("192.0.2.2", 2), Err(DropReason::TunnelStaleEpoch));
    assert_eq!(admit("192.0.2.2", 3), Err(DropReason::TunnelSpoofedMac));
    // The interface has moved there, and the table has not been updated yet.
    assert_eq!(admit("192.0.2.2", 4), Ok(Admitted::Ahead));
    assert_eq!(admit("192.0.2.1", 4), Ok(Admitted::Ahead));
    for epoch in [2, 3, 4] {
        assert_eq!(admit("192.0.2.7", epoch), Err(DropReason::TunnelUnknownPeer));
    }
}

#[test]
fn of_two_bindings_of_a_mac_the_higher_epoch_counts_and_its_addresses() {
    let peers = || [hawser("192.0.2.1:6081"), hawser("192.0.2.2:6081")];
    let source = binding(1, "192.0.2.1:6081", Some(4));
    let target = Binding {
        addresses: vec![ip("10.0.0.50")],
        ..binding(1, "192.0.2.2:6081", Some(5))
    };
    for bindings in [[source.clone(), target.clone()], [target, source]] {
        let (table, errors) = Table::of(BLUE, own(), peers(), bindings);
        assert_eq!(errors, []);
        assert_eq!(table.endpoint_of(mac(1)), Some(at("192.0.2.2:6081")));
        assert_eq!(table.mac_of(ip("10.0.0.50")), Some(mac(1)));
        assert_eq!(table.mac_of(ip("10.0.0.1")), None);
    }
}

#[test]
fn what_contradicts_the_rest_is_left_out_and_named() {
    let peers = [
        hawser("192.0.2.1:6081"),
        hawser("192.0.2.2:6081"),
        kernel("192.0.2.1:6081"),
        hawser("[2001:db8::1]:6081"),
        hawser("192.0.2.100:6081"),
        hawser("127.0.0.1:6081"),
        hawser("[ff02::1]:6081"),
        hawser("255.255.255.255:6081"),
        hawser("0.0.0.0:6081"),
        hawser("192.0.2.3:0"),
    ];
    let same_address = Binding {
        addresses: vec![ip("10.0.0.1")],
        ..binding(2, "192.0.2.2:6081", None)
    };
    let group = Binding {
        mac: MacAddr::BROADCAST,
        ..binding(5, "192.0.2.1:6081", None)
    };
    let bindings = [
        binding(1, "192.0.2.1:6081", None),
        same_address,
        binding(3, "192.0.2.1:6081", Some(1)),
        Binding {
            addresses: vec![ip("10.0.0.33")],
            ..binding(3, "192.0.2.2:6081", Some(1))
        },
        binding(4, "192.0.2.4:6081", None),
        binding(100, "192.0.2.100:6081", None),
        group,
    ];
    let (table, errors) = Table::of(BLUE, own(), peers, bindings);
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let cannot = |peer: &str| {
        format!(
            "endpoint {peer} cannot be a peer of 192.0.2.100:6081: give another unicast address of its family, and a \
             port"
        )
    };
    assert_eq!(
        errors,
        [
            cannot("[2001:db8::1]:6081"),
            cannot("127.0.0.1:6081"),
            cannot("[ff02::1]:6081"),
            cannot("255.255.255.255:6081"),
            cannot("0.0.0.0:6081"),
            cannot("192.0.2.3:0"),
            "address 10.0.0.1 belongs to 02:00:00:00:00:01 and to 02:00:00:00:00:02: give one of the interfaces \
             another address"
                .into(),
            "MAC 02:00:00:00:00:03 is bound to 192.0.2.1:6081 and to 192.0.2.2:6081: give one of the interfaces \
             another MAC"
                .into(),
            "MAC 02:00:00:00:00:04 is bound to 192.0.2.4:6081, which is not a peer of the network: add the peer".into(),
            "ff:ff:ff:ff:ff:ff cannot be the MAC of an interface: give a unicast MAC".into(),
        ]
    );
    let endpoint = |last| table.endpoint_of(mac(last));
    assert_eq!(endpoint(3), Some(at("192.0.2.1:6081")));
    assert_eq!((endpoint(4), table.mac_of(ip("10.0.0.4"))), (None, None));
    assert_eq!(
        (table.mac_of(ip("10.0.0.3")), table.mac_of(ip("10.0.0.33"))),
        (Some(mac(3)), None)
    );
    assert_eq!(table.mac_of(ip("10.0.0.1")), Some(mac(1)));
    assert_eq!(
        (endpoint(100), table.mac_of(ip("10.0.0.100"))),
        (None, None),
        "this process"
    );
    // Listed twice, but a single peer.
    assert_eq!(table.endpoints(), [at("192.0.2.1:6081"), at("192.0.2.2:6081")]);
    assert_eq!(table.admit(ip("192.0.2.1"), mac(99), None), Ok(Admitted::Unbound));
}

#[test]
fn a_configured_peer_has_its_addresses_at_its_first_mac() {
    let peer = |vtep: &str, macs: &[u8], addresses: &[&str]| PeerConfig {
        vtep: at(vtep),
        macs: macs.iter().map(|last| mac(*last)).collect(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        name: None,
        knows_frame_option: false,
        is_moved: false,
    };
    let peers = [
        peer("127.0.0.2:6081", &[2], &["10.0.0.2", "fd00::2"]),
        peer("127.0.0.2:7000", &[3, 4], &["10.0.0.3"]),
        peer("192.0.2.9:6081", &[], &[]),
    ];
    let (table, errors) = Table::new(BLUE, at("127.0.0.1:6081"), &peers);
    assert_eq!(errors, [], "loopback reaches loopback");
    assert_eq!(table.endpoint_of(mac(2)), Some(at("127.0.0.2:6081")));
    assert_eq!(table.endpoint_of(mac(4)), Some(at("127.0.0.2:7000")));
    assert_eq!(table.endpoint_of(mac(9)), None);
    assert_eq!(table.mac_of(ip("fd00::2")), Some(mac(2)));
    assert_eq!(table.mac_of(ip("10.0.0.3")), Some(mac(3)));
    assert_eq!(table.endpoints().len(), 3);
    let admit = |source: &str, mac| table.admit(ip(source), mac, None);
    assert_eq!(admit("127.0.0.2", mac(2)), Ok(Admitted::Known));
    assert_eq!(admit("192.0.2.9", mac(2)), Err(DropReason::TunnelSpoofedMac));
    assert_eq!(admit("127.0.0.2", mac(9)), Err(DropReason::TunnelUnknownMac));
    assert_eq!(
        admit("192.0.2.9", mac(9)),
        Ok(Admitted::Unbound),
        "any MAC may be behind it"
    );
    assert_eq!(admit("192.0.2.7", mac(9)), Err(DropReason::TunnelUnknownPeer));
}

/// Bytes allocated by a map. The number of buckets is a power of two, of which 7/8 are used, and each bucket has a
/// control byte.
fn allocated<K, V>(map: &HashMap<K, V>) -> usize {
    let buckets = (map.capacity() * 8 / 7).next_power_of_two();
    buckets * (size_of::<(K, V)>() + 1)
}

#[test]
fn ten_thousand_bindings_of_both_families_at_a_thousand_peers_take_two_megabytes() {
    let endpoint = |n: u32| SocketAddr::new(Ipv4Addr::from_bits(0x0a00_0000 + n % 1000).into(), 6081);
    let peers = (0..1000).map(|n| Peer {
        endpoint: endpoint(n),
        ..hawser("192.0.2.1:6081")
    });
    let bindings = (0..10_000u32).map(|n| {
        let [a, b, c, d] = n.to_be_bytes();
        Binding {
            mac: MacAddr([2, 0, a, b, c, d]),
            addresses: vec![
                Ipv4Addr::from_bits(0xac10_0000 + n).into(),
                Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n)).into(),
            ],
            endpoint: endpoint(n),
            epoch: Some(1),
        }
    });
    let (table, errors) = Table::of(BLUE, own(), peers, bindings);
    assert_eq!(errors, []);
    assert_eq!(
        (table.macs.len(), table.addresses.len(), table.endpoints.len()),
        (10_000, 20_000, 1000)
    );
    let bytes = allocated(&table.macs)
        + allocated(&table.addresses)
        + allocated(&table.sources)
        + size_of_val(&*table.endpoints)
        + size_of_val(&*table.kinds);
    assert!(
        bytes < 2 << 20,
        "{bytes} bytes: a new table and the one before are there at once"
    );
    let found = Arc::new(table).endpoint_of(MacAddr([2, 0, 0, 0, 0x27, 0x0f]));
    assert_eq!(found, Some(endpoint(9999)));
}
