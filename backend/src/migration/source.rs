//! What the process does that the guest leaves.

use super::role::{Late, Migration, MigrationError};
use super::status::Phase;
use super::wire::Message;
use crate::mode::Follow;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

impl Migration {
    /// Freezes the connections and sends them.
    pub(super) fn freeze(&mut self) -> Result<(), MigrationError> {
        self.epoch += 1;
        self.owners.clear();
        self.relay.forget_refused();
        for worker in 0..self.port.workers().len() {
            let Some(payloads) = self.ask(worker, Follow::Freeze) else {
                // The guest runs here again already.
                self.relay.send(&Message::Resumed(self.epoch));
                return Ok(());
            };
            for payload in payloads {
                self.announce(worker, payload);
            }
        }
        let count = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
        let epoch = self.epoch;
        self.relay.send(&Message::Stopped { epoch, count });
        self.enter(Phase::Stopped);
        Ok(())
    }

    /// The guest runs in the target, so the sockets become anchors.
    pub(super) fn part_with_sockets(&mut self, drain: Duration) -> Result<(), MigrationError> {
        let mut sockets: Vec<Option<Option<OwnedFd>>> = self.owners.iter().map(|_| None).collect();
        for worker in 0..self.port.workers().len() {
            let Some(parted) = self.ask(worker, Follow::Part) else {
                // It runs here too, which the VMM must prevent. The sockets are here, and so is the guest.
                self.relay.send(&Message::Resumed(self.epoch));
                self.enter(Phase::Ready);
                return Ok(());
            };
            let first = self
                .owners
                .iter()
                .position(|owner| *owner == worker)
                .unwrap_or_default();
            for (at, socket) in parted {
                if let Some(place) = sockets.get_mut(first + at) {
                    *place = Some(socket);
                }
            }
        }
        self.relay.send(&Message::Parted(self.epoch));
        self.moved = sockets.iter().flatten().count();
        for (number, socket) in (0..).zip(sockets) {
            match socket {
                Some(Some(socket)) => {
                    if self.relay.add(number, socket.into()).is_err() {
                        self.relay.reset(number);
                    }
                }
                // The connection is closed in both directions.
                Some(None) => self.relay.send(&Message::End(number)),
                None => self.relay.reset(number),
            }
        }
        self.relay.start();
        let now = Instant::now();
        self.deadline = Some(now + drain);
        self.late = Some(Late::starting(now));
        self.check = Some(now);
        log::info!(
            "port {}: the guest has migrated; {} connections are carried",
            self.port.config().name,
            self.relay.carried()
        );
        self.enter(Phase::Anchored);
        Ok(())
    }

    /// Sends the payload of a flow of `worker`, and returns the flow's number.
    fn announce(&mut self, worker: usize, payload: Vec<u8>) -> u32 {
        let number = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
        let flow = Message::Flow {
            number,
            worker: u16::try_from(worker).unwrap_or_default(),
            payload,
        };
        self.relay.send(&flow);
        self.owners.push(worker);
        number
    }

    /// Carries the flow of a client that has sent for the first time since the guest stopped.
    fn carry(&mut self, worker: usize, payload: Vec<u8>, socket: OwnedFd) {
        let number = self.announce(worker, payload);
        self.moved += 1;
        if self.relay.add(number, socket.into()).is_err() {
            self.relay.reset(number);
        }
    }

    /// Passes on what has arrived here for the guest since it has left.
    pub(super) fn pass_late_frames(&mut self) {
        for worker in 0..self.port.workers().len() {
            // A worker whose guest has come back has none.
            let late = self.ask(worker, Follow::Late).unwrap_or_default();
            for (payload, socket) in late.flows {
                self.carry(worker, payload, socket);
            }
            for frame in late.frames {
                self.relay.send(&Message::Frame(frame));
            }
        }
    }
}
