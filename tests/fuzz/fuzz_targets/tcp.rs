//! Runs a TCP connection between a guest and a remote peer that do anything in any order. Every byte that arrives is
//! correct, and the numbers of the connection stay consistent.
#![no_main]

use hawser_backend::nat::tcp::testing::Player;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut player = Player::new().expect("descriptors");
    let (moves, _) = data.as_chunks::<4>();
    for &one in moves.iter().take(200) {
        if !player.step(one) {
            break;
        }
    }
});
