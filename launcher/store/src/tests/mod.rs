//! Tests of claims, which must have the same result in every store. Each test runs on a SQLite file, on a real etcd,
//! and on a store of many nodes that loses a race in each step, so that every step runs twice.

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "etcd")]
mod etcd_members;
mod networks;
mod remote;
pub(crate) mod running;
#[cfg(feature = "etcd")]
mod shared_records;

use crate::bindings::{Epochs, Watch};
use crate::claim::{AddressClaim, Choice, Claim, ClaimError, MacClaim, claim};
use crate::liveness::Liveness;
use crate::range::{AddressRange, address, number};
use crate::sqlite::{Access, Sqlite};
use crate::{Lease, Segment, Store, StoreError, VmName};
use hawser_packet::MacRange;
use ipnet::IpNet;
use remote::{Cluster, Remote};
use std::path::PathBuf;
use tempfile::TempDir;

/// Where a store is. It can be opened more than once.
trait Place {
    type Store: Store + Epochs + Watch + Liveness;
    fn new() -> Self;
    fn open(&self) -> Self::Store;
}

/// A store in a file of this node.
struct OnFile(TempDir);

impl OnFile {
    fn path(&self) -> PathBuf {
        self.0.path().join("store.db")
    }
}

impl Place for OnFile {
    type Store = Sqlite;

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Sqlite {
        Sqlite::open(&self.path(), Access::Make).unwrap()
    }
}

impl Place for Cluster {
    type Store = Remote;

    fn new() -> Self {
        Self::default()
    }

    fn open(&self) -> Remote {
        let mut remote = self.join("n1");
        remote.races_to_lose = 1;
        remote
    }
}

/// Runs each test in every kind of store.
macro_rules! in_every_store {
    ($($name:ident)*) => {
        $crate::tests::in_every_store_with_our_clock!($($name)*);
        #[cfg(feature = "etcd")]
        mod in_etcd {
            $(#[test] fn $name() { super::$name::<$crate::tests::etcd::OnEtcd>(); })*
        }
    };
}
use in_every_store;

/// Runs each test in every kind of store that takes the time from its caller.
macro_rules! in_every_store_with_our_clock {
    ($($name:ident)*) => {
        mod on_a_file {
            $(#[test] fn $name() { super::$name::<$crate::tests::OnFile>(); })*
        }
        mod in_a_cluster {
            $(#[test] fn $name() { super::$name::<$crate::tests::Cluster>(); })*
        }
    };
}
use in_every_store_with_our_clock;

in_every_store! {
    a_vm_that_comes_again_has_the_mac_and_address_it_had
    an_absent_interface_keeps_its_lease
    what_was_released_is_given_to_another_only_when_the_range_has_had_its_turn
    a_full_range_is_named_and_gives_nothing_out
    a_mac_or_address_that_another_holds_on_the_segment_is_refused_by_its_holder
    an_explicit_mac_wins_and_stays_when_the_manifest_drops_it
    addresses_of_both_families_and_of_several_ranges_are_given_one_of_each_set
    whereabouts_gives_out_the_lowest_free_address_and_looks_at_every_segment
    a_step_that_is_not_committed_changes_nothing
}

/// A segment of this node.
pub(crate) fn here(name: &str) -> Segment {
    Segment::ThisNode(name.into())
}

pub(crate) fn vm(name: &str) -> VmName {
    VmName {
        namespace: "default".into(),
        name: name.into(),
    }
}

fn range(subnet: &str, first: &str, last: &str) -> AddressRange {
    let subnet: IpNet = subnet.parse().unwrap();
    AddressRange {
        subnet,
        first: first.parse().unwrap(),
        last: last.parse().unwrap(),
        gateway: Some(address(number(subnet.network()) + 1)),
    }
}

/// A claim for a MAC of the pool and an address of 10.0.0.0/24 up to `.last`. The gateway is .1.
pub(crate) fn of_range(interface: &str, last: u8) -> Claim {
    let set = vec![range("10.0.0.0/24", "10.0.0.1", &format!("10.0.0.{last}"))];
    Claim {
        interface: interface.into(),
        network: "default/lan".into(),
        segment: here("bridge br0"),
        mac: MacClaim::Pool,
        addresses: vec![AddressClaim::OneOf(set, Choice::Next)],
    }
}

pub(crate) fn explicit(interface: &str, segment: &str, mac: &str) -> Claim {
    Claim {
        interface: interface.into(),
        network: "default/lan".into(),
        segment: here(segment),
        mac: MacClaim::Explicit(mac.parse().unwrap()),
        addresses: Vec::new(),
    }
}

fn pool() -> MacRange {
    "02:00:00:00:00:00-02:00:00:00:00:08".parse().unwrap()
}

pub(crate) fn give(store: &mut impl Store, name: &str, claims: &[Claim]) -> Result<Vec<Lease>, ClaimError> {
    store.step(|ledger| claim(ledger, &vm(name), claims, &[], &pool()))
}

fn release(store: &mut impl Store, name: &str) {
    let released: Result<(), StoreError> = store.step(|ledger| {
        let leases = ledger.leases(Some(&vm(name)))?;
        leases.iter().try_for_each(|lease| ledger.remove(&lease.holder))
    });
    released.unwrap();
}

pub(crate) fn addresses(leases: &[Lease]) -> Vec<String> {
    leases
        .iter()
        .flat_map(|lease| &lease.addresses)
        .map(ToString::to_string)
        .collect()
}

fn a_vm_that_comes_again_has_the_mac_and_address_it_had<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let first = give(&mut store, "a", &[of_range("lan", 9)]).unwrap();
    let other = give(&mut store, "b", &[of_range("lan", 9)]).unwrap();
    assert_eq!(
        (addresses(&first), addresses(&other)),
        (vec!["10.0.0.2/24".into()], vec!["10.0.0.3/24".into()])
    );
    assert_ne!(first[0].mac, other[0].mac);
    drop(store);
    let mut store = place.open();
    assert_eq!(give(&mut store, "a", &[of_range("lan", 9)]).unwrap(), first);
    // With a wider range and an additional interface, the VM keeps its leases.
    let more = give(&mut store, "a", &[of_range("more", 50), of_range("lan", 50)]).unwrap();
    assert_eq!(more[1], first[0]);
    assert_eq!(addresses(&more), ["10.0.0.4/24", "10.0.0.2/24"]);
    assert_eq!(store.leases(None).unwrap().len(), 3);
    // An interface that is no longer in the manifest loses its lease.
    give(&mut store, "a", &[of_range("lan", 50)]).unwrap();
    assert_eq!(store.leases(Some(&vm("a"))).unwrap(), first);
}

fn an_absent_interface_keeps_its_lease<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let both = give(&mut store, "a", &[of_range("lan", 9), of_range("more", 9)]).unwrap();
    let claims = [of_range("lan", 9)];
    let one = store.step(|ledger| claim(ledger, &vm("a"), &claims, &["more".into()], &pool()));
    let one = one.unwrap();
    assert_eq!(one, both[..1]);
    assert_eq!(store.leases(None).unwrap(), both);
}

fn what_was_released_is_given_to_another_only_when_the_range_has_had_its_turn<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let mut macs = Vec::new();
    let mut given = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
        let leases = give(&mut store, name, &[of_range("lan", 9)]).unwrap();
        macs.push(leases[0].mac.unwrap());
        given.extend(addresses(&leases));
        release(&mut store, name);
    }
    // There are eight of each: the addresses .2 to .9, and the pool without the gateway's MAC.
    let expected: Vec<String> = [2, 3, 4, 5, 6, 7, 8, 9, 2].map(|n| format!("10.0.0.{n}/24")).into();
    assert_eq!(given, expected);
    let mut distinct = macs[..8].to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!((distinct.len(), macs[8]), (8, macs[0]));
    assert!(!distinct.contains(&hawser_config::GATEWAY_MAC));
}

fn a_full_range_is_named_and_gives_nothing_out<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for name in ["a", "b"] {
        give(&mut store, name, &[of_range("lan", 3)]).unwrap();
    }
    let error = give(&mut store, "c", &[of_range("lan", 3)]).unwrap_err().to_string();
    assert!(
        error.starts_with("every address of 10.0.0.1-10.0.0.3 is in use"),
        "{error}"
    );
    assert_eq!(store.leases(None).unwrap().len(), 2);
    let many: Vec<Claim> = (0..9)
        .map(|n| explicit(&n.to_string(), "s", &format!("02:00:00:00:00:0{n}")))
        .collect();
    give(&mut store, "d", &many[1..]).unwrap();
    let pooled = Claim {
        mac: MacClaim::Pool,
        ..many[0].clone()
    };
    let error = give(&mut store, "e", &[pooled]).unwrap_err().to_string();
    assert!(
        error.starts_with("every MAC of 02:00:00:00:00:00-02:00:00:00:00:08 is in use"),
        "{error}"
    );
}

fn a_mac_or_address_that_another_holds_on_the_segment_is_refused_by_its_holder<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    give(&mut store, "a", &[explicit("lan", "bridge br0", "02:00:00:00:00:aa")]).unwrap();
    let error = give(&mut store, "b", &[explicit("x", "bridge br0", "02:00:00:00:00:aa")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "MAC 02:00:00:00:00:aa is held by interface lan of VM default/a on the same segment (bridge br0): give another \
         macAddress, or release that one (hawser leases release default/a) if it is no longer used"
    );
    // On another segment it is free.
    give(&mut store, "b", &[explicit("x", "bridge br1", "02:00:00:00:00:aa")]).unwrap();
    let fixed = |text: &str| Claim {
        addresses: vec![AddressClaim::Fixed(text.parse().unwrap())],
        mac: MacClaim::Segment,
        ..of_range("lan", 9)
    };
    give(&mut store, "c", &[fixed("10.0.0.2/24")]).unwrap();
    let error = give(&mut store, "d", &[fixed("10.0.0.2/16")]).unwrap_err().to_string();
    assert!(
        error.starts_with("address 10.0.0.2 is held by interface lan of VM default/c on"),
        "{error}"
    );
    // A range skips this address.
    assert_eq!(
        addresses(&give(&mut store, "d", &[of_range("lan", 9)]).unwrap()),
        ["10.0.0.3/24"]
    );
}

fn an_explicit_mac_wins_and_stays_when_the_manifest_drops_it<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let named = Claim {
        mac: MacClaim::Explicit("0a:00:00:00:00:01".parse().unwrap()),
        ..of_range("lan", 9)
    };
    let pooled = give(&mut store, "a", &[of_range("lan", 9)]).unwrap();
    let explicit = give(&mut store, "a", std::slice::from_ref(&named)).unwrap();
    assert_eq!(explicit[0].mac.unwrap().to_string(), "0a:00:00:00:00:01");
    assert_eq!(explicit[0].addresses, pooled[0].addresses);
    assert_eq!(give(&mut store, "a", &[of_range("lan", 9)]).unwrap(), explicit);
    // Two interfaces swap their values.
    let swapped = give(
        &mut store,
        "a",
        &[
            of_range("lan", 9),
            Claim {
                interface: "b".into(),
                ..named
            },
        ],
    )
    .unwrap();
    assert_ne!(swapped[0].mac, swapped[1].mac);
    assert_eq!(swapped[1].mac, explicit[0].mac);
}

fn addresses_of_both_families_and_of_several_ranges_are_given_one_of_each_set<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let sets = vec![
        AddressClaim::OneOf(
            vec![
                range("10.0.0.0/24", "10.0.0.5", "10.0.0.5"),
                range("10.9.0.0/16", "10.9.0.7", "10.9.0.7"),
            ],
            Choice::Next,
        ),
        AddressClaim::OneOf(
            vec![range("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff")],
            Choice::Next,
        ),
    ];
    let claim = Claim {
        addresses: sets,
        ..of_range("lan", 0)
    };
    let first = give(&mut store, "a", std::slice::from_ref(&claim)).unwrap();
    let second = give(&mut store, "b", std::slice::from_ref(&claim)).unwrap();
    assert_eq!(addresses(&first), ["10.0.0.5/24", "fd00::2/64"]);
    assert_eq!(addresses(&second), ["10.9.0.7/16", "fd00::3/64"]);
}

fn whereabouts_gives_out_the_lowest_free_address_and_looks_at_every_segment<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let of = |segment: &str, choice| Claim {
        segment: here(segment),
        addresses: vec![AddressClaim::OneOf(
            vec![range("10.0.0.0/24", "10.0.0.1", "10.0.0.4")],
            choice,
        )],
        ..of_range("lan", 0)
    };
    let mut given = |name: &str, segment: &str, choice| {
        let leases = give(&mut store, name, &[of(segment, choice)]);
        leases.map(|leases| addresses(&leases).remove(0))
    };
    // .1 is the gateway.
    assert_eq!(given("a", "red", Choice::LowestAnywhere).unwrap(), "10.0.0.2/24");
    assert_eq!(given("b", "blue", Choice::LowestAnywhere).unwrap(), "10.0.0.3/24");
    // This pool does not depend on the others.
    assert_eq!(given("c", "blue", Choice::Lowest).unwrap(), "10.0.0.2/24");
    assert_eq!(given("d", "blue", Choice::Lowest).unwrap(), "10.0.0.4/24");
    assert!(matches!(
        given("e", "green", Choice::LowestAnywhere),
        Err(ClaimError::NoAddress(_))
    ));
    // A released address is leased again immediately, whereas host-local would continue upwards.
    release(&mut store, "b");
    let mut given = |name: &str, segment: &str, choice| {
        let leases = give(&mut store, name, &[of(segment, choice)]);
        leases.map(|leases| addresses(&leases).remove(0))
    };
    assert_eq!(given("f", "red", Choice::LowestAnywhere).unwrap(), "10.0.0.3/24");
    // The lease is kept even if a lower address becomes free.
    assert_eq!(given("f", "red", Choice::LowestAnywhere).unwrap(), "10.0.0.3/24");
}

fn a_step_that_is_not_committed_changes_nothing<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let failed: Result<(), ClaimError> = store.step(|ledger| {
        claim(ledger, &vm("a"), &[of_range("lan", 9)], &[], &pool())?;
        Err(ClaimError::Random("none".into()))
    });
    failed.unwrap_err();
    assert_eq!(store.leases(None).unwrap(), []);
    assert_eq!(
        addresses(&give(&mut store, "b", &[of_range("lan", 9)]).unwrap()),
        ["10.0.0.2/24"]
    );
}

#[test]
fn the_bridge_of_one_name_on_two_nodes_is_two_segments_and_a_network_is_one() {
    let cluster = Cluster::default();
    let (mut one, mut other) = (cluster.join("n1"), cluster.join("n2"));
    let claims = [of_range("lan", 9)];
    let first = give(&mut one, "a", &claims).unwrap();
    let second = give(&mut other, "b", &claims).unwrap();
    assert_eq!(addresses(&first), addresses(&second));
    assert_ne!(first[0].mac, second[0].mac);
    assert_eq!(first[0].segment, here("bridge br0"));
    let seen = other.leases(Some(&vm("a"))).unwrap();
    assert_eq!(seen[0].segment.to_string(), "bridge br0 of node n1");

    let on_network = |interface: &str| Claim {
        segment: Segment::Network("default/blue".into()),
        ..explicit(interface, "", "02:00:00:00:00:aa")
    };
    give(&mut one, "c", &[on_network("blue")]).unwrap();
    let error = give(&mut other, "d", &[on_network("blue")]).unwrap_err().to_string();
    assert!(
        error.contains("held by interface blue of VM default/c on the same segment (network default/blue)"),
        "{error}"
    );
}

#[test]
fn a_step_that_loses_a_race_runs_again_on_what_the_winner_left() {
    let cluster = Cluster::default();
    let mut loser = cluster.join("n1");
    let winner = cluster;
    loser.races_to_lose = 1;
    loser.rival = Some(Box::new(move || {
        give(&mut winner.join("n1"), "winner", &[of_range("lan", 9)]).unwrap();
    }));
    let lost = give(&mut loser, "loser", &[of_range("lan", 9)]).unwrap();
    assert_eq!(loser.runs, 2);
    let won = loser.leases(Some(&vm("winner"))).unwrap();
    assert_eq!(
        (addresses(&won), addresses(&lost)),
        (vec!["10.0.0.2/24".into()], vec!["10.0.0.3/24".into()])
    );
    assert_ne!(won[0].mac, lost[0].mac);
}
