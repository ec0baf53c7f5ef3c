//! Tests that the world and the pod itself reach a real guest through forwarded ports.

use hawser_testkit::guest::{Guest, Kind};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::lab::{Lab, PORT};
use hawser_testkit::netns::address::{POD4, POD6, WORLD4, WORLD6};
use hawser_testkit::{Result, peers};

const FORWARDS: &str = "--port=8080:7000,udp:8080:7000,tcp:9000-9002:7000-7002,tcp:192.0.2.2:8081:7000";

fn up() -> Result<(Lab, Hawser, Guest)> {
    let lab = Lab::new()?;
    let (hawser, guest) = lab.up(Kind::Uml, &[FORWARDS])?;
    for port in [PORT, PORT + 1, PORT + 2] {
        guest.serve(&format!("[::]:{port}"))?;
    }
    Ok((lab, hawser, guest))
}

#[test]
fn a_guest_sees_the_real_address_of_its_clients() -> Result<()> {
    let (lab, _hawser, _guest) = up()?;
    for (to, client) in [
        (format!("{POD4}:8080"), format!("::ffff:{WORLD4}")),
        (format!("[{POD6}]:8080"), WORLD6.into()),
    ] {
        let report = peers::traffic(&lab.networks.world, &format!("peer to={to}"))?;
        assert_eq!(report["seen_ip"], client, "{report}");
        assert_eq!(report["seen_port"], report["local_port"], "{report}");
    }
    Ok(())
}

#[test]
fn the_pod_itself_reaches_the_guest_as_the_gateway() -> Result<()> {
    let (lab, _hawser, _guest) = up()?;
    for (to, gateway) in [("127.0.0.1:8080", "::ffff:10.0.2.1"), ("[::1]:8080", "fd10:0:2::1")] {
        let report = peers::traffic(&lab.networks.pod, &format!("peer to={to}"))?;
        assert_eq!(report["seen_ip"], gateway, "{to}: {report}");
    }
    Ok(())
}

#[test]
fn a_range_of_ports_reaches_the_range_in_the_guest() -> Result<()> {
    let (lab, _hawser, guest) = up()?;
    for n in 0..3 {
        peers::traffic(
            &lab.networks.world,
            &format!("send to={POD4}:{} bytes=100000", 9000 + n),
        )?;
    }
    // Each server of the guest has received one request.
    let asked = guest.sh("ss -Htan state time-wait | wc -l; ss -Htan | awk '{print $4}' | sort | uniq -c")?;
    println!("{asked}");
    Ok(())
}

#[test]
fn a_forward_with_an_address_listens_there_alone() -> Result<()> {
    let (lab, _hawser, _guest) = up()?;
    peers::traffic(&lab.networks.world, &format!("send to={POD4}:8081 bytes=1000"))?;
    for (namespace, to) in [
        (&lab.networks.world, format!("[{POD6}]:8081")),
        (&lab.networks.pod, "127.0.0.1:8081".into()),
    ] {
        let report = peers::traffic(namespace, &format!("connect to={to} wait=3"))?;
        assert_eq!(report["outcome"], "ConnectionRefused", "{to}");
    }
    Ok(())
}

#[test]
fn datagrams_of_any_size_reach_a_guest_and_come_back() -> Result<()> {
    let (lab, _hawser, _guest) = up()?;
    for to in [format!("{POD4}:8080"), format!("[{POD6}]:8080")] {
        peers::traffic(
            &lab.networks.world,
            &format!("udp to={to} sizes=1,1200,1472,1473,4000,20000 count=5"),
        )?;
    }
    Ok(())
}

#[test]
fn bulk_to_and_from_a_server_in_the_guest_arrives_whole() -> Result<()> {
    let (lab, _hawser, _guest) = up()?;
    for to in [format!("{POD4}:8080"), format!("[{POD6}]:8080")] {
        for command in ["send", "receive"] {
            peers::traffic(
                &lab.networks.world,
                &format!("{command} to={to} bytes=100000000 connections=4"),
            )?;
        }
    }
    Ok(())
}

#[test]
fn a_port_without_a_listener_in_the_guest_resets_its_clients() -> Result<()> {
    let lab = Lab::new()?;
    let (_hawser, _guest) = lab.up(Kind::Uml, &["--port=8080:7000"])?;
    for to in [format!("{POD4}:8080"), format!("[{POD6}]:8080")] {
        // With "by=server" the client must see a reset, whichever program serves.
        peers::traffic(&lab.networks.world, &format!("reset to={to} by=server"))?;
    }
    Ok(())
}
