//! The flows of a port: found by their ends, dropped when idle, bounded in number.
//!
//! When the table is full the oldest flow nobody has answered gives way. Flows begun
//! by the world have a share of their own, so that a flood of made-up clients cannot
//! push out what the guest began.

use super::super::index::SlotIndex;
use super::flow::{Flow, FlowKey, FlowRef, Side};
use crate::poller::{GENERATION_MASK, Owner, Token};
use crate::time::Instant;
use crate::timers::TimerQueue;
use slab::Slab;
use socket2::Domain;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// Of all flows, at most one in this many may be begun by the world and not answered.
const INBOUND_SHARE: usize = 4;

/// Timers that are seen to before the worker looks at other things.
const TIMERS_PER_TURN: usize = 256;

/// All flows of a port.
pub struct FlowTable {
    flows: Slab<Flow>,
    by_key: SlotIndex,
    timers: TimerQueue<FlowRef>,
    /// Flows in order of their making, per side that began; answered and gone ones are
    /// left in until they come up.
    guest_began: VecDeque<FlowRef>,
    world_began: VecDeque<FlowRef>,
    unanswered_inbound: usize,
    max_flows: usize,
    next_generation: u32,
    /// How many of our sockets have a port of the host, by family.
    ports: HashMap<(i32, u16), usize>,
}

impl FlowTable {
    /// A table for at most `max_flows` flows.
    pub fn new(max_flows: usize) -> Self {
        Self {
            flows: Slab::new(),
            by_key: SlotIndex::default(),
            timers: TimerQueue::default(),
            guest_began: VecDeque::new(),
            world_began: VecDeque::new(),
            unanswered_inbound: 0,
            max_flows,
            next_generation: 0,
            ports: HashMap::new(),
        }
    }

    /// Number of flows.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// The flow with these ends.
    pub fn find(&self, key: &FlowKey) -> Option<FlowRef> {
        let index = self.by_key.find(key, |slot| self.flows[slot as usize].key == *key)?;
        let generation = self.flows[index as usize].generation;
        Some(FlowRef { index, generation })
    }

    /// The flow, if it still is the one meant.
    pub fn get(&mut self, flow: FlowRef) -> Option<&mut Flow> {
        let found = self.flows.get_mut(flow.index as usize)?;
        (found.generation == flow.generation).then_some(found)
    }

    /// True if one of our sockets has this port.
    pub fn owns_port(&self, domain: Domain, port: u16) -> bool {
        self.ports.contains_key(&(domain.into(), port))
    }

    /// Notes that a socket of ours has this port.
    pub fn own_port(&mut self, domain: Domain, port: u16) {
        *self.ports.entry((domain.into(), port)).or_default() += 1;
    }

    /// Notes that one of ours less has it.
    pub fn disown_port(&mut self, domain: Domain, port: u16) {
        if let Some(n) = self.ports.get_mut(&(domain.into(), port)) {
            *n -= 1;
            if *n == 0 {
                self.ports.remove(&(domain.into(), port));
            }
        }
    }

    /// Makes room for one more flow that `origin` begins; false if there is none.
    pub fn make_room(&mut self, origin: Side) -> bool {
        let inbound_limit = (self.max_flows / INBOUND_SHARE).max(1);
        if origin == Side::World && self.unanswered_inbound >= inbound_limit {
            self.evict(Side::World);
        }
        self.len() < self.max_flows || self.evict_any()
    }

    /// Drops the oldest unanswered flow; false if every flow is answered.
    pub fn evict_any(&mut self) -> bool {
        self.evict(Side::World) || self.evict(Side::Guest)
    }

    fn evict(&mut self, origin: Side) -> bool {
        loop {
            let Some(oldest) = self.order(origin).pop_front() else {
                return false;
            };
            if self.get(oldest).is_some_and(|f| f.is_unreplied()) {
                self.remove(oldest);
                return true;
            }
        }
    }

    fn order(&mut self, origin: Side) -> &mut VecDeque<FlowRef> {
        match origin {
            Side::Guest => &mut self.guest_began,
            Side::World => &mut self.world_began,
        }
    }

    /// The token a socket gets that [`insert`](Self::insert) is called with next.
    pub fn next_token(&self) -> Token {
        Token {
            owner: Owner::Udp,
            generation: self.next_generation,
            index: u32::try_from(self.flows.vacant_key()).unwrap_or(u32::MAX),
        }
    }

    /// Adds a flow; one with the same ends is dropped.
    pub fn insert(&mut self, mut flow: Flow) -> FlowRef {
        if let Some(old) = self.find(&flow.key) {
            self.remove(old);
        }
        let token = self.next_token();
        let made = FlowRef {
            index: token.index,
            generation: token.generation,
        };
        self.next_generation = (self.next_generation + 1) & GENERATION_MASK;
        flow.generation = made.generation;
        let deadline = flow.expires();
        self.timers.schedule(&mut flow.scheduled, made, deadline);
        if flow.origin == Side::World {
            self.unanswered_inbound += 1;
        }
        if let Some(port) = flow.kept_port {
            self.own_port(flow.domain, port);
        }
        self.remember(flow.origin, made);
        let flows = &self.flows;
        self.by_key.insert(&flow.key, made.index, |known| key_at(flows, known));
        self.flows.insert(flow);
        self.sweep_timers();
        made
    }

    /// Flows that gave way leave their timers behind.
    fn sweep_timers(&mut self) {
        let flows = &self.flows;
        self.timers.sweep(flows.len(), |_, r| {
            flows
                .get(r.index as usize)
                .is_some_and(|f| f.generation == r.generation)
        });
    }

    /// Adds to the order of making, and now and then sweeps out what means nothing any more.
    fn remember(&mut self, origin: Side, made: FlowRef) {
        let flows = &self.flows;
        let order = match origin {
            Side::Guest => &mut self.guest_began,
            Side::World => &mut self.world_began,
        };
        if order.len() >= 2 * self.max_flows.max(1) {
            order.retain(|r| {
                let flow = flows.get(r.index as usize);
                flow.is_some_and(|f| f.generation == r.generation && f.is_unreplied())
            });
        }
        order.push_back(made);
    }

    /// Notes that `side` has sent something.
    pub fn heard(&mut self, flow: FlowRef, side: Side, now: Instant) {
        let Some(found) = self.get(flow) else { return };
        let was_unreplied = found.is_unreplied();
        found.heard(side, now);
        if was_unreplied && !found.is_unreplied() && found.origin == Side::World {
            self.unanswered_inbound -= 1;
        }
    }

    /// Drops a flow and closes its socket.
    pub fn remove(&mut self, flow: FlowRef) {
        if self.get(flow).is_none() {
            return;
        }
        let gone = self.flows.remove(flow.index as usize);
        self.by_key.remove(&gone.key, flow.index);
        if gone.origin == Side::World && gone.is_unreplied() {
            self.unanswered_inbound -= 1;
        }
        if let Some(port) = gone.kept_port {
            self.disown_port(gone.domain, port);
        }
    }

    /// Drops the flows to a peer that `is_gone` names.
    pub fn drop_peers(&mut self, is_gone: impl Fn(SocketAddr) -> bool) {
        let gone = self.flows.iter().filter(|(_, flow)| is_gone(flow.key.peer));
        let gone: Vec<u32> = gone.filter_map(|(index, _)| u32::try_from(index).ok()).collect();
        for index in gone {
            let generation = self.flows[index as usize].generation;
            self.remove(FlowRef { index, generation });
        }
    }

    /// Drops the flows whose time is up.
    pub fn on_timer(&mut self, now: Instant) {
        for _ in 0..TIMERS_PER_TURN {
            let Some((at, flow)) = self.timers.pop_due(now) else {
                break;
            };
            let Some(found) = self.flows.get_mut(flow.index as usize) else {
                continue;
            };
            if found.generation != flow.generation || !found.scheduled.fire(at) {
                continue;
            }
            let expires = found.expires();
            if expires <= now {
                self.remove(flow);
            } else {
                self.timers.schedule(&mut found.scheduled, flow, expires);
            }
        }
    }

    /// When [`on_timer`](Self::on_timer) wants to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }
}

fn key_at(flows: &Slab<Flow>, slot: u32) -> FlowKey {
    flows[slot as usize].key
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Socket, Type};
    use std::net::SocketAddr;

    #[test]
    fn flows_that_gave_way_leave_nothing_behind() {
        const MOST: usize = 4;
        let mut table = FlowTable::new(MOST);
        for port in 1..1000 {
            assert!(table.make_room(Side::Guest));
            let key = FlowKey {
                guest: SocketAddr::new([10, 0, 2, 2].into(), port),
                peer: SocketAddr::new([192, 0, 2, 1].into(), 53),
            };
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            let now = Instant::from_nanos(u64::from(port));
            table.insert(Flow::new(key, socket, Domain::IPV4, Side::Guest, now));
        }
        assert_eq!(table.len(), MOST);
        assert!(table.timers.len() < 100, "{}", table.timers.len());
        let end = Instant::from_nanos(0) + std::time::Duration::from_secs(60);
        table.on_timer(end);
        assert_eq!((table.len(), table.timers.len()), (0, 0));
    }
}
