//! Tests of a server that continues in another process while its front end stays connected.

#![allow(clippy::unwrap_used, reason = "test code, though in no function marked as a test")]

mod common;

use common::{Backend, PATIENCE, assert_echo, frame};
use hawser_backend::vhost_user::HandOverError;
use hawser_testkit::frontend::{DirtyLog, VmmConfig, code};
use std::io::{Read as _, Write as _};

/// GET_FEATURES, version 1, no body.
fn get_features() -> Vec<u8> {
    [1_u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[test]
fn a_front_end_and_its_guest_notice_nothing_of_a_handover_even_if_it_fails() {
    const FRAMES: u32 = 10;
    let mut backend = Backend::start(2);
    let path = backend.path.clone();
    let config = || VmmConfig {
        queue_pairs: 2,
        ..VmmConfig::default()
    };
    let mut vmm = backend.connect(config());
    for round in 0..20 {
        for pair in 0..2 {
            assert_echo(&mut vmm, pair, &[60, 1514, 700]);
            // These are on their way when the server is handed over.
            for seed in 0..FRAMES {
                vmm.nics[pair].send(&frame(seed, 300)).unwrap();
            }
        }
        backend = match round % 2 {
            0 => backend.handed_over(),
            _ => backend.handed_back(),
        };
        for nic in &mut vmm.nics {
            for seed in 0..FRAMES {
                let got = nic.recv(PATIENCE).unwrap().expect("the frame comes back");
                assert!(got.frame == frame(seed, 300), "frame {seed}");
            }
        }
    }
    // The protocol continues too: rings stop and start, and the next front end connects to the same socket.
    vmm.stop_all().unwrap();
    vmm.start_all().unwrap();
    assert_echo(&mut vmm, 1, &[60]);
    drop(vmm);
    assert_echo(&mut backend.connect(config()), 0, &[60]);
    drop(backend);
    assert!(!path.exists(), "the last owner removes the socket");
}

#[test]
fn a_message_that_has_half_arrived_is_completed_in_the_other_process() {
    let mut backend = Backend::start(1);
    let message = get_features();
    for cut in 0..=message.len() {
        let mut stream = backend.stream();
        stream.write_all(&message).unwrap();
        stream.read_exact(&mut [0; 20]).unwrap();
        stream.write_all(&message[..cut]).unwrap();
        backend = backend.handed_over();
        stream.write_all(&message[cut..]).unwrap();
        stream.read_exact(&mut [0; 20]).unwrap();
    }
}

#[test]
fn a_server_without_a_front_end_is_handed_over_with_those_that_wait() {
    let backend = Backend::start(1);
    let first = backend.connect(VmmConfig::default());
    // Waits in the socket's queue.
    let mut second = backend.stream();
    second.write_all(&get_features()).unwrap();
    drop(first);
    let backend = backend.handed_over();
    second.read_exact(&mut [0; 20]).unwrap();
    drop(second);
    assert_echo(&mut backend.handed_over().connect(VmmConfig::default()), 0, &[60]);
}

#[test]
fn while_the_guest_migrates_the_server_stays_with_its_process() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    let log = DirtyLog::new(&vmm.ram).unwrap();
    vmm.wire.set_log_base(&log).unwrap();
    let refused = backend.stop_handle().hand_over().unwrap_err();
    assert!(refused.to_string().contains("being migrated"), "{refused}");
    assert_echo(&mut vmm, 0, &[60]);
    // The session answers as before.
    vmm.wire.ask(code::GET_FEATURES, &[]).unwrap();
}

#[test]
fn a_server_that_has_ended_is_not_handed_over() {
    let backend = Backend::start(1);
    let stop = backend.stop_handle();
    drop(backend);
    assert!(matches!(stop.hand_over(), Err(HandOverError::Ended)));
}
