//! Tests of the devices that hawser creates on its host for a guest on a segment. hawser follows changes to them, and
//! restores everything at the end.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::lab::{Lab, PORT};
use hawser_testkit::netns::Namespace;
use hawser_testkit::netns::address::{POD4, WORLD4};
use hawser_testkit::process::Background;
use hawser_testkit::segment::{BRIDGE, HOST4, Segment};
use hawser_testkit::{Result, failure, peers};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const GUEST4: &str = "192.0.2.9";
const MAC: &str = "52:54:00:12:34:56";

/// Connects again. The neighbours must resolve each other again first.
fn recovers(guest: &Guest) -> Result<()> {
    guest.wait_for_carrier(true)?;
    guest.reaches(HOST4)
}

/// The only device on the host whose name begins with `prefix`.
fn device(namespace: &Namespace, prefix: &str) -> Result<String> {
    let links = namespace.run("ip -br link")?;
    let mut names = links.lines().filter_map(|line| line.split([' ', '@']).next());
    let name = names.find(|name| name.starts_with(prefix));
    Ok(name
        .ok_or_else(|| failure(format!("no {prefix}… in\n{links}")))?
        .to_owned())
}

fn mac_of(namespace: &Namespace, link: &str) -> Result<String> {
    let shown = namespace.run(&format!("ip -br link show dev {link}"))?;
    let mac = shown.split_whitespace().nth(2);
    Ok(mac.ok_or_else(|| failure(shown.clone()))?.to_owned())
}

#[test]
fn a_bridge_port_is_made_followed_through_all_that_happens_to_it_and_removed() -> Result<()> {
    let segment = Segment::new(9000)?;
    let host = &segment.host;
    let mut hawser = segment.hawser("vm", &[&format!("--bridge={BRIDGE}"), &format!("--mac={MAC}")])?;
    let guest = segment.guest(Kind::Uml, &hawser)?;
    assert_eq!(guest.sh("cat /sys/class/net/eth0/mtu")?.trim(), "9000", "the segment's");
    guest.sh(&format!("ip addr add {GUEST4}/24 dev eth0"))?;
    guest.sh(&format!("ping -c 2 -W 2 -s 8972 {HOST4}"))?;
    assert!(host.run(&format!("ip neigh show {GUEST4}"))?.contains(MAC));

    let tap = device(host, "hw")?;
    let flood = guest.start(&format!("ping -q -A -c 100000 {HOST4}"), Duration::from_secs(60))?;
    for (goes, comes) in [
        (format!("ip link set {tap} down"), format!("ip link set {tap} up")),
        (format!("ip link set {BRIDGE} down"), format!("ip link set {BRIDGE} up")),
    ] {
        host.run(&goes)?;
        guest.wait_for_carrier(false)?;
        host.run(&comes)?;
        recovers(&guest)?;
    }
    host.run(&format!("ip link del {tap}"))?;
    recovers(&guest)?;
    assert_eq!(device(host, "hw")?, tap, "made again");
    let bridge_mac = mac_of(host, BRIDGE)?;
    host.run(&format!("ip link del {BRIDGE}"))?;
    guest.wait_for_carrier(false)?;
    for line in [
        format!("ip link add {BRIDGE} address {bridge_mac} type bridge"),
        format!("ip link set {BRIDGE} mtu 9000 up"),
        format!("ip addr add {HOST4}/24 dev {BRIDGE}"),
    ] {
        host.run(&line)?;
    }
    recovers(&guest)?;
    guest.kill(&flood)?;
    hawser.assert_alive()?;
    hawser.stop()?;
    let after = host.settled()?;
    assert!(!after.contains(&tap), "{after}");
    Ok(())
}

#[test]
fn macvtap_guests_meet_each_other_in_bridge_mode_and_only_the_world_in_private_mode() -> Result<()> {
    let segment = Segment::new(1500)?;
    segment.add_uplink()?;
    let before = segment.host.settled()?;
    let runtime = format!("--runtime-dir={}", segment.path("run").display());
    let start = |name: &str, way: &str| segment.hawser(name, &[way, &runtime]);
    // One of the devices is in another namespace.
    let netns = format!("--netns={}", segment.host.path());
    let elsewhere = Namespace::new()?;
    let arguments = ["--mode=bridge", "--macvtap=up0:bridge", &netns, &runtime];
    let b = Hawser::start(&elsewhere, &segment.path("b.sock"), &arguments)?;
    let hawsers = [start("a", "--macvtap=up0")?, b, start("c", "--macvtap=up0:private")?];
    let guests = hawsers.iter().map(|hawser| segment.guest(Kind::Uml, hawser));
    let guests: Vec<Guest> = guests.collect::<Result<_>>()?;
    for (n, guest) in (2..).zip(&guests) {
        guest.sh(&format!("ip addr add 198.51.100.{n}/24 dev eth0"))?;
    }
    let [a, _, c] = &guests[..] else { unreachable!() };
    for guest in &guests {
        guest.reaches("198.51.100.1")?;
    }
    a.reaches("198.51.100.3")?;
    assert!(
        !a.is_answered("198.51.100.4")?,
        "one in bridge mode, one in private mode"
    );

    segment.host.run("ip link set up0 down")?;
    c.wait_for_carrier(false)?;
    segment.host.run("ip link set up0 up")?;
    c.wait_for_carrier(true)?;
    c.reaches("198.51.100.1")?;

    // A macvtap outlives its process. The next hawser removes it.
    let [a, b, mut c] = hawsers;
    c.process().kill();
    assert_eq!(segment.host.run("ip -br link")?.matches("hwm").count(), 3);
    let d = start("d", "--macvtap=up0:vepa")?;
    assert_eq!(segment.host.run("ip -br link")?.matches("hwm").count(), 3);
    for hawser in [a, b, d] {
        hawser.stop()?;
    }
    assert_eq!(segment.host.settled()?, before);
    Ok(())
}

/// Captures all DHCP messages on the pod's link.
fn listen_for_dhcp(lab: &Lab) -> Result<Background> {
    let mut command = lab.networks.world.command("tcpdump");
    command.args([
        "-i",
        "pod0",
        "-n",
        "-l",
        "--immediate-mode",
        "udp port 67 or udp port 68",
    ]);
    let mut listener = Background::start(command, "tcpdump (package tcpdump)", lab.path("dhcp.log"))?;
    listener.wait_until("listening", PATIENCE, |log| log.contains("listening on"))?;
    Ok(listener)
}

/// True if a host at the pod's address answers, even if only to refuse the port.
fn answers(world: &Namespace) -> Result<bool> {
    const DISCARD: u16 = 9;
    let to = SocketAddr::new(POD4.parse()?, DISCARD);
    let refused = world.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)))?;
    Ok(refused.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

fn take_over(lab: &Lab, name: &str) -> Result<Hawser> {
    let runtime = format!("--runtime-dir={}", lab.path("run").display());
    lab.hawser_named(
        name,
        &["--mode=bridge", "--pod-interface=eth0", "--dns=203.0.113.7", &runtime],
    )
}

#[test]
fn a_guest_takes_the_place_of_its_pod_which_gets_it_back_even_after_a_kill() -> Result<()> {
    let lab = Lab::with_link_mtu(1400)?;
    let (pod, world) = (&lab.networks.pod, &lab.networks.world);
    pod.run("ip route add 198.51.100.0/24 via 192.0.2.9 metric 77")?;
    let before = pod.settled()?;
    let mac = mac_of(pod, "eth0")?;

    let mut killed = take_over(&lab, "killed")?;
    killed.process().kill();
    assert_ne!(pod.settled()?, before, "nobody has put it back yet");

    let mut hawser = take_over(&lab, "vm")?;
    let addresses = pod.run("ip addr show dev eth0")?;
    assert!(
        addresses.contains(&format!("inet {POD4}/24")),
        "still to be seen:\n{addresses}"
    );
    world.run("ip neigh flush all")?;
    assert!(!answers(world)?, "the pod answers for its guest");
    let neighbours = world.run(&format!("ip neigh show {POD4}"))?;
    assert!(
        !neighbours.contains("lladdr"),
        "the pod answers ARP for its guest: {neighbours}"
    );

    let dhcp = listen_for_dhcp(&lab)?;
    let guest = Plan::new(Kind::Uml, hawser.socket()).boot()?;
    guest.sh("net-up 4")?;
    let lease = guest.sh("cat /run/dhcp4")?;
    for line in [
        format!("ip={POD4}"),
        "mask=24".into(),
        "serverid=169.254.75.10".into(),
        format!("router={WORLD4}"),
        "dns=203.0.113.7".into(),
        "mtu=1400".into(),
    ] {
        assert!(lease.lines().any(|told| told == line), "{line}:\n{lease}");
    }
    assert_eq!(guest.sh("cat /sys/class/net/eth0/address")?.trim(), mac);
    guest.reaches(WORLD4)?;
    let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
    peers::traffic(world, &format!("send to={POD4}:{PORT} bytes=5000000"))?;
    let neighbours = world.run(&format!("ip neigh show {POD4}"))?;
    assert!(neighbours.contains(&mac), "{neighbours}");
    assert_eq!(hawser.counters()?.get("dhcp4_leases"), 1);
    assert!(!dhcp.log().contains("BOOTP"), "DHCP on the wire:\n{}", dhcp.log());

    hawser.stop()?;
    assert_eq!(pod.settled()?, before);
    assert!(answers(world)?, "the pod is there again");
    Ok(())
}
