//! One round of measurements on one set-up.

use crate::metric::Quantity;
use crate::results::Metric as _;
use crate::setup::{PORT, Setup};
use hawser_testkit::netns::address::FAR4;
use hawser_testkit::{Result, failure};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

/// Number of idle flows that are opened to measure the memory of one.
const IDLE_FLOWS: u32 = 3000;
/// How long an idle guest is observed.
pub const IDLE: Duration = Duration::from_secs(10);
/// Longest duration of a short run, including failures.
const PATIENCE: Duration = Duration::from_secs(15);
/// Number of bytes in a gigabyte.
const GB: f64 = 1e9;

/// Durations of the measurements.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Duration of one TCP transfer.
    pub transfer: Duration,
    /// Duration of one run of connections or of datagrams.
    pub short: Duration,
    /// Number of round trips.
    pub round_trips: u32,
}

/// Samples of a round; NaN if a measurement failed.
pub type Samples = Vec<(Quantity, f64)>;

/// Measures everything for which `is_wanted` is true. An error is passed to `complain`, and the other measurements
/// continue.
pub fn round(
    setup: &Setup,
    lengths: Lengths,
    is_wanted: &dyn Fn(Quantity) -> bool,
    complain: &mut dyn FnMut(&str),
) -> Samples {
    let mut samples = Samples::new();
    let mut keep = |metrics: &[Quantity], measure: &dyn Fn() -> Result<Vec<f64>>| {
        if !metrics.iter().copied().any(is_wanted) {
            return;
        }
        let found = measure().unwrap_or_else(|error| {
            complain(&format!("{}: {error}", metrics[0].about().title));
            vec![f64::NAN; metrics.len()]
        });
        samples.extend(metrics.iter().copied().zip(found));
    };
    for (way, metrics) in [
        ("", [Quantity::TcpOut, Quantity::CpuOut]),
        ("--reverse", [Quantity::TcpIn, Quantity::CpuIn]),
    ] {
        keep(&metrics, &|| transfer(setup, lengths.transfer, way));
    }
    let millis = lengths.short.as_millis();
    for (metric, scale, name, arguments) in [
        (
            Quantity::RoundTrip,
            1.0,
            "p50_us",
            format!("rounds count={}", lengths.round_trips),
        ),
        (
            Quantity::Connections1,
            1.0,
            // User-Mode Linux loses up to 10 ms now and then (docs/performance.md).
            "per_second_by_median",
            format!("dial at_once=1 millis={millis}"),
        ),
        (
            Quantity::Connections64,
            1.0,
            "per_second",
            format!("dial at_once=64 millis={millis}"),
        ),
        (
            Quantity::UdpOut1400,
            1e3,
            "received_per_second",
            format!("flood from=client size=1400 millis={millis}"),
        ),
        (
            Quantity::UdpIn1400,
            1e3,
            "received_per_second",
            format!("flood from=server size=1400 millis={millis}"),
        ),
        (
            Quantity::UdpOut64,
            1e3,
            "received_per_second",
            format!("flood from=client size=64 millis={millis}"),
        ),
        (
            Quantity::UdpIn64,
            1e3,
            "received_per_second",
            format!("flood from=server size=64 millis={millis}"),
        ),
    ] {
        keep(&[metric], &|| {
            let report = traffic(setup, &arguments)?;
            Ok(vec![number(&report, name)? / scale])
        });
    }
    samples
}

fn traffic(setup: &Setup, arguments: &str) -> Result<Value> {
    let (command, rest) = arguments.split_once(' ').unwrap_or((arguments, ""));
    setup
        .guest
        .traffic_for(&format!("{command} to={FAR4}:{PORT} {rest}"), PATIENCE)
}

fn number(value: &Value, name: &str) -> Result<f64> {
    value[name]
        .as_f64()
        .ok_or_else(|| failure(format!("no number '{name}' in {value}")))
}

/// Gbit/s that arrived, and CPU seconds of the back end per GB.
fn transfer(setup: &Setup, time: Duration, way: &str) -> Result<Vec<f64>> {
    let command = format!("iperf3 --client {FAR4} --time {} --json {way}", time.as_secs());
    let before = setup.backend.cpu_seconds()?;
    let output = setup.guest.run_for(&command, time + PATIENCE)?;
    let cpu = setup.backend.cpu_seconds()? - before;
    let report: Value = serde_json::from_str(&output.out).map_err(|_| {
        failure(format!(
            "iperf3, status {:?}: {}{}",
            output.status, output.out, output.err
        ))
    })?;
    if let Some(error) = report["error"].as_str() {
        return Err(failure(format!("iperf3: {error}")));
    }
    let received = &report["end"]["sum_received"];
    let (rate, bytes) = (number(received, "bits_per_second")?, number(received, "bytes")?);
    Ok(vec![rate / 1e9, cpu / (bytes / GB)])
}

/// Current memory of the back end, in MB.
pub fn resident_mb(setup: &Setup) -> Result<f64> {
    megabytes(setup.backend.resident_kib()?)
}

/// Converts KiB to MB.
pub fn megabytes(kib: u64) -> Result<f64> {
    Ok(f64::from(u32::try_from(kib)?) * 1024.0 / 1e6)
}

/// MB per 1,000 idle flows, as two values. The first is the back end's own memory. The second is the guest memory that
/// it touches for the first time while the flows open. This also counts as the back end's resident memory, but belongs
/// to the guest, which uses new pages for its own part of the connections. With huge pages the kernel does not count it
/// at all. The back end must not have had as many flows before, because it would reuse their memory.
pub fn flow_memory(setup: &Setup) -> Result<[f64; 2]> {
    let memory = || -> Result<[f64; 2]> {
        let shared = setup.backend.shared_kib()?;
        let own = setup.backend.resident_kib()? - shared;
        Ok([megabytes(own)?, megabytes(shared)?])
    };
    // The first bytes also grow buffers and stacks to their normal size.
    traffic(setup, "rounds count=10 bytes=10000")?;
    let before = memory()?;
    let holding = setup.guest.start(
        &format!("exec hawser-traffic hold to={FAR4}:{PORT} connections={IDLE_FLOWS} >/run/hold 2>&1"),
        Duration::from_secs(120),
    )?;
    let open = setup
        .guest
        .sh("for n in $(seq 400); do grep -q holding /run/hold && exit; usleep 50000; done; cat /run/hold; exit 1");
    let after = memory()?;
    setup.guest.kill(&holding)?;
    open?;
    Ok([0, 1].map(|i| (after[i] - before[i]) * 1000.0 / f64::from(IDLE_FLOWS)))
}

/// Context switches of each back end while all guests are idle.
pub fn idle_switches(setups: &[Setup]) -> Result<Vec<f64>> {
    let count = || setups.iter().map(Setup::context_switches).collect::<Result<Vec<_>>>();
    let (before, start) = (count()?, Instant::now());
    thread::sleep(IDLE.saturating_sub(start.elapsed()));
    let after = count()?;
    let counts = before
        .iter()
        .zip(after)
        .map(|(before, after)| u32::try_from(after - before));
    Ok(counts
        .map(|count| count.map(f64::from))
        .collect::<std::result::Result<_, _>>()?)
}
