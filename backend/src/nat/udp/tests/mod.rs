//! Tests with real sockets on loopback: the kernel's behaviour is part of the test.

mod delivery;
mod ends;
mod forwards;
mod outbound;
mod refusals;
mod saved;
mod traffic_class;

use super::*;
use crate::config::{Families, Forward, Transport};
use crate::counters::Count;
use crate::frame::Segmentation;
use crate::nat::test_support::{
    Surroundings, fragment_info, guest, host_seen, icmp_message, ip, parse, udp_datagram, udp_frame, with_burst,
};
use crate::packet::icmp::{v4, v6};
use crate::packet::{EthernetHeader, FlowId, Headers, UdpHeader};
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const BOTH: [&str; 2] = ["127.0.0.1", "::1"];
/// The server of the test network.
pub(super) const SERVER: [&str; 2] = ["198.51.100.2", "fd00:2::2"];

pub(super) struct Bench {
    pub around: Surroundings,
    pub flows: UdpFlows,
}

fn config() -> UdpConfig {
    UdpConfig {
        max_flows: 64,
        families: Families { ipv4: true, ipv6: true },
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(Surroundings::new(), config())
    }

    fn with(around: Surroundings, config: UdpConfig) -> Self {
        Self {
            around,
            flows: UdpFlows::new(config),
        }
    }

    /// Sends the guest's frames in one burst. `segment_size` applies to all of them.
    pub(super) fn send_frames(&mut self, frames: &[Vec<u8>], segment_size: Option<u16>) {
        with_burst(frames, |burst| {
            let datagrams: Vec<_> = burst
                .iter()
                .enumerate()
                .map(|(i, frame)| datagram(i, frame.head, frame.len, segment_size))
                .collect();
            self.flows.on_datagrams(&mut self.around.context(), burst, &datagrams);
        });
    }

    pub(super) fn send(&mut self, src: SocketAddr, dst: SocketAddr, payload: &[u8]) {
        self.send_frames(&[udp_frame(src, dst, 64, payload)], None);
    }

    /// Waits for events and handles them.
    pub(super) fn turn(&mut self) {
        for (token, ready) in self.around.events() {
            self.flows.on_event(&mut self.around.context(), token, ready);
        }
    }

    /// The payloads of the `n` datagrams that the guest receives, with their sources.
    pub(super) fn receive(&mut self, n: usize) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let mut got = Vec::new();
        while got.len() < n {
            self.turn();
            let frames = self.around.sink.take();
            assert!(!frames.is_empty(), "{} of {n} datagrams", got.len());
            got.extend(frames.iter().map(udp_datagram));
        }
        assert_eq!(got.len(), n);
        got
    }

    /// Advances the clock to `then`.
    fn wait_until(&mut self, then: Instant) {
        self.around.now = then;
        self.flows.on_timer(&mut self.around.context());
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.around.counters.dropped(reason)
    }
}

fn datagram(frame: usize, head: &[u8], len: usize, segment_size: Option<u16>) -> Datagram {
    let headers = Headers::parse(head, len).unwrap();
    let (src, dst) = headers.network.addresses().unwrap();
    let (_, at, l4_len) = headers.network.transport().unwrap();
    let udp = UdpHeader::parse(&head[at..], l4_len, segment_size.is_some()).unwrap();
    Datagram {
        frame,
        key: FlowId::udp(SocketAddr::new(src, udp.src_port), SocketAddr::new(dst, udp.dst_port)),
        payload_offset: at + UdpHeader::LEN,
        payload_len: udp.payload_len,
        segment_size,
    }
}

/// A peer on the host's loopback and its port.
fn peer(address: &str) -> (UdpSocket, u16) {
    let socket = UdpSocket::bind(SocketAddr::new(ip(address), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A port of the host that is free in both families and that no other test uses. It is below the range from which the
/// kernel chooses.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = (std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let port = u16::try_from(20_000 + n).unwrap();
        if BOTH.iter().all(|a| UdpSocket::bind((*a, port)).is_ok()) {
            return port;
        }
    }
}

pub(super) fn take(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (n, from) = loop {
        match socket.recv_from(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => break result.unwrap(),
        }
    };
    buffer.truncate(n);
    (buffer, from)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

pub(super) fn forward(host_port: u16, guest_port: u16, bind: Option<IpAddr>) -> Forward {
    Forward {
        transport: Transport::Udp,
        bind,
        host_port,
        guest_port,
        count: 1.try_into().unwrap(),
    }
}

pub(super) fn listening(forwards: &[Forward]) -> Bench {
    let mut bench = Bench::new();
    bench.flows.listen(forwards, &bench.around.poller).unwrap();
    bench
}
