//! Tests of echo flows that move between processes together with their sockets.

use super::echo::tests::{Bench, reply_kind};
use super::echo_socket::{EchoSupport, ping};
use super::echo_table::IDLE;
use super::saved::SavedEchoSocket;
use crate::nat::saved::{LoadError, PayloadError, from_bytes, golden, to_bytes};
use crate::nat::test_support::{host_seen, icmp_message, ip};
use crate::packet::IcmpHeader;
use crate::time::Instant;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::time::Duration;

/// Moves the flows of one process and their sockets to another process, whose clock shows `now`.
fn replace(bench: Bench, support: EchoSupport, now: Instant) -> Bench {
    let saved = bench.flows.save(bench.around.now);
    let (values, sockets): (Vec<_>, Vec<_>) = saved.map(|(v, socket)| (v, socket.try_clone().unwrap())).unzip();
    drop(bench);
    let mut next = Bench::with(support);
    next.around.now = now;
    let values = from_bytes::<Vec<SavedEchoSocket>>(&to_bytes(&values)).unwrap();
    for (value, socket) in values.iter().zip(sockets) {
        next.flows.load(&next.around.context(), value, socket).unwrap();
    }
    next
}

fn supports() -> impl Iterator<Item = (EchoSupport, &'static str)> {
    let permitted = [
        (EchoSupport::Ping, ping(ip("127.0.0.1"), 0).is_ok()),
        (EchoSupport::Raw, super::echo_socket::raw(ip("127.0.0.1")).is_ok()),
    ];
    let permitted = permitted.into_iter().filter(|(_, is)| *is);
    permitted.flat_map(|(support, _)| ["127.0.0.1", "::1"].map(|like| (support, like)))
}

#[test]
fn replies_on_their_way_and_later_ones_reach_the_guest() {
    for (support, like) in supports() {
        let mut bench = Bench::with(support);
        let peer = host_seen(ip(like), 0).ip();
        bench.ping(peer, 0xbeef, 1, b"before");
        let mut bench = replace(bench, support, Instant::from_nanos(5));
        let expect = |frames: Vec<_>, sequence, body: &[u8]| {
            let want = IcmpHeader::echo(reply_kind(peer), 0xbeef, sequence);
            let found: Vec<_> = frames.iter().map(icmp_message).collect();
            assert_eq!(found, [(peer, want, body.to_vec())], "{support:?} {like}");
        };
        expect(bench.turn(), 1, b"before");
        bench.ping(peer, 0xbeef, 2, b"after");
        expect(bench.turn(), 2, b"after");
        assert_eq!((bench.flows.count(), bench.open_sockets()), (1, 1));
    }
}

#[test]
fn idle_time_continues_where_it_was() {
    let second = Duration::from_secs(1);
    for (support, like) in supports() {
        let mut bench = Bench::with(support);
        bench.ping(host_seen(ip(like), 0).ip(), 7, 1, b"");
        bench.around.now = bench.around.now + 20 * second;
        let start = Instant::from_nanos(1 << 50);
        let mut bench = replace(bench, support, start);
        bench.flows.on_timer(start + (IDLE - 21 * second));
        assert_eq!(bench.flows.count(), 1);
        bench.flows.on_timer(start + (IDLE - 20 * second));
        assert_eq!((bench.flows.count(), bench.open_sockets()), (0, 0));
    }
}

fn samples() -> Vec<(&'static str, SavedEchoSocket)> {
    let sample = |value| serde_json::from_value::<SavedEchoSocket>(value).unwrap();
    let ping = json!({
        "use_of": { "ping": { "guest": "10.0.2.2", "ident": 7, "mapped": null, "wire_ident": 9 } },
        "ip_options": { "ttl": 64, "may_fragment": false, "traffic_class": 0 },
        "flows": [
            { "guest": "10.0.2.2", "remote": "192.0.2.1", "ident": 7, "peer": "192.0.2.1", "wire_ident": 9, "idle": 5 },
            { "guest": "10.0.2.2", "remote": "192.0.2.2", "ident": 7, "peer": "192.0.2.2", "wire_ident": 9, "idle": 3 },
        ],
    });
    let raw = json!({
        "use_of": { "raw": { "ipv6": true } },
        "ip_options": { "ttl": null, "may_fragment": null, "traffic_class": 0 },
        "flows": [{
            "guest": "fd10:0:2::2", "remote": "fd10:0:2::9", "ident": 7, "peer": "::1", "wire_ident": 700,
            "idle": 1_000_000_000,
        }],
    });
    vec![("ping", sample(ping)), ("raw", sample(raw))]
}

#[test]
fn saved_sockets_look_as_in_the_golden_files() {
    for (name, socket) in samples() {
        golden::check(name, &[socket]);
    }
    assert!(golden::all::<SavedEchoSocket>().len() >= samples().len());
}

/// A descriptor of the right type, even where the system does not permit ping sockets.
fn datagram_socket() -> Socket {
    Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap()
}

#[test]
fn flows_that_cannot_share_the_socket_are_refused_and_leave_nothing_behind() {
    let mut bench = Bench::with(EchoSupport::Ping);
    let [(_, ping), (_, raw)] = samples().try_into().unwrap();
    let value = serde_json::to_value(&ping).unwrap();
    let cases = [
        ("/flows", json!([]), "has no flows"),
        ("/flows/0/remote", json!("fd10:0:2::9"), "two families"),
        ("/flows/0/peer", json!("::1"), "two families"),
        ("/flows/0/ident", json!(8), "belongs to another socket"),
        ("/flows/0/peer", json!("192.0.2.9"), "belongs to another socket"),
        ("/use_of", json!({ "raw": { "ipv6": false } }), "of another type"),
        ("/flows/0/idle", json!(-1), "cannot be read"),
    ];
    for (path, other, expected) in cases {
        let mut value = value.clone();
        *value.pointer_mut(path).unwrap() = other;
        let loaded =
            serde_json::from_value::<SavedEchoSocket>(value).map_err(|e| LoadError::from(PayloadError::from(e)));
        let loaded = loaded.and_then(|saved| bench.flows.load(&bench.around.context(), &saved, datagram_socket()));
        let text = loaded.unwrap_err().to_string();
        assert!(text.contains(expected), "{path}: {text}");
        assert_eq!((bench.flows.count(), bench.open_sockets()), (0, 0));
    }
    let error = bench
        .flows
        .load(&bench.around.context(), &raw, datagram_socket())
        .unwrap_err();
    assert!(error.to_string().contains("two families"), "{error}");
    bench
        .flows
        .load(&bench.around.context(), &ping, datagram_socket())
        .unwrap();
    let again = bench.flows.load(&bench.around.context(), &ping, datagram_socket());
    assert!(matches!(again, Err(LoadError::Duplicate)), "{again:?}");
    let (same, _) = bench.flows.save(bench.around.now).next().unwrap();
    let (mut same, mut ping) = (serde_json::to_value(same).unwrap(), value);
    // The identifier is the one to which the socket is bound.
    for value in [&mut same, &mut ping] {
        value["use_of"]["ping"]["wire_ident"] = json!(0);
        value["flows"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|flow| flow["wire_ident"] = json!(0));
    }
    assert_eq!(same, ping);
}
