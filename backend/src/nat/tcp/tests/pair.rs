//! A connection, a guest's TCP and a host socket, joined by a link that can lose, duplicate and reorder packets. The
//! clock jumps from event to event.

use crate::frame::testing::OwnedFrame;
use crate::frame::{GatherList, GuestSlice};
use crate::nat::context::Context;
use crate::nat::saved::{from_bytes, to_bytes};
use crate::nat::tcp::clock::Clock;
use crate::nat::tcp::connection::{Connection, Opening, Progress, State};
use crate::nat::tcp::receive::Segment;
pub(super) use crate::nat::tcp::rough_play::Rng;
use crate::nat::tcp::saved::Place;
use crate::nat::tcp::saved_flow::SavedTcpFlow;
use crate::nat::tcp::seq::Seq;
use crate::nat::tcp::spill::SpillPool;
use crate::nat::tcp::testing::FakeStream;
use crate::nat::test_support::Surroundings;
use crate::packet::{EtherType, EthernetHeader, FlowId, Headers, MacAddr, TcpFlags, TcpHeader};
use crate::time::Instant;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address};
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(super) const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const GUEST_PORT: u16 = 40_000;
const REMOTE_PORT: u16 = 80;

thread_local! {
    /// Milliseconds of the guest's timestamps, close to the wrap. This is a static because smoltcp takes a function
    /// without arguments.
    static GUEST_CLOCK: Cell<u32> = const { Cell::new(0) };
}

/// The quality of the link, and the behaviour of the two ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions {
    pub seed: u64,
    /// Percentages of packets that are lost, duplicated, or delayed behind others.
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
    pub mtu: u16,
    /// True if the guest accepts frames above the MTU.
    pub tso: bool,
    /// True if the guest's TCP uses timestamps.
    pub timestamps: bool,
    /// Capacity of the host socket's send queue in bytes.
    pub send_queue: usize,
    /// Number of frames for which the guest has buffers at a time.
    pub room: usize,
    /// Size of the guest's own receive buffer in bytes.
    pub guest_buffer: usize,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            seed: 1,
            lost: 0,
            doubled: 0,
            late: 0,
            mtu: 1500,
            tso: true,
            timestamps: true,
            send_queue: 200_000,
            room: 64,
            guest_buffer: 60_000,
        }
    }
}

/// NIC of the guest: packets in and out.
struct Nic {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: VecDeque<Vec<u8>>,
    mtu: usize,
}

struct Packet(Vec<u8>);

impl RxToken for Packet {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Outbox<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Outbox<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let r = f(&mut packet);
        self.0.push_back(packet);
        r
    }
}

impl Device for Nic {
    type RxToken<'a> = Packet;
    type TxToken<'a> = Outbox<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Packet, Outbox<'_>)> {
        let packet = self.to_guest.pop_front()?;
        Some((Packet(packet), Outbox(&mut self.from_guest)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Outbox<'_>> {
        Some(Outbox(&mut self.from_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ip;
        caps.max_transmission_unit = self.mtu;
        caps.checksum = ChecksumCapabilities::ignored();
        caps
    }
}

/// One direction of the link.
struct Path {
    conditions: Conditions,
    rng: Rng,
    late: Vec<Vec<u8>>,
}

impl Path {
    fn new(conditions: Conditions, salt: u64) -> Self {
        Self {
            conditions,
            rng: Rng::new(conditions.seed ^ (salt << 40)),
            late: vec![],
        }
    }

    /// Puts the packets that arrive now into `deliver`.
    fn carry(&mut self, packet: Vec<u8>, deliver: &mut Vec<Vec<u8>>) {
        let c = self.conditions;
        if self.rng.below(100) < c.lost {
            return;
        }
        if self.rng.below(100) < c.late {
            self.late.push(packet);
            return;
        }
        if self.rng.below(100) < c.doubled {
            deliver.push(packet.clone());
        }
        deliver.push(packet);
    }

    /// Adds late packets that arrive now.
    fn catch_up(&mut self, deliver: &mut Vec<Vec<u8>>) {
        if self.rng.below(3) == 0 {
            deliver.append(&mut self.late);
        }
    }
}

/// The side that opens the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opener {
    Guest,
    World,
}

/// Both ends, the link and the clock.
pub(super) struct Pair {
    pub around: Surroundings,
    pub conditions: Conditions,
    pub connection: Option<Connection>,
    pub stream: FakeStream,
    pub resets_to_guest: usize,
    /// False once the table would have closed the host socket.
    pub has_stream: bool,
    /// True while the application in the guest reads the bytes that arrive.
    pub guest_reads: bool,
    /// True while the remote peer reads the bytes that arrive.
    pub world_reads: bool,
    /// Nanoseconds by which our clock is ahead of the guest's.
    ahead: i128,
    rng: Rng,
    gather: GatherList,
    nic: Nic,
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    to_guest: Path,
    from_guest: Path,
    waiting: bool,
}

impl Pair {
    /// A pair in which no segment has been sent yet and the test acts as the guest.
    pub(super) fn idle(conditions: Conditions) -> Self {
        let mut pair = Self::new(conditions, Opener::Guest);
        pair.guest().abort();
        pair
    }

    /// A pair in which a client of the host was accepted and the test acts as the guest.
    pub(super) fn idle_client(conditions: Conditions) -> Self {
        let mut pair = Self::idle(conditions);
        pair.world_connects();
        pair
    }

    /// Headers of the segments sent to the guest since the last call.
    pub(super) fn answers(&mut self) -> Vec<TcpHeader> {
        let frames = self.around.sink.take();
        frames
            .iter()
            .map(|f| TcpHeader::parse(&f.bytes[34..], f.bytes.len() - 34).unwrap())
            .collect()
    }

    pub(super) fn new(conditions: Conditions, opener: Opener) -> Self {
        let mut nic = Nic {
            to_guest: VecDeque::new(),
            from_guest: VecDeque::new(),
            mtu: conditions.mtu.into(),
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = conditions.seed;
        let mut iface = Interface::new(config, &mut nic, SmolInstant::ZERO);
        iface.update_ip_addrs(|a| {
            a.push(IpCidr::new(IpAddress::Ipv4(GUEST), 24)).unwrap();
        });
        iface
            .routes_mut()
            .add_default_ipv4_route(Ipv4Address::new(10, 0, 2, 1))
            .unwrap();
        let buffer = || tcp::SocketBuffer::new(vec![0; conditions.guest_buffer]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        if conditions.timestamps {
            socket.set_tsval_generator(Some(|| GUEST_CLOCK.get()));
        }
        if opener == Opener::World {
            socket.listen(GUEST_PORT).unwrap();
        }
        let mut sockets = SocketSet::new(vec![]);
        let handle = sockets.add(socket);
        let mut around = Surroundings::new();
        around.link.mtu = conditions.mtu;
        around.sink.caps.tso4 = conditions.tso;
        let mut pair = Self {
            around,
            conditions,
            connection: None,
            stream: FakeStream::new(conditions.send_queue),
            resets_to_guest: 0,
            has_stream: true,
            guest_reads: true,
            world_reads: true,
            ahead: 0,
            rng: Rng::new(conditions.seed),
            gather: GatherList::default(),
            nic,
            iface,
            sockets,
            handle,
            to_guest: Path::new(conditions, 1),
            from_guest: Path::new(conditions, 2),
            waiting: false,
        };
        match opener {
            Opener::Guest => pair.guest_connects(),
            Opener::World => pair.world_connects(),
        }
        pair
    }

    pub(super) fn guest(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn guest_connects(&mut self) {
        let remote = (IpAddress::Ipv4(REMOTE), REMOTE_PORT);
        let cx = self.iface.context();
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        socket.connect(cx, remote, GUEST_PORT).unwrap();
    }

    fn opening(&self) -> Opening {
        Opening {
            id: FlowId::tcp(
                SocketAddr::new(GUEST.into(), GUEST_PORT),
                SocketAddr::new(REMOTE.into(), REMOTE_PORT),
            ),
            // Close to the wrap, so that every transfer crosses it.
            iss: Seq(u32::MAX - 5_000),
            clock: Clock {
                offset: u32::MAX - 5_000,
            },
            mtu: self.conditions.mtu,
            spill: SpillPool::default(),
        }
    }

    /// Sets the number of frames for which the guest has buffers.
    pub(super) fn set_room(&mut self, frames: usize) {
        self.around.sink.room = frames;
    }

    /// The guest's clock, which does not change when our process is replaced.
    fn guest_time(&self) -> Instant {
        let nanos = i128::from(self.around.now.as_nanos()) - self.ahead;
        Instant::from_nanos(u64::try_from(nanos).unwrap())
    }

    /// Converts the connection to a value for another process.
    pub(super) fn save(&self) -> Option<SavedTcpFlow> {
        let connection = self.connection.as_ref()?.save(self.around.now).unwrap();
        Some(SavedTcpFlow { connection, dscp: 0 })
    }

    /// Lets another process continue with the same host socket and a clock that shows `now`.
    pub(super) fn replace(&mut self, now: Instant) {
        let saved = self.save();
        self.ahead += i128::from(now.as_nanos()) - i128::from(self.around.now.as_nanos());
        self.around.now = now;
        let Some(saved) = saved else { return };
        let loaded = from_bytes::<Vec<SavedTcpFlow>>(&to_bytes(&[saved])).unwrap();
        let place = Place {
            now,
            mtu: self.conditions.mtu,
            spill: SpillPool::default(),
        };
        let connection = Connection::load(&loaded[0].connection, &place).unwrap();
        self.connection = Some(connection);
    }

    pub(super) fn world_connects(&mut self) {
        let opening = self.opening();
        let connection = self.with_context(|ctx, _, _| Connection::to_guest(&opening, ctx));
        self.connection = Some(connection);
    }

    fn with_context<R>(&mut self, f: impl FnOnce(&mut Context<'_>, &mut FakeStream, &mut GatherList) -> R) -> R {
        let mut ctx = self.around.context();
        f(&mut ctx, &mut self.stream, &mut self.gather)
    }

    /// Calls a method of the connection as the table of connections would.
    pub(super) fn call(&mut self, f: impl FnOnce(&mut Connection, &mut Context<'_>, &mut FakeStream) -> Progress) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let progress = self.with_context(|ctx, stream, _| f(&mut connection, ctx, stream));
        self.waiting |= progress != Progress::Done;
        if connection.is_over() {
            self.stream.broken |= connection.state() == State::Aborted;
        } else {
            self.connection = Some(connection);
        }
    }

    /// Sends bytes from the remote peer to the guest.
    pub(super) fn world_sends(&mut self, bytes: &[u8]) {
        self.stream.push(bytes);
        self.call(|c, ctx, stream| {
            c.on_readable();
            c.answer(ctx, stream)
        });
    }

    /// Closes the remote peer's side.
    pub(super) fn world_closes(&mut self) {
        self.stream.inbox_closed = true;
        self.call(|c, ctx, stream| {
            c.on_read_closed();
            c.answer(ctx, stream)
        });
    }

    /// Moves frames of the connection to the guest's NIC.
    fn carry_to_guest(&mut self) -> bool {
        let frames = self.around.sink.take();
        let mut deliver = vec![];
        for frame in frames {
            let header = TcpHeader::parse(&frame.bytes[34..], frame.bytes.len() - 34).unwrap();
            self.resets_to_guest += usize::from(header.flags.has(TcpFlags::RST));
            self.to_guest
                .carry(frame.bytes[EthernetHeader::LEN..].to_vec(), &mut deliver);
        }
        self.to_guest.catch_up(&mut deliver);
        let moved = !deliver.is_empty();
        self.nic.to_guest.extend(deliver);
        moved
    }

    /// Moves packets of the guest to the connection, as one burst.
    fn carry_from_guest(&mut self) -> bool {
        let packets = std::mem::take(&mut self.nic.from_guest);
        let mut deliver = vec![];
        for packet in packets {
            let mut frame = vec![0; EthernetHeader::LEN];
            EthernetHeader {
                dst: MacAddr::default(),
                src: self.around.link.guest_mac,
                ethertype: EtherType::Ipv4,
            }
            .emit(&mut frame);
            frame.extend(packet);
            self.from_guest.carry(frame, &mut deliver);
        }
        self.from_guest.catch_up(&mut deliver);
        let frames: Vec<OwnedFrame> = deliver.into_iter().map(OwnedFrame::new).collect();
        self.take_burst(&frames);
        !frames.is_empty()
    }

    pub(super) fn take_burst(&mut self, frames: &[OwnedFrame]) {
        for chunk in frames.chunks(8) {
            let views: Vec<[GuestSlice<'_>; 1]> = chunk.iter().map(OwnedFrame::slices).collect();
            let burst: Vec<_> = chunk.iter().zip(&views).map(|(f, s)| f.view(s)).collect();
            let mut segments: Vec<Segment> = burst.iter().enumerate().map(|(i, f)| parse(i, f.head, f.len)).collect();
            if self.connection.is_none()
                && let Some(first) = segments.iter().position(|s| s.header.flags == TcpFlags::SYN)
            {
                let syn = segments.remove(first).header;
                self.connection = Some(Connection::from_guest(&self.opening(), &syn));
                self.call(|c, ctx, _| {
                    c.on_connected(ctx);
                    Progress::Done
                });
            }
            let Some(mut connection) = self.connection.take() else {
                continue;
            };
            let has_stream = self.has_stream;
            let progress = self.with_context(|ctx, stream, gather| {
                let stream = has_stream.then_some(stream);
                connection.on_segments(ctx, stream, &burst, segments.iter(), gather)
            });
            self.connection = Some(connection);
            self.call(|_, _, _| progress);
        }
    }

    /// Runs one round at the current time; true if anything moved.
    fn round(&mut self) -> bool {
        self.around.sink.room = self.conditions.room;
        let mut moved = false;
        if std::mem::take(&mut self.waiting) {
            self.call(|c, ctx, stream| c.answer(ctx, stream));
        }
        self.call(|c, ctx, stream| c.on_timer(ctx, Some(stream)));
        let read = usize::try_from(self.rng.below(50_000)).unwrap();
        self.stream.drain(if self.world_reads { read } else { 0 });
        self.call(|c, ctx, stream| {
            c.on_writable(ctx, stream);
            c.answer(ctx, stream)
        });
        moved |= self.carry_to_guest();
        let micros = self.guest_time().as_nanos() / 1000;
        GUEST_CLOCK.set(u32::try_from(micros / 1000).unwrap().wrapping_sub(100));
        let at = SmolInstant::from_micros(i64::try_from(micros).unwrap());
        self.iface.poll(at, &mut self.nic, &mut self.sockets);
        moved |= self.carry_from_guest();
        moved
    }

    /// Runs until `done` returns true or virtual time is up. `step` acts for the applications at both ends. Panics if
    /// the time is up.
    pub(super) fn run(&mut self, limit: Duration, mut step: impl FnMut(&mut Self) -> bool) {
        let end = self.guest_time() + limit;
        let mut idle = 0;
        while !step(self) {
            let moved = self.round();
            idle = if moved { 0 } else { idle + 1 };
            // The link takes 20 µs. If it is empty, time jumps ahead to the next timer.
            let pause = if idle > 10 {
                Duration::from_millis(20)
            } else {
                Duration::from_micros(20)
            };
            self.around.now = self.around.now + pause;
            assert!(
                self.guest_time() < end,
                "no end after {limit:?}: {:?}\n{:?}",
                self.connection,
                self.conditions
            );
        }
    }
}

fn parse(frame: usize, head: &[u8], len: usize) -> Segment {
    let headers = Headers::parse(head, len).unwrap();
    let (_, offset, available) = headers.network.transport().unwrap();
    let header = TcpHeader::parse(&head[offset..], available).unwrap();
    Segment {
        frame,
        header,
        payload_offset: offset + header.header_len,
        payload_len: available - header.header_len,
    }
}
