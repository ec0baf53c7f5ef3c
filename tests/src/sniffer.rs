//! Captures traffic by running tcpdump on an interface of a namespace.

use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, failure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running tcpdump.
#[derive(Debug)]
pub struct Sniffer {
    process: Background,
    file: PathBuf,
}

impl Sniffer {
    /// Captures on `interface` into a file in `folder`.
    pub fn start(namespace: &Namespace, folder: &Path, interface: &str) -> Result<Self> {
        let file = folder.join(format!("{interface}.pcap"));
        let mut command = namespace.command("tcpdump");
        command.args(["--immediate-mode", "-U", "-nn", "-Z", "root", "-i", interface, "-w"]);
        command.arg(&file);
        let log = folder.join(format!("{interface}.tcpdump.log"));
        let mut process = Background::start(command, "tcpdump (package tcpdump)", log)?;
        process.wait_until("listening", PATIENCE, |log| log.contains("listening on"))?;
        Ok(Self { process, file })
    }

    /// The packets captured so far that match `filter` (pcap-filter(7)), one line each, with link-layer headers.
    pub fn seen(&self, filter: &str) -> Result<Vec<String>> {
        let output = Command::new("tcpdump")
            .args(["-nn", "-e", "-r"])
            .arg(&self.file)
            .arg(filter)
            .output()?;
        // The last packet may be incomplete while tcpdump runs. The others are shown.
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Waits until `count` packets that match `filter` were captured.
    pub fn wait_for(&self, count: usize, filter: &str) -> Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.seen(filter)?;
            if seen.len() >= count {
                return Ok(seen);
            }
            if Instant::now() > deadline {
                let all = self.seen("")?.join("\n");
                return Err(failure(format!(
                    "{} of {count} packets of {filter:?} came:\n{all}",
                    seen.len()
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The output of tcpdump so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
