//! Tests of the table of connections with real sockets: a guest that sends single segments, and peers on the host's
//! loopback.

use crate::counters::DropReason;
use crate::nat::tcp::{Incoming, Segment, TIMERS_PER_TURN, TURNS, TcpFlows};
use crate::nat::test_support::{Surroundings, guest, host_seen, ip, packet, parse, with_burst};
use crate::packet::{EthernetHeader, FlowId, TcpFlags, TcpHeader, TcpOptions, protocol};
use crate::poller::EventBuffer;
use crate::sys::stream::has_port_range;
use crate::sys::traffic_class::traffic_class;
use socket2::{Domain, SockRef};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const ISS: u32 = 1000;
const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;
/// Long enough for the loopback to become quiet.
const QUIET: Duration = Duration::from_millis(50);

/// A guest with one connection, and the table of connections.
pub(super) struct Bench {
    pub(super) around: Surroundings,
    pub(super) flows: TcpFlows,
    pub(super) key: FlowId,
    /// Sequence number of the guest's next byte.
    pub(super) next: u32,
    /// Sequence number of the next byte that the guest expects.
    pub(super) expected: u32,
    /// Right edge of the window offered to the guest.
    edge: u32,
    /// TOS of the guest's packets.
    pub(super) tos: u8,
    /// Urgent pointer of the guest's packets.
    urgent: u16,
    /// TTL or hop limit of the guest's packets.
    pub(super) ttl: u8,
}

/// A segment that the guest received.
pub(super) struct Arrived {
    pub(super) header: TcpHeader,
    pub(super) payload: Vec<u8>,
}

impl Bench {
    pub(super) fn new(port: u16) -> Self {
        let remote = host_seen(ip("10.0.2.9"), port);
        Self {
            around: Surroundings::new(),
            flows: TcpFlows::new(2000).unwrap(),
            key: FlowId::tcp(guest(remote.ip(), 40_000), remote),
            next: ISS,
            expected: 0,
            edge: ISS,
            tos: 0,
            urgent: 0,
            ttl: 64,
        }
    }

    /// Connects the guest to a listener of the host and accepts the connection.
    pub(super) fn connected() -> (Self, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut bench = Self::new(listener.local_addr().unwrap().port());
        bench.send_syn();
        let (peer, _) = listener.accept().unwrap();
        bench.handle_events();
        bench.take();
        bench.send(ACK, b"");
        (bench, peer)
    }

    /// Forwards a port of the host to the guest's port 80, and connects `n` clients to it.
    pub(super) fn clients(&mut self, n: usize) -> Vec<TcpStream> {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let forward = crate::config::Forward {
            transport: crate::config::Transport::Tcp,
            bind: Some(IpAddr::from([127, 0, 0, 1])),
            host_port: port,
            guest_port: 80,
            count: std::num::NonZeroU16::MIN,
        };
        let families = crate::config::Families { ipv4: true, ipv6: true };
        self.flows.listen(&[forward], families, &self.around.poller).unwrap();
        let connect = |_| TcpStream::connect(("127.0.0.1", port)).unwrap();
        (0..n).map(connect).collect()
    }

    pub(super) fn send_syn(&mut self) {
        self.send(TcpFlags::SYN, b"");
        self.next += 1;
    }

    /// Sends a segment with the guest's next bytes.
    pub(super) fn send(&mut self, flags: TcpFlags, payload: &[u8]) {
        let is_syn = flags == TcpFlags::SYN;
        let header = TcpHeader {
            src_port: self.key.guest_port,
            dst_port: self.key.remote_port,
            seq: self.next,
            ack: if is_syn { 0 } else { self.expected },
            flags,
            window: 60_000,
            urgent: self.urgent,
            options: TcpOptions {
                mss: is_syn.then_some(1460),
                window_scale: is_syn.then_some(0),
                timestamps: None,
            },
            ..TcpHeader::default()
        };
        let mut rest = vec![0; header.emitted_len()];
        header.emit(&mut rest, 0);
        let payload_offset = 34 + rest.len();
        rest.extend_from_slice(payload);
        let ends = (self.key.guest, self.key.remote);
        let mut frame = packet(ends.0, ends.1, protocol::TCP, self.ttl, &rest);
        frame[EthernetHeader::LEN + 1] = self.tos;
        let segment = Segment {
            frame: 0,
            header,
            payload_offset,
            payload_len: payload.len(),
        };
        let incoming = Incoming { key: self.key, segment };
        let (flows, around) = (&mut self.flows, &mut self.around);
        with_burst(&[frame], |burst| {
            flows.on_segments(&mut around.context(), burst, &[incoming]);
        });
        self.next += u32::try_from(payload.len()).unwrap();
    }

    /// Handles events until there are none for a while, at most `ROUNDS` times. Returns the number of events.
    pub(super) fn handle_events(&mut self) -> usize {
        const ROUNDS: usize = 200;
        let mut buffer = EventBuffer::with_capacity(64);
        let mut all = 0;
        for _ in 0..ROUNDS {
            let mut events = Vec::new();
            let poller = self.around.poller.clone();
            poller
                .wait(&mut buffer, Some(QUIET), |token, ready| events.push((token, ready)))
                .unwrap();
            if events.is_empty() {
                break;
            }
            all += events.len();
            for (token, ready) in events {
                self.flows.on_event(&mut self.around.context(), token, ready);
            }
            while self.flows.has_backlog() {
                self.flows.on_room(&mut self.around.context());
            }
        }
        all
    }

    /// Handles the events of one wait.
    pub(super) fn handle_ready(&mut self) {
        for (token, ready) in self.around.events() {
            self.flows.on_event(&mut self.around.context(), token, ready);
        }
    }

    /// The segments that the guest received; records what it acknowledges next on the current connection.
    pub(super) fn take(&mut self) -> Vec<Arrived> {
        let frames = self.around.sink.take();
        let arrived: Vec<_> = frames
            .iter()
            .map(|frame| {
                let (_, rest) = parse(&frame.bytes);
                let header = TcpHeader::parse(rest, rest.len()).unwrap();
                Arrived {
                    header,
                    payload: rest[header.header_len..].to_vec(),
                }
            })
            .collect();
        let is_current = |segment: &&Arrived| segment.header.dst_port == self.key.guest_port;
        for Arrived { header, payload } in arrived.iter().filter(is_current) {
            let flags = u32::from(header.flags.has(TcpFlags::SYN)) + u32::from(header.flags.has(FIN));
            self.expected = header.seq.wrapping_add(u32::try_from(payload.len()).unwrap() + flags);
            let scale = if header.flags.has(TcpFlags::SYN) { 0 } else { 7 };
            self.edge = header.ack.wrapping_add(u32::from(header.window) << scale);
        }
        arrived
    }

    /// Returns the bytes that the guest received, and whether FIN followed.
    pub(super) fn take_bytes(&mut self) -> (Vec<u8>, bool) {
        let arrived = self.take();
        let fin = arrived.iter().any(|a| a.header.flags.has(FIN));
        (arrived.into_iter().flat_map(|a| a.payload).collect(), fin)
    }
}

#[test]
fn the_port_of_the_guest_is_kept() {
    let (bench, peer) = Bench::connected();
    // This needs Linux 6.3. An older kernel chooses the port itself.
    if has_port_range() {
        assert_eq!(peer.peer_addr().unwrap().port(), bench.key.guest_port);
    }
}

#[test]
fn a_peer_that_speaks_and_closes_before_we_look_is_heard_to_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::new(listener.local_addr().unwrap().port());
    bench.send_syn();
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"bye").unwrap();
    drop(peer);
    // One event reports that the socket is connected, readable and closed.
    bench.handle_events();
    bench.take();
    bench.send(ACK, b"");
    bench.handle_events();
    assert_eq!(bench.take_bytes(), (b"bye".to_vec(), true));
}

#[test]
fn only_its_own_reset_ends_a_connection_that_is_being_made() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::new(listener.local_addr().unwrap().port());
    bench.send_syn();
    bench.next -= 100;
    bench.send(TcpFlags::RST, b"");
    assert_eq!(bench.flows.flows.len(), 1, "of a connection before");
    bench.next += 100;
    bench.send(TcpFlags::RST, b"");
    assert!(bench.flows.flows.is_empty());
    assert_eq!(bench.take().len(), 0);
}

#[test]
fn waiting_for_a_slow_reader_costs_no_events() {
    for closes in [false, true] {
        let (mut bench, mut peer) = Bench::connected();
        // The socket stays readable all the time, because of bytes that the guest does not acknowledge or the end of
        // the stream.
        if closes {
            peer.shutdown(Shutdown::Write).unwrap();
        } else {
            peer.write_all(b"unanswered").unwrap();
        }
        let (mut sent, acknowledged) = (0, bench.expected);
        while sent < 64 << 20 {
            bench.handle_events();
            let reset = bench.take().iter().any(|a| a.header.flags.has(TcpFlags::RST));
            assert!(!reset);
            bench.expected = if closes { bench.expected } else { acknowledged };
            let room = bench.edge.wrapping_sub(bench.next) as usize;
            if room == 0 {
                break;
            }
            bench.send(ACK, &vec![7; room.min(60_000)]);
            sent += room.min(60_000);
        }
        bench.handle_events();
        assert_eq!(bench.handle_events(), 0, "closed: {closes}, after {sent} bytes");
        // The guest gets a window update when the peer finally reads.
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let edge = bench.edge;
        let mut got = 0;
        while got < sent {
            got += peer.read(&mut [0; 65536]).unwrap();
        }
        bench.handle_events();
        bench.take();
        assert!(bench.edge.wrapping_sub(edge) > 60_000, "closed: {closes}");
    }
}

#[test]
fn urgent_bytes_of_a_peer_come_in_their_place_and_leave_the_queue() {
    let (mut bench, mut peer) = Bench::connected();
    peer.set_nodelay(true).unwrap();
    peer.write_all(b"abc").unwrap();
    assert_eq!(SockRef::from(&peer).send_out_of_band(b"d").unwrap(), 1);
    peer.write_all(b"efg").unwrap();
    let first = bench.expected;
    bench.handle_events();
    let arrived = bench.take();
    let bytes: Vec<u8> = arrived.iter().flat_map(|a| a.payload.clone()).collect();
    assert_eq!(bytes, b"abcdefg");
    // The last segment that begins at or before the urgent byte points after it.
    let pointing = arrived.iter().rfind(|a| a.header.flags.has(TcpFlags::URG)).unwrap();
    let behind = pointing.header.seq.wrapping_add(pointing.header.urgent.into());
    assert_eq!(behind.wrapping_sub(first), 4);
    bench.send(ACK, b"");
    peer.write_all(b"hij").unwrap();
    bench.handle_events();
    let first = bench.expected;
    assert_eq!(bench.take_bytes().0, b"hij");
    // That segment is lost.
    bench.expected = first;
    bench.around.now = bench.around.now + Duration::from_secs(2);
    bench.flows.on_timer(&mut bench.around.context());
    assert_eq!(bench.take_bytes().0, b"hij", "sent again");
}

#[test]
fn an_urgent_byte_of_a_peer_is_pointed_at_wherever_it_lies_in_the_queue() {
    let (mut bench, peer) = Bench::connected();
    peer.set_nodelay(true).unwrap();
    // The byte arrives alone, and then after bytes that the guest has not acknowledged.
    for n in 0..3 {
        assert_eq!(SockRef::from(&peer).send_out_of_band(b"!").unwrap(), 1);
        bench.handle_events();
        let arrived = bench.take();
        let [only] = &arrived[..] else {
            panic!("{} segments", arrived.len())
        };
        assert_eq!(only.payload, b"!", "{n}");
        assert!(only.header.flags.has(TcpFlags::URG), "{n}");
        assert_eq!(only.header.urgent, 1, "{n}");
    }
    bench.send(ACK, b"");
    (&peer).write_all(b"plain").unwrap();
    bench.handle_events();
    let arrived = bench.take();
    assert_eq!(arrived[0].payload, b"plain");
    assert!(!arrived[0].header.flags.has(TcpFlags::URG) && arrived[0].header.urgent == 0);
}

#[test]
fn an_urgent_byte_of_the_guest_reaches_its_peer_out_of_band() {
    let (mut bench, peer) = Bench::connected();
    bench.urgent = 3;
    bench.send(ACK | TcpFlags::URG, b"12U34");
    bench.urgent = 0;
    bench.send(ACK, b"5");
    let peer = SockRef::from(&peer);
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let read = || {
        let mut room = [0; 16];
        let n = (&*peer).read(&mut room).unwrap();
        room[..n].to_vec()
    };
    // A read stops at the mark. The next one continues after the out-of-band byte.
    assert_eq!(read(), b"12");
    let mut urgent = [std::mem::MaybeUninit::uninit()];
    assert_eq!(peer.recv_out_of_band(&mut urgent).unwrap(), 1);
    // SAFETY: one byte was received.
    assert_eq!(unsafe { urgent[0].assume_init() }, b'U');
    let mut rest = read();
    while rest.len() < 3 {
        rest.extend(read());
    }
    assert_eq!(rest, b"345");
}

/// Uses up all descriptors except `left`, in this thread only.
pub(super) fn exhaust_descriptors(left: usize) -> Vec<std::fs::File> {
    // SAFETY: gives this thread a descriptor table of its own. The thread owns every descriptor that it uses.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut taken: Vec<_> = std::iter::from_fn(|| null.try_clone().ok()).collect();
    assert!(taken.len() > left);
    taken.truncate(taken.len() - left);
    taken.push(null);
    taken
}

#[test]
fn clients_that_meet_the_limit_on_descriptors_are_served_when_one_is_free() {
    const CLIENTS: usize = 5;
    const FREE: usize = 2;
    let mut bench = Bench::new(0);
    let clients = bench.clients(CLIENTS);
    let mut taken = exhaust_descriptors(FREE);
    bench.handle_events();
    let syns = bench.take();
    assert_eq!(syns.len(), FREE, "as many as there are descriptors");
    // The guest refuses one client. Its descriptor is enough for the next client only.
    let refused = &syns[0].header;
    bench.key = FlowId::tcp(
        guest(ip("10.0.2.2"), 80),
        SocketAddr::new(ip("10.0.2.1"), refused.src_port),
    );
    bench.next = 0;
    bench.expected = refused.seq.wrapping_add(1);
    bench.send(TcpFlags::RST | ACK, b"");
    bench.around.now = bench.around.now + Duration::from_millis(200);
    bench.flows.on_timer(&mut bench.around.context());
    let syns = bench.take();
    assert_eq!(syns.iter().filter(|a| a.header.flags == TcpFlags::SYN).count(), 1);
    // Descriptors become free without an event.
    taken.truncate(taken.len() - CLIENTS);
    bench.around.now = bench.around.now + Duration::from_millis(200);
    bench.flows.on_timer(&mut bench.around.context());
    let syns = bench.take();
    assert_eq!(syns.iter().filter(|a| a.header.flags == TcpFlags::SYN).count(), 2);
    drop((clients, taken));
}

#[test]
fn a_storm_of_clients_and_their_timers_leave_others_their_turns() {
    const CLIENTS: usize = TIMERS_PER_TURN + 40;
    let (mut bench, mut peer) = Bench::connected();
    let clients = bench.clients(CLIENTS);
    peer.write_all(b"hello").unwrap();
    // This is a single turn, because both sockets are ready.
    for (token, ready) in bench.around.events() {
        bench.flows.on_event(&mut bench.around.context(), token, ready);
    }
    let is_syn = |a: &&Arrived| a.header.flags == TcpFlags::SYN;
    let arrived = bench.take();
    assert!(arrived.iter().any(|a| a.payload == b"hello"));
    assert_eq!(arrived.iter().filter(is_syn).count(), TURNS);
    let mut seen = TURNS;
    while seen < CLIENTS {
        assert_eq!(bench.flows.deadline(), Some(bench.around.now), "the next turn is now");
        bench.flows.on_timer(&mut bench.around.context());
        let more = bench.take().iter().filter(is_syn).count();
        assert!((1..=TURNS).contains(&more), "{more} in one turn");
        seen += more;
    }
    // No SYN is answered, so all of them are due again at the same time.
    bench.around.now = bench.around.now + Duration::from_secs(1);
    for expected in [TIMERS_PER_TURN, CLIENTS - TIMERS_PER_TURN] {
        assert!(bench.flows.deadline() <= Some(bench.around.now));
        bench.flows.on_timer(&mut bench.around.context());
        // The connection in between has a timer too.
        let again = bench.take().iter().filter(is_syn).count();
        assert!(again.abs_diff(expected) <= 1, "{again} instead of {expected}");
    }
    assert!(bench.flows.deadline() > Some(bench.around.now));
    drop(clients);
}

#[test]
fn a_connection_that_is_used_now_and_then_keeps_few_timers() {
    let (mut bench, mut peer) = Bench::connected();
    for _ in 0..500 {
        peer.write_all(b"x").unwrap();
        let event = bench.around.events();
        for (token, ready) in event {
            bench.flows.on_event(&mut bench.around.context(), token, ready);
        }
        bench.take();
        bench.send(ACK, b"");
        bench.around.now = bench.around.now + Duration::from_secs(1);
        bench.flows.on_timer(&mut bench.around.context());
    }
    assert!(bench.flows.timers.len() < 100, "{}", bench.flows.timers.len());
}

#[test]
fn connections_in_time_wait_leave_the_limit_to_others() {
    let (mut bench, peer) = Bench::connected();
    bench.flows.limit = 1;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = FlowId::tcp(
        bench.key.guest_end(),
        host_seen(bench.key.remote, listener.local_addr().unwrap().port()),
    );
    let connect = |bench: &mut Bench| {
        (bench.key, bench.next) = (other, ISS);
        bench.send_syn();
        let limited = bench.around.counters.dropped(DropReason::FlowLimit);
        bench.handle_events();
        (bench.flows.flows.len(), limited)
    };
    let (first, next) = (bench.key, bench.next);
    assert_eq!(connect(&mut bench), (1, 1), "no room for a second one");
    // The remote peer closes, then the guest.
    (bench.key, bench.next) = (first, next);
    drop(peer);
    bench.handle_events();
    assert!(bench.take_bytes().1);
    bench.send(FIN | ACK, b"");
    bench.handle_events();
    assert_eq!(bench.flows.in_time_wait, 1);
    assert_eq!(connect(&mut bench), (2, 1));
    // A second connection that ends finds no room in TIME-WAIT.
    let (peer, _) = listener.accept().unwrap();
    bench.take();
    bench.send(ACK, b"");
    drop(peer);
    bench.handle_events();
    assert!(bench.take_bytes().1);
    bench.send(FIN | ACK, b"");
    bench.handle_events();
    assert_eq!((bench.flows.flows.len(), bench.flows.in_time_wait), (1, 1));
    bench.around.now = bench.around.now + Duration::from_secs(300);
    bench.flows.on_timer(&mut bench.around.context());
    assert_eq!((bench.flows.flows.len(), bench.flows.in_time_wait), (0, 0));
}

#[test]
fn the_dscp_of_the_guest_is_the_host_sockets_and_ecn_is_not() {
    const EF: u8 = 0xb8;
    const ECT: u8 = 0x02;
    let class = |bench: &Bench| {
        let (_, flow) = bench.flows.flows.iter().next().unwrap();
        traffic_class(flow.stream.as_ref().unwrap(), Domain::IPV4).unwrap()
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::new(listener.local_addr().unwrap().port());
    bench.tos = EF | ECT;
    bench.send_syn();
    assert_eq!(class(&bench), EF, "from the first segment on");
    bench.handle_events();
    bench.take();
    for tos in [ECT, EF, 0x20] {
        bench.tos = tos;
        bench.send(ACK, b"x");
        assert_eq!(class(&bench), tos & !ECT);
    }
}
