//! Saved connections from an untrusted host are either refused or become ordinary connections, and never cause a panic.

use crate::nat::saved::{LoadError, PayloadError, from_bytes, to_bytes};
use crate::nat::tcp::connection::Connection;
use crate::nat::tcp::rough_play::{Rng, play};
use crate::nat::tcp::saved::Place;
use crate::nat::tcp::saved_flow::SavedTcpFlow;
use crate::nat::tcp::spill::SpillPool;
use crate::nat::tcp::testing::Player;
use crate::nat::test_support::Surroundings;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Values of connections saved in the middle of a fuzzer run.
fn some_values(seed: u64) -> Vec<SavedTcpFlow> {
    let mut rng = Rng::new(seed);
    let mut byte = || u8::try_from(rng.below(256)).unwrap();
    let mut player = Player::new().unwrap();
    let mut values: Vec<_> = player.save().into_iter().collect();
    while values.len() < 30 && player.step([byte(), byte(), byte(), byte()]) {
        values.extend(player.save());
    }
    values
}

/// The leaves of a value, as paths.
fn leaves(value: &Value, path: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, field)| leaves(field, &format!("{path}/{name}"), into)),
        _ => into.push(path.to_owned()),
    }
}

fn damage(value: &mut Value, rng: &mut Rng) {
    let mut paths = vec![];
    leaves(value, "", &mut paths);
    let path = &paths[usize::try_from(rng.below(paths.len() as u64)).unwrap()];
    let old = value.pointer(path).unwrap();
    let other = match (old, rng.below(10)) {
        (Value::Bool(old), 1..) => json!(!old),
        (Value::Number(old), 1..) => {
            let (old, bits) = (old.as_u64().unwrap(), 1u64 << rng.below(34));
            let near = [old.wrapping_add(bits), old.saturating_sub(bits), old ^ bits, bits];
            json!(near[usize::try_from(rng.below(4)).unwrap()])
        }
        (Value::String(_), 1..) => {
            const WORDS: [&str; 8] = [
                "open",
                "closed",
                "draining",
                "until-end",
                "time-wait",
                "aborted",
                "off",
                "AAAA",
            ];
            json!(WORDS[usize::try_from(rng.below(8)).unwrap()])
        }
        _ => json!(rng.below(1 << 32)),
    };
    *value.pointer_mut(path).unwrap() = other;
}

#[test]
fn a_damaged_value_is_refused_or_a_connection_but_never_a_panic() {
    let mut rng = Rng::new(13);
    let mut around = Surroundings::new();
    let (mut refused, mut taken) = (0, 0);
    for seed in 0..60 {
        for flow in some_values(seed) {
            let mut value = serde_json::to_value(&flow).unwrap();
            (0..=rng.below(3)).for_each(|_| damage(&mut value, &mut rng));
            let place = Place {
                now: around.now,
                mtu: 1500,
                spill: SpillPool::default(),
            };
            let loaded =
                serde_json::from_value::<SavedTcpFlow>(value).map_err(|e| LoadError::from(PayloadError::from(e)));
            match loaded.and_then(|flow| Connection::load(&flow.connection, &place)) {
                Ok(mut connection) => {
                    play(&mut connection, &mut around, &mut rng);
                    taken += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 200 && taken > 200, "{refused} refused, {taken} taken");
}

#[test]
fn a_value_out_of_range_is_refused_by_the_name_of_its_field() {
    // In version 2 all fields are there by their names.
    let golden: Value = serde_json::from_str(include_str!("../../saved/golden/tcp-flow-2/established.json")).unwrap();
    let value = golden[2][0].clone();
    let nxt = value["connection"]["snd_nxt"].as_u64().unwrap();
    let edge = value["connection"]["rcv_edge"].as_u64().unwrap();
    let cases = [
        ("/connection/snd_scale", json!(15), "snd_scale"),
        ("/connection/rcv_scale", json!(15), "rcv_scale"),
        ("/connection/mss", json!(0), "mss"),
        ("/connection/mss", json!(65_500), "mss"),
        ("/connection/retries", json!(16), "retries"),
        ("/connection/snd_wnd", json!(u32::MAX), "snd_wnd"),
        ("/connection/unread", json!(u32::MAX), "unread"),
        ("/connection/snd_una", json!(nxt + 1), "snd_max - snd_una"),
        ("/connection/snd_nxt", json!(nxt + 1), "snd_nxt - snd_una"),
        ("/connection/rcv_nxt", json!(edge + 2), "rcv_edge + 1 - rcv_nxt"),
        ("/connection/rtt/variance_micros", json!(u32::MAX), "variance_micros"),
        ("/connection/rtt/smoothed_micros", json!(u32::MAX), "smoothed_micros"),
        ("/connection/timer", json!({ "keepalive": u64::MAX }), "timer"),
        (
            "/connection/timer",
            json!("off"),
            "its timer does not exist in its state",
        ),
        (
            "/connection/state",
            json!("time-wait"),
            "its timer does not exist in its state",
        ),
        ("/connection/state", json!("aborted"), "unknown variant"),
        ("/connection/receiving", json!("draining"), "bytes are kept"),
        (
            "/connection/sending",
            json!("fin-sent"),
            "FIN was sent and has no number",
        ),
        ("/connection/fin_seq", json!(nxt), "something was sent after FIN"),
        ("/connection/remote", json!("[fd00::1]:80"), "two families"),
        (
            "/connection/spill",
            json!({ "bytes": "", "urgent": null }),
            "bytes kept",
        ),
        (
            "/connection/spill",
            json!({ "bytes": "????", "urgent": null }),
            "invalid symbol",
        ),
        (
            "/connection/spill",
            json!({ "bytes": "AAAA", "urgent": 3 }),
            "the urgent byte is not among the kept bytes",
        ),
    ];
    for (path, other, expected) in cases {
        let mut value = value.clone();
        *value.pointer_mut(path).unwrap() = other.clone();
        let place = Place {
            now: Default::default(),
            mtu: 1500,
            spill: SpillPool::default(),
        };
        let loaded = serde_json::from_value::<SavedTcpFlow>(value).map_err(|e| LoadError::from(PayloadError::from(e)));
        let error = loaded.and_then(|flow| Connection::load(&flow.connection, &place));
        let text = error.map_or_else(|e| e.to_string(), |_| "loaded".to_owned());
        assert!(text.contains(expected), "{path} {other}: {text}");
    }
}

#[test]
fn bytes_kept_are_bounded_for_all_connections_of_a_worker() {
    let golden = crate::nat::saved::golden::all::<SavedTcpFlow>();
    let kept = golden.iter().find(|(file, _)| file.ends_with("bytes-kept.json"));
    let place = Place {
        now: Default::default(),
        mtu: 1500,
        spill: SpillPool::of(15),
    };
    let (_, flows) = kept.unwrap();
    let load = || Connection::load(&flows[0].connection, &place);
    let first = load().unwrap();
    assert!(matches!(load(), Err(LoadError::Contradiction(_))));
    drop(first);
    load().unwrap();
}

proptest! {
    #[test]
    fn damaged_bytes_are_refused_or_read_but_never_a_panic(
        seed in any::<u64>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = to_bytes(&some_values(seed % 50));
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if is_cut {
            bytes.truncate(length.index(bytes.len()));
        }
        let place = Place { now: Default::default(), mtu: 1500, spill: SpillPool::default() };
        for flow in from_bytes::<Vec<SavedTcpFlow>>(&bytes).unwrap_or_default() {
            let _ = Connection::load(&flow.connection, &place);
        }
    }
}
