//! Tests of the gateway of a layer2 network: names, forwards that a guest itself reaches, and the way to the world.

use hawser_testkit::guest::{Guest, Kind};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::netns::Namespace;
use hawser_testkit::nodes::{Nodes, PORT, Port, WORLD4, WORLD6};
use hawser_testkit::{Result, peers};
use std::net::SocketAddr;

const VNI: u32 = 4711;
/// A host behind the underlay's router.
const FAR4: &str = "203.0.113.9";
const FAR6: &str = "2001:db8:9::9";

/// Starts a process with these options, and its guest.
fn up(nodes: &Nodes, port: Port, options: &[&str]) -> Result<(Hawser, Guest)> {
    let vtep = format!("--vtep={}", Nodes::vtep4(port.node));
    let hawser = nodes.hawser(VNI, port, &[options, &[&vtep]].concat())?;
    let guest = nodes.guest(Kind::Uml, &hawser)?;
    Ok((hawser, guest))
}

#[test]
fn guests_find_each_other_by_name_and_the_world_by_the_pods_name_server() -> Result<()> {
    let mut nodes = Nodes::new(2, 1500)?;
    let _dns = peers::dns_server(&nodes.world, &nodes.path("."), WORLD4)?;
    let resolv = peers::resolv_conf(&nodes.path("."), &format!("search pod.example\nnameserver {WORLD4}\n"))?;
    nodes.nodes.iter_mut().for_each(|node| node.set_resolv_conf(&resolv));
    let ports = [Port::new(0, 11), Port::new(1, 12)];
    let (web, db) = (ports[0].peer(false) + ",name=web", ports[1].peer(false) + ",name=db");
    let (_first, web_guest) = up(&nodes, ports[0], &["--hostname=web", "--domain=blue.example", &db])?;
    let (_second, db_guest) = up(&nodes, ports[1], &["--hostname=db", "--domain=blue.example", &web])?;
    let lease = web_guest.sh("cat /run/dhcp4")?;
    assert!(lease.contains("dns=10.100.0.1"), "{lease}");
    assert!(lease.contains("blue.example pod.example"), "{lease}");
    for name in ["db", "db.blue.example"] {
        // A name without a domain is also looked up in the pod's domain, which has no such name.
        let said = web_guest.run(&format!("nslookup {name}"))?.out;
        assert!(said.contains("10.100.0.12") && said.contains("fd00:100::c"), "{said}");
        web_guest.reaches(name)?;
    }
    let said = db_guest.sh("nslookup 10.100.0.11")?;
    assert!(said.contains("web.blue.example"), "{said}");
    let said = web_guest.sh("nslookup web.blue.example")?;
    assert!(said.contains("10.100.0.11"), "{said}");
    for server in ["10.100.0.1", "fd00:100::1"] {
        let said = web_guest.sh(&format!("nslookup server.example {server}"))?;
        assert!(said.contains("Address"), "{said}");
        web_guest.sh(&format!("nslookup db.blue.example {server}"))?;
    }
    Ok(())
}

#[test]
fn a_guest_reaches_its_own_forwards_by_the_addresses_of_the_node() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let ports = [Port::new(0, 11), Port::new(1, 12)];
    let forwards = format!("--port=30080:{PORT},udp:30080:{PORT}");
    let (_first, guest) = up(&nodes, ports[0], &[&forwards, &ports[1].peer(false)])?;
    let (_second, other) = up(&nodes, ports[1], &[&ports[0].peer(false)])?;
    let _server = guest.serve(&format!("[::]:{PORT}"))?;
    for node in [Nodes::vtep4(0), format!("[{}]", Nodes::vtep6(0))] {
        let to = format!("{node}:30080");
        for client in [&guest, &other] {
            for command in ["send", "receive"] {
                client.traffic(&format!("{command} to={to} bytes=2000000 connections=2"))?;
            }
            client.traffic(&format!("udp to={to} sizes=1,1200,1400 count=10"))?;
        }
    }
    Ok(())
}

#[test]
fn traceroute_and_path_mtu_work_through_the_gateway() -> Result<()> {
    let nodes = Nodes::new(1, 1500)?;
    let far = Namespace::new()?;
    far.run(&format!(
        "ip link add eth0 mtu 1300 type veth peer name far mtu 1300 netns {}",
        nodes.world.path()
    ))?;
    for (namespace, lines) in [
        (
            &nodes.world,
            [
                "ip addr add 203.0.113.1/24 dev far",
                "ip -6 addr add 2001:db8:9::1/64 dev far nodad",
                "ip link set far up",
            ],
        ),
        (
            &far,
            [
                "ip addr add 203.0.113.9/24 dev eth0",
                "ip -6 addr add 2001:db8:9::9/64 dev eth0 nodad",
                "ip link set eth0 up",
            ],
        ),
    ] {
        lines.into_iter().try_for_each(|line| namespace.run(line).map(drop))?;
    }
    far.run("ip route add default via 203.0.113.1")?;
    far.run("ip -6 route add default via 2001:db8:9::1")?;
    nodes.world.sysctl("net/ipv4/ip_forward", "1")?;
    nodes.world.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    let folder = nodes.path(".");
    let server = |address: &str| peers::serve(&far, &folder, SocketAddr::new(address.parse()?, PORT));
    let _servers = (server(FAR4)?, server(FAR6)?);
    let (mut hawser, guest) = up(&nodes, Port::new(0, 11), &[])?;
    for (option, router, target) in [("", WORLD4, FAR4), ("6", WORLD6, FAR6)] {
        let said = guest.sh(&format!("traceroute{option} -n -q 1 -w 2 -m 5 {target}"))?;
        let hops: Vec<&str> = said
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        assert_eq!(hops, [router, target], "{said}");
    }
    for at in [format!("{FAR4}:{PORT}"), format!("[{FAR6}]:{PORT}")] {
        for command in ["send", "receive"] {
            guest.traffic(&format!("{command} to={at} bytes=2000000"))?;
        }
        // The first datagram that is too long is lost, and the guest gets the reason.
        let _ = guest.run(&format!("hawser-traffic udp to={at} sizes=1400 count=3 wait=1"))?;
        guest.traffic(&format!("udp to={at} sizes=1400 count=5"))?;
    }
    for target in [FAR4, FAR6] {
        let route = guest.sh(&format!("ip route get {target}"))?;
        assert!(route.contains("mtu 1300"), "{route}");
        guest.sh(&format!("ping -c 1 -W 2 -s 1400 {target}"))?;
    }
    hawser.assert_alive()
}
