//! Passes any frame to the gateway's services, both unchanged and with corrected lengths and checksums. There is no
//! panic, and every reply is valid.
#![no_main]

use hawser_backend::counters::Counters;
use hawser_backend::packet::Head;
use hawser_backend::responder::testing::{check_reply, config, repair};
use hawser_backend::responder::{Answer, Replies, Responders};
use hawser_backend::time::Instant;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static STATE: RefCell<(Responders, Counters, Replies)> =
        RefCell::new((Responders::new(config()), Counters::default(), Replies::default()));
}

fn send(frame: &[u8]) {
    STATE.with_borrow_mut(|(responders, counters, replies)| {
        replies.clear();
        let head = &frame[..frame.len().min(hawser_backend::frame::HEAD_MAX)];
        let parsed = Head::parse(head, frame.len());
        let wanted = responders.wants(head, &parsed);
        let answer = responders.answer(Instant::default(), frame, &parsed, counters, replies);
        assert!(wanted || answer != Answer::Done, "answered though not wanted");
        replies.iter().for_each(check_reply);
    });
}

fuzz_target!(|data: &[u8]| {
    send(data);
    let mut repaired = data.to_vec();
    repair(&mut repaired);
    send(&repaired);
});
