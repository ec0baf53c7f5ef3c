//! Tests of the gateway of a network's guest.

use super::*;
use crate::config::{Families, Forward, Transport};
use crate::masquerade::forwards;
use crate::mode::ForwardChange;
use crate::packet::{EtherType, EthernetHeader, Head, Ipv4Header, UdpHeader, protocol};
use std::net::TcpStream;

/// A DNS query for the address of a name, sent to the gateway by the guest with MAC [`FROM`].
fn question(name: &str) -> OwnedFrame {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.push(u8::try_from(name.len()).unwrap());
    query.extend(name.bytes());
    query.extend([0, 0, 1, 0, 1]);
    let mut frame = vec![0; 42];
    EthernetHeader {
        dst: MacAddr([0x0a, 0x58, 192, 0, 2, 254]),
        src: FROM,
        ethertype: EtherType::Ipv4,
    }
    .emit(&mut frame);
    Ipv4Header {
        src: Ipv4Addr::new(192, 0, 2, 9),
        dst: Ipv4Addr::new(192, 0, 2, 254),
        protocol: protocol::UDP,
        ttl: 64,
        tos: 0,
        dont_fragment: true,
        fragment: None,
        header_len: Ipv4Header::LEN,
        payload_len: UdpHeader::LEN + query.len(),
    }
    .emit(&mut frame[14..]);
    UdpHeader {
        src_port: 4000,
        dst_port: 53,
        payload_len: query.len(),
    }
    .emit(&mut frame[34..], 0);
    frame.extend(query);
    OwnedFrame::new(frame)
}

/// The transport protocol of the only frame that the guest received, and the last four bytes of that frame.
fn answer(station: &mut Station) -> (u8, [u8; 4]) {
    let frames = station.sink.take();
    assert_eq!(frames.len(), 1, "{frames:?}");
    let bytes = &frames[0].bytes;
    let transport = Head::parse(bytes, bytes.len()).transport().unwrap();
    (transport.protocol, *bytes.last_chunk().unwrap())
}

#[test]
fn the_gateway_answers_for_the_names_of_the_peers_as_they_are_now() {
    let (a, b) = (vtep(2), vtep(3));
    let named = |name: &str, address| PeerConfig {
        name: Some(name.into()),
        ..peer(b, TO, address)
    };
    let mut first = Station::new(VNI, a, FROM, vec![named("Db", [192, 0, 2, 1])]);
    first.send(&[question("db")]);
    assert_eq!(answer(&mut first), (protocol::UDP, [192, 0, 2, 1]));
    // Without a name server behind the gateway, queries for other names find a closed port.
    first.send(&[question("web")]);
    assert_eq!(answer(&mut first).0, protocol::ICMP);
    let (table, _) = Table::new(Vni::new(VNI).unwrap(), a, &[named("web", [192, 0, 2, 5])]);
    let command = ModeCommand::Peers(Arc::new(table));
    first
        .mode
        .on_command(Instant::from_nanos(1), command, &mut first.sink)
        .unwrap();
    first.send(&[question("web")]);
    assert_eq!(answer(&mut first), (protocol::UDP, [192, 0, 2, 5]));
    first.send(&[question("db")]);
    assert_eq!(answer(&mut first).0, protocol::ICMP);
}

#[test]
fn forwards_listen_on_while_they_are_handed_over() {
    let (mut first, _second) = pair();
    let port = std::net::TcpListener::bind("127.0.0.5:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let forward = Forward {
        transport: Transport::Tcp,
        bind: Some(IpAddr::from([127, 0, 0, 5])),
        host_port: port,
        guest_port: 80,
        count: NonZeroU16::MIN,
    };
    let families = Families {
        ipv4: true,
        ipv6: false,
    };
    let bound = forwards::bind(&forward, families).unwrap();
    let command = ModeCommand::Forwards(ForwardChange::Add(bound));
    first
        .mode
        .on_command(Instant::from_nanos(1), command, &mut first.sink)
        .unwrap();
    let released = first.mode.release_listeners();
    drop(first);
    let addresses: Vec<_> = released.iter().flat_map(BoundForward::addresses).collect();
    assert_eq!(addresses, [SocketAddr::from(([127, 0, 0, 5], port))]);
    TcpStream::connect(addresses[0]).unwrap();
    drop(released);
    let refused = TcpStream::connect(addresses[0]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}
