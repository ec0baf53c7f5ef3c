//! Echo requests in quick succession from a guest, to find the longest time without a reply.

use crate::guest::{Running, Shell};
use crate::{Result, failure};
use std::time::Duration;

/// Interval between two requests, in seconds.
const BEAT: f64 = 0.01;
/// File in the guest with the output of ping(8).
const OUTPUT: &str = "/run/pings";
/// Longest run time.
const LIFETIME: Duration = Duration::from_secs(600);

/// Requests that a guest sends until they are looked at.
#[derive(Debug)]
pub struct Pings {
    _running: Running,
}

impl Pings {
    /// Starts to send requests to `address`, and waits for a first reply.
    pub fn start(guest: &Shell, address: &str) -> Result<Self> {
        let running = guest.start(&format!("exec ping -i {BEAT} {address} >{OUTPUT}"), LIFETIME)?;
        guest.reaches(address)?;
        Ok(Self { _running: running })
    }

    /// Sends requests for another second, and returns the longest time without a reply.
    pub fn longest_gap(self, guest: &Shell) -> Result<Duration> {
        let output = guest.sh(&format!("sleep 1; killall -INT ping; sleep 1; cat {OUTPUT}"))?;
        longest_gap(&output, BEAT).ok_or_else(|| failure(format!("no replies: {output}")))
    }
}

/// The longest time without a reply, from the output of ping(8) with this many seconds between requests. The cause is
/// either consecutive lost replies or a late reply. `None` if there are less than two replies.
pub fn longest_gap(output: &str, beat: f64) -> Option<Duration> {
    let field = |line: &str, name: &str| {
        let value = line.split(name).nth(1)?.split(' ').next()?;
        value.parse::<f64>().ok()
    };
    let replies = output.lines().filter_map(|line| {
        let (seq, millis) = (field(line, "seq=")?, field(line, "time=")?);
        Some(seq * beat + millis / 1000.0)
    });
    let replies: Vec<f64> = replies.collect();
    let gaps = replies.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max_by(f64::total_cmp)
        .map(|gap| Duration::from_secs_f64(gap.max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_late_replies_are_gaps() {
        let line = |seq: u32, time: f64| format!("64 bytes from 192.0.2.1: seq={seq} ttl=64 time={time} ms\n");
        let gap = |lines: &[String]| longest_gap(&lines.concat(), 0.01).unwrap().as_secs_f64();
        let lost = [line(1, 1.0), line(2, 1.0), line(7, 1.0)];
        assert!((gap(&lost) - 0.05).abs() < 1e-9);
        let late = [line(1, 1.0), line(2, 41.0), line(3, 31.0)];
        assert!((gap(&late) - 0.05).abs() < 1e-9);
        assert_eq!(longest_gap("", 0.01), None);
    }
}
