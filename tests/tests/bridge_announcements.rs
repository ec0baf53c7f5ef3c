//! Tests of what a segment learns when a guest arrives on it. A hand-made front end stands for QEMU.

use hawser_testkit::Result;
use hawser_testkit::frontend::{Vmm, VmmConfig, code};
use hawser_testkit::segment::Segment;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const RARP: &str = "ether src 52:54:00:12:34:56 and ether proto 0x8035";
const ARP: &str = "ether src 52:54:00:12:34:56 and arp and src host 192.0.2.11";

/// The guest's announcement of its own address.
fn gratuitous_arp() -> Vec<u8> {
    let address = [192, 0, 2, 11];
    let head = [&[0xff; 6][..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    let mut frame = [&head[..], &MAC, &address, &[0; 6], &address].concat();
    frame.resize(60, 0);
    frame
}

#[test]
fn a_guest_that_came_from_elsewhere_is_announced_on_its_segment_at_once() -> Result<()> {
    let segment = Segment::new(1500)?;
    segment.add_tap("tap0", "")?;
    let wire = segment.listen("ear")?;
    let options = ["--tap=tap0", "--mac=52:54:00:12:34:56"];
    let mut hawser = segment.hawser("vm", &options)?;
    let mut vmm = Vmm::connect(UnixStream::connect(hawser.socket())?, VmmConfig::default())?;
    vmm.post_all()?;
    vmm.nics[0].send(&gratuitous_arp())?;
    wire.wait_for(1, ARP)?;
    assert_eq!(wire.seen(RARP)?.len(), 0, "a guest that starts is not announced");
    // QEMU asks for it, and hawser knows an address by now.
    vmm.wire.tell(code::SEND_RARP, &[&MAC[..], &[0, 0]].concat(), &[])?;
    wire.wait_for(1, RARP)?;
    wire.wait_for(2, ARP)?;

    // A frame to the guest moves its receive ring on, so that the ring shows where it was stopped.
    segment
        .host
        .inside(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"", "192.0.2.250:9"))??;
    let frame = vmm.nics[0].recv(Duration::from_secs(10))?;
    assert!(frame.is_some(), "an ARP request");
    hawser.process().kill();
    let mut hawser = segment.hawser("vm", &options)?;
    vmm.reconnect(UnixStream::connect(hawser.socket())?)?;
    wire.wait_for(2, RARP)?;
    hawser.assert_alive()
}
