//! The changes of the guest's links, as `ip monitor` of iproute2 reports them.

use hawser_testkit::guest::Guest;
use hawser_testkit::{Result, failure};
use std::time::Duration;

/// File in the guest.
const LOG: &str = "/run/links.log";

/// Begins to note changes.
pub(crate) fn watch(guest: &Guest) -> Result<()> {
    // Without the path, this would be the applet of busybox.
    let watch = format!("setsid /usr/bin/ip -tshort -oneline monitor link >{LOG} 2>&1 </dev/null &");
    guest.sh(&watch).map(drop)
}

/// How long the link that was removed last was down before it was gone. Linux drops what the standby of a pair gets as long
/// as the primary is there, also while it is down.
pub(crate) fn last_removal(guest: &Guest) -> Result<Duration> {
    let log = guest.sh(&format!("cat {LOG}"))?;
    removal(&log).ok_or_else(|| failure(format!("the guest has removed no link:\n{log}")))
}

fn removal(log: &str) -> Option<Duration> {
    let lines: Vec<&str> = log.lines().collect();
    let at = lines.iter().rposition(|line| line.contains("] Deleted "))?;
    let index = lines[at].split("] Deleted ").nth(1)?.split(' ').next()?;
    let of_link = lines[..at]
        .iter()
        .rev()
        .filter(|line| line.contains(&format!("] {index} ")));
    let down = of_link.take_while(|line| !line.contains(",UP"));
    let down = down.last()?;
    time(lines[at])?.checked_sub(time(down)?)
}

/// The time of day of a line.
fn time(line: &str) -> Option<Duration> {
    let time = line.split('T').nth(1)?.split(']').next()?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    Some(Duration::from_secs_f64(next()? * 3600.0 + next()? * 60.0 + next()?))
}
