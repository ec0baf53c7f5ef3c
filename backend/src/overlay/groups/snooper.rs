//! Tracks which endpoints of the tunnel want which multicast groups (RFC 4541), without a socket or a clock.
//!
//! Every process sends the reports of its own guest to all endpoints, and records those that arrive from others. A
//! membership ends [`IDLE`] after the last report, or soon after the host has left. An endpoint with a multicast router
//! behind it receives every group.
//!
//! Memberships need a querier. The network's gateway is the querier, with the same addresses in every process: a
//! process queries its own guest and all endpoints when no query has arrived for some time. A query from the gateway in
//! another process restarts that time and is delivered to the guest, so only the first process of a network to query
//! does so. A process whose guest comes up queries immediately, and thereby learns which groups others want. If a guest
//! acts as a router and queries, the gateway is silent.
//!
//! Messages from hosts take bounded memory: there are limits on groups per family, on memberships, and on groups per
//! endpoint. If there is no room for a membership, every group goes to all endpoints until, for some time, there has
//! been room for all memberships.

use crate::packet::membership::{self, Change, Membership};
use crate::time::Instant;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Maximum groups per family (OVN's default).
const MAX_GROUPS: usize = 2048;
/// Maximum memberships of all groups.
const MAX_MEMBERSHIPS: usize = 16384;
/// Maximum groups per endpoint, so that one guest cannot fill the table.
const MAX_GROUPS_OF_ENDPOINT: u16 = 512;
/// Maximum endpoints with a multicast router.
const MAX_ROUTERS: usize = 64;
/// Lifetime of a membership, and of the record of a router (OVN's default).
const IDLE: Duration = Duration::from_secs(300);
/// Time between two queries, short enough for a membership to outlive a lost query.
pub(super) const INTERVAL: Duration = Duration::from_secs(150);
/// Time within which a host must answer a query.
pub(super) const RESPONSE: Duration = Duration::from_secs(1);
/// Lifetime of a membership after its host has left. It gives another host behind the same endpoint time to report.
const LAST_MEMBER: Duration = Duration::from_secs(2);
/// The gateway queries if another querier has been silent for this long.
const OTHER_QUERIER: Duration = Duration::from_secs(300);
/// Extra time that this process waits, after the interval, for the query of another process.
const PATIENCE: Duration = Duration::from_secs(5);
/// Minimum time between two queries from other processes that are delivered to the guest.
const RELAY: Duration = Duration::from_secs(10);
/// Time between two sweeps that remove expired memberships.
const SWEEP: Duration = Duration::from_secs(1);

/// The sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This process's own guest.
    Guest,
    /// An interface behind this endpoint.
    Endpoint(SocketAddr),
    /// A host without a binding, behind an endpoint that receives every group.
    Unbound,
    /// The gateway, in another process.
    Gateway,
}

/// Receivers of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// Whether the guest of this process receives it.
    pub(super) to_guest: bool,
    /// Whether all endpoints receive it.
    pub(super) to_endpoints: bool,
}

impl Route {
    const GUEST: Self = Self {
        to_guest: true,
        to_endpoints: false,
    };
    const ENDPOINTS: Self = Self {
        to_guest: false,
        to_endpoints: true,
    };
}

/// A query that the gateway must send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// The gateway's address in the query's family.
    pub(super) source: IpAddr,
    /// Group of a query that goes to the guest only. `None`: a query for all groups, which goes to all endpoints.
    pub(super) group: Option<IpAddr>,
}

/// Changes since the last call of [`Snooper::take_changes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Number of memberships that have begun.
    pub(super) joined: u64,
    /// Number of memberships that have ended.
    pub(super) left: u64,
    /// Number of memberships that were refused for lack of room.
    pub(super) refused: u64,
    /// True if the receivers of any group have changed.
    pub(super) is_other: bool,
}

/// Entry for a member of a group, or for a multicast router.
#[derive(Clone, Copy, Debug)]
struct Member {
    endpoint: SocketAddr,
    until: Instant,
}

/// The gateway as the querier of one family.
#[derive(Clone, Copy, Debug)]
struct Querier {
    source: IpAddr,
    /// Time of the next query; `None` while the guest is down.
    next: Option<Instant>,
    /// Time at which a query from another process was last delivered to the guest.
    relayed: Option<Instant>,
}

/// Memberships and queriers of one port.
#[derive(Debug)]
pub(super) struct Snooper {
    /// Groups of IPv4 and of IPv6, in this order.
    groups: [HashMap<IpAddr, Vec<Member>>; 2],
    memberships: usize,
    /// Number of groups per endpoint; endpoints without groups are absent.
    of_endpoints: HashMap<SocketAddr, u16>,
    routers: Vec<Member>,
    /// Time until which the guest counts as a multicast router.
    guest_routes_until: Option<Instant>,
    /// Time until which the table counts as incomplete.
    incomplete_until: Option<Instant>,
    queriers: Vec<Querier>,
    /// Additional time that this process waits for a query. It differs between processes.
    patience: Duration,
    orders: Vec<Order>,
    changes: Changes,
    /// Time before which no membership ends.
    sweep_at: Option<Instant>,
}

impl Snooper {
    /// A snooper for a gateway with these addresses, one per family of the network. `number` differs between the
    /// processes of the network, so that their queriers wait for different times.
    pub(super) fn new(sources: impl IntoIterator<Item = IpAddr>, number: u64) -> Self {
        let querier = |source| Querier {
            source,
            next: None,
            relayed: None,
        };
        Self {
            groups: Default::default(),
            memberships: 0,
            of_endpoints: HashMap::new(),
            routers: Vec::new(),
            guest_routes_until: None,
            incomplete_until: None,
            queriers: sources.into_iter().map(querier).collect(),
            patience: PATIENCE + Duration::from_millis(number % 10_000),
            orders: Vec::new(),
            changes: Changes::default(),
            sweep_at: None,
        }
    }

    /// Handles a message.
    pub(super) fn on_message(&mut self, now: Instant, from: Origin, message: Membership<'_>) -> Route {
        match message {
            Membership::Query { source, group } => self.on_query(now, from, source, group.is_none()),
            Membership::Report(changes) => match from {
                Origin::Guest => {
                    for change in changes.filter(|change| !change.is_wanted) {
                        self.query_group(change.group);
                    }
                    Route::ENDPOINTS
                }
                Origin::Endpoint(endpoint) => {
                    changes.for_each(|change| self.on_change(now, endpoint, change));
                    self.to_router(now)
                }
                Origin::Unbound => self.to_router(now),
                Origin::Gateway => Route::default(),
            },
        }
    }

    /// Call this when the guest is up. The gateway queries immediately.
    pub(super) fn on_link_up(&mut self, now: Instant) {
        for querier in &mut self.queriers {
            querier.next = Some(now);
        }
    }

    /// Queries immediately, if the guest is up.
    pub(super) fn query_soon(&mut self, now: Instant) {
        for querier in &mut self.queriers {
            querier.next = querier.next.map(|_| now);
        }
    }

    /// Call this when the guest is gone. Its memberships and its role as a router end.
    pub(super) fn on_link_down(&mut self) {
        self.guest_routes_until = None;
        for querier in &mut self.queriers {
            (querier.next, querier.relayed) = (None, None);
        }
    }

    /// Call this when time has reached [`deadline`](Self::deadline).
    pub(super) fn on_timer(&mut self, now: Instant) {
        for querier in &mut self.queriers {
            if querier.next.is_some_and(|at| at <= now) {
                querier.next = Some(now + INTERVAL);
                self.orders.push(Order {
                    source: querier.source,
                    group: None,
                });
            }
        }
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep(now);
        }
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub(super) fn deadline(&self) -> Option<Instant> {
        let queries = self.queriers.iter().filter_map(|querier| querier.next);
        queries.chain(self.sweep_at).min()
    }

    /// Takes the queries that must be sent now.
    pub(super) fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Changes since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Each group with its endpoints.
    pub(super) fn groups(&self) -> impl Iterator<Item = (IpAddr, Vec<SocketAddr>)> {
        let all = self.groups.iter().flatten();
        all.map(|(group, members)| (*group, members.iter().map(|member| member.endpoint).collect()))
    }

    /// The endpoints that receive every group.
    pub(super) fn routers(&self) -> impl Iterator<Item = SocketAddr> {
        self.routers.iter().map(|router| router.endpoint)
    }

    /// True if some endpoint may want groups that are missing from the table, so that every endpoint receives every
    /// group.
    pub(super) const fn is_incomplete(&self) -> bool {
        self.incomplete_until.is_some()
    }

    fn on_query(&mut self, now: Instant, from: Origin, source: IpAddr, is_general: bool) -> Route {
        let (patience, ends) = (self.patience, now + IDLE);
        // RFC 4541 2.1.1: a switch queries from the unspecified address. It does not want any groups itself.
        let is_router = !source.is_unspecified();
        let querier = self
            .queriers
            .iter_mut()
            .find(|querier| querier.source.is_ipv4() == source.is_ipv4());
        let restart = |querier: &mut Querier, after: Duration| {
            if is_general && querier.next.is_some() {
                querier.next = Some(now + after);
            }
        };
        if from == Origin::Gateway {
            let Some(querier) = querier else {
                return Route::default();
            };
            restart(querier, INTERVAL + patience);
            if querier.relayed.is_some_and(|at| now < at + RELAY) {
                return Route::default();
            }
            querier.relayed = Some(now);
            return Route::GUEST;
        }
        if let Some(querier) = querier {
            restart(querier, OTHER_QUERIER);
        }
        match from {
            Origin::Guest => {
                if is_router {
                    self.guest_routes_until = Some(ends);
                    self.sweep_by(ends);
                }
                Route::ENDPOINTS
            }
            Origin::Endpoint(endpoint) => {
                if is_router {
                    self.note_router(endpoint, ends);
                }
                Route::GUEST
            }
            Origin::Unbound | Origin::Gateway => Route::GUEST,
        }
    }

    /// Handles a report that a host behind `endpoint` wants a group, or a message that it has left it.
    fn on_change(&mut self, now: Instant, endpoint: SocketAddr, change: Change) {
        let Change { group, is_wanted } = change;
        if membership::is_link_scope(group) {
            return;
        }
        let members = self.groups[family(group)].get_mut(&group);
        let known = members.and_then(|members| members.iter_mut().find(|member| member.endpoint == endpoint));
        match known {
            Some(member) if is_wanted => member.until = now + IDLE,
            Some(member) => {
                member.until = member.until.min(now + LAST_MEMBER);
                let until = member.until;
                self.sweep_by(until);
            }
            None if is_wanted => self.join(now, group, endpoint),
            None => {}
        }
    }

    fn join(&mut self, now: Instant, group: IpAddr, endpoint: SocketAddr) {
        let until = now + IDLE;
        self.sweep_by(until);
        if !self.has_room(group, endpoint) {
            self.changes.refused += 1;
            self.changes.is_other |= self.incomplete_until.is_none();
            self.incomplete_until = Some(until);
            return;
        }
        let members = self.groups[family(group)].entry(group).or_default();
        members.push(Member { endpoint, until });
        self.memberships += 1;
        *self.of_endpoints.entry(endpoint).or_default() += 1;
        self.changes.joined += 1;
        self.changes.is_other = true;
    }

    fn has_room(&self, group: IpAddr, endpoint: SocketAddr) -> bool {
        let groups = &self.groups[family(group)];
        let of_endpoint = self.of_endpoints.get(&endpoint).copied().unwrap_or_default();
        of_endpoint < MAX_GROUPS_OF_ENDPOINT
            && self.memberships < MAX_MEMBERSHIPS
            && (groups.contains_key(&group) || groups.len() < MAX_GROUPS)
    }

    fn note_router(&mut self, endpoint: SocketAddr, until: Instant) {
        let known = self.routers.iter().position(|router| router.endpoint == endpoint);
        match known {
            Some(at) => self.routers[at].until = until,
            None if self.routers.len() < MAX_ROUTERS => {
                self.routers.push(Member { endpoint, until });
                self.changes.is_other = true;
            }
            None => {
                self.changes.refused += 1;
                self.changes.is_other |= self.incomplete_until.is_none();
                self.incomplete_until = Some(until);
            }
        }
        self.sweep_by(until);
    }

    /// Queries the guest for a group that it has left, because another host behind it may still want the group.
    fn query_group(&mut self, group: IpAddr) {
        let querier = self
            .queriers
            .iter()
            .find(|querier| querier.source.is_ipv4() == group.is_ipv4());
        if let Some(querier) = querier.filter(|_| !membership::is_link_scope(group)) {
            self.orders.push(Order {
                source: querier.source,
                group: Some(group),
            });
        }
    }

    fn to_router(&self, now: Instant) -> Route {
        let is_router = self.guest_routes_until.is_some_and(|until| now < until);
        if is_router { Route::GUEST } else { Route::default() }
    }

    fn sweep_by(&mut self, at: Instant) {
        self.sweep_at = Some(self.sweep_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Removes memberships and routers whose lifetime has expired.
    fn sweep(&mut self, now: Instant) {
        let mut next: Option<Instant> = None;
        let mut lives = |until: Instant| {
            if until > now {
                next = Some(next.map_or(until, |earlier| earlier.min(until)));
            }
            until > now
        };
        let (of_endpoints, mut left) = (&mut self.of_endpoints, 0);
        for groups in &mut self.groups {
            groups.retain(|_, members| {
                members.retain(|member| {
                    let lives = lives(member.until);
                    if !lives {
                        left += 1;
                        leave_one(of_endpoints, member.endpoint);
                    }
                    lives
                });
                !members.is_empty()
            });
        }
        self.memberships -= left;
        let (routers, was_incomplete) = (self.routers.len(), self.incomplete_until.is_some());
        self.routers.retain(|router| lives(router.until));
        self.guest_routes_until = self.guest_routes_until.filter(|until| lives(*until));
        self.incomplete_until = self.incomplete_until.filter(|until| lives(*until));
        self.changes.left += left as u64;
        self.changes.is_other |=
            left > 0 || routers != self.routers.len() || was_incomplete != self.incomplete_until.is_some();
        self.sweep_at = next.map(|at| at.max(now + SWEEP));
    }
}

/// Decrements the number of groups recorded for an endpoint.
fn leave_one(of_endpoints: &mut HashMap<SocketAddr, u16>, endpoint: SocketAddr) {
    if let Entry::Occupied(mut groups) = of_endpoints.entry(endpoint) {
        *groups.get_mut() -= 1;
        if *groups.get() == 0 {
            groups.remove();
        }
    }
}

/// Position of an address's family in arrays with one element per family.
const fn family(address: IpAddr) -> usize {
    address.is_ipv6() as usize
}

#[cfg(test)]
#[path = "snooper_tests.rs"]
mod tests;
