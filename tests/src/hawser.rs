//! The program under test.

use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, artifacts, failure};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Longest time for hawser to become ready, answer a signal, or exit.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running hawser process.
#[derive(Debug)]
pub struct Hawser {
    process: Background,
    socket: PathBuf,
}

impl Hawser {
    /// Starts `hawser --socket-path=SOCKET ARGUMENTS…` in `namespace` and waits until it listens. With `--connect` it
    /// waits only until hawser runs.
    pub fn start(namespace: &Namespace, socket: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_by(namespace.command(artifacts::hawser()?), socket, arguments)
    }

    /// Does the same with a limit on the number of descriptors.
    pub fn start_with_descriptors(
        namespace: &Namespace,
        socket: &Path,
        arguments: &[&str],
        descriptors: u32,
    ) -> Result<Self> {
        let mut command = namespace.command("prlimit");
        command.arg(format!("--nofile={descriptors}:{descriptors}"));
        command.arg(artifacts::hawser()?);
        Self::start_by(command, socket, arguments)
    }

    fn start_by(mut command: Command, socket: &Path, arguments: &[&str]) -> Result<Self> {
        command
            .arg(format!("--socket-path={}", socket.display()))
            .args(arguments);
        let process = Background::start(command, "hawser", socket.with_extension("log"))?;
        let mut hawser = Self {
            process,
            socket: socket.to_owned(),
        };
        if !arguments.contains(&"--connect") {
            hawser.process.wait_for_socket(socket, PATIENCE)?;
        }
        Ok(hawser)
    }

    /// Starts `hawser run -f MANIFEST --socket-dir=FOLDER` in `namespace` and waits until it
    /// listens for each of `nics`.
    pub fn run(namespace: &Namespace, manifest: &Path, folder: &Path, nics: &[&str]) -> Result<Self> {
        Self::run_with(namespace, manifest, folder, nics, &[])
    }

    /// Does the same with further arguments.
    pub fn run_with(
        namespace: &Namespace,
        manifest: &Path,
        folder: &Path,
        nics: &[&str],
        arguments: &[&str],
    ) -> Result<Self> {
        let mut command = namespace.command(artifacts::hawser()?);
        command.arg("run").arg("-f").arg(manifest);
        command.arg(format!("--socket-dir={}", folder.display()));
        // Each test has its own journal and leases.
        command.arg(format!("--runtime-dir={}", folder.join("run").display()));
        command.arg(format!("--store={}", folder.join("store.db").display()));
        command.args(arguments);
        let mut process = Background::start(command, "hawser run", folder.join("hawser.log"))?;
        let sockets: Vec<PathBuf> = nics.iter().map(|nic| folder.join(format!("{nic}.sock"))).collect();
        for socket in &sockets {
            process.wait_for_socket(socket, PATIENCE)?;
        }
        let socket = sockets.into_iter().next().unwrap_or_default();
        Ok(Self { process, socket })
    }

    /// Starts `hawser ARGUMENTS… --takeover` in `namespace`, waits until it serves in the place of this process, which
    /// must end, and returns the time for which the guest's rings rested. `arguments` are those of this process.
    pub fn upgrade(&mut self, namespace: &Namespace, log: &Path, arguments: &[String]) -> Result<Duration> {
        let mut process = Self::start_upgrade(namespace, log, arguments)?;
        process.wait_until("the takeover", PATIENCE, |log| log.contains("rings rested for"))?;
        let status = self.process.wait(PATIENCE)?;
        if !status.success() {
            return Err(self.process.failed(&format!("ended, {status}")));
        }
        let text = process.log();
        let rested = text
            .split("rings rested for ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        for line in text.lines().filter(|line| line.contains("rings rested for")) {
            println!("{line}");
        }
        let rested: f64 = rested.ok_or_else(|| failure(text.clone()))?.parse()?;
        self.process = process;
        Ok(Duration::from_secs_f64(rested / 1e3))
    }

    /// Starts `hawser ARGUMENTS… --takeover` in `namespace` without waiting for it.
    pub fn start_upgrade(namespace: &Namespace, log: &Path, arguments: &[String]) -> Result<Background> {
        let mut command = namespace.command(artifacts::hawser()?);
        command.args(arguments).arg("--takeover");
        Background::start(command, "hawser --takeover", log.to_owned())
    }

    /// Regards `process` as the one that serves, because it has taken over.
    pub fn follow(&mut self, process: Background) {
        self.process = process;
    }

    /// vhost-user socket of the process. The first one if there are several.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    pub fn process(&mut self) -> &mut Background {
        &mut self.process
    }

    /// Asserts that the process has not ended.
    pub fn assert_alive(&mut self) -> Result<()> {
        self.process.assert_alive()
    }

    /// The counters that the process writes on SIGUSR1. A missing counter is zero.
    pub fn counters(&mut self) -> Result<Counters> {
        let before = self.process.log().len();
        self.process.signal(libc::SIGUSR1)?;
        let report = |log: &str| Counters::parse(log.get(before..).unwrap_or_default());
        self.process
            .wait_until("its counters", PATIENCE, |log| report(log).is_some())?;
        report(&self.process.log()).ok_or_else(|| self.process.failed("wrote no counters"))
    }

    /// Waits until `done` is true for the counters of the process.
    pub fn wait_for_counters(&mut self, what: &str, done: impl Fn(&Counters) -> bool) -> Result<Counters> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counters = self.counters()?;
            if done(&counters) {
                return Ok(counters);
            }
            if Instant::now() > deadline {
                return Err(failure(format!("hawser did not count {what}: {:?}", counters.0)));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the process as an operator would. It must exit successfully.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(libc::SIGTERM)?;
        let status = self.process.wait(PATIENCE)?;
        if status.success() {
            Ok(())
        } else {
            Err(self.process.failed(&format!("ended, {status}")))
        }
    }
}

/// Body of the API's response to `GET path`.
pub fn get(socket: &Path, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| failure(answer))
}

/// Counters and drop reasons by name.
#[derive(Clone, Debug)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads `port NAME:` and the lines `  name value` and `  dropped reason value` that follow it.
    fn parse(text: &str) -> Option<Self> {
        // The report is written in one piece, so its first line arrives with the others. Log lines may precede and
        // follow it, and may mention ports too.
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let is_first = |line: &&str| line.starts_with("port ") && line.ends_with(":\n");
        let first = lines.iter().rposition(is_first)?;
        let lines = lines[first + 1..].iter().copied();
        let lines = lines.take_while(|line| line.starts_with("  "));
        let pair = |line: &str| {
            let (name, value) = line.trim().rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Some(Self(lines.filter_map(pair).collect()))
    }

    /// The value of the count `name`.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Number of drops counted under `reason`.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.get(&format!("dropped {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_last_report() {
        let log = "port a:\n  tx_frames 1\nINFO more\nport a:\n  tx_frames 2\n  dropped spoofed_mac 3\nINFO x 4\n\
                   INFO port a: the front end has gone\n";
        let counters = Counters::parse(log).unwrap();
        assert_eq!(counters.get("tx_frames"), 2);
        assert_eq!(counters.dropped("spoofed_mac"), 3);
        assert_eq!(counters.get("rx_frames"), 0);
        assert_eq!(counters.get("x"), 0);
        assert!(Counters::parse("INFO serving\n").is_none());
    }
}
