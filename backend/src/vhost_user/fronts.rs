//! The front ends of a port: the one that has the device, and one on standby ([`session::standby`](super::session)).

use super::connection::{Connection, ConnectionError, ConnectionRecord, Ended};
use super::session::Busy;
use super::socket::{Watch, wait};
use crate::port::Port;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

/// One or two connections.
#[derive(Debug)]
pub(super) struct Fronts {
    active: Connection,
    standby: Option<Connection>,
}

impl Fronts {
    pub(super) const fn new(active: Connection) -> Self {
        Self { active, standby: None }
    }

    /// As [`Connection::hand_over`], for one front end.
    pub(super) fn hand_over(self) -> Result<(ConnectionRecord, Vec<OwnedFd>), (Busy, Box<Self>)> {
        if self.standby.is_some() {
            return Err((Busy::TwoFrontEnds, Box::new(self)));
        }
        let handed = self.active.hand_over();
        handed.map_err(|(busy, connection)| (busy, Box::new(Self::new(*connection))))
    }

    /// Serves the front ends until the last one has disconnected or one of `interrupts` becomes readable. A second front
    /// end comes from `listener`.
    pub(super) fn run(
        &mut self,
        port: &Arc<Port>,
        interrupts: [RawFd; 2],
        listener: Option<&UnixListener>,
    ) -> Result<Ended, ConnectionError> {
        loop {
            let [stop, asked] = interrupts.map(Watch::reads);
            let free = listener.filter(|_| self.standby.is_none());
            let next = free.map_or(Watch::IGNORED, |listener| Watch::reads(listener.as_raw_fd()));
            let second = self.standby.as_ref().map_or(Watch::IGNORED, Connection::watch);
            let [stop, asked, first, second, next] = wait([stop, asked, self.active.watch(), second, next], -1)?;
            if stop.readable || asked.readable {
                return Ok(Ended::Interrupted);
            }
            match (self.active.step(first), self.standby.take()) {
                (Ok(None), standby) => self.standby = standby,
                (ended, None) => return ended.map(|ended| ended.unwrap_or(Ended::Closed)),
                (ended, Some(standby)) => {
                    let name = &port.config().name;
                    log::info!("port {name}: a front end has gone, and the next one continues: {ended:?}");
                    // The first one leaves the device before the second one has it.
                    self.active = standby;
                    self.active.session().set_standby(false);
                    continue;
                }
            }
            if let Some(standby) = &mut self.standby {
                let ended = standby.step(second);
                if !matches!(ended, Ok(None)) {
                    log::debug!(
                        "port {}: a front end on standby has gone: {ended:?}",
                        port.config().name
                    );
                    self.standby = None;
                }
            } else if let Some(Ok((stream, _))) = free.filter(|_| next.readable).map(UnixListener::accept) {
                self.standby = Some(Connection::on_standby(port, stream)?);
            }
            self.change_over();
        }
    }

    /// Gives the device to the second front end if the first one has stopped its rings and the second one has not.
    fn change_over(&mut self) {
        let Some(standby) = &mut self.standby else { return };
        if standby.session().wants_device() && self.active.session().can_yield() {
            self.active.session().set_standby(true);
            standby.session().set_standby(false);
            std::mem::swap(&mut self.active, standby);
        }
    }
}
