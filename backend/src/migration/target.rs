//! What the process does to which the guest comes.

use super::loopback::Loopback;
use super::role::{Migration, MigrationError};
use super::status::Phase;
use super::wire::Message;
use crate::mode::{Follow, FollowingFlow};
use crate::nat::following::Substitute;
use crate::port::Identity;

/// Most connections that a guest can bring.
const FLOWS_MAX: usize = 1 << 18;

impl Migration {
    /// Checks that the guest's NIC is the one of this port, and prepares the workers.
    pub(super) fn greet(&mut self, served: &Identity) -> Result<(), MigrationError> {
        served.check(&self.port.identity())?;
        if !self.tell_workers(|| Follow::Expect) {
            return Err(MigrationError::Unsupported("the target runs a guest already"));
        }
        self.deadline = None;
        self.relay.send(&Message::Welcome);
        self.enter(Phase::Ready);
        Ok(())
    }

    pub(super) fn receive(&mut self, number: u32, worker: usize, payload: Vec<u8>) -> Result<(), MigrationError> {
        if number as usize != self.arrived.len() || self.arrived.len() >= FLOWS_MAX {
            return Err(MigrationError::OutOfTurn("a connection"));
        }
        let worker = worker % self.port.workers().len().max(1);
        self.arrived.push((worker, payload));
        Ok(())
    }

    /// Adds the connections, each with a loopback socket in place of its host socket.
    pub(super) fn stage(&mut self, epoch: u64, count: usize) -> Result<(), MigrationError> {
        if count != self.arrived.len() || epoch <= self.epoch {
            return Err(MigrationError::OutOfTurn("the end of its connections"));
        }
        self.epoch = epoch;
        self.flows = count;
        let mut loopback = Loopback::new()?;
        let mut with_socket = 0_usize;
        let mut loads: Vec<(Vec<u32>, Vec<FollowingFlow>)> = Vec::new();
        loads.resize_with(self.port.workers().len(), Default::default);
        for (number, (worker, payload)) in (0..).zip(std::mem::take(&mut self.arrived)) {
            let pair = match Substitute::of(&payload).unwrap_or(Substitute::Nothing) {
                Substitute::Stream => Some(loopback.pair()?),
                Substitute::Datagrams => Some(Loopback::datagrams()?),
                Substitute::Nothing => None,
            };
            let mut socket = None;
            if let Some((near, far)) = pair {
                socket = Some(near.into());
                self.relay.add(number, far)?;
                with_socket += 1;
            }
            let (numbers, flows) = &mut loads[worker];
            numbers.push(number);
            flows.push(FollowingFlow { payload, socket });
        }
        let mut refused = Vec::new();
        for (worker, (numbers, flows)) in loads.into_iter().enumerate() {
            let loaded = self.ask(worker, |reply| Follow::Come(flows, reply));
            let loaded = loaded.ok_or(MigrationError::Unsupported("a worker has ended"))?;
            let errors = numbers.into_iter().zip(loaded);
            refused.extend(errors.filter_map(|(number, loaded)| Some((number, loaded.err()?))));
        }
        if let Some((_, why)) = refused.first() {
            let name = &self.port.config().name;
            log::warn!("port {name}: {} of {count} connections are reset: {why}", refused.len());
        }
        self.moved = with_socket.saturating_sub(refused.len());
        self.refused = refused.into_iter().map(|(number, _)| number).collect();
        self.enter(Phase::Stopped);
        if self.is_here {
            self.run_here();
        }
        Ok(())
    }

    /// The guest runs here. What could not be added is reset in the source only now, because its guest may still go on
    /// there, and numbers are those of another attempt then.
    pub(super) fn run_here(&mut self) {
        for number in std::mem::take(&mut self.refused) {
            self.relay.reset(number);
        }
        self.relay.send(&Message::Running(self.epoch));
    }

    /// Adds the flow of a client that the source has met since the guest stopped.
    pub(super) fn join(&mut self, number: u32, worker: usize, payload: Vec<u8>) -> Result<(), MigrationError> {
        let substitute = Substitute::of(&payload)?;
        let is_next = number as usize == self.flows && self.flows < FLOWS_MAX;
        if !is_next || substitute != Substitute::Datagrams {
            return Err(MigrationError::OutOfTurn("a late flow"));
        }
        self.flows += 1;
        let (near, far) = Loopback::datagrams()?;
        self.relay.add(number, far)?;
        let flow = FollowingFlow {
            payload,
            socket: Some(near.into()),
        };
        let worker = worker % self.port.workers().len().max(1);
        match self.ask(worker, |reply| Follow::Come(vec![flow], reply)).as_deref() {
            Some([Ok(())]) => self.moved += 1,
            _ => self.relay.reset(number),
        }
        Ok(())
    }

    /// The guest goes on in the source.
    pub(super) fn forget(&mut self) {
        self.arrived.clear();
        self.refused.clear();
        self.moved = 0;
        self.relay.clear();
        if !self.is_here {
            self.tell_workers(|| Follow::Forget);
            self.tell_workers(|| Follow::Expect);
        }
        self.enter(Phase::Ready);
    }
}
