use super::*;
use crate::cli::Cli;
use crate::resolv::ResolvConf;
use clap::Parser as _;
use hawser_backend::config::{Ipv4Link, Ipv6Link, Neighbourhood};
use hawser_host::interfaces::Interface;
use hawser_host::system::DefaultRoute;
use std::net::Ipv4Addr;

/// A pod with both families, and with a name server and a search list of the cluster.
fn pod() -> Host {
    Host {
        addresses: vec!["10.244.0.7".parse().unwrap(), "fd00:10:244::7".parse().unwrap()],
        mtu: Some(1400),
        default_routes: [None, None],
        hostname: Some("virt-launcher-vm".into()),
        resolv: ResolvConf::parse("nameserver 10.96.0.10\nsearch ns.svc.cluster.local cluster.local\n"),
        interfaces: Vec::new(),
    }
}

fn plan_on(host: &Host, options: &[&str]) -> Result<Found, ConfigError> {
    let argv = ["hawser", "--socket-path=/s"]
        .into_iter()
        .chain(options.iter().copied());
    let spec = Cli::try_parse_from(argv).unwrap().port.spec("s".into()).unwrap();
    resolve(spec, host, None)
}

fn masquerade(plan: &Found) -> &MasqueradeConfig {
    match &plan.port.mode {
        ModeConfig::Masquerade(config) => config,
        _ => panic!("masquerade was planned"),
    }
}

fn refusal(options: &[&str]) -> String {
    plan_on(&pod(), options).unwrap_err().to_string()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_pod_with_both_families_gives_the_guest_what_kubevirt_would() {
    let plan = plan_on(&pod(), &[]).unwrap();
    assert_eq!(
        (plan.port.mtu, plan.port.queue_pairs.get(), plan.port.mac),
        (1400, 1, None)
    );
    let config = masquerade(&plan);
    assert_eq!(
        config.ipv4,
        Some(Ipv4Link {
            network: "10.0.2.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 0, 2, 1),
            guest: Ipv4Addr::new(10, 0, 2, 2),
        })
    );
    assert_eq!(
        config.ipv6,
        Some(Ipv6Link {
            network: "fd10:0:2::/120".parse().unwrap(),
            gateway: "fd10:0:2::1".parse().unwrap(),
            guest: "fd10:0:2::2".parse().unwrap(),
        })
    );
    assert_eq!(config.names.hostname.as_deref(), Some("virt-launcher-vm"));
    assert_eq!(config.names.dns, addresses(&["10.96.0.10"]));
    assert_eq!(config.names.search, ["ns.svc.cluster.local", "cluster.local"]);
    assert!(config.dns_forward.is_empty() && config.map_host_loopback.is_empty());
    assert_eq!(plan.notices, [""; 0]);
}

#[test]
fn a_family_is_on_if_the_namespace_has_it_or_it_is_asked_for() {
    let families = |addrs: &[&str], options: &[&str]| {
        let host = Host {
            addresses: addresses(addrs),
            ..pod()
        };
        let plan = plan_on(&host, options).unwrap();
        let config = masquerade(&plan);
        (
            config.ipv4.map(|l| l.network.to_string()),
            config.ipv6.map(|l| l.network.to_string()),
        )
    };
    let (v4, v6) = (Some("10.0.2.0/24".to_owned()), Some("fd10:0:2::/120".to_owned()));
    assert_eq!(families(&["10.1.1.1"], &[]), (v4.clone(), None));
    assert_eq!(families(&["fd00::1"], &[]), (None, v6.clone()));
    assert_eq!(families(&["10.1.1.1", "fd00::1"], &["--ipv6=off"]), (v4.clone(), None));
    assert_eq!(families(&["10.1.1.1"], &["--ipv6=fd10:0:2::/120"]), (v4, v6));
    assert_eq!(
        families(&[], &["--ipv4=192.168.9.77/30"]),
        (Some("192.168.9.76/30".into()), None)
    );
}

#[test]
fn a_guest_without_any_family_is_refused() {
    assert_eq!(
        plan_on(&pod(), &["--ipv4=off", "--ipv6=off"]).unwrap_err(),
        ConfigError::NoFamily
    );
    let lonely = plan_on(&Host::default(), &[]).unwrap_err();
    assert!(!lonely.is_usage());
    assert!(
        lonely
            .to_string()
            .contains("--ipv4=10.0.2.0/24 or --ipv6=fd10:0:2::/120"),
        "{lonely}"
    );
}

#[test]
fn the_mtu_is_the_routes_unless_given_and_never_less_than_ipv6_needs() {
    let mtu = |host_mtu, options: &[&str]| plan_on(&Host { mtu: host_mtu, ..pod() }, options).map(|p| p.port.mtu);
    assert_eq!(mtu(None, &[]), Ok(1500));
    assert_eq!(mtu(Some(9000), &[]), Ok(9000));
    assert_eq!(mtu(Some(1000), &[]), Ok(1280));
    assert_eq!(mtu(Some(1000), &["--ipv6=off"]), Ok(1000));
    assert_eq!(mtu(Some(9000), &["--mtu=1280"]), Ok(1280));
    assert_eq!(mtu(Some(9000), &["--mtu=1279"]), Err(ConfigError::MtuBelowIpv6(1279)));
    assert_eq!(mtu(Some(9000), &["--mtu=68", "--ipv6=off"]), Ok(68));
}

#[test]
fn loopback_name_servers_are_reached_through_the_gateway() {
    let names = |options: &[&str]| {
        let plan = plan_on(&pod(), options).unwrap();
        let config = masquerade(&plan);
        (config.names.dns.clone(), config.dns_forward.clone())
    };
    assert_eq!(
        names(&["--dns=127.0.0.53,::1,8.8.8.8", "--dns=127.0.0.54"]),
        (
            addresses(&["10.0.2.1", "fd10:0:2::1", "8.8.8.8"]),
            addresses(&["127.0.0.53", "::1", "127.0.0.54"])
        )
    );
    // If its own family is off, the gateway of the other family is used in its place.
    assert_eq!(
        names(&["--dns=127.0.0.53", "--ipv4=off"]),
        (addresses(&["fd10:0:2::1"]), addresses(&["127.0.0.53"]))
    );
    // A server of a family that the guest lacks is also reached through the gateway.
    assert_eq!(
        names(&["--dns=2001:db8::53,1.1.1.1", "--ipv6=off"]),
        (addresses(&["10.0.2.1", "1.1.1.1"]), addresses(&["2001:db8::53"]))
    );
}

#[test]
fn a_name_server_in_the_guests_own_network_is_asked_through_the_gateway_and_the_operator_is_warned() {
    let host = Host {
        resolv: ResolvConf::parse("nameserver 10.0.2.3\nnameserver fd10:0:2::3\nnameserver 10.96.0.10\n"),
        ..pod()
    };
    let plan = plan_on(&host, &[]).unwrap();
    let config = masquerade(&plan);
    assert_eq!(
        (config.names.dns.clone(), config.dns_forward.clone()),
        (
            addresses(&["10.0.2.1", "fd10:0:2::1", "10.96.0.10"]),
            addresses(&["10.0.2.3", "fd10:0:2::3"])
        )
    );
    let [v4, v6] = plan.notices.as_slice() else {
        panic!("{:?}", plan.notices)
    };
    assert!(v4.contains("10.0.2.3 lies in the guest's network 10.0.2.0/24") && v4.contains("--ipv4"));
    assert!(v6.contains("fd10:0:2::3") && v6.contains("--ipv6"));
}

#[test]
fn the_operator_hears_of_missing_servers_and_covered_addresses() {
    let host = Host {
        addresses: addresses(&["10.0.2.15"]),
        resolv: ResolvConf::default(),
        ..pod()
    };
    let notices = plan_on(&host, &[]).unwrap().notices;
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices[0].contains("10.0.2.0/24 covers 10.0.2.15") && notices[0].contains("--ipv4"));
    assert!(notices[1].contains("--dns"));
}

#[test]
fn names_given_replace_the_systems() {
    let plan = plan_on(&pod(), &["--hostname=vm1", "--search=a.example,b.example"]).unwrap();
    let names = &masquerade(&plan).names;
    assert_eq!(names.hostname.as_deref(), Some("vm1"));
    assert_eq!(names.search, ["a.example", "b.example"]);
}

#[test]
fn loopback_stands_behind_an_address_of_the_guests_network_only() {
    for addr in ["10.0.2.1", "10.0.2.3", "10.0.2.254", "fd10:0:2::1", "fd10:0:2::ff"] {
        let plan = plan_on(&pod(), &["--map-host-loopback", addr]).unwrap();
        assert_eq!(masquerade(&plan).map_host_loopback, addresses(&[addr]));
    }
    for (addr, words) in [
        ("10.0.3.1", "not in the guest's network 10.0.2.0/24"),
        ("127.0.0.1", "not in the guest's network 10.0.2.0/24"),
        ("fd10:0:3::1", "not in the guest's network fd10:0:2::/120"),
        ("10.0.2.2", "the guest's own"),
        ("10.0.2.0", "the first or last address of the network"),
        ("10.0.2.255", "the first or last address of the network"),
        ("fd10:0:2::2", "the guest's own"),
        ("fd10:0:2::", "the first or last address of the network"),
    ] {
        let error = refusal(&["--map-host-loopback", addr]);
        assert!(
            error.starts_with(&format!("--map-host-loopback={addr} ")) && error.contains(words),
            "{error}"
        );
    }
    let error = refusal(&["--ipv6=off", "--map-host-loopback=fd10:0:2::1"]);
    assert!(error.contains("not in the guest's network: "), "{error}");
}

#[test]
fn forwards_are_checked_against_each_other_and_the_families() {
    let plan = plan_on(&pod(), &["--port=80,udp:53", "--port=[::1]:81"]).unwrap();
    assert_eq!(masquerade(&plan).forwards.len(), 3);
    let error = refusal(&["--port=80-89", "--port=tcp:127.0.0.1:85:22"]);
    assert!(
        error.starts_with("--port=tcp:80-89 and --port=tcp:127.0.0.1:85:22 "),
        "{error}"
    );
    let error = refusal(&["--ipv4=off", "--port=127.0.0.1:80"]);
    assert!(
        error.starts_with("--port=tcp:127.0.0.1:80 listens on an address of a family"),
        "{error}"
    );
}

/// A pod whose interface has one address of each family, and a second interface without routes.
fn pod_with_interfaces() -> Host {
    let interface = |name: &str, addresses: &[&str], gateways: &[&str]| Interface {
        name: name.into(),
        addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
        gateways: self::addresses(gateways),
    };
    let route = |source: &str| {
        Some(DefaultRoute {
            source: source.parse().unwrap(),
            link: "eth0".into(),
            mtu: 1400,
        })
    };
    Host {
        interfaces: vec![
            interface("lo", &[], &[]),
            interface(
                "eth0",
                &["10.244.0.7/24", "fd00:10:244::7/64"],
                &["10.244.0.1", "fe80::1"],
            ),
            interface("net1", &["192.0.2.9/32"], &[]),
        ],
        default_routes: [route("10.244.0.7"), route("fd00:10:244::7")],
        ..pod()
    }
}

#[test]
fn a_guest_shares_address_network_and_router_of_an_interface() {
    let host = pod_with_interfaces();
    let plan = plan_on(&host, &["--guest-address-of=pod"]).unwrap();
    let config = masquerade(&plan);
    let ipv4 = config.ipv4.unwrap();
    assert_eq!(
        (
            ipv4.guest.to_string(),
            ipv4.network.to_string(),
            ipv4.gateway.to_string()
        ),
        ("10.244.0.7".into(), "10.244.0.0/24".into(), "10.244.0.1".into())
    );
    let ipv6 = config.ipv6.unwrap();
    assert_eq!(
        (
            ipv6.guest.to_string(),
            ipv6.network.to_string(),
            ipv6.gateway.to_string()
        ),
        ("fd00:10:244::7".into(), "fd00:10:244::/64".into(), "fe80::1".into())
    );
    assert_eq!(config.neighbourhood, Neighbourhood::Shared);
    // The guest reaches the neighbours and the name server itself.
    assert_eq!(plan.notices, [""; 0]);
    assert_eq!(config.names.dns, addresses(&["10.96.0.10"]));
    // An interface without a router, and without IPv6.
    let plan = plan_on(&host, &["--guest-address-of=net1"]).unwrap();
    let config = masquerade(&plan);
    assert_eq!(config.ipv4.unwrap().network.to_string(), "192.0.2.9/32");
    assert_eq!(config.ipv6, None);
    let plan = plan_on(&host, &["--guest-address-of=eth0", "--ipv6=off"]).unwrap();
    assert_eq!(masquerade(&plan).ipv6, None);
}

#[test]
fn an_interface_that_cannot_be_shared_is_refused() {
    let refusal = |options: &[&str]| plan_on(&pod_with_interfaces(), options).unwrap_err().to_string();
    assert_eq!(
        refusal(&["--guest-address-of=eth9"]),
        "this network namespace has no interface eth9; it has eth0, net1"
    );
    assert!(refusal(&["--guest-address-of=lo"]).starts_with("lo has no address"));
    let nowhere = plan_on(&pod(), &["--guest-address-of=pod"]).unwrap_err();
    assert!(nowhere.to_string().contains("no default route") && !nowhere.is_usage());
    let argv = [
        "hawser",
        "--socket-path=/s",
        "--guest-address-of=pod",
        "--ipv4=10.0.2.0/24",
    ];
    let both = Cli::try_parse_from(argv).unwrap().port.spec("s".into()).unwrap_err();
    assert!(both.to_string().starts_with("--ipv4 names a private network"));
}
