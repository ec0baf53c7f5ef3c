use super::super::{Found, resolve};
use super::*;
use crate::cli::Cli;
use clap::Parser as _;
use hawser_config::{ModeConfig, SecondaryNetwork};
use hawser_host::system::DefaultRoute;
use hawser_manifest::nic::ModeSpec;

const NETWORK: [&str; 7] = [
    "hawser",
    "--socket-path=/s",
    "--mode=layer2",
    "--vni=7",
    "--mac=52:54:00:00:00:01",
    "--ipv4=10.100.0.0/24",
    "--vtep=198.51.100.1",
];

fn plan(options: &[&str]) -> Result<Found, ConfigError> {
    let host = Host {
        addresses: vec!["198.51.100.1".parse().unwrap(), "10.244.0.7".parse().unwrap()],
        mtu: Some(1500),
        ..Host::default()
    };
    let argv = NETWORK.iter().chain(options);
    let spec = Cli::try_parse_from(argv).unwrap().port.spec("s".into()).unwrap();
    resolve(spec, &host, None)
}

fn layer2(found: &Found) -> &Layer2Config {
    match &found.port.mode {
        ModeConfig::Layer2(mode) => mode,
        _ => panic!("layer2 was planned"),
    }
}

fn primary(found: &Found) -> &PrimaryNetwork {
    match &layer2(found).role {
        NetworkRole::Primary(network) => network,
        NetworkRole::Secondary(_) => panic!("the network has a gateway"),
    }
}

/// Resolves options other than those of [`NETWORK`].
fn plan_of(options: &[&str], host: &Host) -> Result<Found, ConfigError> {
    let fixed = ["hawser", "--socket-path=/s", "--mode=layer2", "--vni=7"];
    let argv = fixed.iter().chain(options);
    let spec = Cli::try_parse_from(argv).unwrap().port.spec("s".into()).unwrap();
    resolve(spec, host, None)
}

fn refusal(options: &[&str]) -> String {
    plan(options).unwrap_err().to_string()
}

/// The frames that a guest of this network may send: from which addresses, and whether as a DHCP server or as a router.
fn allowed(options: &[&str]) -> (Option<[Vec<String>; 2]>, bool, bool) {
    let policy = plan(options).unwrap().port.policy;
    let addresses = policy.addresses.map(|check| {
        let ipv4 = check.ipv4.iter().map(ToString::to_string).collect();
        [ipv4, check.ipv6.iter().map(ToString::to_string).collect()]
    });
    (addresses, !policy.dhcp_guard, !policy.router_guard)
}

#[test]
fn a_guest_sends_only_from_the_addresses_that_it_was_assigned() {
    let lists = |ipv4: &[&str], ipv6: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Some([owned(ipv4), owned(ipv6)])
    };
    let own = "--guest-address=10.100.0.11";
    let both = ["--guest-address=10.100.0.11,fd00::b", "--ipv6=fd00::/64"];
    assert_eq!(allowed(&[own]), (lists(&["10.100.0.11/32"], &[]), false, false));
    let dual = (lists(&["10.100.0.11/32"], &["fd00::b/128", "fe80::/10"]), false, false);
    assert_eq!(allowed(&both), dual);
    // Without a gateway a guest may be a router.
    let secondary = (lists(&["10.100.0.11/32"], &[]), false, true);
    assert_eq!(allowed(&[own, "--gateway=off"]), secondary);
    let more = [
        "--ip-spoof-check=10.100.0.200,192.0.2.0/24",
        "--ip-spoof-check=fd00:7::/64",
    ];
    let (addresses, ..) = allowed(&[&[own], &more[..]].concat());
    let expected = lists(
        &["10.100.0.200/32", "192.0.2.0/24", "10.100.0.11/32"],
        &["fd00:7::/64", "fe80::/10"],
    );
    assert_eq!(addresses, expected);
    assert_eq!(allowed(&[own, "--ip-spoof-check=off"]), (None, true, true));
}

#[test]
fn a_guest_of_a_network_without_subnets_sends_from_any_address() {
    let options = ["--mac=52:54:00:00:00:01", "--vtep=198.51.100.1", "--gateway=off"];
    let host = Host {
        addresses: vec!["198.51.100.1".parse().unwrap()],
        ..Host::default()
    };
    let policy = |more: &[&str]| plan_of(&[&options, more].concat(), &host).unwrap().port.policy;
    assert_eq!(policy(&[]), PolicyConfig::default());
    assert_eq!(policy(&["--any-mac"]).mac_check, MacCheck::Off);
    let refused = Cli::try_parse_from(NETWORK.iter().chain(&["--any-mac"])).unwrap();
    let refused = refused.port.spec("s".into()).unwrap_err().to_string();
    assert!(
        refused.contains("--any-mac") && refused.contains("--gateway=off"),
        "{refused}"
    );
    let addresses = policy(&["--ip-spoof-check=192.0.2.5"]).addresses.unwrap();
    assert_eq!((addresses.ipv4.len(), addresses.ipv6.len()), (1, 0));
}

#[test]
fn forwards_of_a_layer2_network_are_checked_against_each_other_and_its_families() {
    let found = plan(&["--port=80,udp:53"]).unwrap();
    assert_eq!(primary(&found).forwards.len(), 2);
    let inbound = found.port.mode.properties().inbound().unwrap();
    assert_eq!((inbound.families.ipv4, inbound.families.ipv6), (true, false));
    let error = refusal(&["--port=80-89", "--port=85:22"]);
    assert!(error.ends_with("listen on the same port: leave one out"), "{error}");
    let error = refusal(&["--port=[::1]:80"]);
    assert!(error.contains("a family that the guest does not have"), "{error}");
}

#[test]
fn a_subnet_that_covers_an_end_of_the_tunnel_or_an_address_of_the_system_is_refused() {
    let peer = "--peer=52:54:00:00:00:02,10.100.0.12@198.51.100.2";
    plan(&[peer]).unwrap();
    for (options, network, address) in [
        (&["--ipv4=198.51.0.0/16"][..], "198.51.0.0/16", "198.51.100.1"),
        (&["--ipv4=10.244.0.0/16"], "10.244.0.0/16", "10.244.0.7"),
        (
            &["--peer=52:54:00:00:00:02@10.100.0.12"],
            "10.100.0.0/24",
            "10.100.0.12",
        ),
    ] {
        let mut argv: Vec<&str> = NETWORK.to_vec();
        if options[0].starts_with("--ipv4") {
            argv.retain(|option| !option.starts_with("--ipv4"));
        }
        let spec = Cli::try_parse_from(argv.iter().chain(options)).unwrap();
        let mut spec = spec.port.spec("s".into()).unwrap();
        let host = Host {
            addresses: vec!["10.244.0.7".parse().unwrap()],
            ..Host::default()
        };
        let error = resolve(spec.clone(), &host, None).unwrap_err().to_string();
        let expected = format!("--ipv4={network} covers {address},");
        assert!(error.trim_start_matches("--peer: ").starts_with(&expected), "{error}");
        // A network of a manifest has no options.
        let ModeSpec::Layer2(mode) = &mut spec.mode else {
            panic!("{spec:?}")
        };
        mode.network = Some("shop_net".into());
        let error = resolve(spec, &host, None).unwrap_err().to_string();
        let expected = format!("{network} of the network's subnets covers {address},");
        assert!(error.trim_start_matches("--peer: ").starts_with(&expected), "{error}");
    }
}

#[test]
fn two_macs_or_addresses_alike_and_an_mtu_that_does_not_fit_are_refused() {
    let error = refusal(&["--peer=52:54:00:00:00:01,10.100.0.12@198.51.100.2"]);
    assert!(error.contains("two guests have the MAC 52:54:00:00:00:01"), "{error}");
    let error = refusal(&["--peer=52:54:00:00:00:02,10.100.0.2@198.51.100.2"]);
    assert!(error.contains("two guests have the address 10.100.0.2"), "{error}");
    let error = refusal(&["--mtu=1439"]);
    assert!(error.contains("1439") && error.contains("1500"), "{error}");
}

#[test]
fn the_gateway_is_the_first_host_or_the_one_asked_for_and_never_the_guest() {
    let addresses = |options: &[&str]| {
        let found = plan(options).unwrap();
        let network = primary(&found);
        let (v4, v6) = (network.ipv4.unwrap(), network.ipv6.unwrap());
        [
            v4.gateway.to_string(),
            v4.guest.to_string(),
            v6.gateway.to_string(),
            v6.guest.to_string(),
        ]
    };
    let v6 = "--ipv6=fd00:1::/64";
    assert_eq!(addresses(&[v6]), ["10.100.0.1", "10.100.0.2", "fd00:1::1", "fd00:1::2"]);
    assert_eq!(
        addresses(&[v6, "--gateway=10.100.0.254"]),
        ["10.100.0.254", "10.100.0.1", "fd00:1::1", "fd00:1::2"]
    );
    assert_eq!(
        addresses(&[v6, "--gateway=fd00:1::fe,10.100.0.2", "--guest-address=10.100.0.9"]),
        ["10.100.0.2", "10.100.0.9", "fd00:1::fe", "fd00:1::1"]
    );
    for (options, message) in [
        (
            &["--gateway=10.101.0.1"][..],
            "--gateway=10.101.0.1 is not a host address",
        ),
        (
            &["--gateway=10.100.0.255"],
            "--gateway=10.100.0.255 is not a host address",
        ),
        (&["--gateway=fd00:1::1"], "--gateway=fd00:1::1 is not a host address"),
        (
            &["--gateway=10.100.0.9", "--guest-address=10.100.0.9"],
            "--guest-address=10.100.0.9 is the network's gateway",
        ),
    ] {
        let error = refusal(options);
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn a_network_without_a_gateway_has_neither_forwards_nor_the_name_servers_of_the_pod() {
    let found = plan(&["--gateway=off"]).unwrap();
    let network = SecondaryNetwork {
        ipv4: Some("10.100.0.1/24".parse().unwrap()),
        ipv6: None,
    };
    assert_eq!(layer2(&found).role, NetworkRole::Secondary(network));
    assert!(!found.names.follows_system());
    assert!(found.port.mode.properties().inbound().is_none());
    let argv = NETWORK.iter().chain(&["--gateway=off", "--port=80"]);
    let error = Cli::try_parse_from(argv).unwrap().port.spec("s".into()).unwrap_err();
    assert!(
        error.to_string().starts_with("--port has no effect with --gateway=off"),
        "{error}"
    );
}

#[test]
fn only_a_network_without_a_gateway_can_lack_a_subnet() {
    let host = Host::default();
    let options = ["--vtep=198.51.100.1", "--mac=52:54:00:00:00:01"];
    let error = plan_of(&options, &host).unwrap_err().to_string();
    assert!(error.contains("--gateway=off"), "{error}");
    let found = plan_of(&[&options[..], &["--gateway=off"]].concat(), &host).unwrap();
    assert_eq!(layer2(&found).addresses(), [None; 2]);
    let error = plan_of(&["--vtep=198.51.100.1", "--gateway=off"], &host).unwrap_err();
    assert_eq!(error, Layer2Error::NoMac.into());
}

#[test]
fn a_mac_that_is_not_given_follows_from_the_first_address() {
    let options = |gateway| {
        [
            "--vtep=198.51.100.1",
            "--ipv4=10.100.0.0/24",
            "--guest-address=10.100.0.11",
            gateway,
        ]
    };
    for gateway in ["--gateway=10.100.0.1", "--gateway=off"] {
        let found = plan_of(&options(gateway), &Host::default()).unwrap();
        assert_eq!(found.port.mac.unwrap().to_string(), "0a:58:0a:64:00:0b");
    }
}

fn route(source: &str, link: &str) -> Option<DefaultRoute> {
    Some(DefaultRoute {
        source: source.parse().unwrap(),
        link: link.into(),
        mtu: 1500,
    })
}

/// Address of the local end of the tunnel on a host with these default routes.
fn end(routes: [Option<DefaultRoute>; 2], options: &[&str]) -> Result<String, String> {
    let host = Host {
        default_routes: routes,
        mtu: Some(9000),
        ..Host::default()
    };
    let mac = ["--mac=52:54:00:00:00:01"];
    let found = plan_of(&[&mac[..], options].concat(), &host);
    found
        .map(|found| layer2(&found).vtep.to_string())
        .map_err(|e| e.to_string())
}

#[test]
fn this_end_of_the_tunnel_is_the_source_address_of_the_default_route() {
    let v4 = || route("192.0.2.7", "eth0");
    let v6 = || route("2001:db8::7", "eth0");
    let (net4, net6) = ("--ipv4=10.100.0.0/24", "--ipv6=fd00:1::/64");
    let cases = [
        ([v4(), None], &[net4][..], "192.0.2.7:6081"),
        ([v4(), v6()], &[net4, net6], "192.0.2.7:6081"),
        ([v4(), v6()], &[net4, net6, "--vtep=ipv6"], "[2001:db8::7]:6081"),
        ([v4(), v6()], &[net6], "[2001:db8::7]:6081"),
        (
            [v4(), v6()],
            &[net4, "--peer=52:54:00:00:00:02@[2001:db8::9]", "--vtep-port=7000"],
            "[2001:db8::7]:7000",
        ),
        ([None, v6()], &["--gateway=off"], "[2001:db8::7]:6081"),
        ([None, v6()], &[net4, "--gateway=off"], "[2001:db8::7]:6081"),
        ([None, None], &[net4, "--vtep=192.0.2.8"], "192.0.2.8:6081"),
    ];
    for (routes, options, expected) in cases {
        assert_eq!(end(routes, options).as_deref(), Ok(expected), "{options:?}");
    }
}

#[test]
fn default_routes_on_two_links_or_of_one_family_only_are_refused_with_both() {
    let (v4, v6) = (route("192.0.2.7", "eth0"), route("2001:db8::7", "eth1"));
    let dual = ["--ipv4=10.100.0.0/24", "--ipv6=fd00:1::/64"];
    let error = end([v4.clone(), v6.clone()], &dual).unwrap_err();
    assert!(
        error.starts_with(
            "multiple gateway interfaces detected: the default route of IPv4 is on eth0 and that of IPv6 on eth1"
        ),
        "{error}"
    );
    assert_eq!(end([v4.clone(), v6.clone()], &["--gateway=off"]).unwrap_err(), error);
    for (routes, family, other) in [
        ([v4.clone(), None], "IPv6", "IPv4 is on eth0"),
        ([None, v6.clone()], "IPv4", "IPv6 is on eth1"),
    ] {
        let error = end(routes, &dual).unwrap_err();
        let expected = format!("there is no default route of {family}, which the network needs, and that of {other}");
        assert!(error.starts_with(&expected), "{error}");
    }
    let error = end([v4.clone(), None], &["--gateway=off", "--vtep=ipv6"]).unwrap_err();
    assert!(error.starts_with("there is no default route of IPv6"), "{error}");
    let error = end([None, None], &dual).unwrap_err();
    assert!(
        error.starts_with("there is no default route for IPv4 or IPv6"),
        "{error}"
    );
    // If an address is given, there is nothing to decide.
    end([v4, v6], &[&dual[..], &["--vtep=192.0.2.7"]].concat()).unwrap();
}

#[test]
fn a_loopback_address_is_for_peers_on_the_same_loopback() {
    let peer = |vtep: &str| format!("--peer=52:54:00:00:00:02@{vtep}");
    for (own, far, works) in [
        ("127.0.0.1", "127.0.0.1:7000", true),
        ("127.0.0.1", "127.0.0.2:6081", true),
        ("127.0.0.1", "192.0.2.9:6081", false),
        ("192.0.2.7", "127.0.0.1:6081", false),
        ("192.0.2.7", "192.0.2.9:6081", true),
    ] {
        let result = end([None, None], &["--gateway=off", &format!("--vtep={own}"), &peer(far)]);
        match result {
            Ok(_) => assert!(works, "{own} {far}"),
            Err(error) => {
                assert!(!works, "{error}");
                let expected = format!("--peer: {far} cannot be reached from {own}:6081");
                assert!(error.starts_with(&expected), "{error}");
            }
        }
    }
}
