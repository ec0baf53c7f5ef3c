//! Reads any bytes as the channel of a migration. There is no panic, messages are the same in whatever pieces they arrive,
//! and no more bytes wait than a window.
#![no_main]

use hawser_backend::migration::testing::use_channel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| use_channel(data));
