//! Tests of a store's file: that it is recognised, waits for its lock, and is migrated to the current layout.

use super::*;
use crate::bindings::{Change, Changes, Epoch, Epochs as _, Watch as _};
use crate::tests::running::{binding, port};
use crate::tests::{addresses, explicit, give, here, of_range, vm};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    (folder, path)
}

/// A file that hawser wrote when segments were names without a kind.
const LAYOUT_1: &[u8] = include_bytes!("tests/layout1.db");

#[test]
fn a_file_of_the_layout_before_is_read_and_becomes_one_of_this_layout_when_it_is_changed() {
    let (_folder, path) = folder();
    fs::write(&path, LAYOUT_1).unwrap();
    let layout = || {
        let raw = Connection::open(&path).unwrap();
        raw.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let read = Sqlite::open(&path, Access::Read).unwrap().leases(None).unwrap();
    assert_eq!(fs::read(&path).unwrap(), LAYOUT_1);
    let seen: Vec<(String, Segment, Vec<String>)> = read
        .iter()
        .map(|lease| {
            let addresses = lease.addresses.iter().map(ToString::to_string).collect();
            (lease.holder.to_string(), lease.segment.clone(), addresses)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (
                "interface default of VM default/a".into(),
                Segment::OfVm(vm("a")),
                vec![]
            ),
            (
                "interface lan of VM default/a".into(),
                here("bridge br0"),
                vec!["10.0.0.2/24".into()]
            ),
            (
                "interface lan of VM default/b".into(),
                here("bridge br0"),
                vec!["10.0.0.3/24".into()]
            ),
        ]
    );
    assert_eq!(layout(), UNTYPED_SEGMENTS);
    let mut store = Sqlite::open(&path, Access::Change).unwrap();
    assert_eq!((store.leases(None).unwrap(), layout()), (read.clone(), LAYOUT));
    // The cursor is kept: .4 is next, although a is gone.
    let released: Result<(), StoreError> = store.step(|ledger| ledger.remove(&read[1].holder));
    released.unwrap();
    assert_eq!(
        addresses(&give(&mut store, "c", &[of_range("lan", 9)]).unwrap()),
        ["10.0.0.4/24"]
    );
}

#[test]
fn a_file_without_bindings_is_read_and_gets_their_tables_with_the_first() {
    let (_folder, path) = folder();
    drop(Sqlite::open(&path, Access::Make).unwrap());
    let before = fs::read(&path).unwrap();
    let reader = Sqlite::open(&path, Access::Read).unwrap();
    let (listed, revision) = reader.bindings("default/blue").unwrap();
    assert_eq!(listed, []);
    let nothing = Changes::Complete {
        changes: Vec::new(),
        revision,
    };
    assert_eq!(reader.changes("default/blue", revision).unwrap(), nothing);
    assert_eq!(fs::read(&path).unwrap(), before);
    let mut store = Sqlite::open(&path, Access::Change).unwrap();
    store.bind(&port("a"), None, &binding("p")).unwrap();
    assert_eq!(reader.changes("default/blue", revision).unwrap(), Changes::Gap);
    assert_eq!(reader.bindings("default/blue").unwrap().0.len(), 1);
    let layout = store
        .connection
        .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    assert_eq!(layout.unwrap(), LAYOUT);
}

#[test]
fn the_oldest_unbound_ports_are_dropped_with_a_gap_and_their_epochs_stay_used() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open(&path, Access::Make).unwrap();
    let mut seen = None;
    for _ in 0..3 {
        seen = Some(store.bind(&port("old"), seen, &binding("p")).unwrap());
    }
    store.bind(&port("stays"), None, &binding("p")).unwrap();
    let (_, revision) = store.bindings("default/blue").unwrap();
    store.unbind(&port("old"), Epoch(3)).unwrap();
    // The same number again, in a single change.
    let many = "
        WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1023)
        INSERT INTO binding SELECT network, namespace, 'many' || n, interface, 1, 1000 + n, 0, node, process, mac,
            addresses, vtep FROM binding, n WHERE vm = 'old';
        UPDATE revision SET number = 5000;";
    store.connection.execute_batch(many).unwrap();
    let unbound = |store: &Sqlite| match store.changes("default/blue", revision).unwrap() {
        Changes::Complete { changes, .. } => Some(changes.len()),
        Changes::Gap => None,
    };
    assert_eq!(unbound(&store), Some(1024));
    store.bind(&port("last"), None, &binding("p")).unwrap();
    let (_, recent) = store.bindings("default/blue").unwrap();
    store.unbind(&port("last"), Epoch(1)).unwrap();
    assert_eq!(unbound(&store), None);
    let last = Change::Unbound {
        port: port("last"),
        epoch: Epoch(1),
    };
    let Changes::Complete { changes, revision } = store.changes("default/blue", recent).unwrap() else {
        panic!("no gap after the rows that were dropped");
    };
    assert_eq!((changes, revision.number), (vec![last], 5002));
    // The store knows only that its epoch was at most 3.
    assert_eq!(store.bind(&port("old"), None, &binding("q")).unwrap(), Epoch(4));
    let listed = store.bindings("default/blue").unwrap().0;
    assert_eq!((listed.len(), listed[0].epoch), (2, Epoch(1)));
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
        let put: Result<(), StoreError> = store.step(|ledger| ledger.put(&double));
        let error = put.unwrap_err().to_string();
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
            assert!(error.contains(why) && error.contains("was not changed"), "{error}");
            assert!(error.starts_with(&format!("--store={}: ", path.display())), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), before);
    };
    fs::write(&path, "apiVersion: kubevirt.io/v1\n".repeat(100)).unwrap();
    refused("it is damaged, or not a store of hawser");

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
    refused("a newer hawser created it (layout 3, this one supports 2)");

    let raw = Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", LAYOUT).unwrap();
    drop(raw);
    assert_eq!(
        Sqlite::open(&path, Access::Read).unwrap().leases(None).unwrap().len(),
        100
    );
    // The file is truncated, or has a page of noise in the middle.
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
fn a_locked_store_is_reported_and_unchanged() {
    let (_folder, path) = folder();
    let mut store = Sqlite::open_waiting::<1>(&path, Access::Make).unwrap();
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = give(&mut store, "a", &[of_range("lan", 9)]).unwrap_err().to_string();
    assert!(error.contains("another process has locked it for 1 seconds"), "{error}");
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
    assert!(error.contains("its disk is full: free some space"), "{error}");
    let again = Sqlite::open(&path, Access::Make).unwrap();
    assert_eq!(again.leases(None).unwrap().len(), given);
}

#[test]
fn a_store_that_is_not_there_is_made_only_where_leases_are_given() {
    let (_folder, path) = folder();
    for access in [Access::Change, Access::Read] {
        let error = Sqlite::open(&path, access).unwrap_err().to_string();
        assert!(error.contains("the file does not exist"), "{error}");
    }
    // An empty file, as created by mktemp, is a new store.
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
    assert!(
        error.contains("name a file in a directory that this process can write"),
        "{error}"
    );
}
