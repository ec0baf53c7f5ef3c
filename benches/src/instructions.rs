//! Instruction counts as `hack/bench --instructions` writes them, and whether layer2 mode has changed those of the others.

use crate::results::Verdict;
use hawser_testkit::{Result, failure};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Counts of the packet path before layer2 mode existed.
const BEFORE: &str = include_str!("../instructions-before-layer2.txt");
/// Target: percent.
const MOST: f64 = 1.0;

/// Compares the counts in a file with those before layer2 mode.
///
/// # Errors
/// The file cannot be read, or lacks a case.
pub fn compare(path: &Path) -> Result<Verdict> {
    let now = fs::read_to_string(path).map_err(|error| failure(format!("{}: {error}", path.display())))?;
    verdict(&parse(BEFORE)?, &parse(&now)?)
}

fn parse(text: &str) -> Result<BTreeMap<&str, f64>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let count = words.next().zip(words.next().and_then(|count| count.parse().ok()));
            count.ok_or_else(|| failure(format!("no count in '{line}'")))
        })
        .collect()
}

fn verdict(before: &BTreeMap<&str, f64>, now: &BTreeMap<&str, f64>) -> Result<Verdict> {
    let mut changes = Vec::new();
    for (case, before) in before {
        let now = now.get(case).ok_or_else(|| failure(format!("no count of {case}")))?;
        // In tenths of a percent, as it is shown.
        changes.push((((now / before - 1.0) * 1000.0).round() / 10.0, *case));
    }
    changes.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let (worst, case) = *changes.first().ok_or_else(|| failure("no cases"))?;
    let (best, _) = *changes.last().ok_or_else(|| failure("no cases"))?;
    let over = changes.iter().filter(|(change, _)| *change > MOST).count();
    Ok(Verdict {
        target: format!("Instructions of masquerade and bridge mode: ≤ {MOST} % more than before layer2 mode"),
        measured: Some(format!(
            "{best:+.1} % to {worst:+.1} % ({case}), {over} of {} cases above",
            changes.len()
        )),
        spread: None,
        is_met: over == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_case_with_more_instructions_misses_the_target_and_fewer_do_not() {
        let before = parse("a 100\nb 1000\n").unwrap();
        let of = |now: &'static str| verdict(&before, &parse(now).unwrap()).unwrap();
        assert!(of("a 101\nb 900\nc 5\n").is_met);
        let missed = of("a 102\nb 900\n");
        assert_eq!(
            (missed.is_met, missed.measured.as_deref()),
            (false, Some("-10.0 % to +2.0 % (a), 1 of 2 cases above"))
        );
        assert!(verdict(&before, &parse("a 100\n").unwrap()).is_err());
        assert!(parse("a b\n").is_err());
        assert_eq!(parse(BEFORE).unwrap().len(), 15);
    }
}
