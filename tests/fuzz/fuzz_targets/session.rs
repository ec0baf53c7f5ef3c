//! Processes any bytes from a front end, split anywhere, with descriptors that can be mapped. They become messages or
//! an error, at most one message is buffered, each answer belongs to its request, and no ring runs that virtio forbids.

#![no_main]

use hawser_backend::vhost_user::message::{Assembler, BODY_MAX, FILES_MAX, HEADER_LEN, Message};
use hawser_backend::vhost_user::testing::{Event, session};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::OwnedFd;

const PAIRS: usize = 2;
const RINGS: usize = 5;

/// Number of SET_MEM_TABLE, which has a descriptor for each region.
const SET_MEM_TABLE: u32 = 5;
/// Number of POSTCOPY_ADVISE.
const POSTCOPY_ADVISE: u32 = 28;
/// Numbers of SET_LOG_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, SET_BACKEND_REQ_FD and ADD_MEM_REG.
const WITH_ONE_FILE: [u32; 6] = [6, 12, 13, 14, 21, 37];

/// Number of descriptors that belong to a message.
fn files_of(message: &Message) -> usize {
    let code = message.header().code;
    if code == SET_MEM_TABLE {
        message.body().first().map_or(0, |&regions| usize::from(regions).min(FILES_MAX))
    } else {
        usize::from(WITH_ONE_FILE.contains(&code))
    }
}

/// Memory as long as a file can be. As an eventfd it never fires.
fn descriptor() -> Option<OwnedFd> {
    let file = memfd_create(c"fuzz", MemfdFlags::CLOEXEC).ok()?;
    ftruncate(&file, i64::MAX.unsigned_abs()).ok()?;
    Some(file)
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, mut bytes)) = data.split_first() else {
        return;
    };
    let step = usize::from(mode & 0x3f) + 1;
    let mut assembler = Assembler::default();
    let (mut session, events) = session(PAIRS, RINGS);
    let mut running = [false; RINGS];
    while !bytes.is_empty() {
        let space = assembler.space();
        assert!(!space.is_empty() && space.len() <= HEADER_LEN + BODY_MAX);
        let n = space.len().min(bytes.len()).min(step);
        space[..n].copy_from_slice(&bytes[..n]);
        bytes = &bytes[n..];
        let Ok(message) = assembler.advance(n, Vec::new()) else {
            return;
        };
        let Some(mut message) = message else { continue };
        assert_eq!(message.bytes().len(), HEADER_LEN + message.body().len());
        let files = match mode >> 6 {
            few @ (0 | 1) => usize::from(few),
            _ => files_of(&message),
        };
        message.files.extend((0..files).filter_map(|_| descriptor()));
        let code = message.header().code;
        let outcome = session.on_request(message);
        for event in events.take() {
            match event {
                Event::Started(ring, size) => {
                    assert!(size.is_power_of_two() && !std::mem::replace(&mut running[ring], true));
                }
                Event::Stopped(ring) => assert!(std::mem::take(&mut running[ring])),
                _ => {}
            }
        }
        let (answer, ended) = match outcome {
            Ok(answer) => (answer, false),
            Err(rejected) => (rejected.answer, true),
        };
        if let Some(answer) = answer {
            let header = answer.header();
            assert!(header.is_reply() && header.code == code);
            // Only one request is answered with a descriptor: that through which the front end provides pages.
            assert!(answer.files.is_empty() || code == POSTCOPY_ADVISE && answer.files.len() == 1);
            assert!(answer.body().len() <= BODY_MAX);
        }
        if ended {
            return;
        }
    }
});
