//! The flows of a port: found by their endpoints, dropped when idle, limited in number.
//!
//! If the table is full, a flow is dropped, as with the early drop of conntrack (`early_drop_list` in
//! net/netfilter/nf_conntrack_core.c): first flows that are not streams, beginning with the longest idle. Whether such
//! a flow was answered matters only between equals: a pending query is worth more than an older query that has its
//! answer. Then the longest idle stream is dropped; conntrack would keep it and refuse the new flow. Flows opened by
//! remote peers have a share of their own and never displace a stream of the guest, so that a flood of spoofed clients
//! cannot end the guest's flows.

use super::flow::{Exchange, Flow, FlowRef, Side};
use crate::nat::event_owner;
use crate::nat::index::SlotIndex;
use crate::nat::recency::Recency;
use crate::packet::FlowId;
use crate::poller::{GENERATION_MASK, Token};
use crate::time::Instant;
use crate::timers::{Scheduled, TimerQueue};
use slab::Slab;
use socket2::Domain;
use std::collections::HashMap;
use std::net::SocketAddr;

/// Divisor that gives the share of places for unanswered flows opened by remote peers.
const INBOUND_SHARE: usize = 4;

/// Timers that are handled in one turn of the worker.
const TIMERS_PER_TURN: usize = 256;

/// Value of a flow, compared when another flow needs its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    /// Only the side that opened it has sent datagrams.
    Unreplied,
    /// Both sides have sent datagrams, but the flow is not a stream yet: a query and its answer.
    Answered,
    /// Both sides have sent datagrams for some time.
    Stream,
}

/// Identifies a list of flows by the side that opened them and their value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rank(Side, Worth);

impl Rank {
    const COUNT: usize = 6;

    const fn of(flow: &Flow) -> Self {
        let worth = match flow.exchange {
            Exchange::From(_) => Worth::Unreplied,
            Exchange::BothSince(_) if flow.is_stream() => Worth::Stream,
            Exchange::BothSince(_) => Worth::Answered,
        };
        Self(flow.origin, worth)
    }

    /// Index of the list.
    const fn list(self) -> u8 {
        let worth = match self.1 {
            Worth::Unreplied => 0,
            Worth::Answered => 1,
            Worth::Stream => 2,
        };
        match self.0 {
            Side::Guest => worth,
            Side::World => worth + 3,
        }
    }
}

/// All flows of a port.
pub(super) struct FlowTable {
    flows: Slab<Flow>,
    by_key: SlotIndex,
    timers: TimerQueue<FlowRef>,
    /// Flows by [`Rank`], in the order of their last use.
    order: Recency<{ Rank::COUNT }>,
    unanswered_inbound: usize,
    max_flows: usize,
    next_generation: u32,
    /// Number of sockets that this worker has on each port of the host, by family.
    ports: HashMap<(i32, u16), usize>,
}

impl FlowTable {
    /// Creates a table for at most `max_flows` flows.
    pub(super) fn new(max_flows: usize) -> Self {
        Self {
            flows: Slab::new(),
            by_key: SlotIndex::default(),
            timers: TimerQueue::default(),
            order: Recency::default(),
            unanswered_inbound: 0,
            max_flows,
            next_generation: 0,
            ports: HashMap::new(),
        }
    }

    /// Number of flows.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// All flows.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().map(|(_, flow)| flow)
    }

    /// The flow with these endpoints.
    pub(super) fn find(&self, key: &FlowId) -> Option<FlowRef> {
        let index = self.by_key.find(key, |slot| self.flows[slot as usize].key == *key)?;
        let generation = self.flows[index as usize].generation;
        Some(FlowRef { index, generation })
    }

    /// The flows in at most `count` slots starting at `from`, and whether there are more.
    pub(super) fn slots(&self, from: usize, count: usize) -> (Vec<FlowRef>, bool) {
        let end = self.flows.capacity().min(from + count);
        let refs = (from..end).filter_map(|slot| {
            let generation = self.flows.get(slot)?.generation;
            let index = u32::try_from(slot).ok()?;
            Some(FlowRef { index, generation })
        });
        (refs.collect(), end < self.flows.capacity())
    }

    /// The flow, if its slot has not been reused.
    pub(super) fn get(&mut self, flow: FlowRef) -> Option<&mut Flow> {
        let found = self.flows.get_mut(flow.index as usize)?;
        (found.generation == flow.generation).then_some(found)
    }

    /// True if one of this worker's sockets has the port.
    pub(super) fn owns_port(&self, domain: Domain, port: u16) -> bool {
        self.ports.contains_key(&(domain.into(), port))
    }

    /// Records that one more socket has the port.
    pub(super) fn own_port(&mut self, domain: Domain, port: u16) {
        *self.ports.entry((domain.into(), port)).or_default() += 1;
    }

    /// Records that one fewer socket has the port.
    pub(super) fn disown_port(&mut self, domain: Domain, port: u16) {
        if let Some(n) = self.ports.get_mut(&(domain.into(), port)) {
            *n -= 1;
            if *n == 0 {
                self.ports.remove(&(domain.into(), port));
            }
        }
    }

    /// Makes room for one more flow that `origin` opens. False if that is impossible.
    pub(super) fn make_room(&mut self, origin: Side) -> bool {
        let inbound_limit = (self.max_flows / INBOUND_SHARE).max(1);
        if origin == Side::World && self.unanswered_inbound >= inbound_limit {
            self.evict(&[Rank(Side::World, Worth::Unreplied)]);
        }
        self.len() < self.max_flows || self.give_way(origin)
    }

    /// Drops a flow in favour of one that `origin` opens. False if there is none to drop.
    pub(super) fn give_way(&mut self, origin: Side) -> bool {
        use Side::{Guest, World};
        use Worth::{Answered, Stream, Unreplied};
        // The first step that finds a flow decides.
        let steps: [&[Rank]; 4] = match origin {
            Guest => [
                &[Rank(World, Unreplied)],
                &[Rank(Guest, Unreplied), Rank(World, Answered), Rank(Guest, Answered)],
                &[Rank(World, Stream), Rank(Guest, Stream)],
                &[],
            ],
            World => [
                &[Rank(World, Unreplied)],
                &[Rank(World, Answered)],
                &[Rank(Guest, Unreplied), Rank(Guest, Answered)],
                &[Rank(World, Stream)],
            ],
        };
        steps.into_iter().any(|ranks| self.evict(ranks))
    }

    /// Drops the longest idle flow among some ranks, and among equals the flow whose rank comes first. False if there
    /// is none.
    fn evict(&mut self, ranks: &[Rank]) -> bool {
        let candidates = ranks.iter().filter_map(|rank| self.order.oldest(rank.list()));
        let oldest = candidates.min_by_key(|&slot| self.flows[slot as usize].last_used);
        let Some(index) = oldest else { return false };
        let generation = self.flows[index as usize].generation;
        self.remove(FlowRef { index, generation });
        true
    }

    /// The token for the socket of the flow that is passed to [`insert`](Self::insert) next.
    pub(super) fn next_token(&self) -> Token {
        Token {
            owner: event_owner::UDP,
            generation: self.next_generation,
            index: u32::try_from(self.flows.vacant_key()).unwrap_or(u32::MAX),
        }
    }

    /// Adds a flow. An existing flow with the same endpoints is dropped.
    pub(super) fn insert(&mut self, mut flow: Flow) -> FlowRef {
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
        flow.scheduled = Scheduled::default();
        self.timers.schedule(&mut flow.scheduled, made, deadline);
        if flow.origin == Side::World && flow.is_unreplied() {
            self.unanswered_inbound += 1;
        }
        if let Some(port) = flow.kept_port {
            self.own_port(flow.domain, port);
        }
        self.order.touch(Rank::of(&flow).list(), made.index);
        let flows = &self.flows;
        self.by_key.insert(&flow.key, made.index, |known| key_at(flows, known));
        self.flows.insert(flow);
        self.sweep_timers();
        made
    }

    /// Removes the timers that dropped flows leave behind.
    fn sweep_timers(&mut self) {
        let flows = &self.flows;
        self.timers.sweep(flows.len(), |_, r| {
            flows
                .get(r.index as usize)
                .is_some_and(|f| f.generation == r.generation)
        });
    }

    /// Records a datagram from `side`.
    pub(super) fn heard(&mut self, flow: FlowRef, side: Side, now: Instant) {
        let Some(found) = self.get(flow) else { return };
        let was_unreplied = found.is_unreplied();
        found.heard(side, now);
        let list = Rank::of(found).list();
        if was_unreplied && !found.is_unreplied() && found.origin == Side::World {
            self.unanswered_inbound -= 1;
        }
        self.order.touch(list, flow.index);
    }

    /// Any one of the flows, if there are any.
    pub(super) fn any(&self) -> Option<FlowId> {
        self.flows.iter().next().map(|(_, flow)| flow.key)
    }

    /// Drops a flow and closes its socket.
    pub(super) fn remove(&mut self, flow: FlowRef) {
        drop(self.take_out(flow));
    }

    /// Removes a flow from the table and returns it.
    pub(super) fn take_out(&mut self, flow: FlowRef) -> Option<Flow> {
        self.get(flow)?;
        let gone = self.flows.remove(flow.index as usize);
        self.order.remove(flow.index);
        self.by_key.remove(&gone.key, flow.index);
        if gone.origin == Side::World && gone.is_unreplied() {
            self.unanswered_inbound -= 1;
        }
        if let Some(port) = gone.kept_port {
            self.disown_port(gone.domain, port);
        }
        Some(gone)
    }

    /// Drops the flows to peers for which `is_gone` is true.
    pub(super) fn drop_peers(&mut self, is_gone: impl Fn(SocketAddr) -> bool) {
        let gone = self.flows.iter().filter(|(_, flow)| is_gone(flow.key.remote_end()));
        let gone: Vec<u32> = gone.filter_map(|(index, _)| u32::try_from(index).ok()).collect();
        for index in gone {
            let generation = self.flows[index as usize].generation;
            self.remove(FlowRef { index, generation });
        }
    }

    /// Drops expired flows.
    pub(super) fn on_timer(&mut self, now: Instant) {
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

    /// Time of the next [`on_timer`](Self::on_timer).
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }
}

fn key_at(flows: &Slab<Flow>, slot: u32) -> FlowId {
    flows[slot as usize].key
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Socket, Type};
    use std::net::SocketAddr;

    const MILLI: u64 = 1_000_000;

    /// A flow from the guest's port `port` that `origin` opens.
    fn flow(port: u16, origin: Side, now: Instant) -> Flow {
        let key = FlowId::udp(
            SocketAddr::new([10, 0, 2, 2].into(), port),
            SocketAddr::new([192, 0, 2, 1].into(), 53),
        );
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        Flow::new(key, socket, Domain::IPV4, origin, now)
    }

    /// Ports of the flows in the table.
    fn ports(table: &FlowTable) -> Vec<u16> {
        let mut ports: Vec<_> = table.flows.iter().map(|(_, f)| f.key.guest_port).collect();
        ports.sort_unstable();
        ports
    }

    #[test]
    fn a_question_under_way_outlives_older_ones_that_have_their_answer() {
        const MOST: usize = 8;
        let mut table = FlowTable::new(MOST);
        let at = |n: u16| Instant::from_nanos(u64::from(n) * MILLI);
        for port in 1..=8 {
            assert!(table.make_room(Side::Guest));
            let asked = table.insert(flow(port, Side::Guest, at(port)));
            table.heard(asked, Side::World, at(port));
        }
        // There are four concurrent queries. None displaces another, and all are answered.
        let asked: Vec<_> = (101..=104)
            .map(|port| {
                assert!(table.make_room(Side::Guest));
                table.insert(flow(port, Side::Guest, at(100)))
            })
            .collect();
        assert_eq!(ports(&table), [5, 6, 7, 8, 101, 102, 103, 104]);
        assert!(asked.iter().all(|asked| table.get(*asked).is_some()));
    }

    #[test]
    fn of_flows_idle_as_long_the_unanswered_one_goes_and_streams_go_last() {
        let mut table = FlowTable::new(4);
        let start = Instant::from_nanos(MILLI);
        let later = start + std::time::Duration::from_secs(3);
        let stream = table.insert(flow(1, Side::Guest, start));
        table.heard(stream, Side::World, start);
        table.heard(stream, Side::Guest, later);
        let answered = table.insert(flow(2, Side::Guest, later));
        table.heard(answered, Side::World, later);
        table.insert(flow(3, Side::Guest, later));
        table.insert(flow(4, Side::World, later));
        for left in [&[1, 2, 3][..], &[1, 2], &[1], &[]] {
            assert!(table.give_way(Side::Guest));
            assert_eq!(ports(&table), left);
        }
        assert!(!table.give_way(Side::Guest));
    }

    #[test]
    fn clients_from_outside_never_push_out_a_stream_of_the_guests() {
        let mut table = FlowTable::new(4);
        let start = Instant::from_nanos(MILLI);
        let later = start + std::time::Duration::from_secs(3);
        for (port, origin) in [(1, Side::Guest), (2, Side::World)] {
            let made = table.insert(flow(port, origin, start));
            let other = if origin == Side::Guest {
                Side::World
            } else {
                Side::Guest
            };
            table.heard(made, other, start);
            table.heard(made, origin, later);
        }
        assert!(table.give_way(Side::World));
        assert_eq!(ports(&table), [1]);
        assert!(!table.give_way(Side::World));
        assert_eq!(ports(&table), [1]);
    }

    #[test]
    fn flows_that_gave_way_leave_nothing_behind() {
        const MOST: usize = 4;
        let mut table = FlowTable::new(MOST);
        for port in 1..1000 {
            assert!(table.make_room(Side::Guest));
            let now = Instant::from_nanos(u64::from(port));
            table.insert(flow(port, Side::Guest, now));
        }
        assert_eq!(table.len(), MOST);
        assert!(table.timers.len() < 100, "{}", table.timers.len());
        let end = Instant::from_nanos(0) + std::time::Duration::from_secs(60);
        table.on_timer(end);
        assert_eq!((table.len(), table.timers.len()), (0, 0));
        assert!((0..6).all(|list| table.order.oldest(list).is_none()));
    }
}
