//! Connections of the table as plain values, together with their host sockets. See [`saved`](crate::nat::saved).

use super::connection::Progress;
use super::driver::Parting;
use super::isn::{IsnSecret, SavedSecret};
use super::saved::{Place, SavedConnection};
use super::{Connection, Flow, TcpFlows, host_socket};
use crate::mode::ForwardSocket;
use crate::nat::context::Context;
use crate::nat::saved::{LoadError, Payload, ensure, is_default};
use crate::nat::tcp::stream::HostStream;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use socket2::Socket;
use std::io;

/// A connection together with the table's data about its host socket.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedTcpFlow {
    #[serde(rename = "c", alias = "connection")]
    pub(super) connection: SavedConnection,
    /// DSCP that the host socket sends, in its position in the header field.
    #[serde(rename = "d", alias = "dscp", default, skip_serializing_if = "is_default")]
    pub(super) dscp: u8,
}

impl Payload for SavedTcpFlow {
    const KIND: &'static str = "tcp-flow";
    const VERSION: u32 = 3;
}

impl Payload for SavedSecret {
    const KIND: &'static str = "tcp-secret";
    const VERSION: u32 = 1;
}

impl SavedTcpFlow {
    /// The connection without the table's data.
    pub const fn connection(&self) -> &SavedConnection {
        &self.connection
    }
}

/// A connection of the table as a plain value; `None` once it is over.
pub(super) fn value(flow: &Flow, now: Instant) -> Option<SavedTcpFlow> {
    let Flow {
        connection,
        // Its descriptor is passed beside the value.
        stream: _,
        dscp,
        // These belong to the table and the poller, which create them again.
        generation: _,
        scheduled: _,
        is_queued: _,
        awaits_room: _,
        standing: _,
        entry: _,
        claim: _,
    } = flow;
    Some(SavedTcpFlow {
        connection: connection.save(now)?,
        dscp: *dscp,
    })
}

impl TcpFlows {
    /// Converts all connections to plain values, each with its host socket unless it is in TIME-WAIT. They stay in the
    /// table, which must not run until the sockets have been passed on.
    pub fn save(&self, now: Instant) -> impl Iterator<Item = (SavedTcpFlow, Option<&Socket>)> {
        let flows = self.flows.iter();
        flows.filter_map(move |(_, flow)| Some((value(flow, now)?, flow.stream.as_ref())))
    }

    /// Takes over a connection from another process. `stream` is its host socket, or a socket that leads to the same
    /// peer and has the same bytes in its queue.
    ///
    /// # Errors
    /// [`LoadError`]: the connection is not in the table, and the socket is closed.
    pub fn load(
        &mut self,
        ctx: &mut Context<'_>,
        saved: &SavedTcpFlow,
        stream: Option<Socket>,
    ) -> Result<(), LoadError> {
        let slot = self.insert_saved(ctx.now, ctx, saved, stream)?;
        if let Some(stream) = &mut self.flows[slot].stream {
            // Fails for no socket.
            let _ = stream.set_nonblocking(true);
            host_socket::set_dscp(stream, saved.dscp);
            stream.seek_peek(saved.connection.peek_offset());
        }
        // The poller reports readable bytes, but not bytes for which the guest had no room.
        self.settle(ctx, slot, Progress::More);
        Ok(())
    }

    /// As [`load`](Self::load), for a connection that the other process saved at `then` on this clock. `stream` is its
    /// host socket, which is as the other process has left it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_as_of(
        &mut self,
        then: Instant,
        ctx: &mut Context<'_>,
        saved: &SavedTcpFlow,
        stream: Option<Socket>,
    ) -> Result<(), LoadError> {
        let slot = self.insert_saved(then, ctx, saved, stream)?;
        // The poller reports readable bytes, but not bytes for which the guest had no room.
        self.settle(ctx, slot, Progress::More);
        Ok(())
    }

    /// Puts a saved connection into the table, and returns its slot.
    fn insert_saved(
        &mut self,
        then: Instant,
        ctx: &mut Context<'_>,
        saved: &SavedTcpFlow,
        stream: Option<Socket>,
    ) -> Result<usize, LoadError> {
        let place = Place {
            now: then,
            mtu: ctx.link.mtu,
            spill: self.spill.clone(),
        };
        let connection = Connection::load(&saved.connection, &place)?;
        let has_room = stream.is_none() && self.in_time_wait < self.limit || stream.is_some() && !self.is_full();
        if !has_room {
            return Err(LoadError::Full { limit: self.limit });
        }
        if self.has(&saved.connection.id()) {
            return Err(LoadError::Duplicate);
        }
        ensure(
            stream.is_some() == saved.connection.has_socket(),
            "its host socket is missing, or it should not have one",
        )?;
        Ok(self.put_in(ctx, Flow::new(connection, stream, saved.dscp)))
    }

    /// Copies of the listening sockets.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn share_listeners(&self) -> io::Result<Vec<ForwardSocket>> {
        self.listeners.share()
    }

    /// Leaves the sockets as they are when the table is dropped, because another process has them too.
    pub const fn leave(&mut self) {
        self.parting = Parting::Leave;
    }

    /// Converts the secret of sequence numbers and timestamps to a plain value.
    pub fn save_secret(&self, now: Instant) -> SavedSecret {
        self.secret.save(now)
    }

    /// Adopts the secret of the process whose connections are loaded.
    pub fn load_secret(&mut self, saved: &SavedSecret, now: Instant) {
        self.secret = IsnSecret::load(saved, now);
    }
}
