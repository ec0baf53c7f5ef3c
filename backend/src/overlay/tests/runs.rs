//! Tests of datagrams that the kernel delivers as one message.

use super::*;
use crate::frame::GuestSlice;
use crate::sys::send_batch::SendBatch;
use socket2::{Domain, Socket, Type};

/// Sends datagrams of one size in one call, which arrive as one message.
fn send_as_one(to: SocketAddr, datagrams: &[Vec<u8>]) {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let from: SocketAddr = "127.0.0.2:0".parse().unwrap();
    socket.bind(&from.into()).unwrap();
    let bytes = datagrams.concat();
    let mut messages = SendBatch::default();
    let mut out = messages.start();
    let size = u16::try_from(datagrams[0].len()).unwrap();
    out.push(Some(size), |gather| gather.push(GuestSlice::from_bytes(&bytes)));
    out.address(to);
    assert_eq!(out.transmit(&socket, 0).unwrap(), 1);
}

/// A remembered header admits only datagrams with an identical header: each datagram of a message is checked.
#[test]
fn each_datagram_of_a_run_is_admitted_on_its_own() {
    let (a, b) = (vtep(2), vtep(3));
    let mut second = Station::new(VNI, b, TO, vec![peer(a, FROM, [192, 0, 2, 9])]);
    let good = |number: u8| {
        let mut udp = Udp::new(&[number; 40]);
        udp.partial = false;
        udp.bytes()
    };
    let mut spoofed = good(2);
    spoofed[11] ^= 0x40;
    let mut critical = tunnelled(VNI, &good(3)[4..]);
    critical[..2].copy_from_slice(&[1, 0x40]);
    critical.splice(8..8, [0x01, 0x02, 0x80, 0]);
    let run = [
        tunnelled(VNI, &good(0)),
        tunnelled(VNI, &good(1)),
        tunnelled(VNI, &spoofed),
        tunnelled(VNI + 1, &good(4)),
        critical,
        tunnelled(VNI, &good(5)),
    ];
    send_as_one(b, &run);
    second.sink.caps = GuestCaps::default();
    let frames = second.until(|station| station.sink.frames.len() == 3);
    let bytes: Vec<_> = frames.into_iter().map(|frame| frame.bytes).collect();
    assert_eq!(bytes, [0, 1, 5].map(good));
    for reason in [
        DropReason::TunnelUnknownMac,
        DropReason::TunnelOtherNetwork,
        DropReason::TunnelOption,
    ] {
        assert_eq!(second.counters.dropped(reason), 1, "{reason}");
    }
    assert_eq!(second.counters.count(Count::TunnelReceived), 6);
}
