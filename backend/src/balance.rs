//! Chooses the endpoint of a Service for a new flow.
//!
//! Without affinity, the endpoint is the one whose hash with the flow is the highest (rendezvous hashing): all workers
//! choose alike without a shared state, and a flow that opens again gets the same endpoint unless that is gone. With
//! the affinity `ClientIP` the client keeps its endpoint until it has been idle for the Service's timeout. There is one
//! client, the guest, so an entry for each virtual address is enough.

use crate::config::{ServicePort, Transport};
use crate::packet::{FlowId, protocol};
use crate::time::Instant;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A port at a virtual address: protocol, address and port.
pub type Virtual = (u8, SocketAddr);

/// The Services of a network. The table is immutable: its owner builds a new one for each change.
#[derive(Debug, Default)]
pub struct ServiceTable {
    ports: HashMap<Virtual, Arc<Target>>,
    addresses: HashSet<IpAddr>,
}

/// The endpoints to which a port of a Service leads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Target {
    /// Endpoints of the same family as the virtual address.
    endpoints: Box<[SocketAddr]>,
    affinity: Option<Duration>,
}

impl ServiceTable {
    /// The table of `services`. If a virtual address has a port twice, the first one counts.
    pub fn new(services: &[ServicePort]) -> Self {
        let mut table = Self::default();
        for service in services {
            let number = match service.transport {
                Transport::Tcp => protocol::TCP,
                Transport::Udp => protocol::UDP,
            };
            for address in &service.addresses {
                let endpoints = service.endpoints.iter().copied();
                let target = Target {
                    endpoints: endpoints.filter(|at| at.is_ipv4() == address.is_ipv4()).collect(),
                    affinity: service.affinity_secs.map(|secs| Duration::from_secs(secs.get().into())),
                };
                let at = (number, SocketAddr::new(*address, service.port));
                table.ports.entry(at).or_insert_with(|| Arc::new(target));
                table.addresses.insert(*address);
            }
        }
        table
    }

    /// True if `address` is the virtual address of a Service.
    #[inline]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// True if there is no Service.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// True if `endpoint` is one of the port's endpoints.
    pub fn leads_to(&self, to: &Virtual, endpoint: SocketAddr) -> bool {
        self.ports
            .get(to)
            .is_some_and(|target| target.endpoints.contains(&endpoint))
    }

    /// The ports of `before` from which an endpoint is gone.
    pub fn reduced_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Virtual> + 'a {
        let is_reduced = |(at, target): &(&Virtual, &Arc<Target>)| {
            let mut endpoints = target.endpoints.iter();
            endpoints.any(|endpoint| !self.leads_to(at, *endpoint))
        };
        before.ports.iter().filter(is_reduced).map(|(at, _)| *at)
    }
}

/// Time of a client's last packet, in nanoseconds. The flows of the client update it.
pub type LastUse = Arc<AtomicU64>;

/// The endpoint that a client keeps.
#[derive(Debug)]
struct Kept {
    endpoint: SocketAddr,
    used: LastUse,
}

/// The endpoint of a new flow.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// The client's last use, if the Service has affinity.
    pub used: Option<LastUse>,
}

/// The kind of a destination.
#[derive(Clone, Debug)]
pub enum Choice {
    /// A Service, with the chosen endpoint.
    Endpoint(Chosen),
    /// A virtual address without such a port, or a port without endpoints.
    Closed,
    /// The destination is not a virtual address.
    NoService,
}

/// Chooses endpoints, and records those that clients keep.
#[derive(Debug, Default)]
pub struct Chooser {
    table: Arc<ServiceTable>,
    kept: HashMap<Virtual, Kept>,
}

impl Chooser {
    /// The Services.
    pub const fn table(&self) -> &Arc<ServiceTable> {
        &self.table
    }

    /// Replaces the Services. Clients keep endpoints that are still there.
    pub fn set_table(&mut self, table: Arc<ServiceTable>) {
        self.kept.retain(|at, kept| table.leads_to(at, kept.endpoint));
        self.table = table;
    }

    /// The endpoint for a flow, among those for which `is_reachable` is true.
    pub fn choose(&mut self, now: Instant, flow: &FlowId, is_reachable: impl Fn(IpAddr) -> bool) -> Choice {
        let at = (flow.protocol, flow.remote_end());
        let Some(target) = self.table.ports.get(&at) else {
            return if self.table.has_address(flow.remote) {
                Choice::Closed
            } else {
                Choice::NoService
            };
        };
        if let (Some(timeout), Some(kept)) = (target.affinity, self.kept.get(&at)) {
            let used = Instant::from_nanos(kept.used.load(Ordering::Relaxed));
            if now.since(used) < timeout && is_reachable(kept.endpoint.ip()) {
                kept.used.store(now.as_nanos(), Ordering::Relaxed);
                return Choice::Endpoint(Chosen {
                    endpoint: kept.endpoint,
                    used: Some(Arc::clone(&kept.used)),
                });
            }
        }
        let reachable = target.endpoints.iter().filter(|endpoint| is_reachable(endpoint.ip()));
        let Some(&endpoint) = reachable.max_by_key(|endpoint| rank(flow, **endpoint)) else {
            return Choice::Closed;
        };
        let used = target.affinity.map(|_| LastUse::new(AtomicU64::new(now.as_nanos())));
        if let Some(used) = used.clone() {
            self.kept.insert(at, Kept { endpoint, used });
        }
        Choice::Endpoint(Chosen { endpoint, used })
    }
}

/// The rank of an endpoint for a flow. The hash is the same at each start, because nothing depends on its secrecy.
fn rank(flow: &FlowId, endpoint: SocketAddr) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((flow, endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;

    const VIRTUAL: &str = "10.96.0.10:80";

    fn endpoint(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 8080))
    }

    fn table(endpoints: &[u8], affinity_secs: u32) -> Arc<ServiceTable> {
        let at: SocketAddr = VIRTUAL.parse().unwrap();
        Arc::new(ServiceTable::new(&[ServicePort {
            addresses: vec![at.ip(), "fd00:96::a".parse().unwrap()],
            transport: Transport::Tcp,
            port: at.port(),
            endpoints: endpoints.iter().map(|number| endpoint(*number)).collect(),
            affinity_secs: NonZeroU32::new(affinity_secs),
        }]))
    }

    fn chooser(endpoints: &[u8], affinity_secs: u32) -> Chooser {
        let mut chooser = Chooser::default();
        chooser.set_table(table(endpoints, affinity_secs));
        chooser
    }

    fn flow(port: u16) -> FlowId {
        FlowId::tcp(SocketAddr::from(([192, 0, 2, 9], port)), VIRTUAL.parse().unwrap())
    }

    fn at(secs: u64) -> Instant {
        Instant::default() + Duration::from_secs(secs)
    }

    fn chosen(chooser: &mut Chooser, secs: u64, port: u16) -> Option<SocketAddr> {
        match chooser.choose(at(secs), &flow(port), |_| true) {
            Choice::Endpoint(chosen) => Some(chosen.endpoint),
            Choice::Closed | Choice::NoService => None,
        }
    }

    #[test]
    fn flows_spread_over_all_endpoints_and_stay_when_another_one_goes() {
        let mut chooser = chooser(&[1, 2, 3], 0);
        let mut before = BTreeMap::new();
        for port in 0..3000 {
            before.insert(port, chosen(&mut chooser, 0, port).unwrap());
        }
        for number in 1..=3 {
            let share = before.values().filter(|to| **to == endpoint(number)).count();
            assert!((800..1200).contains(&share), "{share}");
        }
        chooser.set_table(table(&[1, 3], 0));
        for (port, to) in before {
            let now = chosen(&mut chooser, 0, port).unwrap();
            assert!(now == to || to == endpoint(2), "{to} became {now}");
        }
    }

    #[test]
    fn a_client_keeps_its_endpoint_until_it_has_been_idle_or_the_endpoint_is_gone() {
        let mut chooser = chooser(&[1, 2, 3], 100);
        let first = chosen(&mut chooser, 0, 1).unwrap();
        // Each use restarts the timeout, so the total time is longer than the timeout.
        for port in 0..50 {
            assert_eq!(chosen(&mut chooser, u64::from(port) * 99, port), Some(first));
        }
        let others: HashSet<_> = (0..50)
            .map(|port| chosen(&mut chooser, 10_000 + u64::from(port) * 100, port).unwrap())
            .collect();
        assert_eq!(others.len(), 3, "it was idle each time");
        let kept = chosen(&mut chooser, 20_000, 1).unwrap();
        let rest: Vec<u8> = (1..=3).filter(|number| endpoint(*number) != kept).collect();
        chooser.set_table(table(&rest, 100));
        let next = chosen(&mut chooser, 20_001, 1).unwrap();
        assert_ne!(next, kept);
        assert_eq!(chosen(&mut chooser, 20_002, 2), Some(next));
    }

    #[test]
    fn a_service_is_closed_without_reachable_endpoints_and_at_other_ports() {
        let mut chooser = chooser(&[1], 0);
        assert!(matches!(chooser.choose(at(0), &flow(1), |_| false), Choice::Closed));
        let other = FlowId::tcp(endpoint(9), "10.96.0.10:81".parse().unwrap());
        assert!(matches!(chooser.choose(at(0), &other, |_| true), Choice::Closed));
        let udp = FlowId::udp(endpoint(9), VIRTUAL.parse().unwrap());
        assert!(matches!(chooser.choose(at(0), &udp, |_| true), Choice::Closed));
        let elsewhere = FlowId::tcp(endpoint(9), "10.96.0.11:80".parse().unwrap());
        assert!(matches!(chooser.choose(at(0), &elsewhere, |_| true), Choice::NoService));
        // The endpoint is of the other family.
        let v6 = FlowId::tcp("[fd00::9]:1".parse().unwrap(), "[fd00:96::a]:80".parse().unwrap());
        assert!(matches!(chooser.choose(at(0), &v6, |_| true), Choice::Closed));
    }
}
