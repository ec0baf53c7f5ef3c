//! A source that has connected and has not said yet which NIC its guest has.
//!
//! A process may serve several NICs. Each has a channel of its own, and the greeting of the source names the NIC.

use super::greeting::Greeting;
use super::relay::Relay;
use super::role::{EVENTS, GREETING, Handle, Migration, MigrationError, Part};
use super::status::Phase;
use super::wire::Message;
use crate::poller::{EventBuffer, Poller};
use crate::port::{Identity, Port};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Finds the port of a NIC, or says why there is none.
pub type FindPort = dyn FnOnce(&Identity) -> Result<Arc<Port>, String> + Send;

/// A channel from a source.
pub struct Arrival {
    relay: Relay,
    poller: Poller,
    handle: Handle,
    find: Box<FindPort>,
}

debug_fields!(Arrival { relay });

impl Arrival {
    /// The target's end of `channel`, whose port is that of `find`.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(channel: UnixStream, find: Box<FindPort>) -> io::Result<Self> {
        let poller = Poller::new()?;
        Ok(Self {
            handle: Handle::new(&poller)?,
            relay: Relay::new(channel, poller.clone())?,
            poller,
            find,
        })
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until the channel ends. The handle has the result.
    pub fn run(mut self) {
        let begun = Instant::now();
        let greeted = self.greeted(begun);
        let Self {
            mut relay,
            poller,
            handle,
            find,
        } = self;
        let found = greeted.and_then(|identity| {
            let port = find(&identity).map_err(MigrationError::NoSuchNic)?;
            Ok((port, identity))
        });
        match found {
            Ok((port, identity)) => Migration::with(port, relay, poller, handle, Part::Target).run_greeted(&identity),
            Err(why) => {
                why.tell(&mut relay);
                log::warn!("a migration to this process was refused: {why}");
                handle.status().change(|report| {
                    report.phase = Phase::Ended;
                    report.why = Some(why.to_string());
                });
            }
        }
    }

    /// Waits for the description of the NIC.
    fn greeted(&mut self, begun: Instant) -> Result<Identity, MigrationError> {
        let mut events = EventBuffer::with_capacity(EVENTS);
        let mut messages = Vec::new();
        loop {
            let left = (begun + GREETING).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(MigrationError::Silent);
            }
            let Self { relay, handle, .. } = self;
            let wait = if relay.has_backlog() { Duration::ZERO } else { left };
            self.poller.wait(&mut events, Some(wait), |token, ready| {
                if !handle.hears(token) {
                    relay.on_event(token, ready);
                }
            })?;
            if self.handle.is_aborted() {
                return Err(MigrationError::Aborted);
            }
            let read = self.relay.read(&mut messages);
            let mut messages = messages.drain(..);
            match (messages.next(), messages.next()) {
                (Some(Message::Hello(offer)), None) => return Ok(Greeting::read(&offer)?.accept()?),
                (Some(Message::Refuse(why)), _) => return Err(MigrationError::Refused(why)),
                (Some(_), _) => return Err(MigrationError::OutOfTurn("a message")),
                (None, _) => read?,
            }
        }
    }
}
