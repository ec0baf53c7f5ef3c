//! Abuses a connection that was made from a saved value: segments, time and events in random order, and a host socket
//! that contradicts the value. Nothing may panic. This is for tests and a fuzz target.

use super::connection::Connection;
use super::receive::Segment;
use super::saved::Place;
use super::saved_flow::SavedTcpFlow;
use super::spill::SpillPool;
use super::stream::{HostStream, SendRoom};
use crate::frame::testing::OwnedFrame;
use crate::frame::{GatherList, GuestSlice, GuestSliceMut};
use crate::nat::testing::Surroundings;
use crate::packet::{TcpFlags, TcpHeader};
use crate::sys::stream::PeekAt;
use std::io;
use std::time::Duration;

/// A small deterministic generator (xorshift64).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    /// A random number below `n`.
    pub(crate) fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap_or_default()
    }

    fn word(&mut self, n: u64) -> u32 {
        u32::try_from(self.below(n)).unwrap_or_default()
    }
}

/// A host socket that contradicts the value.
struct Unrelated(Rng);

impl HostStream for Unrelated {
    fn send(&mut self, data: &[GuestSlice<'_>]) -> io::Result<usize> {
        let len: usize = data.iter().map(GuestSlice::len).sum();
        match self.0.index(4) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            part => Ok(len.div_ceil(part)),
        }
    }

    fn send_urgent(&mut self, _: u8) -> io::Result<()> {
        Ok(())
    }

    fn urgent_at(&mut self) -> Option<u32> {
        Some(self.0.word(1 << 20))
    }

    fn peek(&mut self, _: PeekAt, room: &mut [GuestSliceMut<'_>]) -> io::Result<usize> {
        let len: usize = room.iter().map(|slice| slice.len()).sum();
        match self.0.index(4) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            1 => Ok(0),
            part => Ok(len.div_ceil(part)),
        }
    }

    fn seek_peek(&mut self, _: u32) {}

    fn discard(&mut self, n: u32) -> u32 {
        n
    }

    fn shutdown_write(&mut self) {}

    fn widen(&mut self) {}

    fn silence(&mut self) -> Duration {
        Duration::from_millis(self.0.below(5000))
    }

    fn probe_after(&mut self, _: Duration) {}

    fn send_room(&mut self) -> SendRoom {
        SendRoom {
            bytes: self.0.word(5000),
            limit: 5000,
        }
    }
}

/// Abuses the connection of a saved value, if the value loads.
pub(crate) fn play_saved(flow: &SavedTcpFlow, around: &mut Surroundings, rng: &mut Rng) {
    let place = Place {
        now: around.now,
        mtu: around.link.mtu,
        spill: SpillPool::default(),
    };
    if let Ok(mut connection) = Connection::load(&flow.connection, &place) {
        play(&mut connection, around, rng);
    }
}

/// Applies random segments, time and events, regardless of the connection's state.
pub(super) fn play(connection: &mut Connection, around: &mut Surroundings, rng: &mut Rng) {
    let mut stream = Unrelated(Rng::new(rng.below(1 << 40)));
    let mut gather = GatherList::default();
    for _ in 0..20 {
        if connection.is_over() {
            return;
        }
        around.sink.room = rng.index(8);
        around.now = around.now + Duration::from_millis(rng.below(5_000_000));
        let near = |number: u32, rng: &mut Rng| number.wrapping_add(rng.word(9));
        let payload = vec![1; rng.index(2000)];
        let header = TcpHeader {
            seq: near(connection.rcv_nxt.0.wrapping_sub(1), rng),
            ack: near(connection.snd_max.0.wrapping_sub(6), rng),
            flags: TcpFlags(if rng.below(9) == 0 { 0x3f } else { 0x31 }),
            window: u16::try_from(rng.below(1 << 16)).unwrap_or_default(),
            urgent: u16::try_from(rng.below(3000)).unwrap_or_default(),
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
        let ctx = &mut around.context();
        let _ = connection.on_timer(ctx, Some(&mut stream));
        let _ = connection.on_segments(ctx, Some(&mut stream), &burst, [&segment].into_iter(), &mut gather);
        connection.on_readable();
        connection.on_writable(ctx, &mut stream);
        let _ = connection.answer(ctx, &mut stream);
        let _ = (connection.idle_for(ctx.now), connection.syn(), connection.save(ctx.now));
    }
    connection.abort(&mut around.context());
}
