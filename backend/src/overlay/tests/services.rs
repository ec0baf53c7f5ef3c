//! Tests of Services of the cluster, as guests reach them through the gateway.

use super::*;
use crate::balance::ServiceTable;
use crate::config::{Ipv6Link, ServicePort, Transport};
use crate::packet::{EthernetHeader, Head, TcpFlags, be16, protocol};

const GATEWAY: MacAddr = MacAddr([0x0a, 0x58, 192, 0, 2, 254]);
/// The virtual addresses of the only Service.
const VIRTUAL: [&str; 2] = ["10.96.0.10:80", "[fd00:96::a]:80"];

/// The address of the guest with this MAC.
fn address(v6: bool, mac: MacAddr) -> IpAddr {
    let last = mac.0[5];
    if v6 {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()])
    } else {
        IpAddr::from([192, 0, 2, last])
    }
}

fn service(transport: Transport, endpoints: &[SocketAddr]) -> ServicePort {
    ServicePort {
        addresses: VIRTUAL.map(|at| at.parse::<SocketAddr>().unwrap().ip()).to_vec(),
        transport,
        port: 80,
        endpoints: endpoints.to_vec(),
        affinity_secs: None,
    }
}

/// A process in a network of both families, with Services for TCP and UDP that lead to port 8080 of the guests.
fn station(vtep: SocketAddr, mac: MacAddr, peers: Vec<PeerConfig>, endpoints: &[MacAddr]) -> Station {
    let IpAddr::V6(guest6) = address(true, mac) else {
        panic!()
    };
    let endpoints: Vec<SocketAddr> = endpoints
        .iter()
        .flat_map(|mac| [false, true].map(|v6| SocketAddr::new(address(v6, *mac), 8080)))
        .collect();
    let primary = PrimaryNetwork {
        ipv4: Some(Ipv4Link {
            network: "192.0.2.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(192, 0, 2, 254),
            guest: Ipv4Addr::new(192, 0, 2, mac.0[5]),
        }),
        ipv6: Some(Ipv6Link {
            network: "2001:db8::/64".parse().unwrap(),
            gateway: "2001:db8::fe".parse().unwrap(),
            guest: guest6,
        }),
        dns_forward: Vec::new(),
        forwards: Vec::new(),
        services: vec![service(Transport::Tcp, &endpoints), service(Transport::Udp, &endpoints)],
    };
    Station::with_role(NetworkRole::Primary(primary), VNI, vtep, mac, peers)
}

fn both(vtep: SocketAddr, mac: MacAddr, frames: bool) -> PeerConfig {
    PeerConfig {
        addresses: vec![address(false, mac), address(true, mac)],
        knows_frame_option: frames,
        ..peer(vtep, mac, [0; 4])
    }
}

/// Two processes, with a Service that leads to the guest of the second one.
fn two(frames: bool) -> (Station, Station) {
    let (a, b) = (vtep(2), vtep(3));
    (
        station(a, FROM, vec![both(b, TO, frames)], &[TO]),
        station(b, TO, vec![both(a, FROM, frames)], &[]),
    )
}

/// A TCP frame with these ends, and its offload if it is split every `mss` bytes.
fn segment(
    [to, from]: [MacAddr; 2],
    [src, dst]: [SocketAddr; 2],
    flags: TcpFlags,
    payload: usize,
    mss: Option<u16>,
) -> OwnedFrame {
    let tcp = Tcp {
        v6: src.is_ipv6(),
        payload,
        ..Tcp::default()
    };
    let mut bytes = tcp.frame();
    bytes[..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&from.0);
    let (at, width) = if src.is_ipv6() { (22, 16) } else { (26, 4) };
    for (n, end) in [src, dst].into_iter().enumerate() {
        let at = at + n * width;
        match end.ip() {
            IpAddr::V4(ip) => bytes[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes[at..at + 16].copy_from_slice(&ip.octets()),
        }
        let port = tcp.l4() + 2 * n;
        bytes[port..port + 2].copy_from_slice(&end.port().to_be_bytes());
    }
    bytes[tcp.l4() + 13] = flags.0;
    let partial = bytes.clone();
    Tcp::seal(&mut bytes);
    match mss {
        None => OwnedFrame::new(bytes),
        Some(mss) => {
            // The field contains the sum over the pseudo-header only.
            let mut frame = partial;
            let at = tcp.l4() + 16;
            frame[at..at + 2].copy_from_slice(&pseudo_sum(&bytes, tcp.l4()));
            frame[24..26].copy_from_slice(&bytes[24..26]);
            OwnedFrame::new(frame).with_offload(tcp.offload(mss))
        }
    }
}

/// The sum over the pseudo-header of a TCP frame with full checksums.
fn pseudo_sum(sealed: &[u8], l4: usize) -> [u8; 2] {
    let head = Head::parse(sealed, sealed.len());
    let (src, dst) = head.addresses(sealed).unwrap();
    let sum = crate::packet::checksum::Sum::default();
    (!sum.pseudo_header(src, dst, protocol::TCP, sealed.len() - l4).finish()).to_be_bytes()
}

/// Source and destination of the packet in a frame.
fn ends(frame: &[u8]) -> [SocketAddr; 2] {
    let head = Head::parse(frame, frame.len());
    let (src, dst) = head.addresses(frame).unwrap();
    let at = head.transport().unwrap().offset;
    [
        SocketAddr::new(src, be16(frame, at)),
        SocketAddr::new(dst, be16(frame, at + 2)),
    ]
}

fn macs(frame: &[u8]) -> [MacAddr; 2] {
    [EthernetHeader::DST, EthernetHeader::SRC].map(|range| MacAddr(frame[range].try_into().unwrap()))
}

/// Checks the checksums of a frame, of which a partial one is the sum of the pseudo-header.
fn assert_sound(frame: &Delivered) {
    let mut sealed = frame.bytes.clone();
    Tcp::seal(&mut sealed);
    if let Checksum::Partial { start, .. } = frame.offload.checksum {
        let l4 = usize::from(start);
        let sum = pseudo_sum(&sealed, l4);
        sealed[l4 + 16..l4 + 18].copy_from_slice(&sum);
    }
    assert!(frame.bytes == sealed, "{} bytes", frame.bytes.len());
}

#[test]
fn a_service_leads_to_a_guest_of_the_network_and_its_replies_come_from_the_service() {
    for (frames, v6, mss) in [
        (false, false, None),
        (false, true, Some(1200)),
        (true, false, Some(1200)),
        (true, true, None),
    ] {
        let (mut first, mut second) = two(frames);
        let service: SocketAddr = VIRTUAL[usize::from(v6)].parse().unwrap();
        let client = SocketAddr::new(address(v6, FROM), 4000);
        let endpoint = SocketAddr::new(address(v6, TO), 8080);
        // Splitting produces complete checksums.
        second.sink.caps = GuestCaps::default();
        first.sink.caps = GuestCaps::default();
        first.send(&[segment([GATEWAY, FROM], [client, service], TcpFlags::SYN, 0, None)]);
        first.send(&[segment(
            [GATEWAY, FROM],
            [client, service],
            TcpFlags::ACK,
            5000,
            mss.or(Some(5000)),
        )]);
        let count = if mss.is_some() { 6 } else { 2 };
        if mss.is_none() {
            // The packet is larger than the MTU.
            assert_eq!(first.counters.dropped(DropReason::TunnelTooBig), 1);
            first.send(&[segment([GATEWAY, FROM], [client, service], TcpFlags::ACK, 1000, None)]);
            first.sink.take();
        }
        let arrived = second.until(|station| station.sink.frames.len() >= count);
        for frame in &arrived {
            assert_eq!(macs(&frame.bytes), [TO, FROM]);
            assert_eq!(ends(&frame.bytes), [client, endpoint]);
            assert_sound(frame);
        }
        second.send(&[segment(
            [FROM, TO],
            [endpoint, client],
            TcpFlags::ACK,
            3000,
            mss.or(Some(1000)),
        )]);
        let answer = first.until(|station| station.sink.frames.len() >= 3);
        for frame in &answer {
            assert_eq!(ends(&frame.bytes), [service, client]);
            assert_sound(frame);
        }
        // A packet of the endpoint to another port of the client belongs to no flow and stays unchanged.
        let other = SocketAddr::new(client.ip(), 4001);
        second.send(&[segment([FROM, TO], [endpoint, other], TcpFlags::ACK, 10, None)]);
        let plain = first.until(|station| !station.sink.frames.is_empty());
        assert_eq!(ends(&plain[0].bytes), [endpoint, other]);
        assert_eq!(first.counters.count(Count::ServiceFlows), 1);
    }
}

#[test]
fn a_guest_that_is_its_own_endpoint_sees_the_gateway_as_its_client() {
    for v6 in [false, true] {
        let mut first = station(vtep(2), FROM, Vec::new(), &[FROM]);
        let service: SocketAddr = VIRTUAL[usize::from(v6)].parse().unwrap();
        let client = SocketAddr::new(address(v6, FROM), 4000);
        let endpoint = SocketAddr::new(address(v6, FROM), 8080);
        let gateway: IpAddr = if v6 { "2001:db8::fe" } else { "192.0.2.254" }.parse().unwrap();
        let gateway = SocketAddr::new(gateway, 4000);
        for (caps, count) in [(GuestCaps::ALL, 1), (GuestCaps::default(), 5)] {
            first.sink.caps = caps;
            first.send(&[segment(
                [GATEWAY, FROM],
                [client, service],
                TcpFlags::SYN,
                5000,
                Some(1000),
            )]);
            let frames = first.sink.take();
            assert_eq!(frames.len(), count);
            for frame in frames {
                assert_eq!(macs(&frame.bytes), [FROM, GATEWAY]);
                assert_eq!(ends(&frame.bytes), [gateway, endpoint]);
            }
            first.send(&[segment([GATEWAY, FROM], [endpoint, gateway], TcpFlags::ACK, 0, None)]);
            let frames = first.sink.take();
            assert_eq!(frames.len(), 1);
            assert_eq!(ends(&frames[0].bytes), [service, client]);
            assert_sound(&frames[0]);
        }
    }
}

#[test]
fn a_service_without_endpoints_refuses_its_clients() {
    // The address of the only endpoint is on the network, but no peer has it.
    let mut first = station(vtep(2), FROM, Vec::new(), &[MacAddr([2, 0, 0, 0, 0, 77])]);
    for at in VIRTUAL {
        let service: SocketAddr = at.parse().unwrap();
        let client = SocketAddr::new(address(service.is_ipv6(), FROM), 4000);
        for port in [80, 81] {
            let to = SocketAddr::new(service.ip(), port);
            first.send(&[segment([GATEWAY, FROM], [client, to], TcpFlags::SYN, 0, None)]);
            let frames = first.sink.take();
            assert_eq!(frames.len(), 1);
            assert_eq!(ends(&frames[0].bytes), [to, client]);
            let tcp = Head::parse(&frames[0].bytes, frames[0].bytes.len())
                .transport()
                .unwrap();
            assert!(TcpFlags(frames[0].bytes[tcp.offset + 13]).has(TcpFlags::RST));
        }
    }
    let mut datagram = Udp {
        partial: false,
        ..Udp::new(&[1; 20])
    }
    .bytes();
    datagram[..6].copy_from_slice(&GATEWAY.0);
    datagram[26..34].copy_from_slice(&[192, 0, 2, 9, 10, 96, 0, 10]);
    datagram[36..38].copy_from_slice(&80_u16.to_be_bytes());
    datagram[40..42].fill(0);
    first.send(&[OwnedFrame::new(datagram)]);
    let frames = first.sink.take();
    let error = &frames[0].bytes;
    assert_eq!(error[23], protocol::ICMP);
    assert_eq!(&error[34..36], &[3, 3], "port unreachable");
}

#[test]
fn services_change_while_running_and_connections_stay() {
    let (a, b, c) = (vtep(2), vtep(3), vtep(4));
    let third = MacAddr([2, 0, 0, 0, 0, 5]);
    let mut first = station(a, FROM, vec![both(b, TO, false), both(c, third, false)], &[TO]);
    let mut second = station(b, TO, vec![both(a, FROM, false)], &[]);
    let mut other = station(c, third, vec![both(a, FROM, false)], &[]);
    let service: SocketAddr = VIRTUAL[0].parse().unwrap();
    let client = |port| SocketAddr::new(address(false, FROM), port);
    let syn = |port| segment([GATEWAY, FROM], [client(port), service], TcpFlags::SYN, 0, None);
    first.send(&[syn(4000)]);
    second.until(|station| station.sink.frames.len() == 1);
    let services = [self::service(
        Transport::Tcp,
        &[SocketAddr::new(address(false, third), 8080)],
    )];
    let command = ModeCommand::Services(Arc::new(ServiceTable::new(&services)));
    let now = Instant::from_nanos(1);
    first.mode.on_command(now, command, &mut first.sink).unwrap();
    let more = segment([GATEWAY, FROM], [client(4000), service], TcpFlags::ACK, 10, None);
    first.send(&[more, syn(4001)]);
    let kept = second.until(|station| !station.sink.frames.is_empty());
    assert_eq!(ends(&kept[0].bytes)[0], client(4000));
    let new = other.until(|station| !station.sink.frames.is_empty());
    assert_eq!(ends(&new[0].bytes)[0], client(4001));
    // After a reset, the same ports belong to a new connection.
    let reset = segment([GATEWAY, FROM], [client(4000), service], TcpFlags::RST, 0, None);
    first.send(&[reset, syn(4000)]);
    second.until(|station| !station.sink.frames.is_empty());
    let new = other.until(|station| !station.sink.frames.is_empty());
    assert_eq!(ends(&new[0].bytes)[0], client(4000));
}
