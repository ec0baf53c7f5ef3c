//! Tests of a second front end that connects while the first one is served, as when QEMU or cloud-hypervisor replaces
//! itself on the same host.

#![allow(clippy::unwrap_used, reason = "test code, though in no function marked as a test")]

mod common;

use common::{Backend, PATIENCE, SILENCE, assert_echo, frame};
use hawser_testkit::frontend::{VmmConfig, code};

#[test]
fn a_second_front_end_is_served_up_to_its_rings_which_run_when_those_of_the_first_have_stopped() {
    let backend = Backend::start(1);
    let mut first = backend.connect(VmmConfig::default());
    assert_echo(&mut first, 0, &[60, 1514]);
    // The whole set-up is answered.
    let mut second = backend.connect(VmmConfig::default());
    second.nics[0].send(&frame(1, 300)).unwrap();
    assert!(second.nics[0].recv(SILENCE).unwrap().is_none(), "its rings wait");
    assert_echo(&mut first, 0, &[60, 1514]);

    // A migration within the host, which comes back once.
    for _ in 0..3 {
        first.stop_all().unwrap();
        let got = second.nics[0].recv(PATIENCE).unwrap().expect("its rings run");
        assert!(got.frame == frame(1, 300));
        assert_echo(&mut second, 0, &[60, 1514]);
        first.start_all().unwrap();
        first.nics[0].send(&frame(2, 300)).unwrap();
        assert!(
            first.nics[0].recv(SILENCE).unwrap().is_none(),
            "the second one has the device"
        );
        second.stop_all().unwrap();
        let got = first.nics[0].recv(PATIENCE).unwrap().expect("its rings run again");
        assert!(got.frame == frame(2, 300));
        second.start_all().unwrap();
        second.nics[0].send(&frame(1, 300)).unwrap();
    }
    // The first one ends, however that may be, and the second one continues.
    drop(first);
    let got = second.nics[0].recv(PATIENCE).unwrap().expect("its rings run");
    assert!(got.frame == frame(1, 300));
    // There is room for another one, which may leave early.
    drop(backend.connect(VmmConfig::default()));
    let third = backend.connect(VmmConfig::default());
    assert_echo(&mut second, 0, &[60, 1514]);
    third.wire.ask(code::GET_FEATURES, &[]).unwrap();
    drop(second);
    let mut third = third;
    assert_echo(&mut third, 0, &[60, 1514]);
}

#[test]
fn a_reset_or_a_broken_request_of_the_second_front_end_does_not_reach_the_first() {
    let backend = Backend::start(1);
    let mut first = backend.connect(VmmConfig::default());
    let second = backend.connect(VmmConfig::default());
    second.wire.tell(code::RESET_DEVICE, &[], &[]).unwrap();
    assert_echo(&mut first, 0, &[60, 1514]);
    assert!(second.wire.ask(99, &[]).is_err(), "the connection ends");
    assert_echo(&mut first, 0, &[60, 1514]);
    assert_echo(&mut first, 0, &[60, 1514]);
}
