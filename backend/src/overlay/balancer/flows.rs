//! Flows of the guest to endpoints in its own network, on one worker.
//!
//! All workers of a port have all flows, because a reply can arrive at any of them. A flow is found both by the guest's
//! packets and by those of the endpoint. It ends when it has been idle for a time that depends on its state, as with
//! conntrack.

use crate::balance::{Chosen, LastUse, Virtual};
use crate::packet::{FlowId, TcpFlags, protocol};
use crate::time::Instant;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// Maximum flows of a port.
pub(super) const MAX_FLOWS: usize = 32_768;
/// Number of ports that are tried for a flow whose own port is in use towards its endpoint.
const PORT_TRIES: u16 = 64;
/// A later packet of a flow is recorded only after this time has passed, because the workers share the record.
const COARSE: Duration = Duration::from_secs(1);

/// Idle times after which a flow ends: those of conntrack.
const OPENING: Duration = Duration::from_secs(60);
const ESTABLISHED: Duration = Duration::from_secs(86_400);
const CLOSING: Duration = Duration::from_secs(120);
const CLOSED: Duration = Duration::from_secs(10);
const UDP_UNANSWERED: Duration = Duration::from_secs(30);
const UDP_ANSWERED: Duration = Duration::from_secs(180);

/// The sender of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Guest,
    Endpoint,
}

const FIN_OF_GUEST: u8 = 1;
const FIN_OF_ENDPOINT: u8 = 2;
const ANSWERED: u8 = 4;
const RESET: u8 = 8;
/// Any of these bits.
pub(super) const STATES: u8 = FIN_OF_GUEST | FIN_OF_ENDPOINT | ANSWERED | RESET;

/// A flow to an endpoint in the network.
#[derive(Debug)]
pub(super) struct Flow {
    /// The flow as the guest sees it, to the virtual address.
    pub(super) key: FlowId,
    pub(super) endpoint: SocketAddr,
    /// The client as the endpoint sees it.
    pub(super) client: SocketAddr,
    last: AtomicU64,
    /// Bits of [`FIN_OF_GUEST`] and the flags after it.
    state: AtomicU8,
    used: Option<LastUse>,
}

impl Flow {
    /// A flow of another process.
    pub(super) const fn restored(key: FlowId, ends: [SocketAddr; 2], last: Instant, state: u8) -> Self {
        let [endpoint, client] = ends;
        Self {
            key,
            endpoint,
            client,
            last: AtomicU64::new(last.as_nanos()),
            state: AtomicU8::new(state),
            used: None,
        }
    }

    /// Time of the last packet, which is not exact.
    pub(super) fn last(&self) -> Instant {
        Instant::from_nanos(self.last.load(Ordering::Relaxed))
    }

    /// Bits of [`FIN_OF_GUEST`] and the flags after it.
    pub(super) fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    /// The flow's key for packets of the endpoint.
    fn back_key(&self) -> FlowId {
        FlowId {
            guest: self.client.ip(),
            guest_port: self.client.port(),
            remote: self.endpoint.ip(),
            remote_port: self.endpoint.port(),
            protocol: self.key.protocol,
        }
    }

    pub(super) const fn virtual_port(&self) -> Virtual {
        (self.key.protocol, self.key.remote_end())
    }

    /// True if the endpoint is the guest itself.
    pub(super) fn is_hairpin(&self) -> bool {
        self.endpoint.ip() == self.key.guest
    }

    /// Records a packet, with its TCP flags if it is TCP.
    pub(super) fn on_packet(&self, now: Instant, from: From, flags: TcpFlags) {
        let mut bits = match from {
            From::Guest => 0,
            From::Endpoint => ANSWERED,
        };
        if flags.has(TcpFlags::FIN) {
            bits |= match from {
                From::Guest => FIN_OF_GUEST,
                From::Endpoint => FIN_OF_ENDPOINT,
            };
        }
        if flags.has(TcpFlags::RST) {
            bits |= RESET;
        }
        if self.state.load(Ordering::Relaxed) | bits != self.state.load(Ordering::Relaxed) {
            self.state.fetch_or(bits, Ordering::Relaxed);
        }
        for record in [Some(&self.last), self.used.as_deref()].into_iter().flatten() {
            let last = Instant::from_nanos(record.load(Ordering::Relaxed));
            if now.since(last) >= COARSE {
                record.store(now.as_nanos(), Ordering::Relaxed);
            }
        }
    }

    /// True if both sides have closed the connection or one has reset it.
    pub(super) fn is_closed(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        let both = FIN_OF_GUEST | FIN_OF_ENDPOINT;
        state & RESET != 0 || state & both == both
    }

    fn timeout(&self) -> Duration {
        let state = self.state.load(Ordering::Relaxed);
        let is_answered = state & ANSWERED != 0;
        match self.key.protocol {
            protocol::UDP if is_answered => UDP_ANSWERED,
            protocol::UDP => UDP_UNANSWERED,
            _ if self.is_closed() => CLOSED,
            _ if state & (FIN_OF_GUEST | FIN_OF_ENDPOINT) != 0 => CLOSING,
            _ if is_answered => ESTABLISHED,
            _ => OPENING,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let last = Instant::from_nanos(self.last.load(Ordering::Relaxed));
        now.since(last) >= self.timeout()
    }

    /// True for a flow that may be ended to make room for another one.
    fn is_expendable(&self) -> bool {
        self.is_closed() || self.state.load(Ordering::Relaxed) & ANSWERED == 0
    }
}

/// The flows of a port, by their keys.
#[derive(Debug, Default)]
pub(super) struct Flows {
    forth: HashMap<FlowId, Arc<Flow>>,
    back: HashMap<FlowId, Arc<Flow>>,
}

impl Flows {
    pub(super) fn is_empty(&self) -> bool {
        self.forth.is_empty()
    }

    /// The flow of a packet from the guest.
    #[inline]
    pub(super) fn forth(&self, key: &FlowId) -> Option<&Arc<Flow>> {
        self.forth.get(key)
    }

    /// The flow of a packet from an endpoint, whose source is the key's remote end.
    #[inline]
    pub(super) fn back(&self, key: &FlowId) -> Option<&Arc<Flow>> {
        self.back.get(key)
    }

    /// A new flow, which is not in the table yet. `client` is the address that the endpoint sees. `None` if there is no
    /// room, or if every port is used by another flow or `is_taken`.
    pub(super) fn make(
        &mut self,
        now: Instant,
        key: FlowId,
        chosen: Chosen,
        client: SocketAddr,
        is_taken: impl Fn(&FlowId) -> bool,
    ) -> Option<Arc<Flow>> {
        if self.forth.len() >= MAX_FLOWS {
            self.retain(|flow| !flow.is_expendable());
        }
        if self.forth.len() >= MAX_FLOWS {
            return None;
        }
        let mut flow = Flow {
            key,
            endpoint: chosen.endpoint,
            client,
            last: AtomicU64::new(now.as_nanos()),
            state: AtomicU8::new(0),
            used: chosen.used,
        };
        let is_free = (0..PORT_TRIES).any(|step| {
            flow.client.set_port(client.port().wrapping_add(step).max(1));
            let back = flow.back_key();
            !self.back.contains_key(&back) && !is_taken(&back)
        });
        is_free.then(|| Arc::new(flow))
    }

    /// All flows.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Flow>> {
        self.forth.values()
    }

    pub(super) fn enter(&mut self, flow: Arc<Flow>) {
        self.back.insert(flow.back_key(), Arc::clone(&flow));
        if let Some(before) = self.forth.insert(flow.key, flow) {
            self.leave_back(&before);
        }
    }

    pub(super) fn remove(&mut self, key: &FlowId) {
        if let Some(flow) = self.forth.remove(key) {
            self.leave_back(&flow);
        }
    }

    /// Removes the entry of a flow by its back key, unless that is now another flow's.
    fn leave_back(&mut self, flow: &Arc<Flow>) {
        let key = flow.back_key();
        if self.back.get(&key).is_some_and(|entry| Arc::ptr_eq(entry, flow)) {
            self.back.remove(&key);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Flow) -> bool) {
        self.forth.retain(|_, flow| keep(flow));
        self.back.retain(|_, flow| keep(flow));
    }

    /// Removes flows that have been idle for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.retain(|flow| !flow.is_over(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "192.0.2.1:8080";

    fn key(port: u16, service: u8) -> FlowId {
        let service = SocketAddr::from(([10, 96, 0, service], 80));
        FlowId::tcp(SocketAddr::from(([192, 0, 2, 9], port)), service)
    }

    fn chosen() -> Chosen {
        Chosen {
            endpoint: ENDPOINT.parse().unwrap(),
            used: None,
        }
    }

    fn add(flows: &mut Flows, key: FlowId) -> Arc<Flow> {
        let flow = flows
            .make(Instant::default(), key, chosen(), key.guest_end(), |_| false)
            .unwrap();
        flows.enter(Arc::clone(&flow));
        flow
    }

    fn at(secs: u64) -> Instant {
        Instant::default() + Duration::from_secs(secs)
    }

    #[test]
    fn two_services_with_one_endpoint_are_told_apart_by_the_clients_port() {
        let mut flows = Flows::default();
        let first = add(&mut flows, key(4000, 1));
        let second = add(&mut flows, key(4000, 2));
        assert_eq!((first.client.port(), second.client.port()), (4000, 4001));
        for flow in [&first, &second] {
            let back = FlowId::tcp(flow.client, flow.endpoint);
            assert_eq!(flows.back(&back).unwrap().key, flow.key);
        }
        flows.remove(&first.key);
        assert!(flows.back(&FlowId::tcp(first.client, first.endpoint)).is_none());
        assert!(flows.back(&FlowId::tcp(second.client, second.endpoint)).is_some());
    }

    #[test]
    fn a_flow_ends_after_the_idle_time_of_its_state() {
        let none = TcpFlags::default();
        let cases: [(&[(From, TcpFlags)], Duration); 5] = [
            (&[], OPENING),
            (&[(From::Endpoint, none)], ESTABLISHED),
            (&[(From::Endpoint, TcpFlags::FIN)], CLOSING),
            (&[(From::Endpoint, TcpFlags::FIN), (From::Guest, TcpFlags::FIN)], CLOSED),
            (&[(From::Endpoint, TcpFlags::RST)], CLOSED),
        ];
        for (packets, timeout) in cases {
            let mut flows = Flows::default();
            let flow = add(&mut flows, key(1, 1));
            for (from, flags) in packets {
                flow.on_packet(at(5), *from, *flags);
            }
            let last = if packets.is_empty() { at(0) } else { at(5) };
            flows.sweep(last + (timeout - Duration::from_nanos(1)));
            assert!(!flows.is_empty(), "{packets:?}");
            flows.sweep(last + timeout);
            assert!(flows.is_empty() && flows.back(&FlowId::tcp(flow.client, flow.endpoint)).is_none());
        }
    }

    #[test]
    fn a_full_table_gives_up_flows_without_an_answer_and_no_others() {
        let mut flows = Flows::default();
        for number in 0..MAX_FLOWS {
            let flow = add(&mut flows, key(u16::try_from(number + 1).unwrap(), 1));
            if number >= 10 {
                flow.on_packet(at(0), From::Endpoint, TcpFlags::default());
            }
        }
        add(&mut flows, key(60_000, 1));
        assert_eq!(flows.forth.len(), MAX_FLOWS - 9);
    }
}
