//! Loads saved flows of TCP, UDP and echo from any bytes, uses those that load, and saves them again. There is no
//! panic, and this process can load what it has saved.
#![no_main]

use hawser_backend::nat::saved::testing::use_saved;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| use_saved(data).expect("descriptors"));
