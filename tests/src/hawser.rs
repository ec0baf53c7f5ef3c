//! The program under test.

use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, artifacts, failure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest hawser may take to be ready, to answer a signal, or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A hawser process that serves.
#[derive(Debug)]
pub struct Hawser {
    process: Background,
    socket: PathBuf,
}

impl Hawser {
    /// Starts `hawser --socket-path=SOCKET ARGUMENTS…` in `namespace` and waits until it
    /// listens; with `--connect`, only until it runs.
    pub fn start(namespace: &Namespace, socket: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = namespace.command(artifacts::hawser()?);
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

    /// The vhost-user socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    pub fn process(&mut self) -> &mut Background {
        &mut self.process
    }

    /// Fails if the process is gone.
    pub fn assert_alive(&mut self) -> Result<()> {
        self.process.assert_alive()
    }

    /// The counters it writes on SIGUSR1, by name; one that is not written is zero.
    pub fn counters(&mut self) -> Result<Counters> {
        let before = self.process.log().len();
        self.process.signal(libc::SIGUSR1)?;
        let parse = |log: &str| Counters::parse(log.get(before..).unwrap_or_default());
        self.process.wait_until("counters", PATIENCE, |log| {
            log.ends_with('\n') && !parse(log).0.is_empty()
        })?;
        Ok(parse(&self.process.log()))
    }

    /// Ends it as an operator would; it must end well.
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

/// Counters and drop reasons by name.
#[derive(Clone, Debug)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Every `name value` or `name=value` in `text`; the sum where a name comes more than once.
    fn parse(text: &str) -> Self {
        let mut map = BTreeMap::new();
        let words: Vec<_> = text
            .split(|c: char| c.is_whitespace() || "=:,".contains(c))
            .filter(|w| !w.is_empty())
            .collect();
        for pair in words.windows(2) {
            let is_name = pair[0].starts_with(|c: char| c.is_ascii_lowercase());
            if let (true, Ok(value)) = (is_name, pair[1].parse::<u64>()) {
                *map.entry(pair[0].to_owned()).or_default() += value;
            }
        }
        Self(map)
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Fails unless `name` counted something.
    pub fn expect(&self, name: &str) -> Result<u64> {
        match self.get(name) {
            0 => Err(failure(format!("nothing was counted as {name}: {:?}", self.0))),
            value => Ok(value),
        }
    }
}
