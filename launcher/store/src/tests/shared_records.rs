//! Tests of records, in the stores of nodes.

use super::etcd::OnEtcd;
use super::{OnFile, Place};
use crate::records::{Batch, Record, RecordKey, Records};
use std::time::{Duration, Instant};

macro_rules! on_a_file_and_in_etcd {
    ($($name:ident)*) => {
        mod on_a_file {
            $(#[test] fn $name() { super::$name::<super::OnFile>(); })*
        }
        mod in_etcd {
            $(#[test] fn $name() { super::$name::<super::OnEtcd>(); })*
        }
    };
}

on_a_file_and_in_etcd! {
    a_change_is_made_at_once_or_not_at_all
    a_folder_contains_its_own_records_only
    the_stamp_changes_with_every_change
}

fn key(name: &str) -> RecordKey {
    RecordKey::new(["vm", "blue", name])
}

fn put<S: Records>(store: &mut S, key: &RecordKey, text: &str) {
    assert!(store.change(&Batch::default().put(key, text.into())).unwrap());
}

fn a_change_is_made_at_once_or_not_at_all<P: Place>()
where
    P::Store: Records,
{
    let place = P::new();
    let (mut one, mut other) = (place.open(), place.open());
    let (web, db) = (key("web"), key("db"));
    let create = Batch::default().expect(&web, None).put(&web, "1".into());
    assert!(one.change(&create).unwrap());
    assert!(!other.change(&create).unwrap(), "it exists");
    let Record { version, text, .. } = other.record(&web).unwrap().unwrap();
    assert_eq!(text, "1");
    let replace = Batch::default().expect(&web, Some(version));
    assert!(other.change(&replace.clone().put(&web, "2".into())).unwrap());
    // The loser of the race changes nothing, not even the record that it has right.
    let late = replace.expect(&db, None).put(&db, "3".into()).delete(&web);
    assert!(!one.change(&late).unwrap());
    assert_eq!(one.record(&db).unwrap(), None);
    let found = one.record(&web).unwrap().unwrap();
    assert_eq!(found.text, "2");
    assert!(
        one.change(&Batch::default().expect(&web, Some(found.version)).delete(&web))
            .unwrap()
    );
    assert_eq!(other.record(&web).unwrap(), None);
    // A record that is created again is another one.
    put(&mut one, &web, "2");
    assert_ne!(other.record(&web).unwrap().unwrap().version, found.version);
}

fn a_folder_contains_its_own_records_only<P: Place>()
where
    P::Store: Records,
{
    let place = P::new();
    let mut store = place.open();
    let keys = [
        RecordKey::new(["placed", "n1", "blue", "a"]),
        RecordKey::new(["placed", "n1", "blue", "b c/d"]),
        RecordKey::new(["placed", "n10", "blue", "a"]),
        RecordKey::new(["placed", "n1"]),
    ];
    assert_eq!(store.list(&RecordKey::new(["placed"])).unwrap(), []);
    for key in &keys {
        put(&mut store, key, "x");
    }
    let listed = |folder: RecordKey| -> Vec<RecordKey> {
        store
            .list(&folder)
            .unwrap()
            .into_iter()
            .map(|record| record.key)
            .collect()
    };
    assert_eq!(listed(RecordKey::new(["placed", "n1"])), keys[..2]);
    assert_eq!(store.keys(&RecordKey::new(["placed", "n1"])).unwrap(), keys[..2]);
    assert_eq!(listed(RecordKey::new(["placed"])).len(), 4);
    assert_eq!(listed(RecordKey::new(["plac"])), []);
}

fn the_stamp_changes_with_every_change<P: Place>()
where
    P::Store: Records,
{
    let place = P::new();
    let (mut writer, reader) = (place.open(), place.open());
    let folder = RecordKey::new(["vm"]);
    let mut stamp = reader.stamp(&folder).unwrap();
    for text in ["1", "2", "3"] {
        put(&mut writer, &key("web"), text);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            // A stamp may change before the change, so only the list tells.
            let now = reader.stamp(&folder).unwrap();
            let is_seen = reader.list(&folder).unwrap().iter().any(|record| record.text == text);
            if now != stamp && is_seen {
                stamp = now;
                break;
            }
            assert!(Instant::now() < deadline, "the stamp of {text} does not change");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
