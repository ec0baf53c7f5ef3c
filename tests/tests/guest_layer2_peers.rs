//! Tests of peers of a layer2 network that are added and removed while hawser runs.

use hawser_testkit::Result;
use hawser_testkit::guest::Kind;
use hawser_testkit::nodes::{Nodes, Port};
use std::fs;
use std::path::Path;
use std::time::Duration;

const VNI: u32 = 4711;
const PATIENCE: Duration = Duration::from_secs(30);

/// Replaces the peers file as editors do, by renaming another file over it.
fn write(file: &Path, ports: &[Port]) -> Result<()> {
    let lines = ports.iter().map(|port| port.peer(false));
    let lines: Vec<String> = lines.map(|line| line.replace("--peer=", "")).collect();
    let new = file.with_extension("new");
    fs::write(&new, lines.join("\n") + "\n")?;
    fs::rename(new, file)?;
    Ok(())
}

#[test]
fn a_peer_that_is_added_to_the_file_becomes_reachable_and_a_removed_one_is_no_longer() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let third = Port {
        vtep_port: 6082,
        ..Port::new(1, 13)
    };
    let ports = [Port::new(0, 11), Port::new(1, 12), third];
    let vtep = |port: &Port| format!("--vtep={}", Nodes::vtep4(port.node));
    let others = ports[1..].iter().map(|port| -> Result<_> {
        let hawser = nodes.hawser(VNI, *port, &[&vtep(port), &ports[0].peer(false)])?;
        let guest = nodes.guest(Kind::Uml, &hawser)?;
        Ok((hawser, guest))
    });
    let mut others = others.collect::<Result<Vec<_>>>()?;

    fs::create_dir(nodes.path("network"))?;
    let (file, events) = (nodes.path("network/peers"), nodes.path("events"));
    write(&file, &ports[..2])?;
    let options = [
        vtep(&ports[0]),
        format!("--peers={}", file.display()),
        format!("--event-log={}", events.display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut hawser = nodes.hawser(VNI, ports[0], &options)?;
    let guest = nodes.guest(Kind::Uml, &hawser)?;
    let ping = |port: Port, answered: bool| -> Result<()> {
        for (family, address) in [("", port.address4()), ("-6", port.address6())] {
            let ping = guest.run(&format!("ping {family} -c 2 -W 1 {address}"))?;
            assert_eq!(ping.status == Some(0), answered, "{port:?}: {ping:?}");
        }
        Ok(())
    };
    ping(ports[1], true)?;
    ping(ports[2], false)?;
    // A transfer with a peer that stays in the file is not disturbed.
    write(&file, &ports)?;
    hawser
        .process()
        .wait_until("the second version", PATIENCE, |log| log.contains("now has 2 peers"))?;
    ping(ports[1], true)?;
    ping(ports[2], true)?;
    write(&file, &[ports[0], ports[2]])?;
    hawser
        .process()
        .wait_until("the third version", PATIENCE, |log| log.contains("now has 1 peers"))?;
    ping(ports[1], false)?;
    ping(ports[2], true)?;
    // Frames that the removed peer still sends are dropped.
    let (_, second) = &others[0];
    second.run(&format!("ping -c 1 -W 1 {}", ports[0].address4()))?;
    hawser.wait_for_counters("the removed peer's frames", |counters| {
        counters.dropped("tunnel_unknown_mac") > 0
    })?;
    write(&file, &[ports[0], ports[1], ports[1]])?;
    let place = format!("{}:3: MAC {} is already in line 2", file.display(), ports[1].mac());
    hawser
        .process()
        .wait_until("the line that is wrong", PATIENCE, |log| log.contains(&place))?;
    ping(ports[1], false)?;
    ping(ports[2], true)?;
    let told = fs::read_to_string(&events)?;
    assert_eq!(told.matches("\"peers-changed\"").count(), 2, "{told}");
    assert_eq!(told.matches("\"peers-refused\"").count(), 1, "{told}");
    for (hawser, _) in &mut others {
        hawser.assert_alive()?;
    }
    hawser.assert_alive()
}

/// The guest's own neighbour entry stays valid for longer than the test takes, so only an announcement replaces it.
#[test]
fn an_address_that_moves_to_another_mac_is_reached_at_once() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let [first, second] = [Port::new(0, 11), Port::new(1, 12)];
    let other = Port {
        vtep_port: 6082,
        ..Port::new(1, 13)
    };
    let vtep = |port: Port| format!("--vtep={}", Nodes::vtep4(port.node));
    let addresses = format!("--guest-address={},{}", second.address4(), second.address6());
    let mut before = nodes.hawser(VNI, second, &[&vtep(second), &first.peer(false)])?;
    let (own, peer) = (vtep(other), first.peer(false));
    let options = ["--ipv4=10.100.0.0/24", "--ipv6=fd00:100::/64", &addresses, &own, &peer];
    let after = nodes.hawser_without_subnets(VNI, other, &options)?;
    let _guests = [nodes.guest(Kind::Uml, &before)?, nodes.guest(Kind::Uml, &after)?];

    let file = nodes.path("peers");
    write(&file, &[first, second])?;
    let peers = format!("--peers={}", file.display());
    let mut hawser = nodes.hawser(VNI, first, &[&vtep(first), &peers])?;
    let guest = nodes.guest(Kind::Uml, &hawser)?;
    guest.sh(
        "for family in ipv4 ipv6; do sysctl -w net.$family.neigh.eth0.base_reachable_time_ms=3600000; done; \
         sysctl -w net.ipv4.neigh.eth0.locktime=0",
    )?;
    let reach = |mac: &str| -> Result<()> {
        for (family, address) in [("-4", second.address4()), ("-6", second.address6())] {
            guest.sh(&format!("ping {family} -c 1 -W 2 {address}"))?;
            let entry = guest.sh(&format!("ip {family} neigh show {address}"))?;
            assert!(entry.contains(mac), "{entry}");
        }
        Ok(())
    };
    reach(&second.mac())?;
    let line = second.peer(false).replace("--peer=", "");
    let moved = line.replace(&second.mac(), &other.mac()) + ":6082";
    let moved = moved.replace(":6081:6082", ":6082");
    fs::write(&file, moved + "\n")?;
    hawser.wait_for_counters("announcements", |counters| counters.get("neighbour_announcements") == 2)?;
    reach(&other.mac())?;
    before.assert_alive()
}
