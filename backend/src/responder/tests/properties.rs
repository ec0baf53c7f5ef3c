//! Properties that hold for any bytes that a guest may send. [`Bench::send`] checks every reply.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// Frames that get far into a service: valid frames that are partly overwritten, truncated or extended, then given
/// correct lengths and checksums.
fn near_miss() -> impl Strategy<Value = Vec<u8>> {
    let edits = vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let requests = prop::sample::select(testing::requests());
    (requests, edits, 0usize..20, vec(any::<u8>(), 0..20)).prop_map(|((_, mut frame), edits, cut, tail)| {
        frame.truncate(frame.len() - cut);
        frame.extend(tail);
        for (at, byte) in edits {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        testing::repair(&mut frame);
        frame
    })
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..400)) {
        Bench::new().send(&bytes);
    }

    #[test]
    fn any_packet_near_a_real_one_is_survived(frames in vec(near_miss(), 1..8)) {
        let mut bench = Bench::new();
        for frame in frames {
            bench.send(&frame);
        }
    }

    #[test]
    fn any_names_are_survived(
        hostname in proptest::option::of(".{0,70}"),
        search in vec("([a-zA-Z0-9_.-]{0,70}|.{0,20})", 0..30),
        mtu in 68u16..,
    ) {
        let names = NameConfig { hostname, search, ..config().names };
        let mut bench = Bench::with(ServiceConfig { names, mtu, ..config() });
        for (_, request) in testing::requests() {
            let (answer, replies) = bench.send(&request);
            prop_assert_eq!(answer, Answer::Done);
            for reply in replies {
                prop_assert!(reply.len() <= 1280 + EthernetHeader::LEN);
            }
        }
    }
}

/// The seeds of the fuzz target are the requests of [`testing`]. Run with `WRITE_SEEDS=1` to write
/// them.
#[test]
fn the_fuzz_targets_have_these_requests_as_seeds() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for target in ["responders", "packet_headers"] {
        let dir = corpus.join(target);
        for (name, frame) in testing::requests() {
            let path = dir.join(name);
            if std::env::var_os("WRITE_SEEDS").is_some() {
                std::fs::create_dir_all(&dir).expect("a directory");
                std::fs::write(&path, &frame).expect("a seed");
            }
            let seed =
                std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run with WRITE_SEEDS=1", path.display()));
            assert_eq!(seed, frame, "{} is outdated; run with WRITE_SEEDS=1", path.display());
        }
    }
}
