//! MACs behind endpoints with any MACs, such as a bridge, or a guest with guests of its own.
//!
//! The table has no binding for them, so a frame that is admitted without one shows where its MAC is, and answers can be
//! sent there. A bound MAC is never learned, and a learned one counts for nothing else: admission follows the table.
//!
//! Workers share the MACs behind a lock. A worker takes it when a MAC is new, has moved, or was noted a while ago, and
//! looks MACs up in a view of its own. The number of MACs is limited, in total and for each endpoint; a full table drops
//! the MACs that have been silent, and then learns nothing more.

use crate::counters::{Count, Counters};
use crate::forwarding::Table;
use crate::packet::MacAddr;
use crate::time::Instant;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maximum MACs of a port.
const MACS: usize = 1024;
/// Maximum MACs behind one endpoint.
const MACS_OF_ENDPOINT: usize = 256;
/// Silence after which a MAC may make room for another, as on a bridge.
const AGE: Duration = Duration::from_secs(300);
/// Time for which a worker does not note again that a MAC is where it was.
const NOTED_FOR: Duration = Duration::from_secs(30);

/// Where a MAC was seen last.
#[derive(Clone, Copy, Debug)]
struct Place {
    endpoint: SocketAddr,
    seen: Instant,
}

/// The learned MACs of a port, which its workers share.
#[derive(Debug)]
pub(super) struct Learned {
    places: Mutex<HashMap<MacAddr, Place>>,
    /// Number of changes of the place of any MAC.
    version: AtomicU64,
}

impl Learned {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            places: Mutex::default(),
            version: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MacAddr, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The learned MACs as one worker sees them.
#[derive(Debug)]
pub(super) struct View {
    shared: Arc<Learned>,
    version: u64,
    places: HashMap<MacAddr, Place>,
    counters: Arc<Counters>,
}

impl View {
    pub(super) fn new(shared: Arc<Learned>, counters: Arc<Counters>) -> Self {
        Self {
            shared,
            version: 0,
            places: HashMap::new(),
            counters,
        }
    }

    /// Notes that a frame from `mac` came from `endpoint`.
    pub(super) fn note(&mut self, now: Instant, mac: MacAddr, endpoint: SocketAddr) {
        let is_noted = |place: &Place| place.endpoint == endpoint && now.since(place.seen) < NOTED_FOR;
        if !self.places.get(&mac).is_some_and(is_noted) {
            self.note_anew(now, mac, endpoint);
        }
    }

    #[cold]
    fn note_anew(&mut self, now: Instant, mac: MacAddr, endpoint: SocketAddr) {
        let place = Place { endpoint, seen: now };
        let mut places = self.shared.lock();
        let before = places.get(&mac).map(|place| place.endpoint);
        if before != Some(endpoint) {
            let behind = |places: &HashMap<_, Place>| places.values().filter(|at| at.endpoint == endpoint).count();
            let is_full = |places: &HashMap<_, Place>| places.len() >= MACS || behind(places) >= MACS_OF_ENDPOINT;
            if is_full(&places) {
                places.retain(|_, place| now.since(place.seen) < AGE);
            }
            if is_full(&places) {
                drop(places);
                self.counters.add(Count::LearnedMacsFull, 1);
                return;
            }
            self.counters.add(Count::LearnedMacs, 1);
            self.shared.version.fetch_add(1, Ordering::Release);
        }
        places.insert(mac, place);
        drop(places);
        if before == Some(endpoint) {
            self.places.insert(mac, place);
        } else {
            self.renew();
        }
    }

    /// The endpoint that `mac` is behind.
    pub(super) fn endpoint_of(&mut self, mac: MacAddr) -> Option<SocketAddr> {
        if self.version != self.shared.version.load(Ordering::Acquire) {
            self.renew();
        }
        self.places.get(&mac).map(|place| place.endpoint)
    }

    /// Takes over the changes since the view was made.
    #[cold]
    fn renew(&mut self) {
        let places = self.shared.lock();
        // Changes are made with the lock held.
        self.version = self.shared.version.load(Ordering::Acquire);
        self.places.clone_from(&places);
    }
}

/// Where frames to a MAC go: as the table says or, for a MAC without a binding, as was learned.
pub(super) struct Places<'a> {
    pub(super) table: &'a Table,
    pub(super) learned: &'a mut View,
}

impl Places<'_> {
    /// Index of the endpoint of `mac` in the table.
    #[inline]
    pub(super) fn index_of(&mut self, mac: MacAddr) -> Option<usize> {
        self.table.index_of(mac).or_else(|| self.learned_index_of(mac))
    }

    #[cold]
    fn learned_index_of(&mut self, mac: MacAddr) -> Option<usize> {
        let endpoint = self.learned.endpoint_of(mac)?;
        // The endpoint may be gone, or have only the MACs of the table now.
        let index = self.table.position_of(endpoint)?;
        self.table.has_other_macs(index).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::from_nanos(secs * 1_000_000_000)
    }

    fn mac(number: u16) -> MacAddr {
        let [a, b] = number.to_be_bytes();
        MacAddr([2, 0, 0, 7, a, b])
    }

    fn endpoint(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 6081))
    }

    /// Two workers of a port.
    fn workers() -> [View; 2] {
        let shared = Learned::new();
        [(); 2].map(|()| View::new(Arc::clone(&shared), Arc::default()))
    }

    #[test]
    fn what_one_worker_learns_all_know_and_the_last_place_counts() {
        let [mut first, mut second] = workers();
        assert_eq!(second.endpoint_of(mac(1)), None);
        first.note(at(1), mac(1), endpoint(1));
        for view in [&mut first, &mut second] {
            assert_eq!(view.endpoint_of(mac(1)), Some(endpoint(1)));
        }
        second.note(at(2), mac(1), endpoint(2));
        for view in [&mut first, &mut second] {
            assert_eq!(view.endpoint_of(mac(1)), Some(endpoint(2)));
        }
        first.note(at(3), mac(1), endpoint(1));
        assert_eq!(second.endpoint_of(mac(1)), Some(endpoint(1)));
    }

    #[test]
    fn an_endpoint_has_room_for_256_macs_and_silent_ones_make_room() {
        let [mut view, _] = workers();
        for number in 0..300 {
            view.note(at(1), mac(number), endpoint(1));
        }
        assert_eq!(view.counters.count(Count::LearnedMacs), 256);
        assert_eq!(view.counters.count(Count::LearnedMacsFull), 44);
        assert_eq!(view.endpoint_of(mac(255)), Some(endpoint(1)));
        assert_eq!(view.endpoint_of(mac(256)), None);
        // Another endpoint has its own share, and all of them together a limit.
        for number in 0..900 {
            let endpoint = endpoint(2 + u8::try_from(number / 256).unwrap());
            view.note(at(2), mac(1000 + number), endpoint);
        }
        assert_eq!(view.counters.count(Count::LearnedMacs), 1024);
        view.note(at(200), mac(0), endpoint(1));
        view.note(at(302), mac(5000), endpoint(1));
        assert_eq!(view.endpoint_of(mac(5000)), Some(endpoint(1)));
        assert_eq!(view.endpoint_of(mac(0)), Some(endpoint(1)), "it was heard again");
        assert_eq!(view.endpoint_of(mac(1)), None, "it was silent");
    }
}
