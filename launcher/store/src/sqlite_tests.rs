//! A store's file, and what comes of claims in it.

use super::*;
use crate::claim::{AddressClaim, Choice, Claim, ClaimError, MacClaim, claim};
use crate::range::AddressRange;
use hawser_packet::MacRange;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

fn vm(name: &str) -> VmName {
    VmName {
        namespace: "default".into(),
        name: name.into(),
    }
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    (folder, path)
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

/// A claim of a MAC of the pool and an address of 10.0.0.0/24, .1 its gateway, up to `.last`.
fn of_range(interface: &str, last: u8) -> Claim {
    let set = vec![range("10.0.0.0/24", "10.0.0.1", &format!("10.0.0.{last}"))];
    Claim {
        interface: interface.into(),
        network: "default/lan".into(),
        segment: "bridge br0".into(),
        mac: MacClaim::Pool,
        addresses: vec![AddressClaim::OneOf(set, Choice::Next)],
    }
}

fn explicit(interface: &str, segment: &str, mac: &str) -> Claim {
    Claim {
        interface: interface.into(),
        network: "default/lan".into(),
        segment: segment.into(),
        mac: MacClaim::Explicit(mac.parse().unwrap()),
        addresses: Vec::new(),
    }
}

fn pool() -> MacRange {
    "02:00:00:00:00:00-02:00:00:00:00:08".parse().unwrap()
}

fn give(store: &mut dyn Store, name: &str, claims: &[Claim]) -> Result<Vec<Lease>, ClaimError> {
    let mut step = store.begin()?;
    let leases = claim(&mut *step, &vm(name), claims, &[], &pool())?;
    step.commit()?;
    Ok(leases)
}

fn release(store: &mut dyn Store, name: &str) {
    let mut step = store.begin().unwrap();
    for lease in step.leases(Some(&vm(name))).unwrap() {
        step.remove(&lease.holder).unwrap();
    }
    step.commit().unwrap();
}

fn addresses(leases: &[Lease]) -> Vec<String> {
    leases
        .iter()
        .flat_map(|lease| &lease.addresses)
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_vm_that_comes_again_has_the_mac_and_address_it_had() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    let first = give(&mut store, "a", &[of_range("lan", 9)]).unwrap();
    let other = give(&mut store, "b", &[of_range("lan", 9)]).unwrap();
    assert_eq!(
        (addresses(&first), addresses(&other)),
        (vec!["10.0.0.2/24".into()], vec!["10.0.0.3/24".into()])
    );
    assert_ne!(first[0].mac, other[0].mac);
    drop(store);
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    assert_eq!(give(&mut store, "a", &[of_range("lan", 9)]).unwrap(), first);
    // A wider range, and one more interface: what it has it keeps.
    let more = give(&mut store, "a", &[of_range("more", 50), of_range("lan", 50)]).unwrap();
    assert_eq!(more[1], first[0]);
    assert_eq!(addresses(&more), ["10.0.0.4/24", "10.0.0.2/24"]);
    assert_eq!(store.leases(None).unwrap().len(), 3);
    // An interface that the manifest does not have any more has no lease.
    give(&mut store, "a", &[of_range("lan", 50)]).unwrap();
    assert_eq!(store.leases(Some(&vm("a"))).unwrap(), first);
}

#[test]
fn an_absent_interface_keeps_its_lease() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    let both = give(&mut store, "a", &[of_range("lan", 9), of_range("more", 9)]).unwrap();
    let mut step = store.begin().unwrap();
    let one = claim(&mut *step, &vm("a"), &[of_range("lan", 9)], &["more".into()], &pool()).unwrap();
    step.commit().unwrap();
    assert_eq!(one, both[..1]);
    assert_eq!(store.leases(None).unwrap(), both);
}

#[test]
fn what_was_released_is_given_to_another_only_when_the_range_has_had_its_turn() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    let mut macs = Vec::new();
    let mut given = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
        let leases = give(&mut store, name, &[of_range("lan", 9)]).unwrap();
        macs.push(leases[0].mac.unwrap());
        given.extend(addresses(&leases));
        release(&mut store, name);
    }
    // Eight of each: .2 to .9, and the pool without the gateway's MAC.
    let expected: Vec<String> = [2, 3, 4, 5, 6, 7, 8, 9, 2].map(|n| format!("10.0.0.{n}/24")).into();
    assert_eq!(given, expected);
    let mut distinct = macs[..8].to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!((distinct.len(), macs[8]), (8, macs[0]));
    assert!(!distinct.contains(&hawser_config::GATEWAY_MAC));
}

#[test]
fn a_full_range_is_named_and_gives_nothing_out() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    for name in ["a", "b"] {
        give(&mut store, name, &[of_range("lan", 3)]).unwrap();
    }
    let error = give(&mut store, "c", &[of_range("lan", 3)]).unwrap_err().to_string();
    assert!(
        error.starts_with("every address of 10.0.0.1-10.0.0.3 is given out"),
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
        error.starts_with("every MAC of 02:00:00:00:00:00-02:00:00:00:00:08 is given out"),
        "{error}"
    );
}

#[test]
fn a_mac_or_address_that_another_holds_on_the_segment_is_refused_by_its_holder() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    give(&mut store, "a", &[explicit("lan", "bridge br0", "02:00:00:00:00:aa")]).unwrap();
    let error = give(&mut store, "b", &[explicit("x", "bridge br0", "02:00:00:00:00:aa")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "MAC 02:00:00:00:00:aa is held by interface lan of VM default/a on the same segment (bridge br0): give another \
         macAddress, or release that one (hawser leases release default/a) if it is not used any more"
    );
    // Elsewhere it is nobody's.
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
    // And a range goes round it.
    assert_eq!(
        addresses(&give(&mut store, "d", &[of_range("lan", 9)]).unwrap()),
        ["10.0.0.3/24"]
    );
}

#[test]
fn an_explicit_mac_wins_and_stays_when_the_manifest_drops_it() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    let named = Claim {
        mac: MacClaim::Explicit("0a:00:00:00:00:01".parse().unwrap()),
        ..of_range("lan", 9)
    };
    let pooled = give(&mut store, "a", &[of_range("lan", 9)]).unwrap();
    let explicit = give(&mut store, "a", std::slice::from_ref(&named)).unwrap();
    assert_eq!(explicit[0].mac.unwrap().to_string(), "0a:00:00:00:00:01");
    assert_eq!(explicit[0].addresses, pooled[0].addresses);
    assert_eq!(give(&mut store, "a", &[of_range("lan", 9)]).unwrap(), explicit);
    // Two interfaces change places.
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

#[test]
fn addresses_of_both_families_and_of_several_ranges_are_given_one_of_each_set() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
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

#[test]
fn whereabouts_gives_out_the_lowest_free_address_and_looks_at_every_segment() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    let of = |segment: &str, choice| Claim {
        segment: segment.into(),
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
    // A pool that knows nothing of the others.
    assert_eq!(given("c", "blue", Choice::Lowest).unwrap(), "10.0.0.2/24");
    assert_eq!(given("d", "blue", Choice::Lowest).unwrap(), "10.0.0.4/24");
    assert!(matches!(
        given("e", "green", Choice::LowestAnywhere),
        Err(ClaimError::NoAddress(_))
    ));
    // What is free again is given at once, where host-local would go on.
    let mut step = store.begin().unwrap();
    step.remove(&Holder {
        vm: vm("b"),
        interface: "lan".into(),
    })
    .unwrap();
    step.commit().unwrap();
    let mut given = |name: &str, segment: &str, choice| {
        let leases = give(&mut store, name, &[of(segment, choice)]);
        leases.map(|leases| addresses(&leases).remove(0))
    };
    assert_eq!(given("f", "red", Choice::LowestAnywhere).unwrap(), "10.0.0.3/24");
    // And kept, whatever else is free.
    assert_eq!(given("f", "red", Choice::LowestAnywhere).unwrap(), "10.0.0.3/24");
}

#[test]
fn a_step_that_is_not_committed_changes_nothing() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    let mut step = store.begin().unwrap();
    claim(&mut *step, &vm("a"), &[of_range("lan", 9)], &[], &pool()).unwrap();
    drop(step);
    assert_eq!(store.leases(None).unwrap(), []);
    assert_eq!(
        addresses(&give(&mut store, "b", &[of_range("lan", 9)]).unwrap()),
        ["10.0.0.2/24"]
    );
}

#[test]
fn the_tables_refuse_a_double_whoever_writes_it() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    let lease = give(&mut store, "a", &[of_range("lan", 9)]).unwrap().remove(0);
    let other = Holder {
        vm: vm("b"),
        interface: "lan".into(),
    };
    let doubles = [
        lease.clone(),
        Lease {
            holder: other.clone(),
            addresses: Vec::new(),
            ..lease.clone()
        },
        Lease {
            holder: other,
            mac: None,
            ..lease
        },
    ];
    for double in doubles {
        let mut step = store.begin().unwrap();
        let error = step.put(&double).unwrap_err().to_string();
        assert!(error.contains("UNIQUE constraint failed"), "{error}");
    }
}

#[test]
fn a_file_that_is_no_store_of_ours_is_refused_and_left_as_it_is() {
    let (_folder, path) = folder();
    let refused = |why: &str| {
        let before = fs::read(&path).unwrap();
        for access in [Access::Make, Access::Change, Access::Read] {
            let failed = Sqlite::open(&path, access).and_then(|store| store.leases(None));
            let error = failed.unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains("nothing was changed in it"),
                "{error}"
            );
            assert!(error.starts_with(&format!("--store={}: ", path.display())), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), before);
    };
    fs::write(&path, "apiVersion: kubevirt.io/v1\n".repeat(100)).unwrap();
    refused("it is damaged, or no store of hawser's");

    fs::remove_file(&path).unwrap();
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(foreign);
    refused("the database of another program");

    fs::remove_file(&path).unwrap();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    for n in 0..100 {
        give(
            &mut store,
            &n.to_string(),
            &[explicit("lan", "s", &format!("02:00:00:00:01:{n:02x}"))],
        )
        .unwrap();
    }
    store
        .connection
        .pragma_update(None, "user_version", LAYOUT + 1)
        .unwrap();
    drop(store);
    refused("a newer hawser made it (layout 2, and this one knows 1)");

    let raw = Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", LAYOUT).unwrap();
    drop(raw);
    assert_eq!(
        Sqlite::open(&path, Access::Read).unwrap().leases(None).unwrap().len(),
        100
    );
    // Cut off, and with a page of noise in its midst.
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused("it is damaged");
    let mut noisy = whole;
    noisy[4096..].fill(0x5a);
    fs::write(&path, noisy).unwrap();
    refused("it is damaged");
}

#[test]
fn a_file_that_another_makes_a_store_meanwhile_is_not_taken_for_a_foreign_one() {
    let (_folder, path) = folder();
    let made = format!("{SCHEMA} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {LAYOUT};");
    let emptied = "DROP TABLE lease; DROP TABLE address; DROP TABLE cursor; \
                   PRAGMA application_id = 0; PRAGMA user_version = 0;";
    fs::write(&path, "").unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let writer = Connection::open(&path).unwrap();
            writer.pragma_update(None, "synchronous", "OFF").unwrap();
            writer.busy_timeout(PATIENCE).unwrap();
            for change in [made.as_str(), emptied].into_iter().cycle() {
                writer.execute_batch(&format!("BEGIN; {change} COMMIT")).unwrap();
                if ended.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let found: Result<Vec<_>, _> = (0..200).map(|_| Sqlite::open(&path, Access::Read)).collect();
        ended.store(true, Ordering::Relaxed);
        found.unwrap();
    });
}

#[test]
fn a_store_that_somebody_does_not_let_go_of_is_told_and_unchanged() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open_waiting::<1>(&path, Access::Make).unwrap();
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = give(&mut store, "a", &[of_range("lan", 9)]).unwrap_err().to_string();
    assert!(error.contains("another process has held it for 1 seconds"), "{error}");
    assert!(Sqlite::open_waiting::<1>(&path, Access::Make).is_err());
    holder.execute_batch("ROLLBACK").unwrap();
    give(&mut store, "a", &[of_range("lan", 9)]).unwrap();
}

#[test]
fn a_store_whose_disk_is_full_says_so_and_has_the_leases_it_had() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    store.connection.pragma_update(None, "max_page_count", 1).unwrap();
    let mut given = 0;
    let error = loop {
        let mac = format!("02:00:00:00:01:{given:02x}");
        match give(&mut store, &given.to_string(), &[explicit("lan", "s", &mac)]) {
            Ok(_) => given += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("its disk is full: make room there"), "{error}");
    let again = Sqlite::open(&path, Access::Make).unwrap();
    assert_eq!(again.leases(None).unwrap().len(), given);
}

#[test]
fn a_store_that_is_not_there_is_made_only_where_leases_are_given() {
    let (_folder, path) = folder();
    for access in [Access::Change, Access::Read] {
        let error = Sqlite::open(&path, access).unwrap_err().to_string();
        assert!(error.contains("there is no such file"), "{error}");
    }
    // An empty file, as mktemp makes, is a new store.
    fs::write(&path, "").unwrap();
    assert_eq!(Sqlite::open(&path, Access::Read).unwrap().leases(None).unwrap(), []);
    give(
        &mut Sqlite::open(&path, Access::Make).unwrap(),
        "a",
        &[of_range("lan", 9)],
    )
    .unwrap();
    let folder = path.parent().unwrap();
    let error = Sqlite::open(folder, Access::Make).unwrap_err().to_string();
    assert!(error.contains("name a file that this process can write"), "{error}");
}
