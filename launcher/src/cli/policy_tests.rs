use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Options {
    #[arg(long)]
    mac: Option<String>,
    #[command(flatten)]
    policy: PolicyArgs,
}

fn parsed(options: &[&str]) -> Result<PolicyArgs, clap::Error> {
    Options::try_parse_from(["hawser"].iter().chain(options)).map(|o| o.policy)
}

fn vlans(options: &[&str]) -> String {
    parsed(options).unwrap().on_segment().unwrap().vlan.to_string()
}

/// Asserts that the options are refused with a message that contains these words.
#[track_caller]
fn refused(options: &[&str], words: &[&str]) {
    let message = match parsed(options) {
        Ok(args) => args.on_segment().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    for word in words {
        assert!(message.contains(word), "{options:?}: {message}");
    }
}

#[test]
fn vlans_are_what_the_bridge_cni_makes_of_them_today() {
    assert_eq!(vlans(&[]), "VLAN tags as they are");
    assert_eq!(vlans(&["--vlan=100"]), "VLAN 100");
    assert_eq!(
        vlans(&["--vlan=100", "--preserve-default-vlan"]),
        "VLAN 100, default VLAN kept"
    );
    assert_eq!(vlans(&["--vlan-trunk=10,20-30"]), "VLANs 10,20-30");
    for native in ["--native-vlan=7", "--vlan=7"] {
        assert_eq!(
            vlans(&["--vlan-trunk=10", "--vlan-trunk=11", native]),
            "VLANs 10-11, native 7"
        );
    }
}

#[test]
fn vlans_that_contradict_are_refused_by_option_and_remedy() {
    for id in ["0", "4095", "x", "-1", "65537"] {
        refused(&[&format!("--vlan={id}")], &["--vlan", "from 1 to 4094"]);
        refused(
            &[&format!("--vlan-trunk=10,20-{id}")],
            &["--vlan-trunk", "from 1 to 4094"],
        );
    }
    refused(&["--vlan-trunk=30-20"], &["--vlan-trunk", "write 20-30"]);
    refused(
        &["--vlan-trunk=10,20-30,25"],
        &["--vlan-trunk=10,20-30,25", "VLAN 25 twice"],
    );
    refused(
        &["--vlan-trunk=10-20", "--native-vlan=15"],
        &["--native-vlan=15", "--vlan-trunk=10-20", "remove it from one"],
    );
    refused(&["--native-vlan=15"], &["--native-vlan=15", "give --vlan-trunk too"]);
    refused(
        &["--vlan-trunk=10", "--native-vlan=15", "--vlan=16"],
        &["--native-vlan", "--vlan"],
    );
    refused(&["--preserve-default-vlan"], &["--preserve-default-vlan", "--vlan"]);
}

#[test]
fn checks_are_off_on_a_segment_unless_asked_for() {
    let policy = parsed(&[]).unwrap().on_segment().unwrap();
    assert_eq!(policy.mac_check, MacCheck::Off);
    assert!(policy.addresses.is_none() && !policy.dhcp_guard && !policy.router_guard);
    let options = [
        "--mac=02:00:00:00:00:01",
        "--mac-spoof-check",
        "--ip-spoof-check=192.0.2.5,2001:db8::7/64",
    ];
    let policy = parsed(&options).unwrap().on_segment().unwrap();
    assert_eq!(policy.mac_check, MacCheck::Enforced);
    let addresses = policy.addresses.unwrap();
    assert_eq!(addresses.ipv4, ["192.0.2.5/32".parse().unwrap()]);
    assert_eq!(addresses.ipv6, ["2001:db8::/64".parse().unwrap()]);
}

#[test]
fn checks_name_what_they_miss() {
    refused(
        &["--ip-spoof-check=192.0.2"],
        &["--ip-spoof-check", "such as 192.0.2.5"],
    );
    refused(&["--ip-spoof-check=224.0.0.1"], &["--ip-spoof-check", "multicast"]);
    refused(
        &["--ip-spoof-check=off", "--ip-spoof-check=192.0.2.5"],
        &["--ip-spoof-check=off", "leave one out"],
    );
    let policy = parsed(&["--ip-spoof-check=off"]).unwrap().on_segment().unwrap();
    assert_eq!(policy.addresses, None);
}

#[test]
fn rates_are_bits_in_the_units_of_kubernetes_and_tc() {
    let rate = |text| byte_rate(text).map(|r| (r.per_second, r.burst));
    assert_eq!(rate("80M"), Ok((10_000_000, 500_000)));
    for same in ["1G", "1gbit", "1000M", "1000mbit", "1000000k", "1000000000"] {
        assert_eq!(rate(same), Ok((125_000_000, 6_250_000)), "{same}");
    }
    assert_eq!(rate("1Gi:64K"), Ok(((1 << 30) / 8, 64 << 10)));
    assert_eq!(rate("100k:3000"), Ok((12_500, 3000)));
    assert_eq!(rate("100k"), Ok((12_500, 128 << 10)));
    let packets = |text| packet_rate(text).map(|r| (r.per_second, r.burst));
    assert_eq!(packets("100k"), Ok((100_000, 5000)));
    assert_eq!(packets("50:5"), Ok((50, 5)));
}

#[test]
fn rates_that_say_nothing_are_refused() {
    for bad in ["", "G", "1.5G", "1X", "-1", "1G:x", "99999999999G", "1Mbps"] {
        assert!(byte_rate(bad).is_err(), "{bad}");
        assert!(packet_rate(bad).is_err(), "{bad}");
    }
    assert!(byte_rate("7k").unwrap_err().contains("8k or more"));
    refused(&["--rate-in=fast"], &["--rate-in", "bits per second"]);
    refused(&["--packet-rate-out=0"], &["--packet-rate-out", "packets per second"]);
}
