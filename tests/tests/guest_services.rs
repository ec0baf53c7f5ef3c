//! Tests of services for a real guest: DHCP, DHCPv6, router advertisements, names and echo.

use hawser_testkit::guest::{Kind, Plan};
use hawser_testkit::lab::Lab;
use hawser_testkit::netns::address::{FAR4, FAR6, POD6};
use hawser_testkit::{Result, failure, peers, until};
use std::fs;

/// The value of `name` in the lines `name=value` that a DHCP script left in `file`.
fn told(text: &str, name: &str) -> Result<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    Ok(line
        .ok_or_else(|| failure(format!("the guest was not told {name}:\n{text}")))?
        .to_owned())
}

const NAMES: [&str; 3] = [
    "--hostname=vm-7",
    "--dns=203.0.113.7,2001:db8:7::7",
    "--search=a.example,b.example",
];

#[test]
fn dhcp_tells_a_guest_its_address_gateway_names_and_mtu() -> Result<()> {
    for kind in [Kind::Uml, Kind::Qemu] {
        let lab = Lab::new()?;
        let (_hawser, guest) = lab.up(kind, &[&NAMES[..], &["--mtu=1400"]].concat())?;
        let lease = guest.sh("cat /run/dhcp4")?;
        for (name, value) in [
            ("ip", "10.0.2.2"),
            ("mask", "24"),
            ("router", "10.0.2.1"),
            ("serverid", "10.0.2.1"),
            ("dns", "203.0.113.7"),
            ("search", "a.example b.example"),
            ("hostname", "vm-7"),
            ("mtu", "1400"),
        ] {
            assert_eq!(told(&lease, name)?, value, "{kind:?}: {name}");
        }
        assert!(told(&lease, "lease")?.parse::<u64>()? > 3600);
    }
    Ok(())
}

#[test]
fn the_networks_a_guest_lives_on_can_be_chosen() -> Result<()> {
    let lab = Lab::new()?;
    let (_hawser, guest) = lab.up(Kind::Uml, &["--ipv4=172.30.5.0/28", "--ipv6=fd99:7::/64"])?;
    assert_eq!(told(&guest.sh("cat /run/dhcp4")?, "ip")?, "172.30.5.2");
    assert_eq!(told(&guest.sh("cat /run/dhcp6")?, "new_ip6_address")?, "fd99:7::2");
    guest.sh(&format!("ping -c 1 {FAR4} && ping -6 -c 1 {FAR6}"))?;
    Ok(())
}

/// The guest has no DHCPv6 client and self-assigned addresses, as Android has, or a guest with udhcpc only.
#[test]
fn a_guest_without_dhcpv6_reaches_the_world_from_a_network_of_64_bits_and_is_reached() -> Result<()> {
    let mut lab = Lab::new()?;
    let server = lab.serve_world(FAR6)?;
    let mut hawser = lab.hawser(&["--ipv6=fd99:7::/64", "--port=8080:7000"])?;
    let guest = Plan::new(Kind::Uml, hawser.socket()).boot()?;
    guest.sh("sysctl -w net.ipv6.conf.eth0.use_tempaddr=2")?;
    guest.sh("net-up 4")?;
    until("the guest has made up a stable and a temporary address", || {
        let addresses = guest.sh("ip -6 -o addr show dev eth0 scope global")?;
        Ok(addresses.matches("fd99:7::").count() == 2 && !addresses.contains("tentative"))
    })?;
    assert_eq!(hawser.counters()?.get("dhcp6_leases"), 0);
    guest.sh(&format!("ping -6 -c 2 -W 2 {FAR6}"))?;
    // Both addresses are in use: programs use the temporary address unless they choose another.
    let addresses = guest.sh("ip -6 -o addr show dev eth0 scope global")?;
    for address in addresses.split_whitespace().filter_map(|word| word.strip_suffix("/64")) {
        guest.traffic(&format!("peer to={server} from={address}"))?;
    }
    guest.traffic(&format!("receive to={server} bytes=1000000"))?;
    let _server = guest.serve("[::]:7000")?;
    peers::traffic(&lab.networks.world, &format!("send to=[{POD6}]:8080 bytes=1000000"))?;
    hawser.assert_alive()
}

#[test]
fn a_family_that_is_off_is_not_offered() -> Result<()> {
    let lab = Lab::new()?;
    let mut hawser = lab.hawser(&["--ipv6=off"])?;
    let guest = Plan::new(Kind::Uml, hawser.socket()).boot()?;
    guest.sh("net-up 4")?;
    assert_ne!(
        guest.run("rdisc6 -1 -r 1 -w 1000 eth0")?.status,
        Some(0),
        "a router advertisement came"
    );
    assert_eq!(hawser.counters()?.get("router_advertisements"), 0);
    Ok(())
}

#[test]
fn router_advertisements_name_prefix_mtu_and_name_server() -> Result<()> {
    let lab = Lab::new()?;
    let (_hawser, guest) = lab.up(Kind::Uml, &[&NAMES[..], &["--mtu=1400"]].concat())?;
    let advertisement = guest.sh("rdisc6 -1 eth0")?;
    let says = |name: &str, value: &str| {
        let line = advertisement.lines().find(|line| line.trim_start().starts_with(name));
        assert!(
            line.is_some_and(|line| line.contains(value)),
            "{name} is not {value}:\n{advertisement}"
        );
    };
    says("Stateful address conf.", "Yes");
    says("Source link-layer address", "02:00:00:00:00:00");
    says("MTU", "1400 bytes");
    says("Prefix", "fd10:0:2::/120");
    says("Recursive DNS server", "2001:db8:7::7");
    let routes = guest.sh("ip -6 route show default")?;
    assert!(
        routes.contains("proto ra"),
        "no default route by router advertisement: {routes}"
    );
    assert_eq!(guest.sh("cat /proc/sys/net/ipv6/conf/eth0/mtu")?.trim(), "1400");
    Ok(())
}

#[test]
fn dhcpv6_gives_a_guest_its_address_and_name_server() -> Result<()> {
    let lab = Lab::new()?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &NAMES)?;
    let lease = guest.sh("cat /run/dhcp6")?;
    assert_eq!(told(&lease, "new_ip6_address")?, "fd10:0:2::2");
    assert_eq!(told(&lease, "new_dhcp6_name_servers")?, "2001:db8:7::7");
    assert!(guest.sh("ip -6 addr show dev eth0")?.contains("fd10:0:2::2/128"));
    assert_eq!(hawser.counters()?.get("dhcp6_leases"), 1);
    Ok(())
}

#[test]
fn a_guest_pings_the_gateway_and_the_world_in_both_families() -> Result<()> {
    for kind in [Kind::Uml, Kind::Qemu] {
        let lab = Lab::new()?;
        let (mut hawser, guest) = lab.up(kind, &[])?;
        for target in ["10.0.2.1", FAR4, "fd10:0:2::1", FAR6] {
            // Requests longer than the MTU are sent in fragments in both directions.
            for size in [56, 1472, 4000] {
                let said = guest.sh(&format!("ping -c 2 -W 2 -s {size} {target}"))?;
                assert!(
                    said.contains(" 0% packet loss"),
                    "{kind:?}, {target}, {size} bytes:\n{said}"
                );
            }
        }
        assert_eq!(hawser.counters()?.get("echos"), 12, "those to the world");
    }
    Ok(())
}

#[test]
fn names_resolve_through_the_pod_s_own_name_server() -> Result<()> {
    let lab = Lab::new()?;
    let _dns = peers::dns_server(&lab.networks.world, lab.folder(), FAR4)?;
    let (_hawser, guest) = lab.up(Kind::Uml, &["--dns=203.0.113.7"])?;
    let said = guest.sh("nslookup server.example")?;
    assert!(said.contains(FAR4) && said.contains(FAR6), "{said}");
    Ok(())
}

#[test]
fn a_name_server_on_the_pod_s_loopback_is_reached_through_the_gateway() -> Result<()> {
    let mut lab = Lab::new()?;
    let _dns = peers::dns_server(&lab.networks.pod, lab.folder(), "127.0.0.53")?;
    let resolv = peers::resolv_conf(lab.folder(), "search pod.example\nnameserver 127.0.0.53\n")?;
    lab.networks.pod.set_resolv_conf(&resolv);
    let (_hawser, guest) = lab.up(Kind::Uml, &[])?;
    let lease = guest.sh("cat /run/dhcp4")?;
    assert_eq!(told(&lease, "dns")?, "10.0.2.1");
    assert_eq!(told(&lease, "search")?, "pod.example");
    let said = guest.sh("nslookup server.example")?;
    assert!(said.contains(FAR4) && said.contains(FAR6), "{said}");
    Ok(())
}

#[test]
fn name_servers_follow_resolv_conf_at_the_next_answer_and_queries_to_the_gateway_at_once() -> Result<()> {
    let mut lab = Lab::new()?;
    let first = peers::dns_server(&lab.networks.pod, lab.folder(), "127.0.0.53")?;
    let resolv = peers::resolv_conf(lab.folder(), "search old.example\nnameserver 127.0.0.53\n")?;
    lab.networks.pod.set_resolv_conf(&resolv);
    let (_hawser, guest) = lab.up(Kind::Uml, &[])?;
    guest.sh("nslookup server.example 10.0.2.1")?;

    // This server has an address in the guest's own network, but is reachable only through the gateway.
    let world = &lab.networks.world;
    world.run("ip addr add 10.0.2.53/32 dev lo")?;
    let folder = lab.path("second");
    fs::create_dir(&folder)?;
    let _second = peers::dns_server(world, &folder, "10.0.2.53")?;
    // The file is written in place, as by a program that mounts it into a pod.
    fs::write(
        &resolv,
        "search new.example\nnameserver 10.0.2.53\nnameserver 203.0.113.7\n",
    )?;
    drop(first);
    until("an answer of the new server", || {
        Ok(guest.run("nslookup server.example 10.0.2.1")?.status == Some(0))
    })?;
    guest.sh("net-up 4")?;
    let lease = guest.sh("cat /run/dhcp4")?;
    assert_eq!(told(&lease, "dns")?, "10.0.2.1 203.0.113.7");
    assert_eq!(told(&lease, "search")?, "new.example");
    Ok(())
}

#[test]
fn a_guest_that_takes_another_address_is_not_heard() -> Result<()> {
    let lab = Lab::new()?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &[])?;
    guest.sh("ip addr add 10.0.2.99/24 dev eth0 && ip -6 addr add fd10:0:2::99/120 dev eth0 nodad")?;
    assert_ne!(
        guest.run(&format!("ping -c 2 -W 1 -I 10.0.2.99 {FAR4}"))?.status,
        Some(0)
    );
    assert_ne!(
        guest.run(&format!("ping -6 -c 2 -W 1 -I fd10:0:2::99 {FAR6}"))?.status,
        Some(0)
    );
    let counters = hawser.counters()?;
    assert!(counters.dropped("spoofed_address") >= 4, "{counters:?}");
    assert_eq!(counters.get("echos"), 0);
    // Its own address continues to work.
    guest.sh(&format!("ping -c 1 -I 10.0.2.2 {FAR4}"))?;
    Ok(())
}
