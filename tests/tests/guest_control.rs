//! Tests of the commands of a guest's driver on the control queue, and of their effects.

use hawser_testkit::guest::{Guest, Kind};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::segment::{BRIDGE, HOST4, PORT, Segment};
use hawser_testkit::{Result, failure, until};
use std::net::UdpSocket;

const MAC: &str = "52:54:00:12:34:56";
const OTHER_MAC: &str = "52:54:00:99:99:99";
const OWN: &str = "192.0.2.5";
/// An address that no host has. `OTHER_MAC` is the host's neighbour entry for it.
const NOBODY: &str = "192.0.2.99";
const GROUP: &str = "239.1.2.3";
/// A port without a server.
const DISCARD: u16 = 9;
/// VIRTIO_NET_F_CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA, GUEST_ANNOUNCE, CTRL_MAC_ADDR and CTRL_GUEST_OFFLOADS. A
/// Linux guest accepts all except RX_EXTRA.
const CONTROL: u64 = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 21 | 1 << 23 | 1 << 2;

/// Number of frames that the guest received, and that its NIC filtered, while the host sends
/// `count` datagrams to `address`.
fn sent(segment: &Segment, hawser: &mut Hawser, address: &str, count: u64) -> Result<(u64, u64)> {
    let before = hawser.counters()?;
    segment.host.inside(|| {
        let socket = UdpSocket::bind((HOST4, 0))?;
        (0..count).try_for_each(|_| socket.send_to(&[0; 32], (address, DISCARD)).map(drop))
    })??;
    let after = hawser.wait_for_counters("the datagrams", |c| {
        let total = |c: &hawser_testkit::hawser::Counters| c.get("rx_frames") + c.dropped("not_asked_for");
        total(c) >= total(&before) + count
    })?;
    let moved = |name: &str| after.get(name) - before.get(name);
    Ok((moved("rx_frames"), moved("dropped not_asked_for")))
}

/// Waits until the NIC receives all frames to `address`, or filters them all. A guest's driver sends the commands for its
/// filters after the command that changed them has returned.
fn settles(segment: &Segment, hawser: &mut Hawser, address: &str, received: bool) -> Result<()> {
    const FRAMES: u64 = 5;
    let expected = if received { (FRAMES, 0) } else { (0, FRAMES) };
    until(
        &format!("frames to {address} are (received, filtered) {expected:?}"),
        || Ok(sent(segment, hawser, address, FRAMES)? == expected),
    )
}

/// Mean length in bytes of the frames that a guest receives.
fn frame_length(hawser: &mut Hawser, guest: &Guest) -> Result<u64> {
    let before = hawser.counters()?;
    guest.traffic(&format!("receive to={HOST4}:{PORT} bytes=20000000"))?;
    let after = hawser.counters()?;
    let moved = |name: &str| after.get(name) - before.get(name);
    Ok(moved("rx_bytes") / moved("rx_frames"))
}

#[test]
fn a_linux_guest_sets_its_cards_filters_address_and_offloads() -> Result<()> {
    let mut segment = Segment::new(1500)?;
    segment.serve()?;
    segment.host.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    segment
        .host
        .run(&format!("ip link set {BRIDGE} type bridge mcast_snooping 0"))?;
    segment.host.run(&format!("ip route add 239.0.0.0/8 dev {BRIDGE}"))?;
    segment.add_tap("tap0", "")?;
    let mut hawser = segment.hawser("vm", &["--tap=tap0", &format!("--mac={MAC}")])?;
    let guest = segment.guest(Kind::Uml, &hawser)?;
    guest.sh("sysctl -w net.ipv6.conf.eth0.disable_ipv6=1")?;
    guest.sh(&format!("ip addr add {OWN}/24 dev eth0"))?;
    // The test waits until the bridge has its final MAC. This depends on the bridge's ports, and neighbours are flushed
    // when it changes.
    segment
        .host
        .run(&format!("ip neigh replace {NOBODY} lladdr {OTHER_MAC} dev {BRIDGE}"))?;
    let features = guest.features()?;
    assert_eq!(features & CONTROL, CONTROL, "{features:#x}");

    // Frames for another NIC, which the bridge floods, are filtered unless the NIC is promiscuous.
    settles(&segment, &mut hawser, NOBODY, false)?;
    guest.sh("ip link set eth0 promisc on")?;
    settles(&segment, &mut hawser, NOBODY, true)?;
    guest.sh("ip link set eth0 promisc off")?;
    settles(&segment, &mut hawser, NOBODY, false)?;

    // Multicast frames are received after joining the group, or in all-multicast mode.
    settles(&segment, &mut hawser, GROUP, false)?;
    guest.sh("ip maddr add 01:00:5e:01:02:03 dev eth0")?;
    settles(&segment, &mut hawser, GROUP, true)?;
    guest.sh("ip maddr del 01:00:5e:01:02:03 dev eth0")?;
    guest.sh("ip link set eth0 allmulticast on")?;
    settles(&segment, &mut hawser, GROUP, true)?;
    guest.sh("ip link set eth0 allmulticast off")?;
    settles(&segment, &mut hawser, GROUP, false)?;

    // The NIC gets another MAC now.
    guest.sh("ip link set eth0 down")?;
    guest.sh(&format!("ip link set eth0 address {OTHER_MAC}"))?;
    guest.sh("ip link set eth0 up")?;
    settles(&segment, &mut hawser, NOBODY, true)?;
    guest.reaches(HOST4)?;

    // Without its offloads the guest receives frames up to its MTU, and with them larger ones
    // again.
    let with = frame_length(&mut hawser, &guest)?;
    guest.sh("ethtool -K eth0 rx-gro-hw off")?;
    let without = frame_length(&mut hawser, &guest)?;
    guest.sh("ethtool -K eth0 rx-gro-hw on")?;
    let again = frame_length(&mut hawser, &guest)?;
    assert!(
        with > 3000 && without <= 1514 && again > 3000,
        "{with}, {without}, {again}"
    );
    hawser.assert_alive()
}

#[test]
fn a_checked_mac_cannot_be_changed_by_the_guest() -> Result<()> {
    let segment = Segment::new(1500)?;
    segment.add_tap("tap0", "")?;
    let options = ["--tap=tap0", &format!("--mac={MAC}"), "--mac-spoof-check"];
    let mut hawser = segment.hawser("vm", &options)?;
    let guest = segment.guest(Kind::Uml, &hawser)?;
    guest.sh("ip link set eth0 down")?;
    let output = guest.run(&format!("ip link set eth0 address {OTHER_MAC}"))?;
    if output.status == Some(0) {
        return Err(failure("the guest's driver was told that its MAC is another"));
    }
    guest.sh("ip link set eth0 up")?;
    guest.sh(&format!("ip addr add {OWN}/24 dev eth0"))?;
    guest.reaches(HOST4)?;
    hawser.assert_alive()
}
