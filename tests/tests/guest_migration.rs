//! Tests of live migrations of a real guest from one hawser to another, by QEMU, and of guests that QEMU replaces or
//! restores.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::lab::Lab;
use hawser_testkit::netns::address::{FAR4, POD4};
use hawser_testkit::nodes::{Nodes, PORT, WORLD4};
use hawser_testkit::pings::Pings;
use hawser_testkit::segment::{HOST4, Segment};
use hawser_testkit::{Result, peers};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// Longest wait for a reset.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest gap between two replies beyond the time for which QEMU stops the guest. A new QEMU first translates the
/// guest's code anew.
const GAP: Duration = Duration::from_millis(900);
const FORWARD: &str = "--port=8080:7000";
const MAC: &str = "52:54:00:00:00:16";

fn plan(socket: &Path) -> Plan {
    Plan {
        memory_mib: 256,
        ..Plan::new(Kind::Qemu, socket)
    }
}

/// MAC, addresses and routes of the guest's NIC.
fn identity(guest: &Guest) -> Result<String> {
    let text = guest.sh("cat /sys/class/net/eth0/address; ip -o addr show dev eth0; ip route; ip -6 route")?;
    // Remaining lifetimes change by themselves.
    let lines = text
        .lines()
        .map(|line| line.split(" valid_lft").next().unwrap_or_default());
    let lines = lines.map(|line| line.split(" expires").next().unwrap_or_default());
    // An address is tentative for a moment.
    Ok(lines.collect::<Vec<_>>().join("\n").replace(" tentative", ""))
}

#[test]
fn a_masquerade_guest_migrates_and_its_peers_are_reset() -> Result<()> {
    let mut nodes = Nodes::new(2, 1500)?;
    let world = nodes.serve_world(WORLD4)?;
    let source = Hawser::start(&nodes.nodes[0], &nodes.path("source.sock"), &[FORWARD])?;
    let target = Hawser::start(&nodes.nodes[1], &nodes.path("target.sock"), &[FORWARD])?;
    let mut guest = plan(source.socket()).boot_to_migrate()?;
    guest.net_up()?;
    let before = identity(&guest)?;
    guest.serve(&format!("0.0.0.0:{PORT}"))?;
    let at = format!("{}:8080", Nodes::vtep4(0));
    let client = nodes.world.inside(|| TcpStream::connect(&at))??;
    let held = guest.start(&format!("hawser-traffic hold to={world} connections=1"), PATIENCE)?;
    let pings = Pings::start(&guest, WORLD4)?;

    let incoming = plan(target.socket()).incoming(&guest)?;
    let stopped = guest.migrate(incoming)?;
    let gap = pings.longest_gap(&guest)?;
    assert!(
        gap < stopped.time + GAP,
        "a gap of {gap:?}, of which QEMU stopped {stopped:?}"
    );
    assert_eq!(identity(&guest)?, before);
    client.set_read_timeout(Some(PATIENCE))?;
    let waited = (&client).read(&mut [0]).map_err(|e| e.kind());
    assert_eq!(waited, Err(ErrorKind::ConnectionReset));
    drop(held);
    guest.traffic(&format!("send to={world} bytes=1000000"))?;
    guest.traffic(&format!("receive to={world} bytes=1000000"))?;
    peers::traffic(&nodes.world, &format!("send to={}:8080 bytes=1000000", Nodes::vtep4(1)))?;
    source.stop()?;
    target.stop()
}

#[test]
fn a_bridge_guest_migrates_with_its_connections_and_the_segment_learns_where_it_is() -> Result<()> {
    let mut segment = Segment::new(1500)?;
    let host = segment.serve()?;
    segment.serve_dhcp()?;
    let mac = format!("--mac={MAC}");
    segment.add_tap("tap0", "")?;
    segment.add_tap("tap1", "")?;
    let source = segment.hawser("source", &["--tap=tap0", &mac])?;
    let target = segment.hawser("target", &["--tap=tap1", &mac])?;
    let plan = |hawser: &Hawser| Plan {
        mac: Some(MAC.to_owned()),
        ..plan(hawser.socket())
    };
    let mut guest = plan(&source).boot_to_migrate()?;
    guest.sh("ip link set eth0 up; udhcpc -i eth0 -n -q -f -t 10 -T 1 -s /etc/hawser/udhcpc")?;
    let before = identity(&guest)?;
    let running = guest.start(
        &format!("hawser-traffic rounds to={host} count=100000 each=reuse"),
        Duration::from_secs(120),
    )?;
    let pings = Pings::start(&guest, HOST4)?;

    let incoming = plan(&target).incoming(&guest)?;
    let stopped = guest.migrate(incoming)?;
    let gap = pings.longest_gap(&guest)?;
    assert!(
        gap < stopped.time + GAP,
        "a gap of {gap:?}, of which QEMU stopped {stopped:?}"
    );
    assert_eq!(identity(&guest)?, before);
    assert!(running.poll().is_none(), "the connection has ended");
    let fdb = segment.host.run("bridge fdb show br br0")?;
    let entry = fdb
        .lines()
        .find(|line| line.starts_with(MAC) && !line.contains("permanent"));
    assert!(entry.is_some_and(|line| line.contains("dev tap1")), "{fdb}");
    source.stop()?;
    target.stop()
}

/// A client of the guest's server, which sends everything back.
fn client(lab: &Lab) -> Result<TcpStream> {
    let at = format!("{POD4}:8080");
    let mut client = lab.networks.world.inside(|| TcpStream::connect(&at))??;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(b"{\"do\":\"echo\"}\n")?;
    exchange(&mut client, b"before")?;
    Ok(client)
}

fn exchange(client: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    client.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back)?;
    assert_eq!(back, bytes);
    Ok(())
}

#[test]
#[ignore = "long: run by hack/test --long"]
fn a_guest_that_continues_from_an_image_goes_on_and_its_peers_are_reset() -> Result<()> {
    let mut lab = Lab::new()?;
    let world = lab.serve_world(FAR4)?;
    let mut hawser = lab.hawser(&[FORWARD])?;
    let plan = plan(hawser.socket());
    let mut guest = plan.boot_to_migrate()?;
    guest.net_up()?;
    guest.serve(&format!("0.0.0.0:{PORT}"))?;
    let mut client = client(&lab)?;
    let image = guest.save()?;
    exchange(&mut client, b"this the guest will not know")?;
    guest.go_back(&plan, &image)?;
    // Linux ignores a segment that acknowledges what it has not sent, so the guest says nothing by itself. It is asked,
    // and counts as gone after 30 s.
    client.set_read_timeout(Some(PATIENCE * 3))?;
    client.write_all(b"more")?;
    let waited = client.read(&mut [0]).map_err(|e| e.kind());
    assert_eq!(waited, Err(ErrorKind::ConnectionReset), "{:?}", hawser.counters()?);
    guest.traffic(&format!("send to={world} bytes=100000"))?;
    hawser.stop()
}

#[test]
fn a_qemu_that_takes_the_place_of_another_one_keeps_the_connections() -> Result<()> {
    let lab = Lab::new()?;
    let hawser = lab.hawser(&[FORWARD])?;
    let mut plan = plan(hawser.socket());
    plan.arguments = vec!["-machine".into(), "aux-ram-share=on".into()];
    let mut guest = plan.boot_to_migrate()?;
    guest.net_up()?;
    guest.serve(&format!("0.0.0.0:{PORT}"))?;
    let mut client = client(&lab)?;
    for _ in 0..2 {
        let successor = plan.successor(&guest)?;
        guest.succeed(successor)?;
        exchange(&mut client, b"after")?;
    }
    hawser.stop()
}
