//! Tests of flows that move between processes, with their old sockets or with new ones.

use super::*;
use crate::nat::saved::{LoadError, PayloadError, from_bytes, golden, to_bytes};
use crate::nat::udp::saved::SavedUdpFlow;
use crate::sys::traffic_class::watch_traffic_class;
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Type};

const SECOND: Duration = Duration::from_secs(1);

/// Moves the flows of one process and their sockets to another process, whose clock shows `now`.
fn replace(bench: Bench, now: Instant) -> Bench {
    let saved = bench.flows.save(bench.around.now);
    let (values, sockets): (Vec<_>, Vec<_>) = saved.map(|(v, socket)| (v, socket.try_clone().unwrap())).unzip();
    drop(bench);
    let mut next = Bench::new();
    next.around.now = now;
    let values = from_bytes::<Vec<SavedUdpFlow>>(&to_bytes(&values)).unwrap();
    for (value, socket) in values.iter().zip(sockets) {
        next.flows.load(&mut next.around.context(), value, socket).unwrap();
    }
    next
}

#[test]
fn a_flow_continues_both_ways_from_the_port_it_had() {
    for address in BOTH {
        let mut bench = Bench::new();
        let (peer, port) = peer(address);
        let (src, dst) = (guest(ip(address), free_port()), host_seen(ip(address), port));
        bench.send(src, dst, b"before");
        let (payload, from) = take(&peer);
        assert_eq!(payload, b"before");
        peer.send_to(b"in between", from).unwrap();
        let mut bench = replace(bench, Instant::from_nanos(17));
        assert_eq!(bench.receive(1), [(dst, src, b"in between".to_vec())]);
        bench.send(src, dst, b"after");
        assert_eq!(take(&peer), (b"after".to_vec(), from));
        assert_eq!(bench.flows.len(), 1);
    }
}

#[test]
fn idle_time_continues_for_questions_and_for_streams() {
    let start = Instant::from_nanos(1 << 50);
    for (answered_for, lives) in [(0, 30), (1, 30), (3, 120)] {
        let mut bench = Bench::new();
        let (peer, port) = peer("127.0.0.1");
        let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
        bench.send(src, dst, b"x");
        if answered_for > 0 {
            peer.send_to(b"y", take(&peer).1).unwrap();
            bench.receive(1);
            bench.around.now = bench.around.now + answered_for * SECOND;
            bench.send(src, dst, b"z");
        }
        bench.around.now = bench.around.now + 20 * SECOND;
        let mut bench = replace(bench, start);
        bench.wait_until(start + (lives - 21) * SECOND);
        assert_eq!(bench.flows.len(), 1, "{answered_for} s");
        bench.wait_until(start + (lives - 20) * SECOND);
        assert_eq!(bench.flows.len(), 0, "{answered_for} s");
    }
}

#[test]
fn what_the_guest_had_no_room_for_reaches_it_in_order() {
    let mut bench = Bench::new();
    let (peer, port) = peer("127.0.0.1");
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
    bench.send(src, dst, b"x");
    let (_, from) = take(&peer);
    // The datagram exceeds the MTU, so it is copied. There is room only for its first fragment.
    peer.send_to(&pattern(3000), from).unwrap();
    bench.around.sink.room = 1;
    bench.turn();
    assert!(bench.flows.receiver.delivery.is_holding());
    peer.send_to(b"second", from).unwrap();
    let mut bench = replace(bench, Instant::from_nanos(0));
    assert!(bench.flows.receiver.delivery.is_holding());
    bench.flows.on_room(&mut bench.around.context());
    let fragments = bench.around.sink.take();
    let bytes: usize = fragments.iter().map(|frame| parse(&frame.bytes).1.len()).sum();
    assert_eq!((fragments.len(), bytes), (3, UdpHeader::LEN + 3000));
    assert_eq!(bench.receive(1), [(dst, src, b"second".to_vec())]);
}

/// One flow of each kind.
fn samples() -> Vec<(&'static str, SavedUdpFlow)> {
    let sample = |value| serde_json::from_value::<SavedUdpFlow>(value).unwrap();
    let question = json!({
        "guest": "10.0.2.2:40000", "remote": "192.0.2.53:53", "origin": "guest", "local": null,
        "both_since": null, "idle": 250_000_000, "class_watch": { "on": { "unmarked": 0 } },
        "ip_options": { "ttl": 64, "may_fragment": false, "traffic_class": 0 },
        "kept_port": 40000, "held": [],
    });
    let mut stream = question.clone();
    stream["both_since"] = json!(9_000_000_000u64);
    stream["class_watch"] = json!({ "off": { "remaining": 400_000_000 } });
    stream["ip_options"] = json!({ "ttl": 63, "may_fragment": true, "traffic_class": 0xb8 });
    stream["held"] = json!([
        { "traffic_class": 2, "segment": null, "body": "aGVsZA==", "tries": 1 },
        { "traffic_class": 0, "segment": 3, "body": "YSBydW4=", "tries": 0 },
    ]);
    let client = json!({
        "guest": "[fd10:0:2::2]:53", "remote": "[2001:db8::9]:50000", "origin": "world",
        "local": "[2001:db8::1]:53", "both_since": 0, "idle": 0, "class_watch": { "on": { "unmarked": 9 } },
        "ip_options": { "ttl": null, "may_fragment": null, "traffic_class": 0 },
        "kept_port": null, "held": [],
    });
    vec![
        ("question", sample(question)),
        ("stream", sample(stream)),
        ("client", sample(client)),
    ]
}

fn socket_for(flow: &SavedUdpFlow) -> Socket {
    let domain = if flow.id().guest.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    Socket::new(domain, Type::DGRAM, None).unwrap()
}

#[test]
fn saved_flows_look_as_in_the_golden_files_and_those_of_all_versions_load() {
    for (name, flow) in samples() {
        golden::check(name, &[flow]);
    }
    let mut bench = Bench::new();
    for (file, flows) in golden::all::<SavedUdpFlow>() {
        for flow in flows {
            let loaded = bench.flows.load(&mut bench.around.context(), &flow, socket_for(&flow));
            assert!(
                loaded.is_ok() || matches!(loaded, Err(LoadError::Duplicate)),
                "{file}: {loaded:?}"
            );
        }
    }
}

#[test]
fn a_flow_is_saved_again_as_it_was_loaded() {
    for (name, flow) in samples() {
        let mut bench = Bench::new();
        bench.around.now = Instant::from_nanos(1 << 50);
        let socket = socket_for(&flow);
        bench.flows.load(&mut bench.around.context(), &flow, socket).unwrap();
        let (again, _) = bench.flows.save(bench.around.now).next().unwrap();
        // A socket that is not bound to the port does not keep it.
        let mut expected = serde_json::to_value(flow).unwrap();
        expected["kept_port"] = Value::Null;
        assert_eq!(serde_json::to_value(again).unwrap(), expected, "{name}");
    }
}

#[test]
fn a_new_socket_gets_the_marks_the_old_one_had() {
    let [_, (_, stream), _] = samples().try_into().unwrap();
    let mut bench = Bench::new();
    let socket = socket_for(&stream);
    watch_traffic_class(&socket, Domain::IPV4, true).unwrap();
    let same = socket.try_clone().unwrap();
    bench.flows.load(&mut bench.around.context(), &stream, socket).unwrap();
    let same = SockRef::from(&same);
    assert_eq!((same.ttl_v4().unwrap(), same.tos_v4().unwrap()), (63, 0xb8));
    assert!(!same.recv_tos_v4().unwrap(), "a flood without marks gets no reports");
    assert!(same.nonblocking().unwrap());
}

#[test]
fn a_flow_that_cannot_be_is_refused_and_leaves_nothing_behind() {
    let [(_, question), _, _] = samples().try_into().unwrap();
    let (question, mut bench) = (serde_json::to_value(question).unwrap(), Bench::new());
    let run = |segment: u16| json!([{ "traffic_class": 0, "segment": segment, "body": "AAAA", "tries": 0 }]);
    let cases = [
        ("remote", json!("[2001:db8::1]:53"), "two families"),
        ("class_watch", json!({ "off": { "remaining": u64::MAX } }), "remaining"),
        ("held", run(0), "a segment size of zero"),
        ("origin", json!("nobody"), "unknown variant"),
    ];
    for (field, other, expected) in cases {
        let mut value = question.clone();
        value[field] = other;
        let loaded = serde_json::from_value::<SavedUdpFlow>(value).map_err(|e| LoadError::from(PayloadError::from(e)));
        let loaded = loaded.and_then(|flow| bench.flows.load(&mut bench.around.context(), &flow, socket_for(&flow)));
        let text = loaded.unwrap_err().to_string();
        assert!(text.contains(expected), "{field}: {text}");
        assert!(bench.flows.is_empty() && !bench.flows.receiver.delivery.is_holding());
    }
}

#[test]
fn extreme_numbers_are_refused_or_a_flow_but_never_a_panic() {
    let extremes = [
        json!(0),
        json!(1),
        json!(255),
        json!(65_535),
        json!(u32::MAX),
        json!(u64::MAX),
        Value::Null,
    ];
    for (_, flow) in samples() {
        let value = serde_json::to_value(&flow).unwrap();
        let paths = [
            "/both_since",
            "/idle",
            "/ip_options/ttl",
            "/ip_options/traffic_class",
            "/class_watch/on/unmarked",
            "/class_watch/off/remaining",
            "/kept_port",
            "/held/0/segment",
            "/held/1/segment",
            "/held/0/tries",
        ];
        for (path, extreme) in paths.iter().flat_map(|path| extremes.iter().map(move |e| (path, e))) {
            let mut value = value.clone();
            let Some(field) = value.pointer_mut(path) else { continue };
            *field = extreme.clone();
            let Ok(flow) = serde_json::from_value::<SavedUdpFlow>(value) else {
                continue;
            };
            let mut bench = Bench::new();
            if bench
                .flows
                .load(&mut bench.around.context(), &flow, socket_for(&flow))
                .is_ok()
            {
                bench.flows.on_room(&mut bench.around.context());
                bench.wait_until(bench.around.now + SECOND);
                let _ = bench.flows.save(bench.around.now).count();
            }
        }
    }
}
