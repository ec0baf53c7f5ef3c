//! Guests on a Linux bridge, through TAP devices.

use hawser_testkit::guest::{Guest, Kind};
use hawser_testkit::segment::{HOST4, PORT, Segment};
use hawser_testkit::{Result, peers};

const MAC: &str = "52:54:00:12:34:56";

/// Transfers of which every byte is checked, to the host and from it.
fn assert_transfers(guest: &Guest, bytes: u64) -> Result<()> {
    guest.traffic(&format!("send to={HOST4}:{PORT} bytes={bytes}"))?;
    guest.traffic(&format!("receive to={HOST4}:{PORT} bytes={bytes}"))?;
    Ok(())
}

#[test]
fn a_guest_gets_its_address_from_a_dhcp_server_on_the_segment_and_moves_bytes_both_ways() -> Result<()> {
    for kind in [Kind::Uml, Kind::Qemu] {
        let mut segment = Segment::new(1500)?;
        segment.serve_dhcp()?;
        segment.serve()?;
        segment.add_tap("tap0", "")?;
        let mut hawser = segment.hawser("vm", &["--tap=tap0", &format!("--mac={MAC}")])?;
        let guest = segment.guest(kind, &hawser)?;
        guest.sh("net-up 4")?;
        assert!(guest.sh("cat /run/dhcp4")?.contains(&format!("serverid={HOST4}")));
        guest.sh(&format!("ping -c 2 -W 2 -s 1472 {HOST4}"))?;
        assert_transfers(&guest, 50_000_000)?;
        let address = guest.sh("ip -4 -o addr show dev eth0")?;
        let address = address.split_whitespace().nth(3).unwrap_or_default();
        let address = address.split('/').next().unwrap_or_default();
        let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
        peers::traffic(&segment.host, &format!("send to={address}:{PORT} bytes=50000000"))?;
        let neighbours = segment.host.run(&format!("ip neigh show {address}"))?;
        assert!(
            neighbours.contains(MAC),
            "the segment sees the guest's own MAC: {neighbours}"
        );
        hawser.assert_alive()?;
    }
    Ok(())
}
