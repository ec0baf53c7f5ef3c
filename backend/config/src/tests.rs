//! Tests that a configuration survives being saved and read back.

use super::*;
use hawser_packet::vlan::VlanId;

fn vlan(id: u16) -> VlanId {
    VlanId::new(id).unwrap()
}

fn policy() -> PolicyConfig {
    let mut tagged = VlanSet::default();
    tagged.add(vlan(1)..=vlan(1)).unwrap();
    tagged.add(vlan(63)..=vlan(65)).unwrap();
    tagged.add(vlan(4094)..=vlan(4094)).unwrap();
    PolicyConfig {
        vlan: VlanConfig::Trunk {
            tagged,
            native: Some(vlan(7)),
            keep_default: true,
        },
        mac_check: MacCheck::Off,
        addresses: Some(AddressCheck {
            ipv4: vec!["192.0.2.5/32".parse().unwrap()],
            ipv6: vec!["2001:db8::/64".parse().unwrap()],
        }),
        dhcp_guard: true,
        router_guard: true,
        rates: Rates {
            to_guest: RateLimit {
                bytes: Some(Rate {
                    per_second: 1_000_000,
                    burst: 65_536,
                }),
                packets: None,
            },
            from_guest: RateLimit::default(),
        },
    }
}

fn names() -> NameConfig {
    NameConfig {
        hostname: Some("vm".into()),
        dns: vec!["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()],
        domain: None,
        search: vec!["example.org".into()],
        dhcp_options: vec![(252, b"x".to_vec())],
    }
}

fn masquerade() -> ModeConfig {
    let mut ports = PortSet::default();
    ports.insert(Transport::Tcp, 1..=u16::MAX);
    ports.remove(Transport::Tcp, 22..=22);
    ports.insert(Transport::Udp, u16::MAX..=u16::MAX);
    ModeConfig::Masquerade(MasqueradeConfig {
        ipv4: Some(Ipv4Link {
            network: "10.0.2.0/24".parse().unwrap(),
            gateway: "10.0.2.1".parse().unwrap(),
            guest: "10.0.2.2".parse().unwrap(),
        }),
        ipv6: Some(Ipv6Link {
            network: "fd10:0:2::/120".parse().unwrap(),
            gateway: "fd10:0:2::1".parse().unwrap(),
            guest: "fd10:0:2::2".parse().unwrap(),
        }),
        names: names(),
        forwards: vec![Forward {
            transport: Transport::Udp,
            bind: Some("::1".parse().unwrap()),
            host_port: 5000,
            guest_port: 53,
            count: NonZeroU16::new(10).unwrap(),
        }],
        every_port: Some(EveryPort {
            ports,
            otherwise: Otherwise::Warn,
        }),
        map_host_loopback: vec!["10.0.2.1".parse().unwrap()],
        dns_forward: vec!["127.0.0.53".parse().unwrap()],
        neighbourhood: Neighbourhood::Private,
    })
}

fn bridge() -> ModeConfig {
    let client = MacAddr([2, 0, 0, 0, 0, 9]);
    ModeConfig::Bridge(BridgeConfig {
        lease: Some(LeaseConfig {
            client,
            address: "192.0.2.9/24".parse().unwrap(),
            server: "192.0.2.1".parse().unwrap(),
            router: None,
            routes: vec![("0.0.0.0/0".parse().unwrap(), "192.0.2.1".parse().unwrap())],
            names: names(),
        }),
        lease6: Some(Lease6Config {
            client,
            address: "2001:db8::9/64".parse().unwrap(),
            names: NameConfig::default(),
        }),
        forwarding: Forwarding::Routed { device: client },
        role: NicRole::Standby,
    })
}

#[test]
fn a_configuration_survives_being_saved_and_read_back() {
    for (mac, mode) in [(Some(MacAddr([2, 0, 0, 0, 0, 9])), masquerade()), (None, bridge())] {
        let config = PortConfig {
            name: "net0".into(),
            mac,
            mtu: 9000,
            queue_pairs: NonZeroU16::new(4).unwrap(),
            pace: PaceConfig::default(),
            policy: policy(),
            mode,
        };
        let saved = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<PortConfig>(&saved).unwrap(), config, "{saved}");
    }
}

#[test]
fn sets_and_addresses_are_saved_in_the_form_an_operator_reads() {
    let saved = serde_json::to_value(policy().vlan).unwrap();
    let expected = serde_json::json!([[1, 1], [63, 65], [4094, 4094]]);
    assert_eq!(saved["Trunk"]["tagged"], expected);
    assert_eq!(serde_json::to_value(GATEWAY_MAC).unwrap(), "02:00:00:00:00:00");
}

#[test]
fn what_is_no_vlan_or_mac_is_refused() {
    for id in ["0", "4095"] {
        assert!(serde_json::from_str::<VlanId>(id).is_err(), "{id}");
    }
    assert!(serde_json::from_str::<MacAddr>("\"02:00\"").is_err());
}

#[test]
fn the_dhcpv6_lease_of_a_bridged_guest_is_one_of_its_leases() {
    let mode = ModeConfig::Bridge(BridgeConfig {
        lease6: Some(Lease6Config {
            client: MacAddr([2, 0, 0, 0, 0, 9]),
            address: "2001:db8::5/64".parse().unwrap(),
            names: NameConfig::default(),
        }),
        ..BridgeConfig::default()
    });
    assert_eq!(mode.properties().leases(), [None, Some("2001:db8::5".parse().unwrap())]);
}
