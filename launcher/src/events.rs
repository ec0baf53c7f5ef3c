//! `--event-log`: writes events of the NICs, one line of JSON each.
//!
//! A thread reads the state of the ports four times a second and writes the changes. Threads on the packet path do no
//! work for the log. Each reading adds at most one line per port and kind of event, which contains the number of
//! events. A port remembers a limited number of addresses, which bounds the lines about new addresses.

mod file;

pub(crate) use file::EventFile;

use crate::failure::Failure;
use crate::machine::{FileState, Machine, ServedNic};
use hawser_backend::counters::{Count, Counters, DropReason, Gauge};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Interval between two readings.
const PERIOD: Duration = Duration::from_millis(250);

/// Reasons for drops of frames in which a guest uses another guest's identity.
const SPOOFS: [DropReason; 6] = [
    DropReason::SpoofedMac,
    DropReason::SpoofedAddress,
    DropReason::SpoofedArp,
    DropReason::SpoofedNeighbour,
    DropReason::DhcpGuard,
    DropReason::RouterGuard,
];

/// An event of a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    /// The NIC is served from now on.
    PortAdded,
    /// The NIC is no longer served.
    PortRemoved,
    /// The NIC has failed and can no longer be served.
    PortFailed { reason: String },
    /// hawser's DHCP server granted or renewed leases.
    LeaseGiven { protocol: &'static str, count: u64 },
    /// The link state that the guest sees has changed.
    LinkChanged { up: bool },
    /// A driver in the guest has started the queues, or is gone.
    DriverChanged { running: bool },
    /// The guest has used an address for the first time.
    GuestAnnounced {
        address: IpAddr,
        mac: String,
        source: &'static str,
    },
    /// A new version of the peers file is in use.
    PeersChanged { peers: usize },
    /// The peers file has changed and cannot be used.
    PeersRefused { reason: String },
    /// A new version of the file of Services is in use; `services` is the number of their ports.
    ServicesChanged { services: usize },
    /// The file of Services has changed and cannot be used.
    ServicesRefused { reason: String },
    /// The guest used another guest's identity.
    SpoofSeen { reason: &'static str, count: u64 },
}

/// A line of the log.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Time of the event, in seconds since 1970.
    time: f64,
    port: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

/// The thread that writes the log. It ends when this is dropped.
pub(crate) struct EventLog {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EventLog {
    /// Starts the log of events of the ports of `machine`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(crate) fn start(file: EventFile, machine: &Arc<Machine>) -> Result<Self, Failure> {
        let mut out = file;
        let (end, ended) = channel();
        let machine: Weak<Machine> = Arc::downgrade(machine);
        let thread = thread::Builder::new().name("events".into()).spawn(move || {
            let mut watch = Watch::default();
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                let Some(machine) = machine.upgrade() else { return };
                let events = watch.look(machine.nics().iter().map(State::of).collect());
                drop(machine);
                if !events.is_empty() {
                    out.write(&lines(&events));
                }
            }
        });
        Ok(Self {
            end: Some(end),
            thread: Some(thread.map_err(|e| Failure::runtime(format_args!("cannot start a thread: {e}")))?),
        })
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already reported it.
            let _ = thread.join();
        }
    }
}

/// Converts these events to lines.
fn lines(events: &[(String, Event)]) -> Vec<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = Vec::new();
    for (port, event) in events {
        let line = Line {
            time: since.as_secs_f64(),
            port,
            event,
        };
        // This does not fail for any value of these types.
        text.extend(serde_json::to_vec(&line).unwrap_or_default());
        text.push(b'\n');
    }
    text
}

/// State of a port, as far as events report it.
#[derive(Debug)]
struct State {
    name: String,
    counters: Counters,
    link: bool,
    failure: Option<String>,
    peers_file: FileState,
    services_file: FileState,
    addresses: BTreeMap<IpAddr, (String, &'static str)>,
}

impl State {
    fn of(nic: &ServedNic) -> Self {
        let metrics = nic.metrics();
        let seen = nic.seen().into_iter();
        Self {
            name: nic.name().to_owned(),
            counters: metrics.counters,
            link: metrics.link_up,
            failure: metrics.failure,
            peers_file: metrics.peers_file,
            services_file: metrics.services_file,
            addresses: seen
                .map(|seen| (seen.address, (seen.mac.to_string(), seen.source)))
                .collect(),
        }
    }
}

/// States of the ports at the last reading.
#[derive(Debug, Default)]
struct Watch(BTreeMap<String, State>);

impl Watch {
    /// Returns the events since the last reading.
    fn look(&mut self, states: Vec<State>) -> Vec<(String, Event)> {
        let mut events = Vec::new();
        let names: BTreeSet<&str> = states.iter().map(|state| state.name.as_str()).collect();
        for gone in self.0.keys().filter(|name| !names.contains(name.as_str())) {
            events.push((gone.clone(), Event::PortRemoved));
        }
        for state in &states {
            if !self.0.contains_key(&state.name) {
                events.push((state.name.clone(), Event::PortAdded));
            }
            let mut tell = |event| events.push((state.name.clone(), event));
            changes(self.0.get(&state.name), state, &mut tell);
        }
        self.0 = states.into_iter().map(|state| (state.name.clone(), state)).collect();
        events
    }
}

/// Kinds of event for a file: a version that is in use, and one that cannot be.
type FileEvents = (fn(usize) -> Event, fn(String) -> Event);

const PEERS: FileEvents = (
    |peers| Event::PeersChanged { peers },
    |reason| Event::PeersRefused { reason },
);
const SERVICES: FileEvents = (
    |services| Event::ServicesChanged { services },
    |reason| Event::ServicesRefused { reason },
);

fn file_changes(before: Option<&FileState>, now: &FileState, kinds: FileEvents, tell: &mut dyn FnMut(Event)) {
    let (applied, refused) = kinds;
    let (taken, earlier) = before.map_or((0, None), |before| (before.taken, before.refused.as_ref()));
    if let Some(entries) = now.entries.filter(|_| now.taken != taken) {
        tell(applied(entries));
    }
    if let Some(reason) = now.refused.clone().filter(|_| now.refused.as_ref() != earlier) {
        tell(refused(reason));
    }
}

fn changes(before: Option<&State>, now: &State, tell: &mut dyn FnMut(Event)) {
    let counted = |count| {
        let old = before.map_or(0, |before| before.counters.count(count));
        now.counters.count(count).saturating_sub(old)
    };
    for (count, protocol) in [(Count::Dhcp4Leases, "dhcp4"), (Count::Dhcp6Leases, "dhcp6")] {
        match counted(count) {
            0 => {}
            count => tell(Event::LeaseGiven { protocol, count }),
        }
    }
    if let Some(reason) = &now.failure
        && before.is_none_or(|before| before.failure.is_none())
    {
        let reason = reason.clone();
        tell(Event::PortFailed { reason });
    }
    if now.link != before.is_none_or(|before| before.link) {
        tell(Event::LinkChanged { up: now.link });
    }
    let is_running = |state: &State| state.counters.level(Gauge::QueuePairs) > 0;
    if is_running(now) != before.is_some_and(is_running) {
        tell(Event::DriverChanged {
            running: is_running(now),
        });
    }
    for (&address, (mac, source)) in &now.addresses {
        if before.is_none_or(|before| !before.addresses.contains_key(&address)) {
            let mac = mac.clone();
            tell(Event::GuestAnnounced { address, mac, source });
        }
    }
    file_changes(before.map(|state| &state.peers_file), &now.peers_file, PEERS, tell);
    file_changes(
        before.map(|state| &state.services_file),
        &now.services_file,
        SERVICES,
        tell,
    );
    for reason in SPOOFS {
        let old = before.map_or(0, |before| before.counters.dropped(reason));
        match now.counters.dropped(reason).saturating_sub(old) {
            0 => {}
            count => tell(Event::SpoofSeen {
                reason: reason.name(),
                count,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            name: "net0".into(),
            counters: Counters::default(),
            link: true,
            failure: None,
            peers_file: FileState::default(),
            services_file: FileState::default(),
            addresses: BTreeMap::new(),
        }
    }

    #[test]
    fn each_event_is_reported_once_with_its_count() {
        let mut watch = Watch::default();
        let told = watch.look(vec![state()]);
        assert_eq!(told, [("net0".into(), Event::PortAdded)]);
        assert_eq!(watch.look(vec![state()]), []);
        let busy = || {
            let mut busy = state();
            busy.link = false;
            busy.failure = Some("worker net0-0 panicked".into());
            busy.counters.add(Count::Dhcp4Leases, 1);
            busy.counters.set(Gauge::QueuePairs, 1);
            busy.counters.count_drops(DropReason::SpoofedMac, 70_000);
            let address = "10.0.2.2".parse().unwrap();
            busy.addresses.insert(address, ("02:00:00:00:00:09".into(), "arp"));
            busy
        };
        let told: Vec<Event> = watch.look(vec![busy()]).into_iter().map(|(_, event)| event).collect();
        let expected = [
            Event::LeaseGiven {
                protocol: "dhcp4",
                count: 1,
            },
            Event::PortFailed {
                reason: "worker net0-0 panicked".into(),
            },
            Event::LinkChanged { up: false },
            Event::DriverChanged { running: true },
            Event::GuestAnnounced {
                address: "10.0.2.2".parse().unwrap(),
                mac: "02:00:00:00:00:09".into(),
                source: "arp",
            },
            Event::SpoofSeen {
                reason: "spoofed_mac",
                count: 70_000,
            },
        ];
        assert_eq!(told, expected);
        assert_eq!(watch.look(vec![busy()]), []);
        assert_eq!(watch.look(Vec::new()), [("net0".into(), Event::PortRemoved)]);
    }

    #[test]
    fn each_version_of_a_file_of_peers_is_taken_over_or_refused_once() {
        let mut watch = Watch::default();
        let mut look = |taken, refused: Option<&str>| {
            let peers_file = FileState {
                taken,
                entries: (taken > 0).then_some(5),
                refused: refused.map(str::to_owned),
            };
            let told = watch.look(vec![State { peers_file, ..state() }]);
            told.into_iter().map(|(_, event)| event).collect::<Vec<_>>()
        };
        assert_eq!(look(0, None), [Event::PortAdded]);
        assert_eq!(look(1, None), [Event::PeersChanged { peers: 5 }]);
        let refused = || Event::PeersRefused {
            reason: "peers:3".into(),
        };
        assert_eq!(look(1, Some("peers:3")), [refused()]);
        assert_eq!(look(1, Some("peers:3")), []);
        assert_eq!(look(3, Some("peers:3")), [Event::PeersChanged { peers: 5 }]);
    }

    #[test]
    fn an_event_is_one_line_of_json() {
        let event = Event::SpoofSeen {
            reason: "spoofed_mac",
            count: 2,
        };
        let text = String::from_utf8(lines(&[("net0".into(), event)])).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(line["time"].as_f64().unwrap() > 1e9);
        assert_eq!(
            (&line["port"], &line["event"], &line["reason"], &line["count"]),
            (&"net0".into(), &"spoof-seen".into(), &"spoofed_mac".into(), &2.into())
        );
    }
}
