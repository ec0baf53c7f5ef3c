//! Tests of bindings, their epochs and watches, and the liveness of processes, in every store.

use super::{OnFile, Place, in_every_store, in_every_store_with_our_clock, vm};
use crate::Holder;
use crate::bindings::{BindError, Binding, Bound, Change, Changes, Epoch, Epochs, Flip, PortId, Revision, Watch};
use crate::liveness::{Liveness, Moment, ProcessId};
use crate::tests::remote::Cluster;
use std::cell::Cell;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

in_every_store! {
    a_watcher_receives_the_changes_of_its_network_in_their_order
    a_watcher_of_another_store_or_of_a_state_that_is_undone_has_a_gap
    a_process_that_names_a_stale_epoch_is_fenced_and_changes_nothing
    the_epoch_of_a_port_never_goes_back
    the_ports_of_a_guest_that_has_moved_flip_together_or_not_at_all
}

/// The server of etcd measures the time itself.
mod with_our_clock {
    use super::no_process_outlives_its_boot;
    use super::{a_process_that_does_not_renew_is_dead_after_its_lifetime, in_every_store_with_our_clock};

    in_every_store_with_our_clock! {
        a_process_that_does_not_renew_is_dead_after_its_lifetime
        no_process_outlives_its_boot
    }
}

const NETWORK: &str = "default/blue";

pub(crate) fn port(name: &str) -> PortId {
    PortId {
        network: NETWORK.into(),
        holder: Holder {
            vm: vm(name),
            interface: "blue".into(),
        },
    }
}

fn process(name: &str) -> ProcessId {
    ProcessId {
        node: "n1".into(),
        process: name.into(),
    }
}

pub(crate) fn binding(by: &str) -> Binding {
    Binding {
        process: process(by),
        mac: "02:00:00:00:00:01".parse().unwrap(),
        addresses: vec!["192.168.254.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        vtep: "[2001:db8::1]:6081".parse().unwrap(),
    }
}

fn bound(name: &str, by: &str, epoch: u32) -> Bound {
    Bound {
        port: port(name),
        epoch: Epoch(epoch),
        binding: binding(by),
    }
}

/// The changes after `revision`, which is set to the newest revision.
pub(crate) fn changes(store: &impl Watch, revision: &mut Revision) -> Vec<Change> {
    match store.changes(NETWORK, *revision).unwrap() {
        Changes::Complete { changes, revision: now } => {
            *revision = now;
            changes
        }
        Changes::Gap => panic!("no gap after {revision:?}"),
    }
}

fn a_watcher_receives_the_changes_of_its_network_in_their_order<P: Place>() {
    let place = P::new();
    let (mut store, watcher) = (place.open(), place.open());
    store.bind(&port("a"), None, &binding("p")).unwrap();
    let (listed, mut revision) = watcher.bindings(NETWORK).unwrap();
    assert_eq!(listed, [bound("a", "p", 1)]);
    assert_eq!(changes(&watcher, &mut revision), []);

    store.bind(&port("c"), None, &binding("p")).unwrap();
    store.bind(&port("b"), None, &binding("p")).unwrap();
    store.bind(&port("a"), Some(Epoch(1)), &binding("q")).unwrap();
    store.unbind(&port("c"), Epoch(1)).unwrap();
    let elsewhere = PortId {
        network: "default/red".into(),
        ..port("a")
    };
    store.bind(&elsewhere, None, &binding("r")).unwrap();
    let unbound = Change::Unbound {
        port: port("c"),
        epoch: Epoch(1),
    };
    let expected = [
        Change::Bound(bound("b", "p", 1)),
        Change::Bound(bound("a", "q", 2)),
        unbound,
    ];
    assert_eq!(changes(&watcher, &mut revision), expected);
    assert_eq!(changes(&watcher, &mut revision), []);
    let (mut listed, mut again) = watcher.bindings(NETWORK).unwrap();
    listed.sort_by(|a, b| a.port.cmp(&b.port));
    assert_eq!(listed, [bound("a", "q", 2), bound("b", "p", 1)]);
    assert_eq!(changes(&watcher, &mut again), []);
}

fn a_watcher_of_another_store_or_of_a_state_that_is_undone_has_a_gap<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let (_, nothing) = store.bindings(NETWORK).unwrap();
    store.bind(&port("a"), None, &binding("p")).unwrap();
    let (_, now) = store.bindings(NETWORK).unwrap();
    let other = Revision {
        store: !now.store,
        ..now
    };
    let undone = Revision {
        number: now.number + 1,
        ..now
    };
    for revision in [other, undone] {
        assert_eq!(store.changes(NETWORK, revision).unwrap(), Changes::Gap);
    }
    // If the revision is older than the first binding, the watch returns the change or a gap.
    let first = store.changes(NETWORK, nothing).unwrap();
    let seen = |changes: &[Change]| *changes == [Change::Bound(bound("a", "p", 1))];
    assert!(match &first {
        Changes::Complete { changes, .. } => seen(changes),
        Changes::Gap => true,
    });
}

fn a_process_that_names_a_stale_epoch_is_fenced_and_changes_nothing<P: Place>() {
    let place = P::new();
    let (mut source, mut target) = (place.open(), place.open());
    assert_eq!(source.bind(&port("a"), None, &binding("source")).unwrap(), Epoch(1));
    assert_eq!(
        target.bind(&port("a"), Some(Epoch(1)), &binding("target")).unwrap(),
        Epoch(2)
    );
    let (_, before) = source.bindings(NETWORK).unwrap();

    let stale = source.bind(&port("a"), Some(Epoch(1)), &binding("source")).unwrap_err();
    let text = stale.to_string();
    assert_eq!(
        text,
        "interface blue of VM default/a on network default/blue is bound to target on node n1 at epoch 2: this \
         process must not send for it; stop this process, or take over the port from that state"
    );
    let refused = [
        source.bind(&port("a"), None, &binding("source")).map(drop),
        source.bind(&port("a"), Some(Epoch(3)), &binding("source")).map(drop),
        source.unbind(&port("a"), Epoch(1)),
        Err(stale),
    ];
    for error in refused {
        let Err(BindError::Fenced { found: Some(found), .. }) = error else {
            panic!("fenced by a binding: {error:?}");
        };
        assert_eq!(*found, bound("a", "target", 2));
    }
    for error in [
        source.bind(&port("b"), Some(Epoch(1)), &binding("source")).map(drop),
        source.unbind(&port("b"), Epoch(1)),
    ] {
        assert!(matches!(error, Err(BindError::Fenced { found: None, .. })), "{error:?}");
    }
    let (listed, after) = source.bindings(NETWORK).unwrap();
    assert_eq!((listed, after), (vec![bound("a", "target", 2)], before));
}

fn the_epoch_of_a_port_never_goes_back<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let mut seen = None;
    for epoch in 1..=3 {
        seen = Some(store.bind(&port("a"), seen, &binding("p")).unwrap());
        assert_eq!(seen, Some(Epoch(epoch)));
    }
    assert_eq!(store.bound(&port("a")).unwrap(), Some(bound("a", "p", 3)));
    store.unbind(&port("a"), Epoch(3)).unwrap();
    assert_eq!(store.bound(&port("a")).unwrap(), None);
    let late = store.bind(&port("a"), Some(Epoch(3)), &binding("p"));
    assert!(matches!(late, Err(BindError::Fenced { found: None, .. })), "{late:?}");
    assert_eq!(store.bind(&port("a"), None, &binding("q")).unwrap(), Epoch(4));
}

pub(crate) fn flip(name: &str, seen: u32, by: &str) -> Flip {
    Flip {
        port: port(name),
        seen: Epoch(seen),
        binding: binding(by),
    }
}

fn the_ports_of_a_guest_that_has_moved_flip_together_or_not_at_all<P: Place>() {
    let place = P::new();
    let (mut source, mut target) = (place.open(), place.open());
    source.bind(&port("a"), None, &binding("source")).unwrap();
    source.bind(&port("b"), None, &binding("source")).unwrap();
    source.bind(&port("b"), Some(Epoch(1)), &binding("source")).unwrap();
    let (_, mut before) = target.bindings(NETWORK).unwrap();

    let stale = target.flip(&[flip("a", 1, "target"), flip("b", 1, "target")]);
    let Err(BindError::Fenced { found: Some(found), .. }) = stale else {
        panic!("fenced by the newer binding: {stale:?}");
    };
    assert_eq!(*found, bound("b", "source", 2));
    assert_eq!(changes(&source, &mut before), []);

    let flips = [flip("a", 1, "target"), flip("b", 2, "target")];
    assert_eq!(target.flip(&flips).unwrap(), [Epoch(2), Epoch(3)]);
    let mut seen = changes(&source, &mut before);
    seen.sort_by(|one, other| one.port().cmp(other.port()));
    let expected = [
        Change::Bound(bound("a", "target", 2)),
        Change::Bound(bound("b", "target", 3)),
    ];
    assert_eq!(seen, expected);
    // Its answer was lost, and it is repeated.
    assert_eq!(target.flip(&flips).unwrap(), [Epoch(2), Epoch(3)]);
    assert_eq!(changes(&source, &mut before), []);
    assert_eq!(target.flip(&[]).unwrap(), []);
}

fn at(seconds: u64) -> Moment {
    Moment {
        boot: "boot".into(),
        since_boot: Duration::from_secs(seconds),
    }
}

fn a_process_that_does_not_renew_is_dead_after_its_lifetime<P: Place>() {
    const LIFETIME: Duration = Duration::from_secs(15);
    let place = P::new();
    let (mut store, other) = (place.open(), place.open());
    assert_eq!(other.dead(&at(0)).unwrap(), []);
    for name in ["q", "p"] {
        store.keep_alive(&process(name), &at(100), LIFETIME).unwrap();
    }
    assert_eq!(other.dead(&at(114)).unwrap(), []);
    store.keep_alive(&process("q"), &at(114), LIFETIME).unwrap();
    assert_eq!(other.dead(&at(115)).unwrap(), [process("p")]);
    assert_eq!(other.dead(&at(129)).unwrap(), [process("p"), process("q")]);
    // The process was only slow.
    store.keep_alive(&process("p"), &at(130), LIFETIME).unwrap();
    assert_eq!(other.dead(&at(131)).unwrap(), [process("q")]);
    store.forget(&process("q")).unwrap();
    assert_eq!(other.dead(&at(131)).unwrap(), []);
}

fn no_process_outlives_its_boot<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let lifetime = Duration::from_secs(15);
    store.keep_alive(&process("p"), &at(1_000_000), lifetime).unwrap();
    let rebooted = Moment {
        boot: "next".into(),
        ..at(1)
    };
    assert_eq!(store.dead(&rebooted).unwrap(), [process("p")]);
}

#[test]
fn a_bind_that_loses_a_race_is_fenced_by_the_winner() {
    let cluster = Cluster::default();
    let mut loser = cluster.join("n1");
    let (winner, races) = (cluster, Rc::new(Cell::new(0)));
    let count = Rc::clone(&races);
    loser.races_to_lose = 1;
    loser.rival = Some(Box::new(move || {
        count.set(count.get() + 1);
        winner.join("n2").bind(&port("a"), None, &binding("winner")).unwrap();
    }));
    let lost = loser.bind(&port("a"), None, &binding("loser"));
    let Err(BindError::Fenced { found: Some(found), .. }) = lost else {
        panic!("fenced: {lost:?}");
    };
    assert_eq!((*found, races.get()), (bound("a", "winner", 1), 1));
}

/// Path of a store, in the environment of the process that changes it.
const CHANGED: &str = "HAWSER_STORE_CHANGED";
const BINDS: u32 = 25;

/// The test below runs this test in a process of its own.
#[test]
fn a_process_of_its_own_binds_a_port_again_and_again() {
    let Some(path) = std::env::var_os(CHANGED) else { return };
    let mut store = crate::sqlite::Sqlite::open(path.as_ref(), crate::sqlite::Access::Change).unwrap();
    let mut seen = None;
    for n in 0..BINDS {
        seen = Some(store.bind(&port("a"), seen, &binding("child")).unwrap());
        store.bind(&port(&format!("b{n}")), None, &binding("child")).unwrap();
    }
}

#[test]
fn a_watcher_sees_the_changes_of_another_process_in_their_order() {
    let place = OnFile::new();
    let store = place.open();
    let (_, mut revision) = store.bindings(NETWORK).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tests::running::a_process_of_its_own_binds_a_port_again_and_again",
        ])
        .env(CHANGED, place.path())
        .spawn();
    let mut child = child.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut epochs, mut others) = (Vec::new(), Vec::new());
    while others.len() < BINDS as usize {
        assert!(Instant::now() < deadline, "{epochs:?} {others:?}");
        let changes = match store.changes(NETWORK, revision).unwrap() {
            Changes::Complete { changes, revision: now } => {
                revision = now;
                changes
            }
            // The tables are new.
            Changes::Gap => {
                let (listed, now) = store.bindings(NETWORK).unwrap();
                revision = now;
                listed.into_iter().map(Change::Bound).collect()
            }
        };
        for change in changes {
            let Change::Bound(bound) = change else {
                panic!("nothing is unbound: {change:?}");
            };
            if bound.port == port("a") {
                epochs.push(bound.epoch);
            } else {
                others.push(bound.port.holder.vm.name);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success());
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    assert_eq!(epochs.last(), Some(&Epoch(BINDS)));
    let expected: Vec<String> = (0..BINDS).map(|n| format!("b{n}")).collect();
    assert_eq!(others, expected);
}
