//! Tests with guests of one network on several nodes, over Geneve.

use hawser_testkit::guest::{Guest, Kind};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::nodes::{Nodes, PORT, Port, WORLD4, WORLD6};
use hawser_testkit::{Result, peers};

const VNI: u32 = 4711;

/// Starts a process and a guest for each port. All are on one network.
fn network(nodes: &Nodes, ports: &[Port], underlay6: bool, options: &[&str]) -> Result<Vec<(Hawser, Guest)>> {
    let mut guests = Vec::new();
    for port in ports {
        let others = ports.iter().filter(|other| other.number != port.number);
        let peers: Vec<String> = others.map(|other| other.peer(underlay6)).collect();
        let vtep = if underlay6 {
            Nodes::vtep6(port.node)
        } else {
            Nodes::vtep4(port.node)
        };
        let vtep = format!("--vtep={vtep}");
        let mut arguments: Vec<&str> = peers.iter().map(String::as_str).collect();
        arguments.push(&vtep);
        arguments.extend(options);
        let hawser = nodes.hawser(VNI, *port, &arguments)?;
        let guest = nodes.guest(Kind::Uml, &hawser)?;
        guests.push((hawser, guest));
    }
    Ok(guests)
}

/// Sends bytes and datagrams of every size from one guest to another and back, and checks all of them.
fn assert_exchange(from: &Guest, to: &Guest, addresses: [&str; 2]) -> Result<()> {
    let _server = to.serve(&format!("[::]:{PORT}"))?;
    for at in [format!("{}:{PORT}", addresses[0]), format!("[{}]:{PORT}", addresses[1])] {
        for command in ["send", "receive"] {
            from.traffic(&format!("{command} to={at} bytes=20000000 connections=2"))?;
        }
        from.traffic(&format!("udp to={at} sizes=1,22,1300,1400 count=40"))?;
    }
    Ok(())
}

#[test]
fn guests_on_two_nodes_and_on_one_reach_each_other_and_the_world_over_both_families() -> Result<()> {
    for underlay6 in [false, true] {
        let mut nodes = Nodes::new(2, 1500)?;
        nodes.serve_world(WORLD4)?;
        nodes.serve_world(WORLD6)?;
        let third = Port {
            vtep_port: 6082,
            ..Port::new(1, 13)
        };
        let ports = [Port::new(0, 11), Port::new(1, 12), third];
        let wire = nodes.listen(0)?;
        let mut guests = network(&nodes, &ports, underlay6, &[])?;
        let mtu = guests[0].1.sh("cat /sys/class/net/eth0/mtu")?;
        assert_eq!(mtu.trim(), if underlay6 { "1418" } else { "1438" });
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let (_, sender) = &guests[from];
            let (_, receiver) = &guests[to];
            sender.sh(&format!("ping -c 2 -W 2 {}", ports[to].address4()))?;
            sender.sh(&format!("ping -6 -c 2 -W 2 {}", ports[to].address6()))?;
            assert_exchange(sender, receiver, [&ports[to].address4(), &ports[to].address6()])?;
        }
        for world in [format!("{WORLD4}:{PORT}"), format!("[{WORLD6}]:{PORT}")] {
            guests[0].1.traffic(&format!("receive to={world} bytes=5000000"))?;
        }
        guests[0].1.reaches(WORLD4)?;
        // The gateway has the same MAC and link-local address in every process.
        for (_, guest) in &guests {
            guest.reaches("10.100.0.1")?;
            let neighbours = guest.sh("ip neigh show 10.100.0.1")?;
            assert!(neighbours.contains("0a:58:0a:64:00:01"), "{neighbours}");
        }
        wire.wait_for(1, "udp port 6081")?;
        for (hawser, _) in &mut guests {
            let counters = hawser.counters()?;
            assert!(counters.get("tunnel_sent") > 0 && counters.get("tunnel_received") > 0);
            for reason in [
                "tunnel_malformed",
                "tunnel_unknown_mac",
                "tunnel_spoofed_mac",
                "tunnel_too_big",
            ] {
                assert_eq!(counters.dropped(reason), 0, "{reason}");
            }
            hawser.assert_alive()?;
        }
    }
    Ok(())
}

#[test]
fn a_network_with_the_same_subnet_and_another_identifier_hears_nothing() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let ports = [Port::new(0, 11), Port::new(1, 12)];
    let guests = network(&nodes, &ports, false, &[])?;
    // The stranger's process names the same endpoints as its peers, but another network.
    let stranger = Port {
        vtep_port: 6082,
        ..Port::new(1, 14)
    };
    let vtep = format!("--vtep={}", Nodes::vtep4(1));
    let peers: Vec<String> = ports.iter().map(|port| port.peer(false)).collect();
    let arguments: Vec<&str> = peers.iter().map(String::as_str).chain([vtep.as_str()]).collect();
    let hawser = nodes.hawser(VNI + 1, stranger, &arguments)?;
    let guest = nodes.guest(Kind::Uml, &hawser)?;
    for (port, (mut process, _guest)) in ports.iter().zip(guests) {
        let heard = process.counters()?.get("rx_frames");
        let ping = guest.run(&format!("ping -c 2 -W 1 {}", port.address4()))?;
        assert_ne!(ping.status, Some(0), "{ping:?}");
        let counters = process.counters()?;
        assert!(counters.dropped("tunnel_other_network") > 0, "what came is counted");
        assert_eq!(counters.get("rx_frames"), heard, "and the guest does not hear it");
    }
    Ok(())
}

#[test]
fn clients_of_the_node_do_not_reach_the_guest_and_its_frames_leave_from_several_ports() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let ports = [Port::new(0, 11), Port::new(1, 12)];
    let wire = nodes.listen(0)?;
    let guests = network(&nodes, &ports, false, &[])?;
    let _server = guests[1].1.serve(&format!("0.0.0.0:{PORT}"))?;
    for _ in 0..8 {
        guests[0]
            .1
            .traffic(&format!("send to={}:{PORT} bytes=1000", ports[1].address4()))?;
    }
    assert!(peers::traffic(&nodes.world, &format!("send to={}:{PORT} bytes=1", ports[1].address4())).is_err());
    let sources: std::collections::BTreeSet<String> = wire
        .seen("udp dst port 6081 and src host 198.51.100.1")?
        .iter()
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| word.starts_with("198.51.100.1."))
                .map(str::to_owned)
        })
        .collect();
    assert!(sources.len() > 1, "one port for all flows: {sources:?}");
    Ok(())
}

#[test]
fn clients_of_the_node_reach_the_guest_through_forwards_over_both_families_and_transports() -> Result<()> {
    let nodes = Nodes::new(1, 1500)?;
    let ports = [Port::new(0, 11)];
    let forwards = format!("--port=8080:{PORT},udp:8080:{PORT}");
    let guests = network(&nodes, &ports, false, &[&forwards])?;
    let _server = guests[0].1.serve(&format!("[::]:{PORT}"))?;
    for (to, client) in [
        (format!("{}:8080", Nodes::vtep4(0)), format!("::ffff:{WORLD4}")),
        (format!("[{}]:8080", Nodes::vtep6(0)), WORLD6.to_owned()),
    ] {
        let report = peers::traffic(&nodes.world, &format!("peer to={to}"))?;
        assert_eq!(report["seen_ip"], client, "the guest sees the client's address");
        for command in ["send", "receive"] {
            peers::traffic(&nodes.world, &format!("{command} to={to} bytes=5000000 connections=2"))?;
        }
        peers::traffic(&nodes.world, &format!("udp to={to} sizes=1,1200,1400,4000 count=20"))?;
    }
    Ok(())
}
