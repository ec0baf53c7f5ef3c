//! Multicast of a network: selects the receivers of a frame to a group, based on group membership messages.
//!
//! ```text
//!  guest's reports, queries ---> outbound: to all endpoints
//!  reports of other guests ---> inbound: noted, not for the guest     [`snooper`], shared by the
//!  frames to a group       ---> outbound: endpoints in the view        workers behind a lock
//! ```
//!
//! A worker reads memberships from its own [`View`], without a lock, and renews the view when a version number shows
//! that it is out of date. Messages and timers, which are rare, take the lock.

mod flood;
mod snooper;

use crate::config::Layer2Config;
use crate::counters::{Count, Counters, DropReason};
use crate::forwarding::Table;
use crate::frame::{GuestFrame, HEAD_MAX};
use crate::packet::membership::{self, Membership, Query, is_membership};
use crate::packet::{EthernetHeader, Head, MacAddr};
use crate::responder::MAX_FRAME;
use crate::time::Instant;
use flood::Flood;
use snooper::{INTERVAL, Order, Origin, RESPONSE, Route, Snooper};
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Memberships of a port, shared by its workers.
#[derive(Debug)]
pub(super) struct Memberships {
    snooper: Mutex<Snooper>,
    /// Incremented whenever the receivers of any group change.
    version: AtomicU64,
}

impl Memberships {
    /// An empty set of memberships for a port with this configuration.
    pub(super) fn new(mode: &Layer2Config) -> Arc<Self> {
        // A fixed hash seed is enough, because nothing depends on its secrecy.
        let number = BuildHasherDefault::<DefaultHasher>::default().hash_one(mode.vtep);
        Arc::new(Self {
            snooper: Mutex::new(Snooper::new(mode.station_addresses().into_iter().flatten(), number)),
            version: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Snooper> {
        self.snooper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memberships as one worker last saw them.
#[derive(Debug, Default)]
struct View {
    version: u64,
    /// The endpoints of each group, in order.
    groups: HashMap<IpAddr, Box<[SocketAddr]>>,
    routers: Box<[SocketAddr]>,
    is_incomplete: bool,
}

/// The endpoints that get a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Receivers {
    /// All endpoints.
    All,
    /// Endpoints that want this group.
    Of(IpAddr),
}

/// The groups of a network, for one worker.
pub(super) struct Groups {
    memberships: Arc<Memberships>,
    view: View,
    flood: Flood,
    gateway: MacAddr,
    counters: Arc<Counters>,
    /// This worker's next deadline, computed at its last message or timer.
    deadline: Option<Instant>,
    /// Queries that are due to be sent.
    orders: Vec<Order>,
    /// True for the first worker of a port, which follows the link state of the guest.
    is_first: bool,
}

impl Groups {
    /// Creates the view of the groups for worker number `worker`.
    pub(super) fn new(memberships: Arc<Memberships>, gateway: MacAddr, worker: usize, counters: Arc<Counters>) -> Self {
        Self {
            is_first: worker == 0,
            orders: Vec::new(),
            memberships,
            view: View::default(),
            flood: Flood::default(),
            gateway,
            counters,
            deadline: None,
        }
    }

    /// The endpoints that receive a multicast or broadcast frame of the guest.
    ///
    /// # Errors
    /// The reason why no endpoint receives it.
    pub(super) fn receivers(&mut self, now: Instant, frame: &GuestFrame<'_>) -> Result<Receivers, DropReason> {
        if is_reserved(frame.head) {
            return Err(DropReason::ReservedGroup);
        }
        if is_membership(frame.head, &frame.parsed) {
            self.on_message_of_guest(now, frame)?;
        } else if let Some(group) = routable_group(frame.head, &frame.parsed) {
            self.renew();
            if !self.view.is_incomplete {
                return Ok(Receivers::Of(group));
            }
        }
        if self.flood.take(now) {
            Ok(Receivers::All)
        } else {
            Err(DropReason::TunnelFloodLimited)
        }
    }

    /// True if `endpoint` wants `group`, or all groups.
    pub(super) fn wants(&self, endpoint: SocketAddr, group: IpAddr) -> bool {
        let members = self.view.groups.get(&group);
        members.is_some_and(|members| members.binary_search(&endpoint).is_ok())
            || self.view.routers.binary_search(&endpoint).is_ok()
    }

    /// Handles a multicast or broadcast frame from the tunnel. True if the guest receives it.
    ///
    /// # Errors
    /// The reason to drop it.
    pub(super) fn takes(&mut self, now: Instant, frame: &[u8], table: &Table) -> Result<bool, DropReason> {
        if is_reserved(frame) {
            return Err(DropReason::ReservedGroup);
        }
        let head = head_of(frame);
        if !is_membership(frame, &head) {
            return Ok(true);
        }
        let message = Membership::parse(frame, &head).map_err(|_| DropReason::BadGroupMessage)?;
        let mac = head.source_mac(frame).ok_or(DropReason::Truncated)?;
        let from = match table.endpoint_of(mac) {
            Some(endpoint) => Origin::Endpoint(endpoint),
            None if mac == self.gateway => Origin::Gateway,
            None => Origin::Unbound,
        };
        Ok(self.on_message(now, from, message).to_guest)
    }

    /// True for the gateway's MAC, which has no binding.
    pub(super) fn is_gateway(&self, mac: MacAddr) -> bool {
        mac == self.gateway
    }

    /// True for a frame from the tunnel that is a query of the gateway in another process. The gateway sends nothing
    /// else through the tunnel.
    pub(super) fn is_query_of_gateway(&self, mac: MacAddr, frame: &[u8]) -> bool {
        let message = || Membership::parse(frame, &head_of(frame));
        self.is_gateway(mac) && matches!(message(), Ok(Membership::Query { group: None, .. }))
    }

    /// Call this when the guest's driver is up.
    pub(super) fn on_link_up(&mut self, now: Instant) {
        if self.is_first {
            self.with_snooper(|snooper| snooper.on_link_up(now));
        }
    }

    /// Call this when the guest's driver is gone.
    pub(super) fn on_link_down(&mut self) {
        if self.is_first {
            self.with_snooper(Snooper::on_link_down);
        }
    }

    /// Call this when endpoints were added. They do not know the guest's groups yet, and this process does not know
    /// theirs.
    pub(super) fn on_new_endpoints(&mut self, now: Instant) {
        if self.is_first {
            self.with_snooper(|snooper| snooper.query_soon(now));
        }
    }

    /// Call this when time may have reached [`deadline`](Self::deadline).
    pub(super) fn on_timer(&mut self, now: Instant) {
        if self.deadline.is_some_and(|at| at <= now) {
            self.with_snooper(|snooper| snooper.on_timer(now));
        }
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// A query for the gateway to send now, and whether it goes to all endpoints or only to the guest.
    pub(super) fn take_query(&mut self) -> Option<(Query, bool)> {
        let Order { source, group } = self.orders.pop()?;
        self.counters.add(Count::GroupQueries, 1);
        let query = Query {
            mac: self.gateway,
            source,
            group,
            response_secs: u8::try_from(RESPONSE.as_secs()).unwrap_or(1),
            interval_secs: u16::try_from(INTERVAL.as_secs()).unwrap_or(u16::MAX),
        };
        Some((query, group.is_none()))
    }

    fn on_message_of_guest(&mut self, now: Instant, frame: &GuestFrame<'_>) -> Result<(), DropReason> {
        let mut copy = [0; MAX_FRAME];
        let frame_bytes = copy.get_mut(..frame.len).ok_or(DropReason::BadGroupMessage)?;
        frame.copy_to(0, frame_bytes);
        let message = Membership::parse(frame_bytes, &frame.parsed).map_err(|_| DropReason::BadGroupMessage)?;
        self.on_message(now, Origin::Guest, message);
        Ok(())
    }

    fn on_message(&mut self, now: Instant, from: Origin, message: Membership<'_>) -> Route {
        self.with_snooper(|snooper| snooper.on_message(now, from, message))
    }

    fn with_snooper<T>(&mut self, act: impl FnOnce(&mut Snooper) -> T) -> T {
        let mut snooper = self.memberships.lock();
        let result = act(&mut snooper);
        self.deadline = snooper.deadline();
        self.orders.extend(snooper.take_orders());
        let changes = snooper.take_changes();
        if changes.is_other {
            self.memberships.version.fetch_add(1, Ordering::Release);
        }
        drop(snooper);
        self.counters.add(Count::MulticastJoins, changes.joined);
        self.counters.add(Count::MulticastLeaves, changes.left);
        self.counters.add(Count::MulticastTableFull, changes.refused);
        result
    }

    /// Applies the changes since the view was made.
    fn renew(&mut self) {
        if self.view.version == self.memberships.version.load(Ordering::Acquire) {
            return;
        }
        let snooper = self.memberships.lock();
        let ordered = |mut endpoints: Vec<SocketAddr>| {
            endpoints.sort_unstable();
            endpoints.into_boxed_slice()
        };
        self.view = View {
            // The callers change the memberships while they hold the lock.
            version: self.memberships.version.load(Ordering::Acquire),
            groups: snooper
                .groups()
                .map(|(group, endpoints)| (group, ordered(endpoints)))
                .collect(),
            routers: ordered(snooper.routers().collect()),
            is_incomplete: snooper.is_incomplete(),
        };
    }
}

/// True for a frame to a group that bridges do not forward.
fn is_reserved(frame: &[u8]) -> bool {
    frame.first_chunk().is_some_and(|mac| MacAddr(*mac).is_bridge_group())
}

fn head_of(frame: &[u8]) -> Head {
    Head::parse(&frame[..frame.len().min(HEAD_MAX)], frame.len())
}

/// The group of a frame, if membership in it is reported. All other multicast and broadcast frames are for every
/// station on the link.
fn routable_group(bytes: &[u8], head: &Head) -> Option<IpAddr> {
    let (_, to) = head.addresses(bytes)?;
    let mac = bytes.get(EthernetHeader::DST).and_then(<[u8]>::first_chunk)?;
    let is_group = to.is_multicast() && membership::group_mac(to) == MacAddr(*mac);
    (is_group && !membership::is_link_scope(to)).then_some(to)
}
