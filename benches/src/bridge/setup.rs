//! A guest on a bridge, its back end, and servers on the segment.

use super::results::Back;
use crate::results::Peer as _;
use crate::surroundings::Surroundings;
use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::process::Background;
use hawser_testkit::segment::{HOST4, PORT, Segment};
use hawser_testkit::{Result, artifacts, failure, peers};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

const MTU: u32 = 1500;
const MACS: [&str; 2] = ["52:54:00:68:61:77", "52:54:00:68:61:78"];
const ADDRESSES: [&str; 2] = ["192.0.2.11", "192.0.2.12"];
const PATIENCE: Duration = Duration::from_secs(15);

/// A peer that is ready to be measured. Fields are dropped in order: guests, back ends, servers, segment.
#[derive(Debug)]
pub struct Setup {
    /// The peer.
    pub peer: Back,
    /// The guests. The first is measured; hawser has a second guest on the bridge.
    guests: Vec<Guest>,
    backends: Vec<Background>,
    _servers: Background,
    _segment: Segment,
}

impl Setup {
    /// Starts everything. The caller must have exclusive use of the machine. All parts are set up in these
    /// `surroundings`.
    ///
    /// # Errors
    /// A part does not start.
    pub fn new(peer: Back, surroundings: &Surroundings) -> Result<Self> {
        let mut segment = Segment::beside(MTU)?;
        segment.serve()?;
        surroundings.apply_to_namespace(&segment.host)?;
        let servers = peers::iperf_server(&segment.host, segment.folder(), HOST4)?;
        let count = if peer == Back::Hawser { 2 } else { 1 };
        let backends = (0..count)
            .map(|n| start(peer, n, &segment))
            .collect::<Result<Vec<_>>>()?;
        let guests = (0..count)
            .map(|n| boot(n, &segment, surroundings))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            peer,
            guests,
            backends,
            _servers: servers,
            _segment: segment,
        })
    }

    /// Gbit/s that arrived in one direction, and CPU seconds of the back end per GB.
    ///
    /// # Errors
    /// iperf3 fails.
    pub fn transfer(&self, time: Duration, way: &str) -> Result<[f64; 2]> {
        let before = self.backends[0].cpu_seconds()?;
        let [rate, bytes] = iperf(&self.guests[0], HOST4, time, way)?;
        let cpu = self.backends[0].cpu_seconds()? - before;
        Ok([rate / 1e9, cpu / (bytes / 1e9)])
    }

    /// Gbit/s from the first guest to the second. `None` without a second guest.
    ///
    /// # Errors
    /// iperf3 fails.
    pub fn between_guests(&self, time: Duration) -> Result<Option<f64>> {
        let [first, second] = self.guests.as_slice() else {
            return Ok(None);
        };
        let server = second.start("exec iperf3 --server", Duration::from_secs(3600))?;
        second.sh("for n in $(seq 100); do ss -ltn | grep -q :5201 && exit; usleep 50000; done; exit 1")?;
        let measured = iperf(first, ADDRESSES[1], time, "");
        second.kill(&server)?;
        measured.map(|[rate, _]| Some(rate / 1e9))
    }

    /// A number in a report of `hawser-traffic`.
    ///
    /// # Errors
    /// The traffic fails.
    pub fn traffic(&self, arguments: &str, name: &str) -> Result<f64> {
        let (command, rest) = arguments.split_once(' ').unwrap_or((arguments, ""));
        let report = self.guests[0].traffic_for(&format!("{command} to={HOST4}:{PORT} {rest}"), PATIENCE)?;
        number(&report, name)
    }
}

fn iperf(guest: &Guest, to: &str, time: Duration, way: &str) -> Result<[f64; 2]> {
    let command = format!("iperf3 --client {to} --time {} --json {way}", time.as_secs());
    let output = guest.run_for(&command, time + PATIENCE)?;
    let report: Value =
        serde_json::from_str(&output.out).map_err(|_| failure(format!("iperf3: {}{}", output.out, output.err)))?;
    if let Some(error) = report["error"].as_str() {
        return Err(failure(format!("iperf3: {error}")));
    }
    let received = &report["end"]["sum_received"];
    Ok([number(received, "bits_per_second")?, number(received, "bytes")?])
}

fn number(value: &Value, name: &str) -> Result<f64> {
    let found = value[name].as_f64();
    found.ok_or_else(|| failure(format!("no number '{name}' in {value}")))
}

fn socket(segment: &Segment, number: usize) -> PathBuf {
    segment.path(&format!("vm{number}.sock"))
}

fn start(peer: Back, number: usize, segment: &Segment) -> Result<Background> {
    let (tap, path, mac) = (format!("tap{number}"), socket(segment, number), MACS[number]);
    let mut command = segment.host.command(match peer {
        Back::Hawser => artifacts::hawser()?,
        Back::Plain | Back::PlainUnmerged | Back::AsCloudHypervisor => std::env::current_exe()?.with_file_name("tap"),
    });
    match peer {
        Back::Hawser => {
            segment.add_tap(&tap, "")?;
            command
                .arg("--mode=bridge")
                .arg(format!("--tap={tap}"))
                .arg(format!("--mac={mac}"));
            command.arg(format!("--socket-path={}", path.display()));
        }
        Back::Plain => drop(command.arg(&path).args([&tap, mac])),
        Back::PlainUnmerged => drop(command.arg(&path).args([&tap, mac, "without-mrg-rxbuf"])),
        Back::AsCloudHypervisor => drop(command.arg(&path).args([&tap, mac, "as-cloud-hypervisor"])),
    }
    let mut process = Background::start(command, peer.key(), path.with_extension("log"))?;
    process.wait_for_socket(&path, PATIENCE)?;
    if peer != Back::Hawser {
        segment.enslave(&tap)?;
    }
    Ok(process)
}

fn boot(number: usize, segment: &Segment, surroundings: &Surroundings) -> Result<Guest> {
    let mut plan = Plan::new(Kind::Uml, &socket(segment, number));
    surroundings.apply_to_guest(&mut plan, number);
    let guest = plan.boot()?;
    let address = ADDRESSES[number];
    guest.sh(&format!("ip link set eth0 up && ip addr add {address}/24 dev eth0"))?;
    Ok(guest)
}
