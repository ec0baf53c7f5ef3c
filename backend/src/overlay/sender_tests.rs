//! Tests of batches, their limits, and refusals of the kernel.

use super::*;
use std::net::UdpSocket;
use std::time::Duration;

fn receiver() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn sender() -> Sender {
    let local = "127.0.0.1:0".parse().unwrap();
    Sender::new(local, Arc::new(Peers::none(local)), Arc::default()).unwrap()
}

fn to(receiver: &UdpSocket, hash: u32) -> Destination {
    Destination {
        to: receiver.local_addr().unwrap(),
        hash,
        class: 0,
    }
}

fn receive(receiver: &UdpSocket) -> Vec<u8> {
    let mut bytes = [0; 4096];
    let n = receiver.recv(&mut bytes).unwrap();
    bytes[..n].to_vec()
}

#[test]
fn datagrams_of_one_size_share_a_batch_and_arrive_in_order() {
    let receiver = receiver();
    let mut sender = sender();
    let sizes = [100, 100, 100, 40, 100, 7, 200, 200];
    for (i, size) in sizes.into_iter().enumerate() {
        sender.datagram(to(&receiver, 1), size).fill(u8::try_from(i).unwrap());
    }
    sender.flush();
    for (i, size) in sizes.into_iter().enumerate() {
        assert_eq!(receive(&receiver), vec![u8::try_from(i).unwrap(); size]);
    }
    assert_eq!(sender.counters.count(Count::TunnelSent), 8);
}

#[test]
fn more_destinations_than_batches_lose_nothing() {
    let receivers: Vec<_> = (0..BATCHES + 3).map(|_| receiver()).collect();
    let mut sender = sender();
    for round in 0..3 {
        for receiver in &receivers {
            sender.datagram(to(receiver, 7), 10).fill(round);
        }
    }
    sender.flush();
    for receiver in &receivers {
        for round in 0..3 {
            assert_eq!(receive(receiver), [round; 10]);
        }
    }
}

#[test]
fn a_route_that_does_not_cut_gets_datagrams_one_by_one() {
    let receiver = receiver();
    let mut sender = sender();
    sender.set_usual(Limit::UNCUT);
    for i in 0..5 {
        sender.datagram(to(&receiver, 1), 30).fill(i);
    }
    sender.flush();
    for i in 0..5 {
        assert_eq!(receive(&receiver), [i; 30]);
    }
}

#[test]
fn a_refusal_to_cut_lowers_what_the_route_gets_by_its_reason() {
    let error = io::Error::from_raw_os_error;
    let halved = Limit {
        datagrams: 5,
        ..Limit::CUT
    };
    let even = Limit {
        short_tail: false,
        ..Limit::CUT
    };
    for (errno, len, expected) in [
        (libc::EIO, 1000, Some((Limit::UNCUT, Count::TunnelCutIo))),
        (libc::EINVAL, 1000, Some((Limit::UNCUT, Count::TunnelCutInvalid))),
        (libc::EINVAL, 1001, Some((even, Count::TunnelCutInvalid))),
        (libc::EMSGSIZE, 1000, Some((halved, Count::TunnelCutTooLarge))),
        (libc::EMSGSIZE, 100, None),
        (libc::EINVAL, 60, None),
        (libc::ENOBUFS, 1000, None),
    ] {
        assert_eq!(
            Limit::CUT.after(&error(errno), len, 100),
            expected,
            "{errno}, {len} bytes"
        );
    }
    assert_eq!(even.after(&error(libc::EINVAL), 1000, 100).unwrap().0, Limit::UNCUT);
    assert_eq!([1001, 100, 99].map(|rest| even.message(rest, 100)), [1000, 100, 99]);
    assert_eq!([1001, 400].map(|rest| halved.message(rest, 100)), [500, 400]);
}

/// The loopback refuses messages longer than one packet, split or not. The sender finds out how many bytes it accepts.
#[test]
fn no_datagram_of_a_batch_is_lost_when_the_kernel_refuses_it() {
    let receiver = receiver();
    let mut sender = sender();
    for i in 0..10 {
        sender.datagram(to(&receiver, 1), 1100).fill(i);
    }
    // 64 datagrams are longer than one packet. The kernel refuses them, as a route may refuse fewer.
    sender.open[0].bytes.resize(77_000, 9);
    sender.open[0].bytes[11_000..].fill(9);
    sender.open[0].len = 77_000;
    sender.flush();
    for i in 0..70 {
        assert_eq!(receive(&receiver), vec![i.min(9); 1100], "datagram {i}");
    }
    let counters = Arc::clone(&sender.counters);
    assert_eq!(counters.count(Count::TunnelSent), 70);
    let refused = [Count::TunnelCutTooLarge, Count::TunnelCutInvalid].map(|count| counters.count(count));
    assert!(refused.iter().sum::<u64>() > 0);
    assert_eq!(counters.level(Gauge::TunnelLimitedPeers), 1);
    sender.forget_limits();
    assert_eq!(sender.counters.level(Gauge::TunnelLimitedPeers), 0);
    assert_eq!(sender.take_too_big(), None);
}

#[test]
fn a_datagram_above_the_path_is_dropped_and_its_endpoint_known() {
    let receiver = receiver();
    let mut sender = sender();
    let at = receiver.local_addr().unwrap();
    sender.datagram(to(&receiver, 1), MAX_PAYLOAD).fill(1);
    sender.open[0].bytes.resize(66_000, 1);
    (sender.open[0].len, sender.open[0].size) = (66_000, 66_000);
    sender.flush();
    assert_eq!((sender.take_too_big(), sender.take_too_big()), (Some(at), None));
    assert_eq!(sender.counters.dropped(DropReason::TunnelTooBig), 1);
    assert_eq!(sender.counters.level(Gauge::TunnelLimitedPeers), 0);
}

#[test]
fn flows_leave_from_several_ports() {
    let receiver = receiver();
    let mut sender = sender();
    let mut ports = HashSet::new();
    for hash in 0..64 {
        sender.datagram(to(&receiver, hash), 1).fill(0);
        sender.flush();
        let mut byte = [0];
        ports.insert(receiver.recv_from(&mut byte).unwrap().1.port());
    }
    assert_eq!(ports.len(), SOCKETS);
}
