//! Tests of the frames that services handle, the frames that are dropped, and their counters.

use crate::config::{
    Forward, GATEWAY_MAC, Ipv6Link, MasqueradeConfig, ModeConfig, Neighbourhood, PaceConfig, PolicyConfig, PortConfig,
    Transport,
};
use crate::counters::{Count, Counters, DropReason};
use crate::frame::testing::{OwnedFrame, TestSink};
use crate::masquerade::{Masquerade, MasqueradeSetup};
use crate::mode::{Mode, Origin};
use crate::nat::steering::Directory;
use crate::packet::{EtherType, EthernetHeader, Headers, IcmpHeader, MacAddr, UdpHeader, icmp, protocol};
use crate::poller::{EventBuffer, Poller, Readiness, Token};
use crate::responder::MAX_FRAME;
use crate::responder::testing::{self, GUEST_MAC, check_reply, frame, icmp_message, ip, udp};
use crate::sys::netns::enter_fresh;
use crate::time::Instant;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1));
const NOW: Instant = Instant::from_nanos(1);

struct Bench {
    mode: Masquerade,
    poller: Poller,
    counters: Arc<Counters>,
    sink: TestSink,
}

impl Bench {
    fn new() -> Self {
        Self::worker(0, None)
    }

    fn worker(worker: usize, directory: Option<Arc<Directory>>) -> Self {
        Self::on("fd10:0:2::/120", worker, directory)
    }

    /// Creates a worker of a guest whose IPv6 network is `network`.
    fn on(network: &str, worker: usize, directory: Option<Arc<Directory>>) -> Self {
        Self::forwarding(vec![], network, worker, directory)
    }

    fn forwarding(forwards: Vec<Forward>, network: &str, worker: usize, directory: Option<Arc<Directory>>) -> Self {
        let mut services = testing::config();
        let network = network.parse().expect("a network");
        services.ipv6 = services.ipv6.map(|link| Ipv6Link { network, ..link });
        let masquerade = MasqueradeConfig {
            ipv4: services.ipv4,
            ipv6: services.ipv6,
            names: services.names,
            forwards,
            every_port: None,
            map_host_loopback: ["10.0.2.9", "fd10:0:2::9"]
                .map(|a| a.parse().expect("an address"))
                .into(),
            dns_forward: vec![],
            neighbourhood: Neighbourhood::Private,
        };
        let port = PortConfig {
            name: "test".to_owned(),
            mac: None,
            mtu: 9000,
            queue_pairs: NonZeroU16::MIN,
            pace: PaceConfig::default(),
            policy: PolicyConfig::default(),
            mode: ModeConfig::Masquerade(masquerade.clone()),
        };
        let counters = Arc::new(Counters::default());
        let poller = Poller::new().expect("a poller");
        let setup = MasqueradeSetup {
            port: &port,
            mode: &masquerade,
            poller: poller.clone(),
            counters: Arc::clone(&counters),
            worker,
            directory,
            origin: Origin::New,
            held: Arc::default(),
            flow_limit: 16,
        };
        Self {
            mode: Masquerade::new(setup).expect("a mode without sockets"),
            poller,
            counters,
            sink: TestSink::default(),
        }
    }

    /// Sends one frame and returns the answers.
    fn send(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let (mode, sink) = (&mut self.mode, &mut self.sink);
        OwnedFrame::new(bytes).with(|frame| mode.on_burst(NOW, &[*frame], sink));
        self.sink.take().into_iter().map(|d| d.bytes).collect()
    }

    /// Waits for socket events and returns the frames for the guest.
    fn await_frames(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = EventBuffer::with_capacity(16);
        let started = std::time::Instant::now();
        while self.sink.frames.is_empty() && started.elapsed() < Duration::from_secs(5) {
            let mut events = Vec::new();
            let wait = Some(Duration::from_millis(100));
            let poller = &self.poller;
            poller
                .wait(&mut buffer, wait, |token, ready| events.push((token, ready)))
                .expect("epoll");
            for (token, ready) in events {
                self.mode.on_event(NOW, token, ready, &mut self.sink);
            }
        }
        self.sink.take().into_iter().map(|d| d.bytes).collect()
    }

    /// Asserts that a frame is dropped and counted once, under this reason.
    #[track_caller]
    fn dropped(&mut self, bytes: Vec<u8>, reason: DropReason) {
        let count = |c: &Counters| DropReason::ALL.iter().map(|r| c.dropped(*r)).collect::<Vec<_>>();
        let before = count(&self.counters);
        assert_eq!(self.send(bytes), Vec::<Vec<u8>>::new());
        let after = count(&self.counters);
        let moved: Vec<_> = DropReason::ALL
            .iter()
            .zip(before.iter().zip(&after))
            .filter(|(_, (b, a))| b != a)
            .collect();
        assert_eq!(moved.len(), 1, "{moved:?}");
        assert_eq!((*moved[0].0, moved[0].1.1 - moved[0].1.0), (reason, 1));
    }
}

#[test]
fn every_service_answers_through_the_mode() {
    let mut bench = Bench::new();
    for (name, request) in testing::requests() {
        let replies = bench.send(request);
        assert_eq!(replies.len(), 1, "{name}");
        assert_eq!(replies[0][6..12], GATEWAY_MAC.0, "{name}");
        check_reply(&replies[0]);
    }
    let dropped: u64 = DropReason::ALL.iter().map(|r| bench.counters.dropped(*r)).sum();
    assert_eq!(dropped, 0);
    assert_eq!(bench.counters.count(Count::Dhcp4Leases), 2);
    assert_eq!(bench.counters.count(Count::Dhcp6Leases), 4);
}

#[test]
fn services_answer_what_was_classified_whatever_the_guest_writes_meanwhile() {
    let (mut still, mut moving) = (Bench::new(), Bench::new());
    for (name, request) in testing::requests() {
        let expected = still.send(request.clone());
        let (mode, sink) = (&mut moving.mode, &mut moving.sink);
        OwnedFrame::new(request).with_head_overwritten(|frame| mode.on_burst(NOW, &[*frame], sink));
        let got: Vec<_> = moving.sink.take().into_iter().map(|d| d.bytes).collect();
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn a_link_that_comes_up_gets_router_advertisements_at_once_and_periodically() {
    let mut bench = Bench::new();
    assert_eq!(bench.mode.deadline(), None, "nothing to do without a guest");
    bench.mode.on_link_up(NOW, &mut bench.sink);
    let sent = bench.sink.take();
    let (last, announced) = sent.split_last().expect("an advertisement");
    check_reply(&last.bytes);
    // The gateway's MAC is announced some more times.
    for _ in 0..3 {
        let due = bench.mode.deadline().expect("the next announcement");
        bench.mode.on_timer(due, &mut bench.sink);
        assert_eq!(bench.sink.take(), announced);
    }
    let due = bench.mode.deadline().expect("the next advertisement");
    bench.mode.on_timer(due, &mut bench.sink);
    assert_eq!(&bench.sink.take()[..], std::slice::from_ref(last));
    bench.mode.on_link_down(due);
    assert_eq!(bench.mode.deadline(), None);
}

#[test]
fn a_ping_of_the_gateway_is_answered_whatever_its_length() {
    let mut bench = Bench::new();
    for len in [0, 1, MAX_FRAME - 42, MAX_FRAME - 41, 8900] {
        let request = IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 1, 2);
        let body: Vec<u8> = (0..=255).cycle().take(len).collect();
        let replies = bench.send(icmp_message(GUEST, GATEWAY, request, &body));
        assert_eq!(replies.len(), 1, "{len} bytes");
        check_reply(&replies[0]);
        assert_eq!(replies[0][42..], body);
    }
}

#[test]
fn the_noise_of_a_guest_is_counted_as_multicast() {
    let mut bench = Bench::new();
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    for (src, dst, port) in [
        ("10.0.2.2", "224.0.0.251", 5353),
        ("10.0.2.2", "224.0.0.252", 5355),
        ("10.0.2.2", "239.255.255.250", 1900),
        ("10.0.2.2", "255.255.255.255", 9),
        ("10.0.2.2", "10.0.2.255", 137),
        ("fe80::1", "ff02::fb", 5353),
        ("fe80::1", "ff02::1:3", 5355),
    ] {
        bench.dropped(
            udp(address(src), address(dst), (port, port), b"?"),
            DropReason::Multicast,
        );
    }
    bench.dropped(ip(GUEST, address("224.0.0.22"), 2, &[0x22; 8]), DropReason::Multicast);
}

#[test]
fn a_frame_without_a_receiver_is_dropped_under_its_reason() {
    let mut bench = Bench::new();
    let other = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));
    let world = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let request = IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 1, 2);
    bench.dropped(icmp_message(other, world, request, b""), DropReason::SpoofedAddress);
    bench.dropped(
        frame(GATEWAY_MAC, EtherType::Other(0x88cc), &[0; 46]),
        DropReason::UnknownEtherType,
    );
    bench.dropped(frame(GATEWAY_MAC, EtherType::Ipv4, &[0x65; 46]), DropReason::BadVersion);
    bench.dropped(
        frame(MacAddr::BROADCAST, EtherType::Arp, &[0; 46]),
        DropReason::BadService,
    );
    bench.dropped(
        testing::arp(1, [10, 0, 2, 2], [10, 0, 2, 3]),
        DropReason::NoSuchNeighbour,
    );
    bench.dropped(ip(GUEST, world, protocol::TCP, &[0; 19]), DropReason::Truncated);
    bench.dropped(GUEST_MAC.0.to_vec(), DropReason::Truncated);
}

#[test]
fn every_worker_answers_to_the_mac_one_of_them_has_seen() {
    let directory = Directory::new(2).expect("descriptors");
    let mut first = Bench::worker(0, directory.clone());
    let mut second = Bench::worker(1, directory);
    second.send(testing::arp(1, [10, 0, 2, 2], [10, 0, 2, 1]));
    // The first worker has something to send before it has received a frame from the guest.
    first.mode.on_room(NOW, &mut first.sink);
    assert_eq!(first.mode.engine.link().guest_mac, GUEST_MAC);
}

#[test]
fn icmp_of_one_family_in_packets_of_the_other_is_an_unknown_protocol() {
    let mut bench = Bench::new();
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let echo = |kind: u8| [kind, 0, 0, 0, 0, 1, 0, 1];
    let (guest6, world4, world6) = (address("fd10:0:2::2"), address("192.0.2.1"), address("2001:db8::1"));
    for (n, packet) in [
        ip(GUEST, world4, protocol::ICMPV6, &echo(icmp::v4::ECHO_REQUEST)),
        ip(guest6, world6, protocol::ICMP, &echo(icmp::v6::ECHO_REQUEST)),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(bench.send(packet).len(), 1, "an ICMP error");
        assert_eq!(bench.counters.dropped(DropReason::UnknownProtocol), n as u64 + 1);
    }
    assert_eq!(bench.counters.count(Count::Echos), 0);
}

#[test]
fn only_what_comes_from_the_guests_own_address_tells_its_mac() {
    let with_source = |mut bytes: Vec<u8>, mac: MacAddr| {
        bytes[6..12].copy_from_slice(&mac.0);
        bytes
    };
    let mut bench = Bench::new();
    let (other, world) = (Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(192, 0, 2, 1));
    let stranger = MacAddr([2, 0, 0, 0, 0, 0x77]);
    let spoofed = udp(other.into(), world.into(), (1, 2), b"?");
    bench.dropped(with_source(spoofed.clone(), stranger), DropReason::SpoofedAddress);
    assert_eq!(bench.mode.engine.link().guest_mac, MacAddr::default());
    bench.send(testing::arp(1, [10, 0, 2, 2], [10, 0, 2, 1]));
    assert_eq!(bench.mode.engine.link().guest_mac, GUEST_MAC);
    bench.dropped(with_source(spoofed, stranger), DropReason::SpoofedAddress);
    let multicast = udp(GUEST, Ipv4Addr::new(224, 0, 0, 251).into(), (1, 2), b"?");
    bench.dropped(with_source(multicast, stranger), DropReason::Multicast);
    assert_eq!(bench.mode.engine.link().guest_mac, GUEST_MAC);
    // The guest's NIC was replaced.
    bench.send(with_source(
        icmp_message(GUEST, GATEWAY, IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 1, 2), b""),
        stranger,
    ));
    assert_eq!(bench.mode.engine.link().guest_mac, stranger);
}

/// An ICMP error from the guest about `packet`, a frame that it received.
fn refusal(packet: &[u8], code: u8) -> Vec<u8> {
    let quoted = &packet[EthernetHeader::LEN..];
    let headers = Headers::parse(packet, packet.len()).expect("a sound frame");
    let (peer, guest) = headers.network.addresses().expect("IP");
    let kind = if guest.is_ipv4() {
        icmp::v4::UNREACHABLE
    } else {
        icmp::v6::UNREACHABLE
    };
    let header = IcmpHeader {
        kind,
        code,
        rest: [0; 4],
    };
    icmp_message(guest, peer, header, &quoted[..quoted.len().min(300)])
}

#[test]
fn a_flow_ends_when_the_guest_refuses_a_datagram_of_it() {
    for (guest, mapped, host, code) in [
        ("10.0.2.2", "10.0.2.9", "127.0.0.1", icmp::v4::unreachable::PORT),
        ("fd10:0:2::2", "fd10:0:2::9", "::1", icmp::v6::unreachable::PORT),
    ] {
        let [guest, mapped, host] = [guest, mapped, host].map(|a| a.parse::<IpAddr>().expect("an address"));
        // Worker 1 has the flow, but the error arrives on worker 0's ring.
        let directory = Directory::new(2).expect("descriptors");
        let (mut other, mut bench) = (Bench::worker(0, directory.clone()), Bench::worker(1, directory));
        let server = UdpSocket::bind((host, 0)).expect("a socket");
        let port = server.local_addr().expect("an address").port();
        assert!(bench.send(udp(guest, mapped, (7000, port), b"question")).is_empty());
        assert_eq!(bench.mode.flow_count().udp, 1);
        let answer = udp(mapped, guest, (port, 7000), b"late");
        let about_another = refusal(&udp(mapped, guest, (port, 7001), b"?"), code);
        other.dropped(about_another, DropReason::IcmpNotServed);
        assert!(other.send(refusal(&answer, code)).is_empty());
        bench.mode.on_event(
            NOW,
            Token::new(crate::nat::event_owner::HANDOVER, 0),
            Readiness::default(),
            &mut bench.sink,
        );
        assert_eq!(bench.mode.flow_count().udp, 0);
        assert_eq!(bench.counters.dropped(DropReason::UdpRefused), 1);
    }
}

#[test]
fn too_big_and_odd_errors_of_the_guest_end_nothing() {
    let mut bench = Bench::new();
    let mapped = "10.0.2.9".parse::<IpAddr>().expect("an address");
    let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = server.local_addr().expect("an address").port();
    bench.send(udp(GUEST, mapped, (7000, port), b"question"));
    let answer = udp(mapped, GUEST, (port, 7000), b"late");
    let too_big = refusal(&answer, icmp::v4::unreachable::FRAGMENTATION_NEEDED);
    bench.dropped(too_big, DropReason::IcmpNotServed);
    // The message is truncated at each byte within the quoted headers.
    let mut whole = refusal(&answer, icmp::v4::unreachable::PORT);
    whole.truncate(EthernetHeader::LEN + 20 + IcmpHeader::LEN + 24);
    testing::repair(&mut whole);
    for len in EthernetHeader::LEN + 20 + IcmpHeader::LEN..whole.len() {
        let mut cut = whole[..len].to_vec();
        testing::repair(&mut cut);
        bench.dropped(cut, DropReason::IcmpNotServed);
    }
    assert_eq!(bench.mode.flow_count().udp, 1);
    bench.send(whole);
    assert_eq!(bench.mode.flow_count().udp, 0);
}

#[test]
fn a_guest_with_only_a_link_local_address_gets_beyond_scope_errors() {
    let mut bench = Bench::new();
    let (guest, world) = (
        IpAddr::V6(GUEST_MAC.link_local()),
        "2001:db8::1".parse::<IpAddr>().expect("an address"),
    );
    let asked = udp(guest, world, (7000, 53), b"question");
    let replies = bench.send(asked.clone());
    let headers = Headers::parse(&replies[0], replies[0].len()).expect("a sound frame");
    assert_eq!(
        headers.network.addresses(),
        Some((GATEWAY_MAC.link_local().into(), guest))
    );
    assert_eq!((headers.ethernet.src, headers.ethernet.dst), (GATEWAY_MAC, GUEST_MAC));
    let (_, at, _) = headers.network.transport().expect("ICMPv6");
    let message = &replies[0][at..];
    assert!(icmp::checksum_ok(GATEWAY_MAC.link_local().into(), guest, message));
    let header = IcmpHeader::parse(message).expect("a header");
    assert_eq!(
        (header.kind, header.code),
        (icmp::v6::UNREACHABLE, icmp::v6::unreachable::BEYOND_SCOPE)
    );
    assert_eq!(message[IcmpHeader::LEN..], asked[EthernetHeader::LEN..]);
    // At most ten are sent at once.
    let told = (1..20).filter(|_| !bench.send(asked.clone()).is_empty()).count();
    assert_eq!((told, bench.counters.dropped(DropReason::BeyondScope)), (9, 20));
    // An error does not cause another error, and a neighbour is not beyond the link.
    let mut bench = Bench::new();
    let error = IcmpHeader {
        kind: icmp::v6::TIME_EXCEEDED,
        ..IcmpHeader::default()
    };
    bench.dropped(icmp_message(guest, world, error, &[0; 48]), DropReason::BeyondScope);
    let neighbour = "fe80::77".parse::<IpAddr>().expect("an address");
    bench.dropped(udp(guest, neighbour, (7000, 53), b"?"), DropReason::SpoofedAddress);
}

/// The endpoints and payload of a UDP frame.
fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let headers = Headers::parse(frame, frame.len()).expect("a sound frame");
    let (src, dst) = headers.network.addresses().expect("IP");
    let (_, at, len) = headers.network.transport().expect("UDP");
    let header = UdpHeader::parse(&frame[at..], len, false).expect("a header");
    let payload = frame[at + UdpHeader::LEN..].to_vec();
    (
        SocketAddr::new(src, header.src_port),
        SocketAddr::new(dst, header.dst_port),
        payload,
    )
}

#[test]
fn a_guest_on_64_bits_speaks_from_every_address_it_makes_up() {
    let mapped = "fd10:0:2::9".parse::<IpAddr>().expect("an address");
    let mut bench = Bench::on("fd10:0:2::/64", 0, None);
    let server = UdpSocket::bind("[::1]:0").expect("a socket");
    server
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let port = server.local_addr().expect("an address").port();
    // The guest uses the DHCPv6 lease, a stable address and a temporary address, all with the same port.
    for guest in ["fd10:0:2::2", "fd10:0:2:0:5054:ff:fe12:3456", "fd10:0:2::9b1d:77"] {
        let guest = guest.parse::<IpAddr>().expect("an address");
        assert!(bench.send(udp(guest, mapped, (7000, port), b"who")).is_empty());
        let mut question = [0; 16];
        let (n, from) = server.recv_from(&mut question).expect("a question");
        server.send_to(&question[..n], from).expect("sent");
        let frames = bench.await_frames();
        let want = (
            SocketAddr::new(mapped, port),
            SocketAddr::new(guest, 7000),
            b"who".to_vec(),
        );
        assert_eq!(ends(&frames[0]), want);
    }
    assert_eq!(bench.mode.flow_count().udp, 3);
    for spoofed in ["fd10:0:2::1", "fd10:0:2::", "fd10:0:3::2", "2001:db8::1"] {
        let spoofed = spoofed.parse().expect("an address");
        bench.dropped(udp(spoofed, mapped, (7000, port), b"?"), DropReason::SpoofedAddress);
    }
    // With a prefix that is not 64 bits long, only the DHCPv6 lease is accepted.
    let made_up = "fd10:0:2::77".parse().expect("an address");
    Bench::new().dropped(udp(made_up, mapped, (7000, port), b"?"), DropReason::SpoofedAddress);
}

#[test]
fn clients_reach_a_guest_on_64_bits_at_the_address_it_claimed_or_used_last() {
    let directory = Directory::new(2).expect("descriptors");
    let mut first = Bench::on("fd10:0:2::/64", 0, directory.clone());
    let mut second = Bench::on("fd10:0:2::/64", 1, directory);
    let address = |bench: &mut Bench| {
        bench.mode.on_room(NOW, &mut bench.sink);
        let like = "2001:db8::1".parse().expect("an address");
        bench.mode.engine.link().guest_address(like).map(|a| a.to_string())
    };
    // Every worker uses the DHCPv6 lease until the guest uses another address.
    for bench in [&mut first, &mut second] {
        assert_eq!(address(bench).as_deref(), Some("fd10:0:2::2"));
    }
    let chosen = "fd10:0:2::abcd:1".parse::<Ipv6Addr>().expect("an address");
    let header = IcmpHeader {
        kind: icmp::v6::NEIGHBOUR_SOLICITATION,
        ..IcmpHeader::default()
    };
    let all = "ff02::1:ffcd:1".parse().expect("an address");
    let mut probe = icmp_message(Ipv6Addr::UNSPECIFIED.into(), all, header, &chosen.octets());
    probe[EthernetHeader::LEN + 7] = 255;
    assert!(second.send(probe).is_empty());
    for bench in [&mut second, &mut first] {
        assert_eq!(address(bench).as_deref(), Some("fd10:0:2::abcd:1"));
    }
    let world = "2001:db8::1".parse().expect("an address");
    first.send(udp(
        "fd10:0:2::abcd:2".parse().expect("an address"),
        world,
        (7000, 53),
        b"?",
    ));
    for bench in [&mut first, &mut second] {
        assert_eq!(address(bench).as_deref(), Some("fd10:0:2::abcd:2"));
    }
}

#[test]
fn clients_of_a_forward_that_is_handed_over_reach_the_guest_through_its_new_owner() {
    const HOST_PORT: u16 = 8080;
    const GUEST_PORT: u16 = 80;
    const NETWORK: &str = "fd10:0:2::/120";
    if !enter_fresh() {
        return;
    }
    let forward = |transport| Forward {
        transport,
        bind: Some(Ipv4Addr::LOCALHOST.into()),
        host_port: HOST_PORT,
        guest_port: GUEST_PORT,
        count: NonZeroU16::MIN,
    };
    let forwards = [Transport::Tcp, Transport::Udp].map(forward).into();
    let mut first = Bench::forwarding(forwards, NETWORK, 0, None);
    let saved = first.mode.save(NOW).unwrap();
    first.mode.leave();
    drop(first);
    // No worker serves these clients now, so they wait.
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, HOST_PORT)).unwrap();
    let datagram = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    datagram.send_to(b"?", (Ipv4Addr::LOCALHOST, HOST_PORT)).unwrap();

    let mut second = Bench::new();
    second.mode.load(NOW, saved, &mut second.sink).unwrap();
    let mut ports = Vec::new();
    while ports.len() < 2 {
        let frames = second.await_frames();
        assert!(!frames.is_empty(), "{ports:?}");
        // The ports follow an Ethernet header and an IPv4 header without options.
        ports.extend(frames.iter().map(|frame| u16::from_be_bytes([frame[36], frame[37]])));
    }
    assert_eq!(ports, [GUEST_PORT; 2]);
    drop(stream);
    let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, HOST_PORT));
    connected.unwrap();
    drop(second);
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, HOST_PORT)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
