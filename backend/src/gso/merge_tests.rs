use super::*;
use crate::frame::testing::OwnedFrame;
use crate::gso::split::Split;
use crate::gso::testing::{Udp, with_burst};

/// The frames of each run of a burst, in the order in which they are sent.
fn runs(datagrams: &[Udp]) -> Vec<Vec<usize>> {
    let frames: Vec<OwnedFrame> = datagrams.iter().map(Udp::frame).collect();
    runs_of(&frames)
}

fn runs_of(frames: &[OwnedFrame]) -> Vec<Vec<usize>> {
    with_burst(frames, |burst| {
        let mut plan = Plan::default();
        plan.make(burst);
        plan.runs().iter().map(|run| plan.frames(run).collect()).collect()
    })
}

fn udp(len: usize) -> Udp {
    Udp::new(&vec![7; len])
}

#[test]
fn neighbours_of_one_flow_and_length_travel_together_and_a_shorter_one_ends_the_run() {
    assert_eq!(
        runs(&[udp(22), udp(22), udp(10), udp(10), udp(22)]),
        [vec![0, 1, 2], vec![3], vec![4]]
    );
    assert_eq!(runs(&[udp(22), udp(23)]), [[0], [1]], "a longer one cannot follow");
}

#[test]
fn flows_are_kept_apart_and_each_keeps_its_order() {
    let other = |len| Udp {
        source_port: 4001,
        ..udp(len)
    };
    assert_eq!(
        runs(&[udp(22), other(30), udp(22), other(30), udp(5), udp(22)]),
        [vec![0, 2, 4], vec![1, 3], vec![5]]
    );
}

#[test]
fn what_differs_in_more_than_lengths_and_checksums_stays_alone() {
    let hops = Udp { hops: 3, ..udp(22) };
    assert_eq!(runs(&[udp(22), hops]), [[0], [1]]);
    let v6 = Udp { v6: true, ..udp(22) };
    assert_eq!(runs(&[v6.clone(), udp(22), v6]), [vec![0, 2], vec![1]]);
}

#[test]
fn without_df_identifications_must_count_up() {
    let with = |ident| Udp {
        ident,
        dont_fragment: false,
        ..udp(22)
    };
    assert_eq!(runs(&[with(65535), with(0), with(1)]), [[0, 1, 2]]);
    assert_eq!(runs(&[with(7), with(7)]), [[0], [1]]);
    let atomic = Udp { ident: 7, ..udp(22) };
    assert_eq!(
        runs(&[atomic.clone(), atomic]),
        [[0, 1]],
        "RFC 6864: they do not matter"
    );
}

#[test]
fn a_checksum_is_right_or_left_to_us_or_the_datagram_stays_alone() {
    let full = Udp {
        partial: false,
        ..udp(22)
    };
    assert_eq!(runs(&[full.clone(), full.clone(), udp(22)]), [[0, 1, 2]]);
    let spoil = |mut bytes: Vec<u8>, at: usize, value: [u8; 2]| {
        bytes[at..at + 2].copy_from_slice(&value);
        OwnedFrame::new(bytes)
    };
    let none = || spoil(full.bytes(), 40, [0, 0]);
    assert_eq!(runs_of(&[none(), none()]), [[0], [1]], "it has none, and keeps none");
    let wrong = || spoil(full.bytes(), 50, [1, 2]);
    assert_eq!(runs_of(&[wrong(), wrong()]), [[0], [1]], "damage is not repaired");
    let header = || spoil(full.bytes(), 24, [1, 2]);
    assert_eq!(runs_of(&[header(), header()]), [[0], [1]]);
    // The guest could change bytes beyond the copy after the check.
    let long = Udp {
        partial: false,
        ..udp(100)
    };
    assert_eq!(runs(&[long.clone(), long]), [[0], [1]]);
    assert_eq!(runs(&[udp(1400), udp(1400)]), [[0, 1]]);
}

#[test]
fn what_may_hide_udp_is_not_overtaken() {
    let mut options = udp(22).bytes();
    options[14] = 0x46;
    let tcp = {
        let mut bytes = udp(22).bytes();
        bytes[23] = protocol::TCP;
        OwnedFrame::new(bytes)
    };
    let frames = [udp(22).frame(), OwnedFrame::new(options), udp(22).frame()];
    assert_eq!(runs_of(&frames), [[0], [1], [2]]);
    let frames = [udp(22).frame(), tcp, udp(22).frame()];
    assert_eq!(runs_of(&frames), [vec![0, 2], vec![1]]);
}

#[test]
fn a_run_has_no_more_datagrams_and_bytes_than_the_kernel_takes() {
    let many: Vec<Udp> = (0..64).map(|_| udp(1400)).collect();
    let runs = runs(&many);
    let lengths: Vec<usize> = runs.iter().map(Vec::len).collect();
    assert_eq!(lengths, [46, 18], "46 × 1400 bytes and headers are 64428");
}

#[test]
fn what_is_merged_is_cut_into_the_same_datagrams_again() {
    for v6 in [false, true] {
        let datagrams: Vec<Udp> = (0u8..5)
            .map(|i| Udp {
                v6,
                ident: u16::from(i) + 100,
                ..Udp::new(&vec![i; if i == 4 { 3 } else { 22 }])
            })
            .collect();
        let frames: Vec<OwnedFrame> = datagrams.iter().map(Udp::frame).collect();
        let (merged, offload) = with_burst(&frames, |burst| {
            let mut plan = Plan::default();
            plan.make(burst);
            let [run] = plan.runs() else { panic!("one run") };
            let mut headers = [0; MAX_HEADERS];
            let offload = run.headers(burst[0].head, &mut headers);
            let mut merged = headers[..run.headers].to_vec();
            for datagram in &datagrams {
                merged.extend(&datagram.payload);
            }
            (merged, offload)
        });
        let mut split = Split::new(&merged, merged.len(), offload).unwrap();
        for datagram in &datagrams {
            let piece = split.next(&merged).unwrap();
            let bytes = [piece.headers(), &merged[piece.payload.clone()]].concat();
            assert_eq!(bytes, datagram.bytes(), "IPv6: {v6}");
            split.taken();
        }
        assert!(split.next(&merged).is_none());
    }
}
