//! Moves bytes between the channel and the sockets of the connections that it carries.
//!
//! All sockets are watched edge-triggered. A leg whose socket may have bytes is in the backlog, and gets its turns while
//! the channel accepts bytes. Bytes for a socket are written as they arrive, and what it does not accept waits in the leg,
//! bounded by the leg's window.

use super::datagrams::{Buffers, Datagrams, Gone};
use super::leg::{Leg, Violation};
use super::wire::{self, Decoder, Message, PIECE, WireError};
use crate::poller::{Interest, Owner, Poller, Readiness, Token};
use socket2::{SockRef, Socket, Type};
use std::collections::{HashSet, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Bytes for the channel from which the sockets are not read.
const OUTPUT_MAX: usize = 512 << 10;
/// Most bytes read from the channel at a time, and turns of legs before the channel has its own.
const INPUT: usize = 256 << 10;
const TURNS: usize = 32;

/// Owners of events, among those of the thread's poller.
pub(super) const CHANNEL: Owner = Owner::of_worker(1);
pub(super) const LEG: Owner = Owner::of_worker(2);

/// The reason why a channel ends.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The other process has closed the channel.
    #[error("the other hawser has closed the channel")]
    Closed,
    /// The channel failed.
    #[error("the channel failed: {0}")]
    System(#[from] io::Error),
    /// The peer is no hawser, or a broken one.
    #[error("the other side sent {0}")]
    Wire(#[from] WireError),
    /// The peer violates flow control.
    #[error("the other side sent {0}")]
    Violation(#[from] Violation),
}

/// How bytes cross the channel.
enum Way {
    Stream(Leg),
    Datagrams(Datagrams),
}

/// A flow with its socket.
struct Carried {
    way: Way,
    socket: Socket,
    /// True if the socket may have bytes.
    readable: bool,
    /// True while it is in the backlog.
    is_queued: bool,
}

/// One end of a channel, with its legs.
pub struct Relay {
    poller: Poller,
    channel: UnixStream,
    decoder: Decoder,
    scratch: Vec<u8>,
    /// True if the channel may have bytes.
    has_input: bool,
    output: Vec<u8>,
    written: usize,
    legs: Vec<Option<Carried>>,
    backlog: VecDeque<usize>,
    /// False while the sockets must not be read.
    runs: bool,
    resets: usize,
    /// Connections that the peer has reset before their sockets were added.
    refused: HashSet<u32>,
    buffers: Buffers,
    /// Datagrams that sockets did not accept, since they were asked for.
    lost: u64,
}

debug_fields!(Relay { runs, resets });

impl Drop for Relay {
    /// Resets what is still carried.
    fn drop(&mut self) {
        self.legs.iter_mut().flatten().for_each(|carried| cut(&carried.socket));
    }
}

/// Makes the close of a socket a reset.
fn cut(socket: &Socket) {
    // If this fails, the peer sees the end of the stream instead.
    let _ = socket.set_linger(Some(Duration::ZERO));
}

impl Relay {
    /// One end of `channel`.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(channel: UnixStream, poller: Poller) -> io::Result<Self> {
        SockRef::from(&channel).set_nonblocking(true)?;
        poller.add(&channel, Token::new(CHANNEL, 0), Interest::StreamEdge)?;
        Ok(Self {
            poller,
            channel,
            decoder: Decoder::default(),
            scratch: vec![0; INPUT],
            has_input: true,
            output: Vec::new(),
            written: 0,
            legs: Vec::new(),
            backlog: VecDeque::new(),
            runs: false,
            resets: 0,
            refused: HashSet::new(),
            buffers: Buffers::default(),
            lost: 0,
        })
    }

    /// Queues a message for the peer.
    pub fn send(&mut self, message: &Message) {
        message.encode(&mut self.output);
    }

    /// Adds the socket of flow `number`: a stream, or a connected one for datagrams.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn add(&mut self, number: u32, socket: Socket) -> io::Result<()> {
        if self.refused.remove(&number) {
            cut(&socket);
            self.resets += 1;
            return Ok(());
        }
        let slot = number as usize;
        socket.set_nonblocking(true)?;
        let way = if socket.r#type()? == Type::DGRAM {
            Way::Datagrams(Datagrams::new(&socket)?)
        } else {
            Way::Stream(Leg::default())
        };
        self.poller
            .add(&socket, Token::new(LEG, number), Interest::StreamEdge)?;
        if self.legs.len() <= slot {
            self.legs.resize_with(slot + 1, || None);
        }
        self.legs[slot] = Some(Carried {
            way,
            socket,
            readable: true,
            is_queued: false,
        });
        Ok(())
    }

    /// Begins to read the sockets.
    pub fn start(&mut self) {
        self.runs = true;
        (0..self.legs.len()).for_each(|slot| self.enqueue(slot));
    }

    /// Forgets which connections the peer has reset before their sockets were added.
    pub fn forget_refused(&mut self) {
        self.refused.clear();
    }

    /// Gives up all legs. Their sockets are reset.
    pub fn clear(&mut self) {
        self.runs = false;
        self.backlog.clear();
        self.refused.clear();
        for carried in self.legs.drain(..).flatten() {
            cut(&carried.socket);
        }
    }

    /// Number of connections that are carried.
    pub fn carried(&self) -> usize {
        self.legs.iter().flatten().count()
    }

    /// True if connection `number` is carried.
    pub fn has(&self, number: u32) -> bool {
        self.legs.get(number as usize).is_some_and(Option::is_some)
    }

    /// Number of connections that were reset.
    pub const fn resets(&self) -> usize {
        self.resets
    }

    /// True if there is work that no event announces.
    pub fn has_backlog(&self) -> bool {
        self.has_input || (self.has_room() && !self.backlog.is_empty())
    }

    /// Resets a connection on both sides.
    pub fn reset(&mut self, number: u32) {
        self.drop_leg(number as usize);
        self.send(&Message::Reset(number));
    }

    /// Records an event of the channel or of a leg.
    pub fn on_event(&mut self, token: Token, ready: Readiness) {
        let has_ended = ready.read_closed || ready.hung_up || ready.error;
        if token.owner == CHANNEL {
            self.has_input |= ready.readable || has_ended;
            return;
        }
        let slot = token.index as usize;
        let Some(Some(carried)) = self.legs.get_mut(slot) else {
            return;
        };
        carried.readable |= ready.readable || has_ended;
        if ready.writable {
            self.deliver(slot);
        }
        self.enqueue(slot);
    }

    /// Reads the channel. Messages that are not about a leg are appended to `others`.
    ///
    /// # Errors
    /// [`RelayError`], which ends the channel. `others` may have messages from before.
    pub fn read(&mut self, others: &mut Vec<Message>) -> Result<(), RelayError> {
        if !std::mem::take(&mut self.has_input) {
            return Ok(());
        }
        let n = match self.channel.read(&mut self.scratch) {
            Ok(0) => return Err(RelayError::Closed),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        self.has_input = true;
        self.decoder.push(&self.scratch[..n]);
        while let Some(message) = self.decoder.take()? {
            match message {
                Message::Data { number, bytes } => self.on_data(number, &bytes)?,
                Message::Credit { number, bytes } => self.on_credit(number, bytes)?,
                Message::End(number) => self.on_end(number),
                Message::Reset(number) => self.on_reset(number),
                Message::Datagrams {
                    number,
                    traffic_class,
                    segment,
                    bytes,
                } => self.on_datagrams(number, (traffic_class, segment), &bytes),
                other => others.push(other),
            }
        }
        Ok(())
    }

    fn on_data(&mut self, number: u32, bytes: &[u8]) -> Result<(), Violation> {
        // A connection that was reset here may have bytes on the way.
        if let Some(leg) = self.stream(number) {
            leg.on_data(bytes)?;
            self.deliver(number as usize);
        }
        Ok(())
    }

    fn on_credit(&mut self, number: u32, bytes: u32) -> Result<(), Violation> {
        if let Some(leg) = self.stream(number) {
            leg.on_credit(bytes)?;
            self.enqueue(number as usize);
        }
        Ok(())
    }

    fn on_end(&mut self, number: u32) {
        if let Some(leg) = self.stream(number) {
            leg.on_end();
            self.deliver(number as usize);
        } else if let Some(place) = self.legs.get_mut(number as usize) {
            *place = None;
        }
    }

    fn on_reset(&mut self, number: u32) {
        if !self.runs && !self.has(number) {
            self.refused.insert(number);
        }
        self.drop_leg(number as usize);
    }

    fn on_datagrams(&mut self, number: u32, how: (u8, Option<u16>), bytes: &[u8]) {
        if let Some(Some(carried)) = self.legs.get_mut(number as usize)
            && let Way::Datagrams(datagrams) = &mut carried.way
        {
            match datagrams.send(&mut self.buffers, &carried.socket, how, bytes) {
                Ok(lost) => self.lost += lost,
                Err(Gone) => self.end(number),
            }
        }
    }

    /// The connection with this number. `None` for a flow of datagrams.
    fn stream(&mut self, number: u32) -> Option<&mut Leg> {
        match &mut self.legs.get_mut(number as usize)?.as_mut()?.way {
            Way::Stream(leg) => Some(leg),
            Way::Datagrams(_) => None,
        }
    }

    /// Ends a flow of datagrams on both sides.
    fn end(&mut self, number: u32) {
        if let Some(place) = self.legs.get_mut(number as usize) {
            *place = None;
        }
        self.send(&Message::End(number));
    }

    /// Ends the flows of datagrams that have been idle for some calls.
    pub fn end_idle(&mut self) {
        for slot in 0..self.legs.len() {
            if let Some(Carried {
                way: Way::Datagrams(datagrams),
                ..
            }) = &mut self.legs[slot]
                && datagrams.is_idle()
            {
                self.end(u32::try_from(slot).unwrap_or(u32::MAX));
            }
        }
    }

    /// Number of datagrams that sockets did not accept since the last call.
    pub const fn take_lost(&mut self) -> u64 {
        std::mem::replace(&mut self.lost, 0)
    }

    fn drop_leg(&mut self, slot: usize) {
        if let Some(carried) = self.legs.get_mut(slot).and_then(Option::take) {
            cut(&carried.socket);
            self.resets += usize::from(matches!(carried.way, Way::Stream(_)));
        }
    }

    fn enqueue(&mut self, slot: usize) {
        let Some(Some(carried)) = self.legs.get_mut(slot) else {
            return;
        };
        let may_send = match &carried.way {
            Way::Stream(leg) => leg.may_send() > 0,
            Way::Datagrams(_) => true,
        };
        let has_work = self.runs && carried.readable && may_send;
        if has_work && !std::mem::replace(&mut carried.is_queued, true) {
            self.backlog.push_back(slot);
        }
    }

    /// Writes what waits for a socket, and the end of its stream.
    fn deliver(&mut self, slot: usize) {
        let Some(Some(carried)) = self.legs.get_mut(slot) else {
            return;
        };
        let number = u32::try_from(slot).unwrap_or(u32::MAX);
        let Way::Stream(leg) = &mut carried.way else { return };
        while !leg.waiting().is_empty() {
            match carried.socket.send_with_flags(leg.waiting(), libc::MSG_NOSIGNAL) {
                Ok(n) => {
                    if let Some(bytes) = leg.delivered(n) {
                        Message::Credit { number, bytes }.encode(&mut self.output);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.reset(number),
            }
        }
        if leg.take_end() {
            // If the connection has ended, reading its socket says so.
            let _ = carried.socket.shutdown(Shutdown::Write);
        }
        self.drop_if_over(slot);
    }

    fn drop_if_over(&mut self, slot: usize) {
        let number = u32::try_from(slot).unwrap_or(u32::MAX);
        if self.stream(number).is_some_and(|leg| leg.is_over()) {
            self.legs[slot] = None;
        }
    }

    const fn has_room(&self) -> bool {
        self.output.len() - self.written < OUTPUT_MAX
    }

    /// Lets some legs send, and writes to the channel what it accepts.
    ///
    /// # Errors
    /// [`RelayError`]
    pub fn work(&mut self) -> Result<(), RelayError> {
        for _ in 0..TURNS {
            if !self.has_room() {
                break;
            }
            let Some(slot) = self.backlog.pop_front() else { break };
            self.take_turn(slot);
        }
        self.flush()
    }

    fn take_turn(&mut self, slot: usize) {
        let Some(Some(carried)) = self.legs.get_mut(slot) else {
            return;
        };
        carried.is_queued = false;
        let number = u32::try_from(slot).unwrap_or(u32::MAX);
        let leg = match &mut carried.way {
            Way::Stream(leg) => leg,
            Way::Datagrams(datagrams) => {
                match datagrams.receive(&mut self.buffers, &carried.socket, number, &mut self.output) {
                    Ok(true) => self.enqueue(slot),
                    Ok(false) => carried.readable = false,
                    Err(Gone) => self.end(number),
                }
                return;
            }
        };
        let room = leg.may_send().min(PIECE);
        if room == 0 {
            return;
        }
        match (&carried.socket).read(&mut self.scratch[..room]) {
            Ok(0) => {
                carried.readable = false;
                leg.sent_end();
                self.send(&Message::End(number));
                self.drop_if_over(slot);
            }
            Ok(n) => {
                leg.sent(n);
                wire::data(&mut self.output, number, &self.scratch[..n]);
                self.enqueue(slot);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => carried.readable = false,
            Err(_) => self.reset(number),
        }
    }

    /// Writes to the channel what it accepts.
    ///
    /// # Errors
    /// [`RelayError::System`]
    pub fn flush(&mut self) -> Result<(), RelayError> {
        while self.written < self.output.len() {
            match self.channel.write(&self.output[self.written..]) {
                Ok(n) => self.written += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.into()),
            }
        }
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        } else if self.written >= OUTPUT_MAX {
            self.output.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
