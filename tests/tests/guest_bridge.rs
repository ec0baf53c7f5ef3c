//! Tests with guests on a Linux bridge, through TAP devices.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::segment::{HOST4, PORT, Segment};
use hawser_testkit::{Result, peers};
use std::thread;
use std::time::Duration;

const MACS: [&str; 2] = ["52:54:00:12:34:56", "52:54:00:12:34:57"];
const GUESTS4: [&str; 2] = ["192.0.2.11", "192.0.2.12"];

/// Transfers to and from `server`, in which every byte is checked.
fn assert_transfers(guest: &Guest, server: &str, bytes: u64, connections: u32) -> Result<()> {
    for command in ["send", "receive"] {
        guest.traffic(&format!(
            "{command} to={server}:{PORT} bytes={bytes} connections={connections}"
        ))?;
    }
    Ok(())
}

/// hawser on its own TAP device, and a UML guest with a fixed address on it.
fn attached(segment: &Segment, number: usize, options: &[&str]) -> Result<(Hawser, Guest)> {
    let tap = format!("tap{number}");
    segment.add_tap(&tap, "")?;
    let (device, mac) = (format!("--tap={tap}"), format!("--mac={}", MACS[number]));
    let arguments = [&[device.as_str(), mac.as_str()], options].concat();
    let hawser = segment.hawser(&format!("vm{number}"), &arguments)?;
    let guest = segment.guest(Kind::Uml, &hawser)?;
    guest.sh(&format!("ip addr add {}/24 dev eth0", GUESTS4[number]))?;
    Ok((hawser, guest))
}

#[test]
fn a_guest_gets_its_address_from_a_dhcp_server_on_the_segment_and_moves_bytes_both_ways() -> Result<()> {
    for kind in [Kind::Uml, Kind::Qemu] {
        let mut segment = Segment::new(1500)?;
        segment.serve_dhcp()?;
        segment.serve()?;
        segment.add_tap("tap0", "")?;
        let mut hawser = segment.hawser("vm", &["--tap=tap0", &format!("--mac={}", MACS[0])])?;
        let guest = segment.guest(kind, &hawser)?;
        guest.sh("net-up 4")?;
        assert!(guest.sh("cat /run/dhcp4")?.contains(&format!("serverid={HOST4}")));
        guest.sh(&format!("ping -c 2 -W 2 -s 1472 {HOST4}"))?;
        assert_transfers(&guest, HOST4, 50_000_000, 1)?;
        let address = guest.sh("ip -4 -o addr show dev eth0")?;
        let address = address.split_whitespace().nth(3).unwrap_or_default();
        let address = address.split('/').next().unwrap_or_default();
        let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
        peers::traffic(&segment.host, &format!("send to={address}:{PORT} bytes=50000000"))?;
        let neighbours = segment.host.run(&format!("ip neigh show {address}"))?;
        assert!(
            neighbours.contains(MACS[0]),
            "the segment sees the guest's own MAC: {neighbours}"
        );
        hawser.assert_alive()?;
    }
    Ok(())
}

#[test]
fn two_guests_on_one_bridge_of_a_large_mtu_reach_each_other_and_small_datagrams_travel_together() -> Result<()> {
    let segment = Segment::new(9000)?;
    let (mut first, sender) = attached(&segment, 0, &[])?;
    let (mut second, receiver) = attached(&segment, 1, &[])?;
    assert_eq!(sender.sh("cat /sys/class/net/eth0/mtu")?.trim(), "9000");
    sender.sh(&format!("ping -c 2 -W 2 -s 8972 {}", GUESTS4[1]))?;
    let _server = receiver.serve(&format!("0.0.0.0:{PORT}"))?;
    assert_transfers(&sender, GUESTS4[1], 100_000_000, 2)?;

    // Each datagram comes back unchanged, whatever its length.
    let merged = first.counters()?.get("tx_merged_frames");
    sender.traffic(&format!(
        "udp to={}:{PORT} sizes=1,22,1400,1472,8900,30000 count=40",
        GUESTS4[1]
    ))?;
    let report = sender.traffic(&format!("flood to={}:{PORT} size=64 millis=500", GUESTS4[1]))?;
    let merged = first.counters()?.get("tx_merged_frames") - merged;
    assert!(merged > 1000, "{merged} datagrams of {report} were merged");
    assert!(report["received"].as_u64() > Some(1000), "{report}");
    first.assert_alive()?;
    second.assert_alive()
}

#[test]
fn guests_of_one_vlan_exchange_large_frames_that_carry_its_tag_on_the_segment() -> Result<()> {
    let segment = Segment::new(1500)?;
    let wire = segment.listen("ear")?;
    let (first, sender) = attached(&segment, 0, &["--vlan=7"])?;
    let (_second, receiver) = attached(&segment, 1, &["--vlan=7"])?;
    let _server = receiver.serve(&format!("0.0.0.0:{PORT}"))?;
    // TCP segments are tagged and untagged as the large frames in which they arrive.
    assert_transfers(&sender, GUESTS4[1], 50_000_000, 2)?;
    sender.traffic(&format!(
        "udp to={}:{PORT} sizes=1,22,1400,1472,8000 count=40",
        GUESTS4[1]
    ))?;
    wire.wait_for(1, "vlan 7 and arp")?;
    assert_eq!(
        wire.seen("arp and not vlan")?,
        Vec::<String>::new(),
        "a frame without its tag"
    );
    // A guest outside the VLAN receives nothing from it, and cannot reach it.
    assert_ne!(sender.run(&format!("ping -c 1 -W 1 {HOST4}"))?.status, Some(0));
    first.stop()
}

#[test]
fn several_queues_carry_the_flows_of_a_guest_with_several_processors() -> Result<()> {
    let mut segment = Segment::new(1500)?;
    segment.serve()?;
    segment.add_tap("tap0", "multi_queue")?;
    let mut hawser = segment.hawser("vm", &["--tap=tap0", "--queue-pairs=2"])?;
    let plan = Plan {
        queue_pairs: 2,
        mac: Some(MACS[0].into()),
        ..Plan::new(Kind::Qemu, hawser.socket())
    };
    let guest = plan.boot()?;
    guest.sh(&format!(
        "ip addr add {}/24 dev eth0 && ip link set eth0 up",
        GUESTS4[0]
    ))?;
    assert_transfers(&guest, HOST4, 20_000_000, 8)?;
    // Transfers also work after the guest has disabled a pair and enabled it again.
    guest.sh("ethtool -L eth0 combined 1")?;
    assert_transfers(&guest, HOST4, 5_000_000, 8)?;
    guest.sh("ethtool -L eth0 combined 2")?;
    assert_transfers(&guest, HOST4, 5_000_000, 8)?;
    hawser.assert_alive()
}

#[test]
fn a_device_that_goes_down_or_away_under_traffic_ends_nothing() -> Result<()> {
    let mut segment = Segment::new(1500)?;
    segment.serve()?;
    let (mut hawser, guest) = attached(&segment, 0, &[])?;
    let bulk = guest.start(
        &format!("hawser-traffic send to={HOST4}:{PORT} bytes=400000000"),
        Duration::from_secs(60),
    )?;
    thread::sleep(Duration::from_millis(200));
    segment.host.run("ip link set tap0 down")?;
    guest.wait_for_carrier(false)?;
    assert!(bulk.poll().is_none(), "the transfer ended early");
    segment.host.run("ip link set tap0 up")?;
    guest.wait_for_carrier(true)?;
    let output = bulk.wait(Duration::from_secs(60))?;
    assert_eq!(output.status, Some(0), "{output:?}");

    segment.host.run("ip link del tap0")?;
    guest.wait_for_carrier(false)?;
    assert_ne!(guest.run(&format!("ping -c 2 -W 1 {HOST4}"))?.status, Some(0));
    hawser.assert_alive()?;
    // The link comes back when another program creates the device again.
    segment.add_tap("tap0", "")?;
    guest.wait_for_carrier(true)?;
    assert_transfers(&guest, HOST4, 5_000_000, 1)?;
    hawser.stop()
}
