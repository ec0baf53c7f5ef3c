//! Tests of connections between a real guest and the world: many at once, and ones that are ended by either side,
//! refused or impossible.

use hawser_testkit::guest::{Guest, Kind};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::lab::{Lab, PORT};
use hawser_testkit::netns::address::{FAR4, FAR6, NOWHERE4, NOWHERE6, POD4, POD6};
use hawser_testkit::sniffer::Sniffer;
use hawser_testkit::{Result, failure, peers};
use std::time::Duration;

/// A guest, and servers in the world at both [`FAR4`] and [`FAR6`].
fn up(kind: Kind, arguments: &[&str]) -> Result<(Lab, Hawser, Guest, [String; 2])> {
    let mut lab = Lab::new()?;
    let servers = [lab.serve_world(FAR4)?.to_string(), lab.serve_world(FAR6)?.to_string()];
    let (hawser, guest) = lab.up(kind, arguments)?;
    Ok((lab, hawser, guest, servers))
}

#[test]
fn two_thousand_connections_of_a_guest_are_open_at_once() -> Result<()> {
    let (_lab, mut hawser, guest, servers) = up(Kind::Uml, &[])?;
    for server in servers {
        let report = guest.traffic_for(
            &format!("storm to={server} connections=2000 bytes=4096"),
            Duration::from_secs(120),
        )?;
        assert_eq!(report["good"], 2000, "{report}");
    }
    assert!(hawser.counters()?.get("tcp_connections_out") >= 4000);
    Ok(())
}

#[test]
fn two_thousand_connections_to_a_guest_are_open_at_once() -> Result<()> {
    let (lab, mut hawser, guest, _) = up(Kind::Uml, &["--port=8080:7000"])?;
    let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
    let storm = format!("storm to={POD4}:8080 connections=2000 bytes=4096");
    let report = peers::traffic(&lab.networks.world, &storm);
    let report = report.map_err(|e| failure(format!("{e}; {:?}", hawser.counters())))?;
    assert_eq!(report["good"], 2000, "{report}");
    assert!(hawser.counters()?.get("tcp_connections_in") >= 2000);
    Ok(())
}

#[test]
fn one_direction_of_a_connection_may_end_long_before_the_other() -> Result<()> {
    for kind in [Kind::Uml, Kind::Qemu] {
        let (lab, _hawser, guest, servers) = up(kind, &["--port=8080:7000"])?;
        let _server = guest.serve(&format!("[::]:{PORT}"))?;
        for first in ["client", "server"] {
            for server in &servers {
                guest.traffic(&format!("half-close to={server} bytes=3000000 first={first}"))?;
            }
            for pod in [format!("{POD4}:8080"), format!("[{POD6}]:8080")] {
                peers::traffic(
                    &lab.networks.world,
                    &format!("half-close to={pod} bytes=3000000 first={first}"),
                )?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_reset_of_either_side_is_a_reset_at_the_other() -> Result<()> {
    for kind in [Kind::Uml, Kind::Qemu] {
        let (lab, mut hawser, guest, servers) = up(kind, &["--port=8080:7000"])?;
        let _server = guest.serve(&format!("[::]:{PORT}"))?;
        for by in ["client", "server"] {
            for server in &servers {
                guest.traffic(&format!("reset to={server} by={by}"))?;
            }
            for pod in [format!("{POD4}:8080"), format!("[{POD6}]:8080")] {
                peers::traffic(&lab.networks.world, &format!("reset to={pod} by={by}"))?;
            }
        }
        assert!(hawser.counters()?.get("tcp_resets") >= 8);
    }
    Ok(())
}

#[test]
fn a_closed_port_of_the_world_refuses_a_guest() -> Result<()> {
    let (_lab, _hawser, guest, _) = up(Kind::Uml, &[])?;
    for target in [format!("{FAR4}:9"), format!("[{FAR6}]:9")] {
        let report = guest.traffic(&format!("connect to={target}"))?;
        assert_eq!(report["outcome"], "ConnectionRefused", "{target}: {report}");
        assert!(report["seconds"].as_f64() < Some(1.0), "{target}: {report}");
        let datagram = guest.run(&format!("hawser-traffic udp to={target} sizes=10 wait=3"))?;
        assert!(datagram.out.contains("Connection refused"), "{target}: {datagram:?}");
    }
    Ok(())
}

#[test]
fn a_guest_learns_that_a_host_is_unreachable() -> Result<()> {
    let (_lab, mut hawser, guest, _) = up(Kind::Uml, &[])?;
    for (target, counter) in [
        (
            format!("{NOWHERE4}:9"),
            "awk '/^Icmp: [0-9]/ { print $5 }' /proc/net/snmp",
        ),
        (
            format!("[{NOWHERE6}]:9"),
            "awk '/^Icmp6InDestUnreachs/ { print $2 }' /proc/net/snmp6",
        ),
    ] {
        let report = guest.traffic(&format!("connect to={target} wait=10"))?;
        let outcome = report["outcome"].as_str().unwrap_or_default().to_owned();
        assert!(
            ["HostUnreachable", "NetworkUnreachable"].contains(&outcome.as_str()),
            "{target}: {report}"
        );
        assert!(report["seconds"].as_f64() < Some(3.0), "{target}: {report}");
        // On Linux a UDP socket does not report the error, so the test reads the kernel's counter.
        let before: u64 = guest.sh(counter)?.trim().parse()?;
        guest.run(&format!("hawser-traffic udp to={target} sizes=10 wait=1"))?;
        let after: u64 = guest.sh(counter)?.trim().parse()?;
        assert!(after > before, "{target}: no ICMP error came for a datagram");
    }
    hawser.assert_alive()
}

#[test]
fn the_loopback_of_the_pod_is_out_of_a_guest_s_reach_unless_mapped() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.serve_pod("127.0.0.1", 7001)?;
    for (arguments, expected) in [
        (&[][..], "ConnectionRefused"),
        (&["--map-host-loopback=10.0.2.1"][..], "connected"),
    ] {
        let (_hawser, guest) = lab.up(Kind::Uml, arguments)?;
        let report = guest.traffic("connect to=10.0.2.1:7001 wait=3")?;
        if expected == "connected" {
            assert_eq!(report["outcome"], expected, "{arguments:?}");
        } else {
            assert_ne!(report["outcome"], "connected", "{arguments:?}");
        }
        // The guest sends loopback addresses, which a well-behaved guest would not.
        guest.sh("echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet; ip route add 127.0.0.1/32 via 10.0.2.1 dev eth0 table 5; ip rule add to 127.0.0.1 ipproto tcp dport 7001 table 5 pref 0 || true")?;
        let report = guest.traffic("connect to=127.0.0.1:7001 wait=2")?;
        assert_ne!(report["outcome"], "connected", "{arguments:?}");
    }
    Ok(())
}

#[test]
fn memory_is_flat_when_connections_come_and_go() -> Result<()> {
    let (_lab, mut hawser, guest, servers) = up(Kind::Uml, &[])?;
    let storm = |server: &str| guest.traffic(&format!("storm to={server} connections=500 bytes=2048"));
    storm(&servers[0])?;
    let before = hawser.process().resident_kib()?;
    for _ in 0..6 {
        storm(&servers[0])?;
    }
    let after = hawser.process().resident_kib()?;
    // Guest memory that is touched for the first time in the meantime also counts as resident, but it must be less than
    // 6 storms' worth.
    assert!(
        after < before + 32 * 1024,
        "resident memory grew from {before} to {after} KiB"
    );
    Ok(())
}

#[test]
fn a_guest_that_probes_learns_in_its_own_time_that_its_peer_is_gone() -> Result<()> {
    let (lab, mut hawser, guest, [server, _]) = up(Kind::Uml, &[])?;
    let idle = guest.traffic_for(
        &format!("keepalive to={server} idle=1 interval=1 count=2 wait=8"),
        Duration::from_secs(20),
    )?;
    assert_eq!(idle["outcome"], "idle", "a peer that is there answers: {idle}");
    let opened = hawser.counters()?.get("tcp_connections_out");
    let command = format!("hawser-traffic keepalive to={server} idle=4 interval=2 count=3 wait=60");
    let running = guest.start(&command, Duration::from_secs(90))?;
    while hawser.counters()?.get("tcp_connections_out") == opened {}
    // The server receives everything but cannot answer.
    lab.networks.world.run(&format!("ip route add blackhole {POD4}/32"))?;
    let output = running.wait(Duration::from_secs(90))?;
    let report: serde_json::Value = serde_json::from_str(&output.out)?;
    assert_eq!(report["outcome"], "TimedOut", "{report}");
    // The time is the same as on an ordinary host: 4 + 3 * 2 seconds.
    let seconds = report["seconds"].as_f64().unwrap_or_default();
    assert!((9.0..13.0).contains(&seconds), "{report}");
    hawser.assert_alive()
}

#[test]
fn connections_of_a_guest_are_reset_when_the_pod_loses_its_address() -> Result<()> {
    let (lab, mut hawser, guest, servers) = up(Kind::Uml, &[])?;
    let addresses = [format!("{POD4}/24"), format!("{POD6}/64")];
    // UDP flows also get new sockets, which the sandbox must permit.
    for server in &servers {
        guest.traffic(&format!("udp to={server} sizes=100 count=3"))?;
    }
    for (server, address) in servers.iter().zip(addresses) {
        let opened = hawser.counters()?.get("tcp_connections_out");
        let command = format!("hawser-traffic keepalive to={server} idle=100 interval=100 count=3 wait=60");
        let running = guest.start(&command, Duration::from_secs(90))?;
        while hawser.counters()?.get("tcp_connections_out") == opened {}
        let report = guest.traffic(&format!("connect to={server}"))?;
        assert_eq!(report["outcome"], "connected", "{report}");
        lab.networks.pod.run(&format!("ip addr del {address} dev eth0"))?;
        let output = running.wait(Duration::from_secs(90))?;
        let report: serde_json::Value = serde_json::from_str(&output.out)?;
        assert_eq!(report["outcome"], "ConnectionReset", "{server}: {report}");
        assert!(report["seconds"].as_f64() < Some(10.0), "{server}: {report}");
    }
    hawser.assert_alive()
}

#[test]
fn urgent_bytes_pass_between_a_guest_and_the_world_out_of_band() -> Result<()> {
    let (lab, mut hawser, guest, servers) = up(Kind::Uml, &["--port=8080:7000"])?;
    let _server = guest.serve(&format!("[::]:{PORT}"))?;
    for server in &servers {
        guest.traffic(&format!("urgent to={server}"))?;
    }
    for pod in [format!("{POD4}:8080"), format!("[{POD6}]:8080")] {
        peers::traffic(&lab.networks.world, &format!("urgent to={pod}"))?;
    }
    hawser.assert_alive()
}

#[test]
fn the_dscp_of_a_guest_is_on_the_wire_from_the_first_packet_on() -> Result<()> {
    /// TOS or traffic class of expedited forwarding.
    const EF: u8 = 0xb8;
    let (lab, mut hawser, guest, servers) = up(Kind::Uml, &[])?;
    let wire = Sniffer::start(&lab.networks.world, lab.folder(), "pod0")?;
    for server in &servers {
        guest.traffic(&format!("marked to={server} class={EF}"))?;
    }
    for (marks, to) in [
        (format!("ip[1] == {EF}"), FAR4),
        (format!("ip6[0:2] & 0xff0 == {}", u16::from(EF) << 4), FAR6),
    ] {
        for what in [
            "tcp[tcpflags] & tcp-syn != 0",
            "tcp[tcpflags] & tcp-fin != 0",
            "udp port 7000",
        ] {
            // Capture filters do not parse TCP headers after IPv6 headers.
            let what = if to == FAR6 {
                what.replace("tcp[tcpflags]", "ip6[53]")
            } else {
                what.to_owned()
            };
            let marked = format!("{marks} and {what} and dst host {to}");
            wire.wait_for(1, &marked)?;
        }
        let unmarked = wire.seen(&format!("not ({marks}) and (tcp or udp) and dst host {to}"))?;
        assert!(unmarked.is_empty(), "{unmarked:?}");
    }
    hawser.assert_alive()
}
