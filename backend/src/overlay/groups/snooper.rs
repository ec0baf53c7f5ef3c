//! Which endpoints of the tunnel want which multicast groups (RFC 4541), without a socket or a clock.
//!
//! Every process sends the reports of its own guest to all endpoints, and notes those that arrive
//! from others. A membership ends [`IDLE`] after the last report, or soon after the host has left.
//! An endpoint behind which a multicast router queries gets every group.
//!
//! Memberships need a querier. The network's gateway is one, in every process with the same
//! addresses: a process queries its own guest and all endpoints when it has heard no query for some
//! time. A query of the gateway of another process restarts that time and goes to the guest, so
//! that one process of a network queries, whichever is first. A process whose guest is up queries
//! at once, and thereby learns what others want. Where a router of a guest queries, the gateway
//! keeps silent.
//!
//! What hosts send costs bounded memory: so many groups of each family, memberships, and groups of
//! one endpoint. If a membership finds no room, every group goes to all endpoints until a time has
//! passed in which all memberships found room.

use crate::packet::membership::{self, Change, Membership};
use crate::time::Instant;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Groups of one family (OVN's default).
const MAX_GROUPS: usize = 2048;
/// Memberships of all groups.
const MAX_MEMBERSHIPS: usize = 16384;
/// Groups of one endpoint: one guest cannot fill the table.
const MAX_GROUPS_OF_ENDPOINT: u16 = 512;
/// Endpoints with a multicast router.
const MAX_ROUTERS: usize = 64;
/// Life of a membership, and of what is known of a router (OVN's default).
const IDLE: Duration = Duration::from_secs(300);
/// Time between two queries: a membership outlives one that is lost.
pub(super) const INTERVAL: Duration = Duration::from_secs(150);
/// Time in which a host answers a query.
pub(super) const RESPONSE: Duration = Duration::from_secs(1);
/// Life of a membership after its host has left, for another host behind the same endpoint to report.
const LAST_MEMBER: Duration = Duration::from_secs(2);
/// The gateway queries if another querier has been silent for this long.
const OTHER_QUERIER: Duration = Duration::from_secs(300);
/// Time after the interval in which another process queries, before this one does.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two queries of other processes that the guest gets.
const RELAY: Duration = Duration::from_secs(10);
/// Time between two searches for memberships that have ended.
const SWEEP: Duration = Duration::from_secs(1);

/// The sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The guest of this process.
    Guest,
    /// An interface behind this endpoint.
    Endpoint(SocketAddr),
    /// A host without a binding, behind an endpoint that gets every group.
    Unbound,
    /// The gateway, in another process.
    Gateway,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// To the guest of this process.
    pub(super) to_guest: bool,
    /// To all endpoints.
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

/// A query that the gateway sends now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// The gateway's address, of the family that is asked for.
    pub(super) source: IpAddr,
    /// The group in question, for the guest only; `None`: all groups, for all.
    pub(super) group: Option<IpAddr>,
}

/// What has changed since the last call of [`Snooper::take_changes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Memberships that have begun.
    pub(super) joined: u64,
    /// Memberships that have ended.
    pub(super) left: u64,
    /// Memberships that found no room.
    pub(super) refused: u64,
    /// The receivers of some group are others than before.
    pub(super) is_other: bool,
}

/// A membership, or a router.
#[derive(Clone, Copy, Debug)]
struct Member {
    endpoint: SocketAddr,
    until: Instant,
}

/// The gateway as the querier of one family.
#[derive(Clone, Copy, Debug)]
struct Querier {
    source: IpAddr,
    /// When it queries next; `None` while the guest is down.
    next: Option<Instant>,
    /// When the guest last got a query of another process.
    relayed: Option<Instant>,
}

/// Memberships and queriers of one port.
#[derive(Debug)]
pub(super) struct Snooper {
    /// Of IPv4, and of IPv6.
    groups: [HashMap<IpAddr, Vec<Member>>; 2],
    memberships: usize,
    /// Groups of each endpoint that has any.
    of_endpoints: HashMap<SocketAddr, u16>,
    routers: Vec<Member>,
    /// The guest is a multicast router until then.
    guest_routes_until: Option<Instant>,
    /// Some membership is not in the table until then.
    incomplete_until: Option<Instant>,
    queriers: Vec<Querier>,
    /// Time that this process waits longer than others for a query.
    patience: Duration,
    orders: Vec<Order>,
    changes: Changes,
    /// Nothing ends before this.
    sweep_at: Option<Instant>,
}

impl Snooper {
    /// A gateway with these addresses, one of each family that the network has. `number` differs
    /// between the processes of the network, whose queriers then differ in patience.
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

    /// A message has arrived.
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

    /// The guest is up: the gateway queries at once.
    pub(super) fn on_link_up(&mut self, now: Instant) {
        for querier in &mut self.queriers {
            querier.next = Some(now);
        }
    }

    /// Queries at once, if the guest is up.
    pub(super) fn query_soon(&mut self, now: Instant) {
        for querier in &mut self.queriers {
            querier.next = querier.next.map(|_| now);
        }
    }

    /// The guest is gone, and with it what it was.
    pub(super) fn on_link_down(&mut self) {
        self.guest_routes_until = None;
        for querier in &mut self.queriers {
            (querier.next, querier.relayed) = (None, None);
        }
    }

    /// Time has reached [`deadline`](Self::deadline).
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

    /// The queries to be sent.
    pub(super) fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// What has changed since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Each group with its endpoints.
    pub(super) fn groups(&self) -> impl Iterator<Item = (IpAddr, Vec<SocketAddr>)> {
        let all = self.groups.iter().flatten();
        all.map(|(group, members)| (*group, members.iter().map(|member| member.endpoint).collect()))
    }

    /// The endpoints that get every group.
    pub(super) fn routers(&self) -> impl Iterator<Item = SocketAddr> {
        self.routers.iter().map(|router| router.endpoint)
    }

    /// True if some endpoint wants groups that are not in the table: all get all.
    pub(super) const fn is_incomplete(&self) -> bool {
        self.incomplete_until.is_some()
    }

    fn on_query(&mut self, now: Instant, from: Origin, source: IpAddr, is_general: bool) -> Route {
        let (patience, ends) = (self.patience, now + IDLE);
        // RFC 4541 2.1.1: a switch queries from no address, and wants no groups for it.
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

    /// A host behind `endpoint` wants a group, or has left it.
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

    /// The guest has left a group: another host behind it may want it still.
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

    /// Ends what has lasted its time.
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

/// Takes one off the groups of an endpoint.
fn leave_one(of_endpoints: &mut HashMap<SocketAddr, u16>, endpoint: SocketAddr) {
    if let Entry::Occupied(mut groups) = of_endpoints.entry(endpoint) {
        *groups.get_mut() -= 1;
        if *groups.get() == 0 {
            groups.remove();
        }
    }
}

/// Index of the family of an address.
const fn family(address: IpAddr) -> usize {
    address.is_ipv6() as usize
}

#[cfg(test)]
#[path = "snooper_tests.rs"]
mod tests;
