//! Tests of datagrams and echo requests of a real guest that migrates, by QEMU, to a hawser with another address.

use hawser_testkit::guest::{Guest, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::migrating::{FORWARDED, Setting, migrate, plan};
use hawser_testkit::netns::Namespace;
use hawser_testkit::nodes::{Nodes, WORLD4};
use hawser_testkit::segment::{HOST4, Segment};
use hawser_testkit::{Result, failure, until};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io::Read as _;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Longest wait for a datagram.
const PATIENCE: Duration = Duration::from_secs(30);
/// Port of both ends of a beat.
const BEAT: u16 = 9000;
/// Datagrams sent at once.
const BURST: u64 = 50;

/// A datagram of the guest's beat.
#[derive(Clone, Copy, Debug)]
struct Heard {
    from: SocketAddr,
    number: u64,
    round: u64,
    /// Datagrams of this round that the guest has got.
    count: u64,
}

/// The other end of a beat of the guest.
struct World(UdpSocket);

impl World {
    fn new(namespace: &Namespace, address: &str) -> Result<Self> {
        let socket = namespace.inside(|| UdpSocket::bind((address, BEAT)))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        // What is not looked at for a while must not be lost here.
        SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
        Ok(Self(socket))
    }

    fn hear(&self) -> Result<Heard> {
        let mut bytes = [0; 32];
        let (len, from) = self.0.recv_from(&mut bytes)?;
        if len != bytes.len() {
            return Err(failure("another datagram came"));
        }
        let (numbers, _) = bytes.as_chunks::<8>();
        let [number, round, count, _] = [0, 1, 2, 3].map(|n| u64::from_be_bytes(numbers[n]));
        Ok(Heard {
            from,
            number,
            round,
            count,
        })
    }

    /// Sends datagrams of a round.
    fn send(&self, to: SocketAddr, round: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            let bytes = [round, 0, 0, 0].map(u64::to_be_bytes);
            self.0.send_to(bytes.as_flattened(), to)?;
        }
        Ok(())
    }

    /// Listens until one is as wanted. Each is the next one of the beat, from `from`.
    fn until(&self, last: &mut Heard, wanted: impl Fn(&Heard) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(last) {
            let next = self.hear()?;
            assert_eq!((next.from, next.number), (last.from, last.number + 1), "after {last:?}");
            *last = next;
            assert!(Instant::now() < deadline, "still {last:?}");
        }
        Ok(())
    }
}

#[test]
fn datagrams_keep_the_port_and_none_is_lost_although_the_address_of_the_pod_changes() -> Result<()> {
    let mut setting = Setting::new(&[])?;
    let world = World::new(&setting.nodes.world, WORLD4)?;
    let mut guest = setting.boot()?;
    let beat = guest.start(
        &format!("exec hawser-traffic beat to={WORLD4}:{BEAT} every=10"),
        Duration::from_secs(600),
    )?;
    let mut last = world.hear()?;
    assert_eq!(last.from, format!("{}:{BEAT}", Nodes::vtep4(0)).parse::<SocketAddr>()?);
    world.send(last.from, 1, BURST)?;
    world.until(&mut last, |heard| (heard.round, heard.count) == (1, BURST))?;
    assert_eq!(setting.prepare()?["phase"], "ready");

    // Datagrams reach the source while the guest is stopped.
    let incoming = setting.stop(&mut guest)?;
    world.send(last.from, 2, BURST)?;
    let went_on = setting.go_on(&mut guest, incoming);
    went_on.map_err(|error| failure(format!("{error}: {}", setting.source.process().log())))?;
    world.until(&mut last, |heard| (heard.round, heard.count) == (2, BURST))?;
    world.send(last.from, 3, BURST)?;
    world.until(&mut last, |heard| (heard.round, heard.count) == (3, BURST))?;
    let status = setting.migrate("source", &["status"])?;
    assert_eq!(
        (&status["phase"], &status["carried"]),
        (&"anchored".into(), &1.into()),
        "{status}"
    );

    // Without the source they come from a new address.
    setting.migrate("source", &["abort"])?;
    let new = format!("{}:{BEAT}", Nodes::vtep4(1)).parse::<SocketAddr>()?;
    until("the beat comes from the new address", || Ok(world.hear()?.from == new))?;
    world.send(new, 4, BURST)?;
    until("the guest is reached at its new address", || {
        let heard = world.hear()?;
        Ok((heard.round, heard.count) == (4, BURST))
    })?;
    guest.kill(&beat)?;
    setting.target.stop()
}

#[test]
fn datagrams_of_a_cancelled_migration_reach_the_guest_in_the_source() -> Result<()> {
    let setting = Setting::new(&[])?;
    let world = World::new(&setting.nodes.world, WORLD4)?;
    let mut guest = setting.boot()?;
    let _beat = guest.start(
        &format!("exec hawser-traffic beat to={WORLD4}:{BEAT} every=10"),
        Duration::from_secs(600),
    )?;
    let mut last = world.hear()?;
    setting.prepare()?;
    let incoming = setting.stop(&mut guest)?;
    world.send(last.from, 1, BURST)?;
    guest.cancel_migration()?;
    drop(incoming);
    world.until(&mut last, |heard| (heard.round, heard.count) == (1, BURST))
}

#[test]
fn frames_that_reach_the_source_while_the_guest_is_stopped_reach_it_in_the_target() -> Result<()> {
    const MAC: &str = "52:54:00:00:00:16";
    let mut segment = Segment::new(1500)?;
    segment.serve_dhcp()?;
    let world = World::new(&segment.host, HOST4)?;
    let mac = format!("--mac={MAC}");
    segment.add_tap("tap0", "")?;
    segment.add_tap("tap1", "")?;
    let [api, arrivals] = ["api.sock", "arrivals.sock"].map(|name| segment.path(name));
    let with_api = format!("--api-socket={}", api.display());
    let source = segment.hawser("source", &["--tap=tap0", &mac, &with_api])?;
    let listening = format!("--migration-socket={}", arrivals.display());
    let target = segment.hawser("target", &["--tap=tap1", &mac, &listening])?;
    let plan = |hawser: &Hawser| Plan {
        mac: Some(MAC.to_owned()),
        ..plan(hawser.socket())
    };
    let mut guest = plan(&source).boot_to_migrate()?;
    guest.sh("ip link set eth0 up; udhcpc -i eth0 -n -q -f -t 10 -T 1 -s /etc/hawser/udhcpc")?;
    let _beat = guest.start(
        &format!("exec hawser-traffic beat to={HOST4}:{BEAT} every=10"),
        Duration::from_secs(600),
    )?;
    let mut last = world.hear()?;
    let to = format!("--to={}", arrivals.display());
    assert_eq!(migrate(&api, &["prepare", &to])?["phase"], "ready");

    let incoming = plan(&target).incoming(&guest)?;
    guest.pause_before_switchover()?;
    guest.begin_migration(&incoming)?;
    guest.monitor()?.wait_for_migration("pre-switchover")?;
    world.send(last.from, 1, BURST)?;
    guest.continue_migration()?;
    guest.finish_migration(incoming)?;
    let deadline = Instant::now() + PATIENCE;
    while (last.round, last.count) != (1, BURST) {
        last = world.hear()?;
        assert!(Instant::now() < deadline, "still {last:?}");
    }
    until("the channel ends", || {
        Ok(migrate(&api, &["status"])?["phase"] == "ended")
    })?;
    source.stop()?;
    target.stop()
}

/// An echo request: sender, identifier and payload with sequence number.
fn request(socket: &mut Socket) -> Result<(SocketAddr, Vec<u8>)> {
    /// Length of an IPv4 header without options.
    const HEADER: usize = 20;
    const ECHO: u8 = 8;
    loop {
        let mut bytes = vec![0; 2048];
        let len = socket.read(&mut bytes)?;
        let message = bytes[..len].get(HEADER..).unwrap_or_default();
        if message.first() == Some(&ECHO) {
            let [a, b, c, d] = [12, 13, 14, 15].map(|at: usize| bytes[at]);
            return Ok(((([a, b, c, d]), 0).into(), message.to_vec()));
        }
    }
}

/// The reply to a request. Its checksum differs by the type of the message only (RFC 1624).
fn reply(mut message: Vec<u8>) -> Vec<u8> {
    message[0] = 0;
    let sum = u32::from(u16::from_be_bytes([message[2], message[3]])) + 0x0800;
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or_default();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

#[test]
fn replies_that_arrive_at_the_source_reach_the_guest_in_the_target() -> Result<()> {
    let setting = Setting::new(&[])?;
    setting.nodes.world.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=1")?;
    let mut world = setting
        .nodes
        .world
        .inside(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))??;
    world.set_read_timeout(Some(PATIENCE))?;
    let mut guest = setting.boot()?;
    setting.prepare()?;
    // Each reply comes when the guest has asked and left: while it is stopped, and when it runs in the target.
    let ping = |guest: &Guest| guest.start(&format!("ping -c 2 -i 1 -W 60 -s 300 {WORLD4}"), PATIENCE * 3);
    let running = ping(&guest)?;
    let first = request(&mut world)?;
    let second = request(&mut world)?;
    let incoming = setting.stop(&mut guest)?;
    world.send_to(&reply(first.1.clone()), &first.0.into())?;
    setting.go_on(&mut guest, incoming)?;
    world.send_to(&reply(second.1.clone()), &second.0.into())?;
    let output = running.wait(PATIENCE * 3)?;
    assert!(output.out.contains("2 packets received"), "{output:?}");

    Ok(())
}

/// The identifier of an echo request.
fn identifier(message: &[u8]) -> Option<[u8; 2]> {
    message.get(4..6)?.try_into().ok()
}

#[test]
fn a_ping_keeps_its_identifier_and_is_answered_at_the_new_address() -> Result<()> {
    let setting = Setting::new(&[])?;
    let mut world = setting
        .nodes
        .world
        .inside(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))??;
    world.set_read_timeout(Some(PATIENCE))?;
    let mut guest = setting.boot()?;
    setting.prepare()?;
    let running = guest.start(&format!("ping -c 1000 -i 0.1 -W 1 {WORLD4}"), PATIENCE * 10)?;
    let (from, first) = request(&mut world)?;
    assert_eq!(from.ip().to_string(), Nodes::vtep4(0));
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    let deadline = Instant::now() + PATIENCE;
    let (_, then) = loop {
        let next = request(&mut world)?;
        if next.0.ip().to_string() == Nodes::vtep4(1) {
            break next;
        }
        assert!(Instant::now() < deadline, "the ping does not go on");
    };
    assert_eq!(identifier(&then), identifier(&first));
    assert_ne!(then, first, "the same request came again");
    guest.sh("sleep 1; killall -INT ping")?;
    let output = running.wait(PATIENCE)?;
    let counts: Vec<u32> = output
        .out
        .lines()
        .filter(|line| line.contains("packets transmitted"))
        .flat_map(|line| line.split(' ').filter_map(|word| word.parse().ok()))
        .collect();
    let lost = counts.first().zip(counts.get(1)).map(|(sent, got)| sent - got);
    assert!(lost.is_some_and(|lost| lost <= 2), "{output:?}");
    Ok(())
}

#[test]
fn clients_that_first_send_while_the_guest_is_stopped_are_answered_from_where_they_sent_to() -> Result<()> {
    const NEW: usize = 20;
    let setting = Setting::new(&[])?;
    let at = format!("{}:{FORWARDED}", Nodes::vtep4(0));
    let client = || {
        let socket = setting.nodes.world.inside(|| UdpSocket::bind((WORLD4, 0)))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(&at)?;
        Ok(socket)
    };
    let exchange = |socket: &UdpSocket, text: &str| -> Result<()> {
        let mut back = [0; 64];
        let len = socket.recv(&mut back)?;
        assert_eq!(&back[..len], text.as_bytes());
        Ok(())
    };
    let mut guest = setting.boot()?;
    setting.prepare()?;
    let known = client()?;
    known.send(b"before")?;
    exchange(&known, "before")?;
    let incoming = setting.stop(&mut guest)?;
    let clients = (0..NEW).map(|_| client()).collect::<Result<Vec<_>>>()?;
    for client in &clients {
        client.send(b"first")?;
        client.send(b"second")?;
    }
    setting.go_on(&mut guest, incoming)?;
    for client in &clients {
        exchange(client, "first")?;
        exchange(client, "second")?;
        client.send(b"third")?;
        exchange(client, "third")?;
    }
    known.send(b"after")?;
    exchange(&known, "after")?;
    let status = setting.migrate("source", &["status"])?;
    assert_eq!(
        (&status["phase"], &status["carried"]),
        (&"anchored".into(), &(NEW + 1).into()),
        "{status}"
    );
    Ok(())
}

#[test]
fn datagrams_keep_the_port_when_the_guest_migrates_again() -> Result<()> {
    let setting = Setting::on(Nodes::new(3, 1500)?, &[])?;
    let arrivals = setting.nodes.path("third-arrivals.sock").display().to_string();
    let listening = format!("--migration-socket={arrivals}");
    let third = Hawser::start(
        &setting.nodes.nodes[2],
        &setting.nodes.path("third.sock"),
        &[&listening],
    )?;
    let world = World::new(&setting.nodes.world, WORLD4)?;
    let mut guest = setting.boot()?;
    let beat = guest.start(
        &format!("exec hawser-traffic beat to={WORLD4}:{BEAT} every=20"),
        Duration::from_secs(600),
    )?;
    let mut last = world.hear()?;
    setting.prepare()?;
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    world.send(last.from, 1, BURST)?;
    world.until(&mut last, |heard| (heard.round, heard.count) == (1, BURST))?;
    setting.migrate("target", &["prepare", &format!("--to={arrivals}")])?;
    let incoming = plan(third.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    world.send(last.from, 2, BURST)?;
    world.until(&mut last, |heard| (heard.round, heard.count) == (2, BURST))?;
    guest.kill(&beat)?;
    third.stop()
}
