//! Tests of the frames that may, and of those that may not, cross a guest's port on a segment.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::segment::{BRIDGE, HOST4, PORT, Segment};
use hawser_testkit::sniffer::Sniffer;
use hawser_testkit::{Result, failure};
use std::thread;
use std::time::Duration;

/// VIRTIO_NET_F_CTRL_MAC_ADDR
const CTRL_MAC_ADDR: u64 = 1 << 23;
const MAC: &str = "52:54:00:12:34:56";
const OWN: &str = "192.0.2.5";
const STOLEN: &str = "192.0.2.66";
const STOLEN_MAC: &str = "52:54:00:aa:bb:cc";

/// The bridge's own MAC, so that a guest need not resolve it.
fn bridge_mac(segment: &Segment) -> Result<String> {
    let text = segment.host.run(&format!("ip -o link show {BRIDGE}"))?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    let mac = words.nth(1).ok_or_else(|| failure("the bridge has no MAC"))?;
    Ok(mac.to_owned())
}

/// Gives the guest its address and the host's neighbour entry, and prevents it from sending
/// anything by itself.
fn configure(segment: &Segment, guest: &Guest) -> Result<()> {
    guest.sh("sysctl -w net.ipv6.conf.eth0.disable_ipv6=1")?;
    guest.sh(&format!("ip addr add {OWN}/24 dev eth0"))?;
    guest.sh(&format!(
        "ip neigh replace {HOST4} lladdr {} dev eth0",
        bridge_mac(segment)?
    ))?;
    Ok(())
}

#[test]
fn spoofed_frames_are_counted_and_reach_no_host() -> Result<()> {
    let segment = Segment::new(1500)?;
    let listener = segment.listen("ear")?;
    segment.add_tap("tap0", "")?;
    let options = [
        "--tap=tap0",
        &format!("--mac={MAC}"),
        "--mac-spoof-check",
        &format!("--ip-spoof-check={OWN}"),
        "--dhcp-guard",
        "--router-guard",
    ];
    let mut hawser = segment.hawser("vm", &options)?;
    // Without this feature the guest's kernel can change the MAC without a command.
    let guest = Plan {
        withheld: CTRL_MAC_ADDR,
        ..Plan::new(Kind::Uml, hawser.socket())
    };
    let guest = guest.boot()?;
    guest.sh("ip link set eth0 up")?;
    configure(&segment, &guest)?;
    guest.sh(&format!("ping -c 2 -W 2 {HOST4}"))?;

    // The guest uses a wrong address in ARP, then in IP, then a DHCP server, then a wrong MAC.
    let before = hawser.counters()?;
    guest.sh(&format!("ip addr add {STOLEN}/24 dev eth0"))?;
    guest.run(&format!("arping -c 3 -f -w 4 -I eth0 -s {STOLEN} 192.0.2.77"))?;
    guest.run(&format!("ping -c 5 -i 0.2 -W 1 -I {STOLEN} {HOST4}"))?;
    guest.run(&format!("hawser-traffic udp to={HOST4}:68 sizes=10 count=4 wait=1"))?;
    guest.sh("ip link set eth0 down")?;
    guest.sh(&format!("ip link set eth0 address {STOLEN_MAC}"))?;
    guest.sh("ip link set eth0 up")?;
    guest.sh(&format!(
        "ip neigh replace {HOST4} lladdr {} dev eth0",
        bridge_mac(&segment)?
    ))?;
    guest.run(&format!("ping -c 7 -i 0.2 -W 1 -I {OWN} {HOST4}"))?;

    let after = hawser.wait_for_counters("seven frames of another MAC", |c| c.dropped("spoofed_mac") >= 7)?;
    let moved = |reason: &str| after.dropped(reason) - before.dropped(reason);
    let all = [
        "spoofed_arp",
        "spoofed_address",
        "dhcp_guard",
        "spoofed_mac",
        "hidden_transport",
    ];
    assert_eq!(all.map(moved), [3, 5, 4, 7, 0]);
    assert!(listener.seen(&format!("ether src {STOLEN_MAC}"))?.is_empty());
    assert!(
        listener
            .seen(&format!("src host {STOLEN} or arp src host {STOLEN}"))?
            .is_empty()
    );
    assert!(listener.seen("udp dst port 68")?.is_empty());
    hawser.assert_alive()
}

/// Number of measurements of a rate. Other load on the machine can make a transfer slower, but never faster.
const TRIES: u32 = 3;

#[test]
fn a_rate_holds_within_five_percent_for_tcp_either_way() -> Result<()> {
    let mut segment = Segment::alone(1500)?;
    segment.serve()?;
    segment.add_tap("tap0", "")?;
    // The buckets are deep enough for a worker that does not run for 200 ms, as on a busy machine.
    let options = ["--tap=tap0", "--rate-in=320M:8000000", "--rate-out=160M:4000000"];
    let mut hawser = segment.hawser("vm", &options)?;
    let guest = segment.guest(Kind::Uml, &hawser)?;
    guest.sh(&format!("ip addr add {OWN}/24 dev eth0"))?;
    let cases = [("receive", 320e6, 80_000_000u64, 8e6), ("send", 160e6, 40_000_000, 4e6)];
    for (order, bits, bytes, burst) in cases {
        let measure = || -> Result<f64> {
            let report = guest.traffic(&format!("{order} to={HOST4}:{PORT} bytes={bytes}"))?;
            let seconds = report["seconds"].as_f64();
            let seconds = seconds.ok_or_else(|| failure("no time in the report"))?;
            // The bucket is full at the start.
            Ok((bytes as f64 - burst) * 8.0 / seconds / bits)
        };
        let mut ratios = Vec::new();
        for _ in 0..TRIES {
            // Wait until the bucket is full again.
            thread::sleep(Duration::from_millis(200));
            let ratio = measure()?;
            assert!(ratio <= 1.05, "{order}: {ratio} of the rate");
            ratios.push(ratio);
            if ratio >= 0.95 {
                break;
            }
        }
        assert!(ratios.last() >= Some(&0.95), "{order}: {ratios:?} of the rate");
    }
    let counters = hawser.counters()?;
    assert!(counters.get("tx_throttled") > 0 && counters.get("rx_throttled") > 0);
    hawser.assert_alive()
}

/// Captures frames of the guest on trunk 10,20-30, which must have the tags of these VLANs only.
fn assert_trunked(listener: &Sniffer, hawser: &mut Hawser, guest: &Guest, mac: &str) -> Result<()> {
    const STRANGER: &str = "52:54:00:00:00:99";
    let digits = |mac: &str| mac.replace(':', "");
    for vlan in [10u16, 25, 31, 40] {
        let rest = "5a".repeat(46);
        let frame = format!("{}{}8100{vlan:04x}88b5{rest}", digits(STRANGER), digits(mac));
        guest.traffic(&format!("frame on=eth0 bytes={frame}"))?;
    }
    let counters = hawser.wait_for_counters("frames of other VLANs", |c| c.dropped("vlan_not_member") >= 2)?;
    assert_eq!(counters.dropped("vlan_not_member"), 2);
    listener.wait_for(1, &format!("ether dst {STRANGER} and vlan 25"))?;
    let mut seen = listener.seen(&format!("ether dst {STRANGER}"))?;
    // tcpdump shows the bytes of unknown protocols on separate lines.
    seen.retain(|line| line.contains(STRANGER));
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].contains("vlan 10,") && seen[1].contains("vlan 25,"), "{seen:?}");
    Ok(())
}

#[test]
fn guests_meet_in_their_vlan_whose_tags_only_the_wire_sees() -> Result<()> {
    const PEER: &str = "192.0.2.6";
    const PEER_MAC: &str = "52:54:00:12:34:57";
    let segment = Segment::new(1500)?;
    let listener = segment.listen("ear")?;
    segment.add_tap("tap0", "")?;
    segment.add_tap("tap1", "")?;
    let mac = [MAC, PEER_MAC].map(|mac| format!("--mac={mac}"));
    let mut access = segment.hawser("access", &["--tap=tap0", &mac[0], "--vlan=100"])?;
    let trunk = ["--tap=tap1", &mac[1], "--vlan-trunk=10,20-30", "--native-vlan=100"];
    let mut trunk = segment.hawser("trunk", &trunk)?;
    let guest = segment.guest(Kind::Uml, &access)?;
    let peer = segment.guest(Kind::Uml, &trunk)?;
    guest.sh(&format!("ip addr add {OWN}/24 dev eth0"))?;
    peer.sh(&format!("ip addr add {PEER}/24 dev eth0"))?;
    // Tagged 64 KiB segments are transferred in both directions.
    let _server = peer.serve(&format!("{PEER}:{PORT}"))?;
    guest.traffic(&format!("send to={PEER}:{PORT} bytes=20000000"))?;
    guest.traffic(&format!("receive to={PEER}:{PORT} bytes=20000000"))?;
    // The host is in no VLAN, so it receives the request and does not answer.
    let output = guest.run(&format!("ping -c 1 -W 1 {HOST4}"))?;
    assert_ne!(output.status, Some(0), "the host is not in VLAN 100");
    listener.wait_for(1, &format!("ether src {MAC} and vlan 100 and arp dst host {HOST4}"))?;
    let mut untagged = listener.seen(&format!("ether src {MAC}"))?;
    untagged.retain(|line| line.contains(MAC) && !line.contains(" vlan 100,"));
    assert_eq!(untagged, [""; 0], "frames of the guest on the wire without its tag");
    // Untagged frames of the host are for neither guest.
    segment
        .host
        .run(&format!("ip neigh replace {OWN} lladdr {MAC} dev {BRIDGE}"))?;
    segment
        .host
        .inside(|| std::net::UdpSocket::bind((HOST4, 0))?.send_to(b"untagged", (OWN, 9)))??;
    access.wait_for_counters("the untagged datagram", |c| c.dropped("vlan_other") > 0)?;
    assert_trunked(&listener, &mut trunk, &peer, PEER_MAC)?;
    access.assert_alive()?;
    trunk.assert_alive()
}
