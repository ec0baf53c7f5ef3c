//! A connection without sockets or a guest, for tests and for a fuzzer that plays both parts.

use super::clock::Clock;
use super::connection::{Connection, Opening, Progress, State};
use super::receive::Segment;
use super::saved::Place;
use super::saved_flow::SavedTcpFlow;
use super::seq::Seq;
use super::spill::SpillPool;
use super::stream::{HostStream, SendRoom};
use crate::frame::testing::{Delivered, OwnedFrame};
use crate::frame::{GatherList, GuestSlice, GuestSliceMut};
use crate::nat::context::Context;
use crate::nat::saved::{from_bytes, to_bytes};
use crate::nat::testing::Surroundings;
use crate::packet::{FlowId, TcpFlags, TcpHeader, TcpOptions, Timestamps};
use crate::sys::stream::PeekAt;
use crate::time::Instant;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// A host socket in memory: what the remote peer sends and has received.
#[derive(Debug, Default, PartialEq)]
pub struct FakeStream {
    /// Bytes that the remote peer received from the guest.
    pub received: Vec<u8>,
    /// True if the guest's FIN was forwarded.
    pub write_closed: bool,
    /// Bytes accepted but not yet read by the remote peer.
    queued: usize,
    /// Capacity of the send queue in bytes.
    pub limit: usize,
    inbox: VecDeque<u8>,
    /// True if the remote peer has closed its side.
    pub inbox_closed: bool,
    peek_offset: usize,
    /// True if the connection has failed.
    pub broken: bool,
    /// Positions of the guest's urgent bytes among the received bytes.
    pub urgent: Vec<usize>,
    /// Position in the queue of an urgent byte from the remote peer.
    pub mark: Option<usize>,
    /// Bytes that arrive right after the next read. The first of them is urgent.
    pub arriving: Vec<u8>,
    /// Time for which the remote peer has been silent.
    pub silence: Duration,
    /// The periods of silence after which the kernel was set to probe.
    pub probes: Vec<Duration>,
}

impl FakeStream {
    /// A socket whose send queue holds `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Makes the remote peer send bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.inbox.extend(bytes);
    }

    /// Marks the byte at `place`, among the bytes that the remote peer sends next, as urgent.
    pub fn push_urgent(&mut self, place: usize) {
        self.mark = Some(self.inbox.len() + place);
    }

    /// Makes the remote peer read up to `n` bytes.
    pub fn drain(&mut self, n: usize) {
        self.queued -= n.min(self.queued);
    }
}

impl HostStream for FakeStream {
    fn send(&mut self, data: &[GuestSlice<'_>]) -> io::Result<usize> {
        assert!(!self.write_closed, "bytes after FIN");
        if self.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let free = self.limit.saturating_sub(self.queued);
        if free == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let total: usize = data.iter().map(GuestSlice::len).sum();
        let n = total.min(free);
        let start = self.received.len();
        self.received.resize(start + n, 0);
        assert_eq!(crate::frame::copy_from_guest(data, 0, &mut self.received[start..]), n);
        self.queued += n;
        Ok(n)
    }

    fn peek(&mut self, at: PeekAt, room: &mut [GuestSliceMut<'_>]) -> io::Result<usize> {
        assert_eq!(at.offset, self.peek_offset, "the peek offset does not match");
        // As in the kernel, a read stops before the mark, and the next read continues there.
        let mark = self.mark.filter(|mark| *mark > self.peek_offset);
        let end = mark.unwrap_or(self.inbox.len()).min(self.inbox.len());
        let mut bytes = self.inbox.iter().copied().take(end).skip(self.peek_offset);
        let mut n = 0;
        for slice in room {
            let part: Vec<u8> = bytes.by_ref().take(slice.len()).collect();
            n += slice.copy_from(&part);
        }
        self.peek_offset += n;
        if !self.arriving.is_empty() {
            self.mark = Some(self.inbox.len());
            self.inbox.extend(self.arriving.drain(..));
        }
        if n == 0 && !self.inbox_closed {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    }

    fn seek_peek(&mut self, offset: u32) {
        self.peek_offset = offset as usize;
    }

    fn discard(&mut self, n: u32) -> u32 {
        let n = n as usize;
        assert!(n <= self.inbox.len(), "acknowledged more than was in the queue");
        self.inbox.drain(..n);
        self.mark = self.mark.and_then(|mark| mark.checked_sub(n));
        self.peek_offset = self.peek_offset.saturating_sub(n);
        u32::try_from(n).unwrap_or(u32::MAX)
    }

    fn shutdown_write(&mut self) {
        self.write_closed = true;
    }

    fn widen(&mut self) {}

    fn send_urgent(&mut self, byte: u8) -> io::Result<()> {
        let place = self.received.len();
        HostStream::send(self, &[GuestSlice::from_bytes(&[byte])])?;
        self.urgent.push(place);
        Ok(())
    }

    fn urgent_at(&mut self) -> Option<u32> {
        let mark = self.mark.filter(|mark| *mark < self.inbox.len())?;
        u32::try_from(mark).ok()
    }

    fn silence(&mut self) -> Duration {
        self.silence
    }

    fn probe_after(&mut self, silence: Duration) {
        self.probes.push(silence);
    }

    fn send_room(&mut self) -> SendRoom {
        let bytes = self.limit.saturating_sub(self.queued);
        SendRoom {
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            limit: u32::try_from(self.limit).unwrap_or(u32::MAX),
        }
    }
}

/// A guest, a remote peer and a connection, all driven by a list of bytes.
///
/// In both streams each byte is a function of its sequence number, so the position of a delivered byte is enough to
/// check it.
pub struct Player {
    around: Surroundings,
    connection: Connection,
    stream: FakeStream,
    gather: GatherList,
    /// Bytes that the remote peer has sent so far.
    world_sent: usize,
    /// Segments that the last move sent to the guest.
    sent: Vec<Vec<u8>>,
}

debug_fields!(Player { world_sent });

/// The guest's initial sequence number.
const GUEST_ISS: u32 = u32::MAX - 300;
/// The guest's clock when it sends SYN.
const GUEST_CLOCK: u32 = u32::MAX - 300;
/// Hawser's initial sequence number.
const ISS: u32 = u32::MAX - 700;
/// Length of the headers of a frame over IPv4.
const HEADERS: usize = 14 + 20;

/// The byte with number `n` of either stream.
fn byte_at(n: usize) -> u8 {
    u8::try_from(n % 251).unwrap_or_default()
}

impl Player {
    /// A connection that the guest has opened.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let around = Surroundings::make(|_| {})?;
        let opening = Opening {
            id: FlowId::tcp(
                SocketAddr::new([10, 0, 2, 2].into(), 40_000),
                SocketAddr::new([192, 0, 2, 1].into(), 80),
            ),
            iss: Seq(ISS),
            clock: Clock::default(),
            mtu: 1500,
            spill: SpillPool::default(),
        };
        let syn = TcpHeader {
            seq: GUEST_ISS,
            flags: TcpFlags::SYN,
            window: u16::MAX,
            options: TcpOptions {
                mss: Some(1000),
                window_scale: Some(2),
                timestamps: Some(Timestamps {
                    value: GUEST_CLOCK,
                    echo: 0,
                }),
            },
            ..TcpHeader::default()
        };
        let mut player = Self {
            around,
            connection: Connection::from_guest(&opening, &syn),
            stream: FakeStream::new(10_000),
            gather: GatherList::default(),
            world_sent: 0,
            sent: Vec::new(),
        };
        player.call(|connection, ctx, _, _| {
            connection.on_connected(ctx);
            Progress::Done
        });
        Ok(player)
    }

    fn call(
        &mut self,
        f: impl FnOnce(&mut Connection, &mut Context<'_>, &mut FakeStream, &mut GatherList) -> Progress,
    ) {
        let mut ctx = self.around.context();
        let _ = f(&mut self.connection, &mut ctx, &mut self.stream, &mut self.gather);
    }

    /// The connection as a value for another process; `None` once it is over.
    pub fn save(&self) -> Option<SavedTcpFlow> {
        let connection = self.connection.save(self.around.now)?;
        Some(SavedTcpFlow { connection, dscp: 0 })
    }

    /// Lets another process take over with the same host socket. Its clock is ahead by `ahead`.
    ///
    /// # Panics
    /// The saved value cannot be loaded.
    pub fn replace(&mut self, ahead: Duration) {
        let Some(saved) = self.save() else { return };
        self.around.now = self.around.now + ahead;
        let bytes = to_bytes(&[saved]);
        let loaded = from_bytes::<Vec<SavedTcpFlow>>(&bytes).unwrap_or_default();
        let place = Place {
            now: self.around.now,
            mtu: self.around.link.mtu,
            spill: SpillPool::default(),
        };
        match loaded.first().map(|flow| Connection::load(&flow.connection, &place)) {
            Some(Ok(connection)) => self.connection = connection,
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&bytes)),
        }
    }

    /// The time of the connection's clock.
    pub const fn now(&self) -> Instant {
        self.around.now
    }

    /// The segments that the last move sent to the guest, and the host socket.
    pub const fn effects(&self) -> (&Vec<Vec<u8>>, &FakeStream) {
        (&self.sent, &self.stream)
    }

    /// Plays the move that four bytes encode. False once the connection has ended.
    ///
    /// # Panics
    /// A check fails. A fuzzer looks for this.
    pub fn step(&mut self, [what, a, b, c]: [u8; 4]) -> bool {
        let number = usize::from(u16::from_be_bytes([a, b]));
        self.around.sink.room = usize::from(c);
        match what % 8 {
            0..=2 => self.guest_sends(what, number, c),
            3 => {
                let bytes: Vec<u8> = (0..number % 5000).map(|i| byte_at(self.world_sent + i)).collect();
                if !self.stream.inbox_closed {
                    if c % 8 == 7 && !bytes.is_empty() {
                        self.stream.push_urgent(number % bytes.len());
                        self.connection.on_urgent();
                    }
                    self.stream.push(&bytes);
                    self.world_sent += bytes.len();
                }
                self.call(|connection, ctx, stream, _| {
                    connection.on_readable();
                    connection.answer(ctx, stream)
                });
            }
            4 => {
                self.stream.inbox_closed = true;
                self.call(|connection, ctx, stream, _| {
                    connection.on_read_closed();
                    connection.answer(ctx, stream)
                });
            }
            5 => {
                self.stream.drain(number);
                self.stream.limit = 1 + usize::from(c) * 64;
                self.call(|connection, ctx, stream, _| {
                    connection.on_writable(ctx, stream);
                    connection.answer(ctx, stream)
                });
            }
            6 => {
                self.around.now = self.around.now + Duration::from_millis(number as u64 * 10);
                self.stream.silence = Duration::from_millis(u64::from(c) * 50);
                self.call(|connection, ctx, stream, _| connection.on_timer(ctx, Some(stream)));
            }
            _ => self.call(|connection, ctx, _, _| {
                connection.probe_from(ctx.now, (c & 1 == 0).then_some(4));
                Progress::Done
            }),
        }
        self.check();
        !self.connection.is_over() && self.connection.state() != State::TimeWait
    }

    /// A segment close to the expected one. `what` shifts its numbers, and `c` gives its flags.
    fn guest_sends(&mut self, what: u8, number: usize, c: u8) {
        let shift = u32::from(what >> 3);
        let next = self.connection.rcv_nxt;
        let seq = if what & 0x80 == 0 {
            next + (shift * 97) % 500
        } else {
            next - (shift * 31) % 800
        };
        let first = Seq(GUEST_ISS) + 1;
        let (offset, before) = (seq.since(first) as usize, first.since(seq) as usize);
        let payload: Vec<u8> = (0..number % 3000)
            .map(|i| byte_at((offset + i).saturating_sub(before)))
            .collect();
        let in_flight = self.connection.snd_max.since(self.connection.snd_una);
        let header = TcpHeader {
            seq: seq.0,
            ack: (self.connection.snd_una + (shift * 113) % (in_flight + 2)).0,
            // RST and SYN are rare, because they end the run.
            flags: TcpFlags(if c % 16 == 15 { c } else { 0x10 | (c & 0x29) }),
            window: u16::try_from(number).unwrap_or(u16::MAX),
            urgent: u16::try_from(number / 7).unwrap_or_default(),
            options: TcpOptions {
                // Some segments have an old timestamp, or none.
                timestamps: (c & 0x40 == 0).then(|| Timestamps {
                    value: GUEST_CLOCK.wrapping_add(shift * 17).wrapping_sub(u32::from(c >> 7)),
                    echo: ISS,
                }),
                ..TcpOptions::default()
            },
            ..TcpHeader::default()
        };
        let segment = Segment {
            frame: 0,
            header,
            payload_offset: 0,
            payload_len: payload.len(),
        };
        let frame = OwnedFrame::new(payload);
        let slices = frame.slices();
        let burst = [frame.view(&slices)];
        self.call(|connection, ctx, stream, gather| {
            connection.on_segments(ctx, Some(stream), &burst, [&segment].into_iter(), gather)
        });
    }

    /// Checks the invariants. Called after every move.
    fn check(&mut self) {
        for (i, &byte) in self.stream.received.iter().enumerate() {
            assert_eq!(byte, byte_at(i), "byte {i} from the guest");
        }
        let frames = self.around.sink.take();
        for frame in &frames {
            self.check_frame(frame);
        }
        self.sent = frames.into_iter().map(|frame| frame.bytes).collect();
        let connection = &self.connection;
        assert!(!connection.snd_nxt.before(connection.snd_una), "SND.NXT before SND.UNA");
        assert!(
            !connection.snd_nxt.after(connection.snd_max),
            "SND.NXT beyond what was sent"
        );
        assert!(
            !connection.rcv_nxt.after(connection.rcv_edge + 1),
            "accepted more than was offered"
        );
        if connection.state() == State::Established {
            assert!(connection.deadline().is_some(), "an open connection has no timer");
        }
    }

    fn check_frame(&self, frame: &Delivered) {
        let bytes = &frame.bytes[HEADERS..];
        let Ok(header) = TcpHeader::parse(bytes, bytes.len()) else {
            panic!("a segment to the guest does not parse");
        };
        let payload = &bytes[header.header_len..];
        let offset = Seq(header.seq).since(Seq(ISS) + 1) as usize;
        for (i, &byte) in payload.iter().enumerate() {
            assert_eq!(byte, byte_at(offset + i), "byte {} to the guest", offset + i);
        }
        let end = if payload.is_empty() { 0 } else { offset + payload.len() };
        assert!(end <= self.world_sent, "more than the remote peer sent");
        if header.flags.has(TcpFlags::ACK) {
            assert!(!Seq(header.ack).after(self.connection.rcv_nxt), "acknowledged too much");
        }
    }
}
