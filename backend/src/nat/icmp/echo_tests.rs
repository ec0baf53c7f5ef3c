//! Tests with real sockets on the loopback, where the kernel answers echo requests.

use super::super::echo_table::{IDLE, MAX_FLOWS, MAX_SOCKETS};
use super::*;
use crate::frame::testing::Delivered;
use crate::nat::test_support::{
    Surroundings, guest, host_seen, icmp_message, ip, mark, packet, parse, traffic_class, with_burst,
};
use crate::packet::icmp::fill_checksum;
use std::time::Duration;

const BOTH: [&str; 2] = ["127.0.0.1", "::1"];

pub(crate) struct Bench {
    pub around: Surroundings,
    pub flows: EchoFlows,
}

/// Handles a frame as the classifier does.
fn on_message(flows: &mut EchoFlows, ctx: &mut Context<'_>, frame: &GuestFrame<'_>) {
    let (src, dst) = frame.parsed.addresses(frame.head).unwrap();
    match IcmpMessage::of(frame, src, dst, frame.parsed.transport().unwrap()) {
        Ok(message) => flows.on_echo(ctx, frame, &message),
        Err(reason) => ctx.counters.count_drop(reason),
    }
}

impl Bench {
    fn new() -> Self {
        Self {
            around: Surroundings::new(),
            flows: EchoFlows::new(),
        }
    }

    pub(crate) fn with(support: EchoSupport) -> Self {
        let availability = EchoAvailability {
            ipv4: support,
            ipv6: support,
        };
        Self {
            around: Surroundings::new(),
            flows: EchoFlows::with(availability),
        }
    }

    fn can(&self, like: &str) -> bool {
        let availability = self.flows.availability();
        let support = if ip(like).is_ipv4() {
            availability.ipv4
        } else {
            availability.ipv6
        };
        if support == EchoSupport::None {
            eprintln!("skipped: the system permits neither ping nor raw sockets");
        }
        support != EchoSupport::None
    }

    pub(crate) fn open_sockets(&self) -> usize {
        self.flows.table.sockets()
    }

    pub(crate) fn ping(&mut self, dst: IpAddr, ident: u16, sequence: u16, body: &[u8]) {
        self.ping_with_ttl(dst, 64, ident, sequence, body);
    }

    pub(crate) fn ping_with_ttl(&mut self, dst: IpAddr, ttl: u8, ident: u16, sequence: u16, body: &[u8]) {
        self.ping_marked(dst, [ttl, 0], ident, sequence, body);
    }

    fn ping_marked(&mut self, dst: IpAddr, [ttl, class]: [u8; 2], ident: u16, sequence: u16, body: &[u8]) {
        let src = guest(dst, 0).ip();
        let mut message = vec![0; IcmpHeader::LEN];
        IcmpHeader::echo(request_kind(src), ident, sequence).emit(&mut message, 0);
        message.extend_from_slice(body);
        fill_checksum(src, dst, &mut message);
        let mut frame = packet(src, dst, icmp_protocol(src), ttl, &message);
        mark(&mut frame, class);
        with_burst(&[frame], |burst| {
            on_message(&mut self.flows, &mut self.around.context(), &burst[0]);
        });
    }

    pub(crate) fn turn(&mut self) -> Vec<Delivered> {
        for (token, ready) in self.around.events() {
            self.flows.on_event(&mut self.around.context(), token, ready);
        }
        self.around.sink.take()
    }
}

fn gateway(like: &str) -> IpAddr {
    ip(if ip(like).is_ipv4() { "10.0.2.1" } else { "fd10:0:2::1" })
}

pub(crate) fn reply_kind(like: IpAddr) -> u8 {
    match like {
        IpAddr::V4(_) => v4::ECHO_REPLY,
        IpAddr::V6(_) => v6::ECHO_REPLY,
    }
}

#[test]
fn an_echo_request_is_answered_with_its_identifier_sequence_and_payload() {
    for like in BOTH {
        let mut bench = Bench::new();
        if !bench.can(like) {
            continue;
        }
        let peer = host_seen(ip(like), 0).ip();
        for sequence in [1, 2, 700] {
            bench.ping(peer, 0xbeef, sequence, b"odd bytes");
            let frames = bench.turn();
            assert_eq!(frames.len(), 1);
            let want = IcmpHeader::echo(reply_kind(peer), 0xbeef, sequence);
            assert_eq!(icmp_message(&frames[0]), (peer, want, b"odd bytes".to_vec()));
        }
        assert_eq!(bench.flows.count(), 1);
        assert_eq!(bench.around.counters.count(Count::Echos), 3);
    }
}

#[test]
fn dscp_and_ecn_of_a_ping_are_kept_there_and_back() {
    for like in BOTH {
        let mut bench = Bench::new();
        if !bench.can(like) {
            continue;
        }
        // The kernel answers with the values of the request, and so does the gateway.
        for address in [host_seen(ip(like), 0).ip(), gateway(like)] {
            for (sequence, class) in [(1, 0xb8), (2, 0xba), (3, 0)] {
                bench.ping_marked(address, [64, class], 7, sequence, b"marked");
                let mut frames = bench.around.sink.take();
                if frames.is_empty() {
                    frames = bench.turn();
                }
                assert_eq!(frames.len(), 1);
                assert_eq!(traffic_class(&frames[0].bytes), class, "{address}");
            }
        }
    }
}

#[test]
fn two_programs_of_the_guest_that_ping_one_peer_get_their_own_replies() {
    for like in BOTH {
        let mut bench = Bench::new();
        if !bench.can(like) {
            continue;
        }
        let peer = host_seen(ip(like), 0).ip();
        for ident in [1, 2] {
            bench.ping(peer, ident, 9, &[0; 4]);
            let frames = bench.turn();
            let idents: Vec<_> = frames.iter().map(|f| icmp_message(f).1.echo_ident()).collect();
            assert_eq!(idents, [ident]);
        }
    }
}

#[test]
fn a_reply_above_the_mtu_comes_in_fragments() {
    let mut bench = Bench::new();
    if !bench.can("127.0.0.1") {
        return;
    }
    bench.ping(host_seen(ip("127.0.0.1"), 0).ip(), 5, 1, &[7; 4000]);
    let frames = bench.turn();
    let total: usize = frames.iter().map(|f| parse(&f.bytes).1.len()).sum();
    assert_eq!((frames.len(), total), (3, 4008));
}

#[test]
fn the_gateway_answers_what_was_asked_whatever_the_guest_writes_meanwhile() {
    let mut bench = Bench::with(EchoSupport::None);
    let (src, dst) = (ip("10.0.2.2"), ip("10.0.2.1"));
    let mut message = vec![0; IcmpHeader::LEN];
    IcmpHeader::echo(request_kind(src), 77, 3).emit(&mut message, 0);
    message.extend_from_slice(b"abc");
    let frame = packet(src, dst, icmp_protocol(src), 64, &message);
    crate::frame::testing::OwnedFrame::new(frame).with_head_overwritten(|frame| {
        on_message(&mut bench.flows, &mut bench.around.context(), frame);
    });
    let want = IcmpHeader::echo(reply_kind(dst), 77, 3);
    let frames = bench.around.sink.take();
    assert_eq!(icmp_message(&frames[0]), (dst, want, b"abc".to_vec()));
}

#[test]
fn the_gateway_answers_by_itself() {
    for gateway in ["10.0.2.1", "fd10:0:2::1"] {
        let mut bench = Bench::with(EchoSupport::None);
        bench.ping(ip(gateway), 77, 3, b"abc");
        let frames = bench.around.sink.take();
        let want = IcmpHeader::echo(reply_kind(ip(gateway)), 77, 3);
        assert_eq!(icmp_message(&frames[0]), (ip(gateway), want, b"abc".to_vec()));
    }
}

#[test]
fn without_permission_the_guest_gets_an_error() {
    let mut bench = Bench::with(EchoSupport::None);
    bench.ping(ip("192.0.2.1"), 77, 3, b"abc");
    let (_, header, _) = icmp_message(&bench.around.sink.take()[0]);
    assert_eq!(
        (header.kind, header.code),
        (v4::UNREACHABLE, v4::unreachable::PROHIBITED)
    );
    assert_eq!(bench.around.counters.dropped(DropReason::EchoForbidden), 1);
}

#[test]
fn an_echo_flow_ends_after_a_minute() {
    let mut bench = Bench::new();
    if !bench.can("127.0.0.1") {
        return;
    }
    bench.ping(host_seen(ip("127.0.0.1"), 0).ip(), 5, 1, &[]);
    let start = bench.around.now;
    assert_eq!(bench.flows.deadline(), Some(start + IDLE));
    bench.flows.on_timer(start + IDLE);
    assert_eq!((bench.flows.count(), bench.flows.deadline()), (0, None));
    assert_eq!(bench.flows.table.sockets(), 0);
}

#[test]
fn only_so_many_sockets_are_kept_and_the_idle_ones_give_way() {
    const MORE: u16 = 30;
    let mut bench = Bench::new();
    if !bench.can("127.0.0.1") || bench.flows.availability().ipv4 != EchoSupport::Ping {
        return;
    }
    let peer = host_seen(ip("127.0.0.1"), 0).ip();
    let most = u16::try_from(MAX_SOCKETS).unwrap();
    for ident in 0..most + MORE {
        bench.around.now = bench.around.now + Duration::from_millis(1);
        bench.ping(peer, ident, 1, &[]);
        // One flow stays in constant use.
        bench.ping(peer, 0, 2, &[]);
    }
    assert_eq!(
        (bench.flows.count(), bench.flows.table.sockets()),
        (MAX_SOCKETS, MAX_SOCKETS)
    );
    assert!(
        bench
            .flows
            .table
            .keys()
            .all(|k| k.guest_port == 0 || k.guest_port > MORE)
    );
    assert!(bench.flows.table.keys().any(|k| k.guest_port == 0));
}

#[test]
fn a_full_table_gives_way_to_the_conversation_idle_longest() {
    let mut bench = Bench::new();
    if !bench.can("127.0.0.1") {
        return;
    }
    // Filling the table needs no packets: a flow exists before its request is sent.
    for n in 0..u32::try_from(MAX_FLOWS).unwrap() + 10 {
        bench.around.now = bench.around.now + Duration::from_millis(1);
        let key = FlowId::echo(ip("10.0.2.2"), std::net::Ipv4Addr::from(0xc633_6400 + n).into(), 1);
        let support = bench.flows.availability().ipv4;
        let Bench { around, flows } = &mut bench;
        flows
            .table
            .open(around.now, &around.poller, support, key, key.remote)
            .unwrap();
    }
    let kept: Vec<_> = bench.flows.table.keys().map(|k| k.remote).collect();
    assert_eq!((kept.len(), bench.flows.table.sockets()), (MAX_FLOWS, 1));
    assert!(!kept.contains(&ip("198.51.100.9")) && kept.contains(&ip("198.51.100.10")));
}

#[test]
fn moving_the_identifier_moves_the_checksum() {
    let mut message = [8, 0, 0, 0, 0x12, 0x34, 0, 1, 0xde, 0xad];
    fill_checksum(ip("10.0.2.2"), ip("10.0.2.1"), &mut message);
    for ident in [0, 1, 0x1234, 0xffff] {
        let mut moved = message;
        moved[..8].copy_from_slice(&with_ident(*message.first_chunk().unwrap(), ident));
        assert_eq!(moved[4..6], ident.to_be_bytes());
        assert_eq!(crate::packet::checksum::of(&moved), 0, "identifier {ident:#x}");
    }
}

#[test]
fn other_icmp_messages_are_not_passed_on_and_counted_under_a_name_of_their_own() {
    let mut bench = Bench::new();
    let (src, dst) = (ip("10.0.2.2"), ip("192.0.2.1"));
    // A timestamp request, an unsolicited reply, and half a header.
    let timestamp = [&[13u8, 0, 0, 0, 0, 9, 0, 1][..], &[0; 12]].concat();
    for message in [&timestamp[..], &[0, 0, 0, 0, 0, 9, 0, 1], &[8, 0, 0]] {
        let frame = packet(src, dst, protocol::ICMP, 64, message);
        with_burst(&[frame], |burst| {
            on_message(&mut bench.flows, &mut bench.around.context(), &burst[0]);
        });
    }
    assert_eq!(bench.around.counters.dropped(DropReason::IcmpNotServed), 2);
    assert_eq!(bench.around.counters.dropped(DropReason::Truncated), 1);
    assert_eq!(bench.flows.count(), 0);
}

#[test]
fn record_route_is_left_out_and_counted() {
    let mut bench = Bench::new();
    if !bench.can("127.0.0.1") {
        return;
    }
    let (src, dst) = (guest(ip("127.0.0.1"), 0).ip(), host_seen(ip("127.0.0.1"), 0).ip());
    let mut message = vec![0; IcmpHeader::LEN];
    IcmpHeader::echo(v4::ECHO_REQUEST, 7, 1).emit(&mut message, 0);
    fill_checksum(src, dst, &mut message);
    let mut frame = packet(src, dst, protocol::ICMP, 64, &message);
    // Record route, room for one address, padding.
    frame[14] = 0x47;
    frame.splice(34..34, [7, 7, 4, 0, 0, 0, 0, 0]);
    frame[17] += 8;
    with_burst(&[frame], |burst| {
        on_message(&mut bench.flows, &mut bench.around.context(), &burst[0]);
    });
    let frames = bench.turn();
    assert_eq!(icmp_message(&frames[0]).1, IcmpHeader::echo(v4::ECHO_REPLY, 7, 1));
    assert_eq!(bench.around.counters.count(Count::IpOptions), 1);
}

#[test]
fn two_mapped_peers_that_are_one_to_the_host_are_kept_apart() {
    for (like, other) in [("127.0.0.1", "10.0.2.8"), ("::1", "fd10:0:2::8")] {
        let around = Surroundings::with_config(|config| config.map_host_loopback.push(ip(other)));
        let mut bench = Bench {
            around,
            flows: EchoFlows::new(),
        };
        if !bench.can(like) {
            continue;
        }
        let peers = [host_seen(ip(like), 0).ip(), ip(other)];
        for peer in peers {
            bench.ping(peer, 1, 5, b"who");
        }
        let mut told = Vec::new();
        while told.len() < peers.len() {
            told.extend(bench.turn().iter().map(|f| icmp_message(f).0));
        }
        told.sort_by_key(|from| *from != peers[0]);
        assert_eq!(told, peers);
    }
}

#[test]
fn a_reply_of_a_host_that_was_not_asked_is_counted() {
    let mut bench = Bench::with(EchoSupport::Ping);
    if EchoFlows::new().availability().ipv4 != EchoSupport::Ping {
        eprintln!("skipped: no ping sockets");
        return;
    }
    // The host that answers has a different address than the flow's peer.
    let key = FlowId::echo(ip("10.0.2.2"), ip("192.0.2.77"), 3);
    let Bench { around, flows } = &mut bench;
    flows
        .table
        .open(around.now, &around.poller, EchoSupport::Ping, key, key.remote)
        .unwrap();
    let (flow, socket) = flows.table.flow_and_socket(0).unwrap();
    let mut request = [0; IcmpHeader::LEN];
    IcmpHeader::echo(v4::ECHO_REQUEST, flow.ident, 1).emit(&mut request, 0);
    let to = SocketAddr::new(ip("127.0.0.1"), 0);
    socket.socket.send_to(&request, &to.into()).unwrap();
    assert!(bench.turn().is_empty());
    assert_eq!(bench.around.counters.dropped(DropReason::EchoNoFlow), 1);
}
