//! Tests of saved connections, state by state: the form of each value, and that the restored connection does what the
//! original would have done at the same time.

use super::pair::{Conditions, Pair};
use super::states::{ACK, ISS, Steps, header};
use crate::nat::saved::{golden, to_bytes};
use crate::nat::tcp::connection::{Connection, Opening, Progress, State};
use crate::nat::tcp::isn::IsnSecret;
use crate::nat::tcp::saved::{Place, SavedConnection};
use crate::nat::tcp::saved_flow::SavedTcpFlow;
use crate::nat::tcp::seq::Seq;
use crate::nat::tcp::spill::SpillPool;
use crate::packet::{FlowId, TcpFlags, TcpHeader, TcpOptions, Timestamps};
use crate::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const FIN: TcpFlags = TcpFlags::FIN;

/// Every state, with the variants that make a difference. Each has a golden file of this name.
const STATES: [&str; 18] = [
    "connecting",
    "syn-received",
    "syn-received-without-room",
    "syn-sent",
    "established",
    "established-with-timestamps",
    "established-in-flight",
    "established-hole",
    "established-zero-window",
    "established-bytes-kept",
    "established-urgent",
    "established-probed",
    "fin-wait-1",
    "fin-wait-2",
    "close-wait",
    "close-wait-draining",
    "last-ack",
    "time-wait",
];

/// A connection in the state called `name`.
fn in_state(name: &str) -> Steps {
    opening_state(name).unwrap_or_else(|| open_state(name))
}

fn opening_state(name: &str) -> Option<Steps> {
    let mut steps = match name {
        "connecting" | "syn-received-without-room" => connecting(),
        "syn-sent" => Steps {
            pair: Pair::idle_client(Conditions::default()),
        },
        "syn-received" => Steps::nobody(),
        _ => return None,
    };
    if name == "syn-received" {
        steps.open();
    } else if name == "syn-received-without-room" {
        steps.pair.set_room(0);
        steps.pair.call(|c, ctx, _| {
            c.on_connected(ctx);
            Progress::Done
        });
    }
    Some(steps)
}

fn open_state(name: &str) -> Steps {
    if name == "established-with-timestamps" {
        return with_timestamps();
    }
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    match name {
        "established" => {}
        "established-in-flight" => {
            steps.world_sends(b"once");
            steps.wait(SECOND);
            steps.world_sends(b" and more");
        }
        "established-hole" => {
            for _ in 0..4 {
                steps.world_sends(&[7; 1460]);
            }
            for _ in 0..2 {
                steps.segment(ACK, ISS + 1, nxt, b"");
            }
        }
        "established-zero-window" => {
            let closed = TcpHeader {
                window: 0,
                ..header(ACK, ISS + 1, nxt)
            };
            steps.send(closed, b"");
            steps.world_sends(b"waits");
            steps.wait(SECOND);
        }
        "established-bytes-kept" => {
            steps.pair.stream.limit = 4;
            steps.segment(ACK, ISS + 1, nxt, b"more than fits");
        }
        "established-urgent" => {
            let urgent = |seq, urgent| TcpHeader {
                urgent,
                ..header(ACK | TcpFlags::URG, seq, nxt)
            };
            steps.pair.stream.limit = 2;
            // One urgent byte is among the kept bytes, and another is still to come.
            steps.send(urgent(ISS + 1, 4), b"kept");
            steps.send(urgent(ISS + 5, 9), b"");
            steps.pair.stream.push_urgent(2);
            steps.pair.call(|c, _, _| {
                c.on_urgent();
                Progress::Done
            });
            steps.world_sends(b"in here");
        }
        "established-probed" => {
            steps.pair.stream.silence = 40 * SECOND;
            steps.wait(40 * SECOND);
            steps.segment(ACK, ISS, nxt, b"");
        }
        "fin-wait-1" => {
            steps.world_closes();
        }
        "fin-wait-2" => {
            steps.world_closes();
            steps.segment(ACK, ISS + 1, nxt + 1, b"");
        }
        "close-wait" => {
            steps.segment(ACK | FIN, ISS + 1, nxt, b"");
        }
        "close-wait-draining" => {
            steps.pair.stream.limit = 2;
            steps.segment(ACK | FIN, ISS + 1, nxt, b"last words");
        }
        "last-ack" => {
            steps.segment(ACK | FIN, ISS + 1, nxt, b"");
            steps.world_closes();
        }
        "time-wait" => {
            steps.world_closes();
            steps.segment(ACK | FIN, ISS + 1, nxt + 1, b"");
            assert_eq!(steps.state(), State::TimeWait);
        }
        other => panic!("no state {other}"),
    }
    steps
}

fn opening() -> Opening {
    Opening {
        id: FlowId::tcp(
            SocketAddr::new([10, 0, 2, 2].into(), 40_000),
            SocketAddr::new([192, 0, 2, 80].into(), 80),
        ),
        iss: Seq(7000),
        clock: Default::default(),
        mtu: 1500,
        spill: SpillPool::default(),
    }
}

fn connecting() -> Steps {
    let mut steps = Steps::nobody();
    let syn = TcpHeader {
        window: 65_535,
        ..header(TcpFlags::SYN, ISS, 0)
    };
    steps.pair.connection = Some(Connection::from_guest(&opening(), &syn));
    steps
}

fn with_timestamps() -> Steps {
    let mut steps = Steps::nobody();
    let stamped = |flags, seq, ack, value| TcpHeader {
        options: TcpOptions {
            mss: (flags == TcpFlags::SYN).then_some(1460),
            window_scale: (flags == TcpFlags::SYN).then_some(3),
            timestamps: Some(Timestamps { value, echo: 0 }),
        },
        ..header(flags, seq, ack)
    };
    let answers = steps.send(stamped(TcpFlags::SYN, ISS, 0, 900), b"");
    steps.wait(SECOND / 4);
    steps.send(stamped(ACK, ISS + 1, answers[0].seq.wrapping_add(1), 1150), b"asked");
    steps
}

fn place(now: Instant) -> Place {
    Place {
        now,
        mtu: 1500,
        spill: SpillPool::default(),
    }
}

#[test]
fn saved_connections_look_as_in_the_golden_files() {
    for name in STATES {
        golden::check(name, &[in_state(name).pair.save().unwrap()]);
    }
}

#[test]
fn golden_files_of_all_versions_load() {
    let all = golden::all::<SavedTcpFlow>();
    assert!(all.len() >= STATES.len());
    for (file, flows) in all {
        for flow in flows {
            let loaded = Connection::load(&flow.connection, &place(Instant::from_nanos(5)));
            assert!(loaded.is_ok(), "{file}: {loaded:?}");
        }
    }
}

/// Observable result of a step: segments to the guest, bytes that the peer received, whether FIN was forwarded, and
/// whether the connection failed.
fn seen(steps: &Steps, answers: Vec<TcpHeader>) -> (Vec<TcpHeader>, usize, bool, bool) {
    let stream = &steps.pair.stream;
    (answers, stream.received.len(), stream.write_closed, stream.broken)
}

#[test]
fn timers_fire_when_they_would_have_in_every_state() {
    // This is longer than any connection lasts: keepalive, then all retries.
    const SECONDS: u64 = 8_000;
    for name in STATES {
        let (mut stays, mut changes) = (in_state(name), in_state(name));
        stays.pair.set_room(64);
        changes.pair.set_room(64);
        for second in 0..SECONDS {
            if second % 7 == 0 {
                let hours = second * 7919 % 100;
                changes.pair.replace(Instant::from_nanos(hours * 3_600_000_000_000));
            }
            let before = stays.wait(SECOND);
            let after = changes.wait(SECOND);
            let before = seen(&stays, before);
            assert_eq!(before, seen(&changes, after), "{name}, after {second} s");
            let stands = (stays.state(), changes.state());
            assert_eq!(stands.0, stands.1, "{name}, after {second} s");
            if stands.0 == State::Closed {
                break;
            }
        }
        let ends = name != "connecting";
        assert_eq!(stays.pair.connection.is_none(), ends, "{name}");
    }
}

#[test]
fn bytes_wait_with_the_guests_window_closed_and_go_when_it_opens() {
    let mut steps = in_state("established-zero-window");
    let nxt = steps.snd_nxt();
    steps.pair.replace(Instant::from_nanos(3));
    assert_eq!(steps.wait(SECOND), []);
    assert_eq!(
        steps.wait(SECOND).len(),
        1,
        "the second probe, two seconds after the first"
    );
    let opened = header(ACK, ISS + 1, nxt);
    assert_eq!(steps.send(opened, b"")[0].seq, nxt);
}

#[test]
fn bytes_kept_and_fin_after_them_reach_the_world() {
    let mut steps = in_state("close-wait-draining");
    let mut now = 0;
    while !steps.pair.stream.write_closed {
        now += 1_000_000;
        steps.pair.replace(Instant::from_nanos(now));
        steps.pair.stream.drain(1);
        steps.pair.call(|c, ctx, stream| {
            c.on_writable(ctx, stream);
            c.answer(ctx, stream)
        });
    }
    assert_eq!(steps.pair.stream.received, b"last words");
}

#[test]
fn a_smaller_mtu_on_the_other_side_makes_segments_smaller() {
    let saved = in_state("established").pair.save().unwrap();
    let load = |mtu| {
        let place = Place {
            mtu,
            ..place(Instant::default())
        };
        Connection::load(&saved.connection, &place).unwrap().mss
    };
    assert_eq!((load(1500), load(9000), load(1280)), (1460, 1460, 1240));
}

#[test]
fn a_connection_that_is_over_has_no_value() {
    let mut connection = connecting().pair.connection.unwrap();
    connection.refuse();
    assert_eq!(connection.save(Instant::default()), None::<SavedConnection>);
}

#[test]
fn numbers_and_timestamps_of_a_reopened_connection_go_on_above_those_before() {
    let secret = IsnSecret::random().unwrap();
    let (guest, remote) = (opening().id.guest_end(), opening().id.remote_end());
    let then = Instant::from_nanos(900_000_000_000_000);
    let (iss, clock) = secret.initial(then, guest, remote);
    let saved = secret.save(then);
    let text = serde_json::to_string(&saved).unwrap();
    let loaded = IsnSecret::load(&serde_json::from_str(&text).unwrap(), Instant::from_nanos(77));
    assert_eq!(loaded.initial(Instant::from_nanos(77), guest, remote).0, iss);
    // The other host's clock shows five seconds.
    let now = Instant::from_nanos(5_000_000_077);
    let (later_iss, later_clock) = loaded.initial(now, guest, remote);
    assert!(later_iss.after(iss) && later_iss.since(iss) < 5 * 250_000);
    assert_eq!(later_clock.value(now).wrapping_sub(clock.value(then)), 5000);
    assert!(!format!("{saved:?}").contains(char::is_numeric), "no secret in a log");
}

#[test]
fn an_idle_connection_takes_less_than_200_bytes() {
    const MOST: usize = 200;
    /// Bytes of a payload without connections.
    const ENVELOPE: usize = 12;
    let saved = in_state("established-with-timestamps").pair.save().unwrap();
    // It has sent and received much, over a path whose time varies.
    let mut worst = serde_json::to_value(&saved).unwrap();
    for number in ["a", "u", "l", "N", "E", "c", "t", "w"] {
        worst["c"][number] = (u32::MAX - 70_000).into();
    }
    worst["c"]["E"] = (u32::MAX - 60_000).into();
    worst["c"]["w"] = 4_000_000.into();
    worst["c"]["e"] = serde_json::json!({"s": 200_000, "v": 100_000});
    let mut worst6 = worst.clone();
    worst6["c"]["g"] = "[fd10:0:2::2]:40000".into();
    worst6["c"]["r"] = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:40000".into();
    for value in [serde_json::to_value(&saved).unwrap(), worst, worst6] {
        let flow: SavedTcpFlow = serde_json::from_value(value).unwrap();
        Connection::load(&flow.connection, &place(Instant::default())).unwrap();
        let bytes = to_bytes(&[flow]).len() - ENVELOPE;
        println!("{bytes} bytes");
        assert!(bytes <= MOST, "{bytes} bytes");
    }
}

#[test]
fn nothing_is_peeked_before_the_guest_has_acknowledged_syn() {
    let flows = golden::all::<SavedTcpFlow>();
    let opening = ["connecting", "syn-received", "syn-received-without-room", "syn-sent"];
    let is_opening = |path: &str| opening.iter().any(|state| path.ends_with(&format!("/{state}.json")));
    let offsets = flows.iter().filter(|(path, _)| is_opening(path));
    let offsets: Vec<u32> = offsets
        .flat_map(|(_, flows)| flows.iter().map(|flow| flow.connection.peek_offset()))
        .collect();
    assert_eq!(offsets, vec![0; opening.len() * 3], "of three versions");
}
