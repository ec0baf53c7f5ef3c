//! Any bytes a front end sends, cut anywhere: the relay makes messages of them or says
//! why not, remembers no more than one message, and tells the daemon what it may hear.

#![no_main]

use hawser_backend::packet::MacAddr;
use hawser_backend::vhost_user::message::{Assembler, BODY_MAX, HEADER_LEN, Request};
use hawser_backend::vhost_user::quirks::{Actions, Quirks};
use libfuzzer_sys::fuzz_target;

const RINGS: usize = 5;
const F_PROTOCOL_FEATURES: u64 = 1 << 30;

struct Port;

impl Actions for Port {
    fn announce(&self, _: MacAddr) {}

    fn set_mtu(&self, mtu: u64) -> bool {
        mtu >= 1500
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, mut bytes)) = data.split_first() else {
        return;
    };
    let mut assembler = Assembler::default();
    let mut quirks = Quirks::new(2, RINGS);
    // What the daemon would let a SET_VRING_ENABLE through for.
    let mut enable_taken = false;
    while !bytes.is_empty() {
        let space = assembler.space();
        assert!(!space.is_empty() && space.len() <= HEADER_LEN + BODY_MAX);
        let n = space.len().min(bytes.len()).min(usize::from(step) + 1);
        space[..n].copy_from_slice(&bytes[..n]);
        bytes = &bytes[n..];
        let Ok(message) = assembler.advance(n, Vec::new()) else {
            return;
        };
        let Some(message) = message else { continue };
        assert_eq!(message.bytes().len(), HEADER_LEN + message.body().len());
        let Ok(verdict) = quirks.on_request(message, &Port) else {
            return;
        };
        assert!(verdict.to_daemon.len() <= 1 + RINGS);
        for told in &verdict.to_daemon {
            match told.kind() {
                Request::SetFeatures => {
                    enable_taken = told.body_u64().is_ok_and(|f| f & F_PROTOCOL_FEATURES != 0);
                }
                Request::ResetDevice | Request::ResetOwner => enable_taken = false,
                Request::SetVringEnable => assert!(enable_taken, "the daemon would hang up"),
                Request::SendRarp | Request::NetSetMtu | Request::GetQueueNum => {
                    panic!("the daemon would hang up or answer wrongly")
                }
                _ => {}
            }
        }
        if let Some(answer) = verdict.to_front {
            assert!(answer.body_u64().is_ok() && answer.files.is_empty());
        }
    }
});
