//! The connections of a worker that follow the guest to another process ([`Follow`]).

use super::engine::Engine;
use super::saved::{LoadError, from_bytes, to_bytes};
use super::tcp::SavedTcpFlow;
use crate::counters::Count;
use crate::frame::GuestSink;
use crate::mode::{Follow, FollowingFlow};
use crate::time::Instant;
use std::io;

impl Engine {
    /// Executes a step of a migration.
    ///
    /// # Errors
    /// The guest runs here, so its connections stay.
    pub fn follow(&mut self, now: Instant, step: Follow, sink: &mut dyn GuestSink) -> io::Result<()> {
        match step {
            Follow::Freeze(reply) => {
                if self.is_up {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                let flows = self.tcp.freeze(now);
                // If the caller has given up, the connections continue with the next driver.
                let _ = reply.send(flows.iter().map(to_bytes).collect());
            }
            Follow::Part(reply) => {
                let parted = self.tcp.part(&self.surroundings.poller);
                let parted = parted.ok_or(io::ErrorKind::ResourceBusy)?;
                self.surroundings.counters.add(Count::FlowsLeft, parted.len() as u64);
                let parted = parted
                    .into_iter()
                    .map(|(number, socket)| (number, socket.map(Into::into)));
                // If the caller has given up, the sockets close here.
                let _ = reply.send(parted.collect());
            }
            Follow::Expect => {
                if self.is_up || self.tcp.count() > 0 {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                self.tcp.expect();
            }
            Follow::Come(flows, reply) => {
                let loaded = flows.into_iter().map(|flow| self.come(now, flow, sink));
                let loaded: Vec<_> = loaded.map(|loaded| loaded.map_err(|e| e.to_string())).collect();
                self.tcp.complete();
                // As above: a caller that has given up tells the other process nothing.
                let _ = reply.send(loaded);
            }
            Follow::Forget => self.tcp.forget(),
        }
        Ok(())
    }

    fn come(&mut self, now: Instant, flow: FollowingFlow, sink: &mut dyn GuestSink) -> Result<(), LoadError> {
        let saved: SavedTcpFlow = from_bytes(&flow.payload)?;
        let ctx = &mut self.surroundings.context(now, sink);
        // A connection that is closed has no socket.
        let socket = flow.socket.filter(|_| saved.connection().has_socket());
        self.tcp.load(ctx, &saved, socket.map(Into::into))?;
        self.surroundings.counters.add(Count::FlowsCame, 1);
        Ok(())
    }
}
