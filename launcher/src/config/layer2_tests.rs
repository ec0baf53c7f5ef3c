use super::super::{Found, resolve};
use super::*;
use crate::cli::Cli;
use clap::Parser as _;
use hawser_config::ModeConfig;

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

fn refusal(options: &[&str]) -> String {
    plan(options).unwrap_err().to_string()
}

#[test]
fn forwards_of_a_layer2_network_are_checked_against_each_other_and_its_families() {
    let found = plan(&["--port=80,udp:53"]).unwrap();
    let ModeConfig::Layer2(mode) = &found.port.mode else {
        panic!("layer2 was planned");
    };
    assert_eq!(mode.forwards.len(), 2);
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
        let spec = spec.port.spec("s".into()).unwrap();
        let host = Host {
            addresses: vec!["10.244.0.7".parse().unwrap()],
            ..Host::default()
        };
        let error = resolve(spec, &host, None).unwrap_err().to_string();
        let expected = format!("--ipv4={network} covers {address},");
        assert!(error.starts_with(&expected), "{error}");
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
