//! Tests of networks that span nodes with packets of every size: jumbo frames, a path that shrinks, a single address
//! family, and guests of different kinds on three nodes.

use hawser_testkit::Result;
use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::nodes::{Nodes, PORT, Port};
use std::thread;
use std::time::Duration;

const VNI: u32 = 4711;
/// MTU of an underlay with jumbo frames.
const JUMBO: u32 = 9000;

/// Starts a process for each port of a network without a store. `options` apply to all of them.
fn processes(nodes: &Nodes, ports: &[Port], underlay6: bool, options: &[&str]) -> Result<Vec<Hawser>> {
    let process = |port: &Port| {
        let others = ports.iter().filter(|other| other.number != port.number);
        let peers: Vec<String> = others.map(|other| other.peer(underlay6)).collect();
        let mut arguments: Vec<&str> = peers.iter().map(String::as_str).collect();
        arguments.extend(options);
        nodes.hawser(VNI, *port, &arguments)
    };
    ports.iter().map(process).collect()
}

/// Transfers bytes in both directions and datagrams up to the MTU, and checks all of them.
fn assert_exchange(from: &Guest, to: &Guest, addresses: &[&str], mtu: u32) -> Result<()> {
    let _server = to.serve(&format!("[::]:{PORT}"))?;
    for address in addresses {
        for command in ["send", "receive"] {
            from.traffic(&format!("{command} to={address}:{PORT} bytes=20000000 connections=2"))?;
        }
        // Length of the IPv6 and UDP headers.
        let largest = mtu - 48;
        from.traffic(&format!("udp to={address}:{PORT} sizes=1,1300,{largest} count=20"))?;
    }
    Ok(())
}

#[test]
fn guests_of_two_kinds_on_three_nodes_exchange_jumbo_frames_over_both_underlays() -> Result<()> {
    for underlay6 in [false, true] {
        let nodes = Nodes::new(3, JUMBO)?;
        let ports = [Port::new(0, 11), Port::new(1, 12), Port::new(2, 13)];
        let hawsers = processes(&nodes, &ports, underlay6, &[])?;
        let mut plan = Plan::new(Kind::Qemu, hawsers[2].socket());
        plan.mac = Some(ports[2].mac());
        let third = plan.boot()?;
        third.net_up()?;
        let guests = [
            nodes.guest(Kind::Uml, &hawsers[0])?,
            nodes.guest(Kind::Uml, &hawsers[1])?,
            third,
        ];
        let mtu = nodes.inner_mtu(underlay6);
        for guest in &guests {
            assert_eq!(guest.sh("cat /sys/class/net/eth0/mtu")?.trim(), mtu.to_string());
        }
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let (sender, receiver) = (&guests[from], &guests[to]);
            let addresses = [ports[to].address4(), format!("[{}]", ports[to].address6())];
            assert_exchange(sender, receiver, &addresses.each_ref().map(String::as_str), mtu)?;
        }
        for mut hawser in hawsers {
            let counters = hawser.counters()?;
            for reason in ["tunnel_malformed", "tunnel_too_big", "tunnel_spoofed_mac"] {
                assert_eq!(counters.dropped(reason), 0, "{reason}");
            }
            hawser.stop()?;
        }
    }
    Ok(())
}

#[test]
fn a_stream_goes_on_when_the_path_to_the_other_node_shrinks() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let ports = [Port::new(0, 11), Port::new(1, 12)];
    let hawsers = processes(&nodes, &ports, false, &[])?;
    let [sender, receiver] = [0, 1].map(|n| nodes.guest(Kind::Uml, &hawsers[n]));
    let (sender, receiver) = (sender?, receiver?);
    let address = ports[1].address4();
    let _server = receiver.serve(&format!("0.0.0.0:{PORT}"))?;
    sender.traffic(&format!("send to={address}:{PORT} bytes=5000000"))?;
    // Only the route to the other node shrinks. The guest keeps its MTU.
    let route = format!("ip route add {} dev eth0 mtu 1300", Nodes::vtep4(1));
    let node = &nodes.nodes[0];
    thread::scope(|scope| -> Result<()> {
        let shrinks = scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            node.run(&route)
        });
        sender.traffic(&format!("send to={address}:{PORT} bytes=200000000"))?;
        shrinks.join().map_err(|_| "the thread panicked")??;
        Ok(())
    })?;
    sender.traffic(&format!("receive to={address}:{PORT} bytes=5000000"))?;
    Ok(())
}

#[test]
fn a_network_with_one_family_serves_guests_of_that_family() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let ports = [Port::new(0, 11), Port::new(1, 12)];
    for ipv6 in [true, false] {
        let vni = VNI + u32::from(ipv6);
        let mut guests = Vec::new();
        let mut hawsers = Vec::new();
        for (port, other) in [(ports[0], ports[1]), (ports[1], ports[0])] {
            let (own, theirs, subnet) = if ipv6 {
                (port.address6(), other.address6(), "--ipv6=fd00:100::/64")
            } else {
                (port.address4(), other.address4(), "--ipv4=10.100.0.0/24")
            };
            let peer = format!("--peer={},{theirs}@{}", other.mac(), Nodes::vtep4(other.node));
            let own = format!("--guest-address={own}");
            let hawser = nodes.hawser_without_subnets(vni, port, &[&own, subnet, &peer])?;
            let guest = Plan::new(Kind::Uml, hawser.socket()).boot()?;
            guest.sh(if ipv6 { "net-up 6" } else { "net-up 4" })?;
            guests.push(guest);
            hawsers.push(hawser);
        }
        let global = guests[0].sh("ip -o addr show dev eth0 scope global")?;
        assert_eq!(
            (global.contains("inet6 "), global.contains("inet ")),
            (ipv6, !ipv6),
            "{global}"
        );
        let address = if ipv6 {
            format!("[{}]", ports[1].address6())
        } else {
            ports[1].address4()
        };
        assert_exchange(&guests[0], &guests[1], &[&address], nodes.inner_mtu(false))?;
    }
    Ok(())
}
