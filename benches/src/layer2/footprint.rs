//! Memory of a process that knows 1,000 peers with 10,000 guests, beyond that of one that knows two.

use crate::results::Verdict;
use hawser_testkit::netns::Namespace;
use hawser_testkit::process::Background;
use hawser_testkit::{Result, artifacts};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Target: MB.
const MOST: f64 = 4.0;
const PEERS: u32 = 1000;
const GUESTS_OF_PEER: u32 = 10;
/// Number of the first guest, and of the first peer.
const FIRST: u32 = 256;
/// Versions of the file that replace the first one.
const RELOADS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(20);
/// Time in which memory that is no longer used goes back to the system.
const PAUSE: Duration = Duration::from_millis(500);

/// Measures at the start, and after the file has been replaced three times.
///
/// # Errors
/// hawser does not start, or does not take over a version of the file.
pub fn measure() -> Result<[Verdict; 2]> {
    let folder = tempfile::Builder::new().prefix("hawser-footprint-").tempdir()?;
    let few = resident(folder.path(), "few", 2)?;
    let many = resident(folder.path(), "many", PEERS)?;
    let verdict = |when: &str, index: usize| {
        let megabytes = (many[index] - few[index]) * 1024.0 / 1e6;
        Verdict {
            target: format!(
                "Memory of {PEERS} peers with {} guests, {when}: ≤ {MOST} MB",
                PEERS * GUESTS_OF_PEER
            ),
            measured: Some(format!("{megabytes:.1} MB")),
            spread: None,
            is_met: megabytes <= MOST,
        }
    };
    Ok([
        verdict("at the start", 0),
        verdict(&format!("after {RELOADS} reloads"), 1),
    ])
}

/// KiB of a process with this many peers, at the start and after the reloads.
fn resident(folder: &Path, name: &str, peers: u32) -> Result<[f64; 2]> {
    let (file, socket) = (folder.join(format!("{name}.txt")), folder.join(format!("{name}.sock")));
    fs::write(&file, lines(peers, 0))?;
    let namespace = Namespace::new()?;
    let mut command = namespace.command(artifacts::hawser()?);
    command
        .args([
            "--mode=layer2",
            "--vni=7",
            "--vtep=127.0.0.1",
            "--mac=52:54:00:00:00:01",
        ])
        .args(["--ipv4=10.100.0.0/16", "--guest-address=10.100.255.9"])
        .arg(format!("--peers={}", file.display()))
        .arg(format!("--socket-path={}", socket.display()));
    let mut process = Background::start(command, name, folder.join(format!("{name}.log")))?;
    process.wait_for_socket(&socket, PATIENCE)?;
    std::thread::sleep(PAUSE);
    let start = kib(&process)?;
    for version in 1..=RELOADS {
        // Replaced as programs do that write configuration: as a whole.
        let next = file.with_extension("new");
        fs::write(&next, lines(peers, version))?;
        fs::rename(&next, &file)?;
        let taken = |log: &str| log.matches("has changed and now has").count() == version;
        process.wait_until("taking over the peers file", PATIENCE, taken)?;
    }
    std::thread::sleep(PAUSE);
    let end = kib(&process)?;
    process.kill();
    Ok([start, end])
}

fn kib(process: &Background) -> Result<f64> {
    Ok(f64::from(u32::try_from(process.resident_kib()?)?))
}

/// A version of the file.
fn lines(peers: u32, version: usize) -> String {
    let mut text = format!("# version {version}\n");
    for number in 0..peers * GUESTS_OF_PEER {
        // The first addresses are the gateway's and the process's own.
        let [_, a, b, c] = (number + FIRST).to_be_bytes();
        let [_, _, high, low] = (number / GUESTS_OF_PEER + FIRST).to_be_bytes();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "02:00:01:{a:02x}:{b:02x}:{c:02x},10.100.{b}.{c}@127.1.{high}.{low}"
        );
    }
    text
}
