//! Tests of guests of networks whose gateway is not the first host, and of networks without a gateway.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::netns::Namespace;
use hawser_testkit::nodes::{Nodes, PORT, Port, WORLD4, WORLD6};
use hawser_testkit::{Result, artifacts};

const VNI: u32 = 4712;
/// Configures the NIC by DHCPv6 if no router is advertised.
const DHCPV6: &str = "dhclient -6 -1 -sf /etc/hawser/dhclient6 -lf /run/l6 -pf /run/p6 eth0";

/// Two ports, on two nodes.
fn ports() -> [Port; 2] {
    [Port::new(0, 11), Port::new(1, 12)]
}

/// Starts processes and guests without configured NICs, all on one network. Each process takes its end of the tunnel
/// from the default route.
fn boot(nodes: &Nodes, start: impl Fn(Port, Port) -> Result<Hawser>) -> Result<Vec<(Hawser, Guest)>> {
    let [first, second] = ports();
    let boot = |own, other| -> Result<(Hawser, Guest)> {
        let hawser = start(own, other)?;
        let guest = Plan::new(Kind::Uml, hawser.socket()).boot()?;
        Ok((hawser, guest))
    };
    assert_eq!(nodes.nodes.len(), 2);
    Ok(vec![boot(first, second)?, boot(second, first)?])
}

/// Asserts that there is no route out of the guest's networks, and that no packet leaves them.
fn assert_closed(guest: &Guest) -> Result<()> {
    assert_eq!(guest.sh("ip route show default; ip -6 route show default")?.trim(), "");
    guest.sh("ip route add default via 10.100.0.1 dev eth0 onlink; ip -6 route add default via fe80::1 dev eth0")?;
    for world in [WORLD4, WORLD6] {
        let ping = guest.run(&format!("ping -c 1 -W 1 {world}"))?;
        assert_ne!(ping.status, Some(0), "{ping:?}");
    }
    Ok(())
}

#[test]
fn guests_of_a_network_without_a_gateway_get_addresses_and_reach_each_other_and_nothing_else() -> Result<()> {
    let mut nodes = Nodes::new(2, 1500)?;
    nodes.serve_world(WORLD4)?;
    nodes.serve_world(WORLD6)?;
    let [first, second] = ports();
    let mut guests = boot(&nodes, |own, other| {
        nodes.hawser(VNI, own, &["--gateway=off", &other.peer(false)])
    })?;
    for (_, guest) in &guests {
        guest.sh("net-up 4")?;
        guest.sh(
            "until ip -6 addr show dev eth0 scope link | grep -v tentative | grep -q inet6; do usleep 50000; done",
        )?;
        guest.sh(DHCPV6)?;
        let lease = guest.sh("cat /run/dhcp4")?;
        assert!(lease.contains("serverid=169.254.1.1"), "{lease}");
        assert!(!lease.contains("router=") && !lease.contains("dns="), "{lease}");
    }
    let _server = guests[1].1.serve(&format!("[::]:{PORT}"))?;
    for at in [
        format!("{}:{PORT}", second.address4()),
        format!("[{}]:{PORT}", second.address6()),
    ] {
        guests[0].1.traffic(&format!("send to={at} bytes=5000000"))?;
        guests[0].1.traffic(&format!("udp to={at} sizes=1,1300 count=20"))?;
    }
    guests[1].1.reaches(&first.address4())?;
    for (hawser, guest) in &mut guests {
        assert_closed(guest)?;
        let counters = hawser.counters()?;
        assert_eq!(counters.get("tcp_connections_out"), 0);
        assert_eq!(counters.get("echos"), 0);
    }
    Ok(())
}

#[test]
fn guests_of_a_network_without_a_subnet_bring_their_own_addresses() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let guests = boot(&nodes, |own, other| {
        let peer = format!("--peer={}@{}", other.mac(), Nodes::vtep4(other.node));
        nodes.hawser_without_subnets(VNI, own, &["--gateway=off", &peer])
    })?;
    let addresses = ["172.20.0.1", "172.20.0.2"];
    for ((_, guest), address) in guests.iter().zip(addresses) {
        guest.sh("ip link set eth0 up")?;
        guest.sh(&format!(
            "ip addr add {address}/24 dev eth0; ip -6 addr add fd99::{address}/64 dev eth0 nodad"
        ))?;
    }
    let _server = guests[1].1.serve(&format!("[::]:{PORT}"))?;
    for at in [
        format!("{}:{PORT}", addresses[1]),
        format!("[fd99::{}]:{PORT}", addresses[1]),
    ] {
        guests[0].1.traffic(&format!("send to={at} bytes=5000000"))?;
    }
    let neighbours = guests[0].1.sh("ip neigh show 172.20.0.2")?;
    assert!(neighbours.contains(&ports()[1].mac()), "{neighbours}");
    Ok(())
}

/// A guest with a bridge, and 16 hosts on it with MACs of their own.
#[test]
fn guests_of_a_guest_are_reached_by_their_own_macs() -> Result<()> {
    let nodes = Nodes::new(3, 1500)?;
    let [first, second] = ports();
    let third = Port::new(2, 13);
    let any = format!("--peer=any@{}", Nodes::vtep4(first.node));
    let peer = |port: Port| format!("--peer={}@{}", port.mac(), Nodes::vtep4(port.node));
    let start =
        |port, options: &[&str]| nodes.hawser_without_subnets(VNI, port, &[&["--gateway=off"], options].concat());
    let mut host = start(first, &["--any-mac", &peer(second), &peer(third)])?;
    let mut far = start(second, &[&any, &peer(third)])?;
    let mut bystander = start(third, &[&any, &peer(second)])?;
    let guests = [&far, &bystander].map(|hawser| Plan::new(Kind::Uml, hawser.socket()).boot());
    let [guest, other] = guests;
    let (guest, other) = (guest?, other?);
    guest.sh("ip link set eth0 up; ip addr add 172.20.0.2/24 dev eth0")?;
    other.sh("ip link set eth0 up; ip addr add 172.20.0.3/24 dev eth0")?;
    let plan = Plan {
        archives: vec!["qemu/lab.cpio"],
        ..Plan::new(Kind::Qemu, host.socket())
    };
    let machine = plan.boot()?;
    machine.sh("set -e
        while read -r module; do insmod \"$module\"; done </etc/lab-modules
        ip link add br0 type bridge
        ip link set eth0 master br0 up
        ip link set br0 up
        for n in $(seq 16); do
            ip netns add n$n
            ip link add v$n type veth peer name eth0 netns n$n
            ip link set v$n master br0 up
            ip -n n$n addr add 172.20.0.$((100 + n))/24 dev eth0
            ip -n n$n link set eth0 up
        done")?;
    guest.sh("for n in $(seq 16); do ping -c 2 -W 2 172.20.0.$((100 + n)) || exit 1; done")?;
    machine.sh("ip netns exec n7 ping -c 1 -W 2 172.20.0.2")?;
    assert!(far.counters()?.get("learned_macs") >= 16);
    // A third guest receives the requests for addresses, and no unicast frame of the others.
    let before = bystander.counters()?;
    guest.sh("ping -c 20 -i 0.05 -W 2 172.20.0.107")?;
    let after = bystander.counters()?;
    assert!(after.get("rx_frames") - before.get("rx_frames") < 20, "{after:?}");
    assert_eq!(host.counters()?.dropped("spoofed_mac"), 0);
    Ok(())
}

#[test]
fn the_gateway_is_at_the_address_that_was_asked_for() -> Result<()> {
    let mut nodes = Nodes::new(2, 1500)?;
    nodes.serve_world(WORLD4)?;
    nodes.serve_world(WORLD6)?;
    let guests = boot(&nodes, |own, other| {
        nodes.hawser(VNI, own, &["--gateway=10.100.0.254,fd00:100::fe", &other.peer(true)])
    })?;
    for (_, guest) in &guests {
        guest.net_up()?;
        let route = guest.sh("ip route show default")?;
        assert!(route.contains("via 10.100.0.254"), "{route}");
        for gateway in ["10.100.0.254", "fd00:100::fe"] {
            guest.reaches(gateway)?;
        }
        let neighbours = guest.sh("ip neigh show 10.100.0.254")?;
        assert!(neighbours.contains("0a:58:0a:64:00:fe"), "{neighbours}");
        for world in [format!("{WORLD4}:{PORT}"), format!("[{WORLD6}]:{PORT}")] {
            guest.traffic(&format!("receive to={world} bytes=1000000"))?;
        }
    }
    Ok(())
}

/// The message with which hawser refuses to start on a node.
fn refusal(node: &Namespace, socket: &str, options: &[&str]) -> Result<String> {
    let mut command = node.command("timeout");
    command
        .args(["10", &artifacts::hawser()?.display().to_string()])
        .args([
            socket,
            "--mode=layer2",
            "--vni=1",
            "--ipv4=10.100.0.0/24",
            "--ipv6=fd00:100::/64",
        ])
        .args(options);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    Ok(said)
}

#[test]
fn default_gateways_on_two_links_and_a_family_without_one_are_refused_at_the_start() -> Result<()> {
    let nodes = Nodes::new(1, 1500)?;
    let node = &nodes.nodes[0];
    let socket = format!("--socket-path={}", nodes.path("vm.sock").display());
    for line in [
        "ip -6 route del default",
        "ip link add eth1 type veth peer name eth2",
        "ip link set eth2 up",
        "ip link set eth1 up",
        "ip -6 addr add 2001:db8:200::1/64 dev eth1 nodad",
    ] {
        node.run(line)?;
    }
    let said = refusal(node, &socket, &[])?;
    assert!(said.contains("no default route of IPv6"), "{said}");
    assert!(said.contains("that of IPv4 is on eth0"), "{said}");
    node.run("ip -6 route add default via 2001:db8:200::2 dev eth1")?;
    let said = refusal(node, &socket, &[])?;
    assert!(said.contains("multiple gateway interfaces detected"), "{said}");
    assert!(
        said.contains("IPv4 is on eth0") && said.contains("IPv6 on eth1"),
        "{said}"
    );
    nodes.hawser(VNI, Port::new(0, 11), &["--vtep=198.51.100.1"])?.stop()?;
    Ok(())
}
