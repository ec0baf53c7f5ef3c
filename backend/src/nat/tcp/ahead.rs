//! Connections that are passed to another process before the guest's rings stop.
//!
//! Most connections are idle. Their values and sockets go ahead while the guest still runs, and once the rings rest, only
//! those that have changed since are passed on again. A value has times relative to the moment of saving. So a connection
//! has not changed if its value, saved as of the moment at which it went ahead, is the same as then; and it is loaded as
//! of that moment.

use super::saved_flow::{SavedTcpFlow, value};
use super::{Flow, TcpFlows};
use crate::time::Instant;
use socket2::Socket;
use std::io;
use std::time::Duration;

/// What has gone ahead.
#[derive(Debug)]
pub(super) struct SentAhead {
    at: Instant,
    /// Slot, generation and value of each connection, in the order of their slots.
    flows: Vec<(usize, u32, SavedTcpFlow)>,
}

/// What has happened to connections since they went ahead, and those that have been opened since.
#[derive(Debug, Default)]
pub(in crate::nat) struct Since<'a> {
    /// Time that has passed.
    pub elapsed: Duration,
    /// Numbers of the connections that have not changed.
    pub unchanged: Vec<u32>,
    /// Numbers and values of those that have changed. All others have ended.
    pub changed: Vec<(u32, SavedTcpFlow)>,
    /// Values and sockets of others.
    pub new: Vec<(SavedTcpFlow, Option<&'a Socket>)>,
}

impl TcpFlows {
    /// Converts all connections to plain values, and passes the socket of each to `duplicate`. The connections go on, and
    /// [`save_since`](Self::save_since) refers to the values by their position.
    ///
    /// # Errors
    /// The error of `duplicate`; nothing has gone ahead then.
    pub(in crate::nat) fn save_ahead(
        &mut self,
        now: Instant,
        mut duplicate: impl FnMut(&Socket) -> io::Result<()>,
    ) -> io::Result<Vec<SavedTcpFlow>> {
        self.ahead = None;
        let mut flows = Vec::with_capacity(self.flows.len());
        for (slot, flow) in &self.flows {
            let Some(value) = value(flow, now) else { continue };
            flow.stream.as_ref().map_or(Ok(()), &mut duplicate)?;
            flows.push((slot, flow.generation, value));
        }
        let values = flows.iter().map(|(.., value)| value.clone()).collect();
        self.ahead = Some(SentAhead { at: now, flows });
        Ok(values)
    }

    /// Converts all connections to plain values, as far as they have not gone ahead.
    pub(in crate::nat) fn save_since(&mut self, now: Instant) -> Since<'_> {
        let SentAhead { at, flows: sent } = self.ahead.take().unwrap_or(SentAhead {
            at: now,
            flows: Vec::new(),
        });
        let mut since = Since {
            elapsed: now.since(at),
            ..Since::default()
        };
        let mut sent = (0_u32..).zip(sent).peekable();
        for (slot, flow) in &self.flows {
            while sent.next_if(|(_, (earlier, ..))| *earlier < slot).is_some() {}
            let same = sent.next_if(|(_, (known, generation, _))| (*known, *generation) == (slot, flow.generation));
            let save = |flow: &Flow| value(flow, now);
            match same {
                Some((number, (.., then))) if value(flow, at).as_ref() == Some(&then) => since.unchanged.push(number),
                Some((number, _)) => since.changed.extend(save(flow).map(|value| (number, value))),
                None => since.new.extend(save(flow).map(|value| (value, flow.stream.as_ref()))),
            }
        }
        since
    }
}
