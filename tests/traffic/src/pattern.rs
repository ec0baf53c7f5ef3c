//! A pattern that is written over memory again and again, and compared with what was written before. It finds pages that
//! were lost or are old after the guest has moved.

use crate::lasting::Lasting;
use crate::{Arguments, Report};
use serde_json::json;

/// Words in a page.
const PAGE: usize = 4096 / size_of::<u64>();

/// The words of a page after this round.
const fn word(page: usize, round: u64) -> u64 {
    (page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round
}

/// The number of pages that are not as after `round`. They are as after the next one afterwards.
fn renew(memory: &mut [u64], round: u64) -> usize {
    let mut wrong = 0;
    for (number, page) in memory.chunks_mut(PAGE).enumerate() {
        let (before, after) = (word(number, round), word(number, round + 1));
        wrong += usize::from(page.iter().any(|found| *found != before));
        page.fill(after);
    }
    wrong
}

/// Writes over `mib` MiB as long as `while` says.
pub(crate) fn pattern(arguments: &Arguments) -> Report {
    let mib: usize = arguments.get("mib")?;
    let mut lasting = Lasting::of(arguments)?.ok_or("argument while=… is missing")?;
    let mut memory = vec![0; (mib << 20) / size_of::<u64>()];
    renew(&mut memory, 0);
    let (mut round, mut wrong) = (1, 0);
    while lasting.lasts() {
        wrong += renew(&mut memory, round);
        round += 1;
    }
    Ok((wrong == 0, json!({ "rounds": round, "wrong_pages": wrong })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_old_or_changed_is_found() {
        let mut memory = vec![0; 4 * PAGE];
        renew(&mut memory, 0);
        assert_eq!(renew(&mut memory, 1), 0);
        let old = memory[..PAGE].to_vec();
        assert_eq!(renew(&mut memory, 2), 0);
        memory[..PAGE].copy_from_slice(&old);
        memory[3 * PAGE + 7] ^= 1;
        assert_eq!(renew(&mut memory, 3), 2);
        assert_eq!(renew(&mut memory, 4), 0);
    }
}
