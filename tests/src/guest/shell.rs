//! The command line of a guest, with commands for any guest, wherever it runs.

use super::channel::{Channel, Output, Running};
use crate::{Result, failure, until};
use serde_json::Value;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Default time limit of a command.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time limit of a command that lasts until it is told to end.
const LASTING: Duration = Duration::from_secs(3600);

/// A command in a guest that lasts until it is told to end.
#[derive(Debug)]
pub struct Lasting {
    running: Running,
    /// The file whose end it awaits.
    file: String,
}

impl Lasting {
    /// Fails if the command has ended.
    pub fn assert_lasts(&self) -> Result<()> {
        match self.running.poll() {
            Some(Output { out, err, .. }) => {
                Err(failure(format!("the command of {} has ended: {out}{err}", self.file)))
            }
            None => Ok(()),
        }
    }

    /// Tells the command to end. It must have succeeded.
    pub fn end(&self, guest: &Shell) -> Result<()> {
        guest.sh(&format!("rm {}", self.file))?;
        let Output { status, out, err } = self.running.wait(PATIENCE)?;
        match status {
            Some(0) => Ok(()),
            _ => Err(failure(format!("the command of {}: {status:?} {out}{err}", self.file))),
        }
    }
}

/// The test's end of a guest's command line.
#[derive(Debug)]
pub struct Shell {
    channel: Channel,
    /// Console output of the guest, if it is a file on this machine.
    console: Option<PathBuf>,
}

impl Shell {
    /// Creates the command line at the other end of `line`.
    pub(super) fn new(line: UnixStream, console: Option<PathBuf>) -> Result<Self> {
        Ok(Self {
            channel: Channel::new(line)?,
            console,
        })
    }

    /// True if the guest has reported within `limit` that it is up.
    pub(super) fn is_ready(&self, limit: Duration) -> bool {
        self.channel.is_ready(limit)
    }

    /// The guest's console output so far.
    pub fn console(&self) -> String {
        let bytes = self.console.as_ref().and_then(|path| fs::read(path).ok());
        bytes.map_or_else(String::new, |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs a shell command, for at most a minute.
    pub fn run(&self, command: &str) -> Result<Output> {
        self.run_for(command, PATIENCE)
    }

    /// Runs a shell command, for at most `limit`.
    pub fn run_for(&self, command: &str, limit: Duration) -> Result<Output> {
        // This waits slightly longer, so that the guest can report that it ended the command.
        let output = self.start(command, limit)?.wait(limit + Duration::from_secs(20));
        output.map_err(|e| failure(format!("{e}; its console says:\n{}", self.console())))
    }

    /// Runs a shell command that must succeed. Returns its standard output.
    pub fn sh(&self, command: &str) -> Result<String> {
        let output = self.run(command)?;
        match output.status {
            Some(0) => Ok(output.out),
            status => Err(failure(format!(
                "in the guest, status {status:?} from: {command}\n{}{}",
                output.out, output.err
            ))),
        }
    }

    /// True if `address`, or the host of that name, answers an echo request within a second.
    pub fn is_answered(&self, address: &str) -> Result<bool> {
        Ok(self.run(&format!("ping -c 1 -W 1 {address}"))?.status == Some(0))
    }

    /// Waits until `address` answers. A first request can be lost while neighbours resolve each other.
    pub fn reaches(&self, address: &str) -> Result<()> {
        until(&format!("{address} answers"), || self.is_answered(address))
    }

    /// Starts a shell command and returns immediately. The command is ended after `limit`.
    pub fn start(&self, command: &str, limit: Duration) -> Result<Running> {
        self.channel.start(command, limit)
    }

    /// Ends a started command.
    pub fn kill(&self, running: &Running) -> Result<()> {
        self.channel.kill(running)
    }

    /// Runs a client of `hawser-traffic` that must succeed. Returns its report.
    pub fn traffic(&self, arguments: &str) -> Result<Value> {
        self.traffic_for(arguments, PATIENCE)
    }

    /// Runs a client of `hawser-traffic` that must succeed, for at most `limit`. Returns its report.
    pub fn traffic_for(&self, arguments: &str, limit: Duration) -> Result<Value> {
        let output = self.run_for(&format!("hawser-traffic {arguments}"), limit)?;
        if output.status != Some(0) {
            let Output { status, out, err } = output;
            return Err(failure(format!(
                "in the guest: hawser-traffic {arguments}: status {status:?}: {out}{err}"
            )));
        }
        Ok(serde_json::from_str(&output.out)?)
    }

    /// Starts a client of `hawser-traffic` that lasts until it is told to end, and waits until it is under way.
    pub fn traffic_lasting(&self, arguments: &str) -> Result<Lasting> {
        let words = arguments.split(|c: char| !c.is_ascii_alphanumeric());
        let file = format!("/run/lasting-{}", words.collect::<Vec<_>>().join("-"));
        let command = format!("hawser-traffic {arguments} while={file}");
        let lasting = Lasting {
            running: self.start(&command, LASTING)?,
            file,
        };
        until(&format!("{command} is under way"), || {
            lasting.assert_lasts()?;
            Ok(self.run(&format!("test -e {}", lasting.file))?.status == Some(0))
        })?;
        Ok(lasting)
    }

    /// Starts a server of `hawser-traffic` on `at` and waits until it serves.
    pub fn serve(&self, at: &str) -> Result<Running> {
        let file = format!("/run/serve-{}", at.replace(['[', ']', ':'], "_"));
        self.serve_by("exec", &file, at)
    }

    /// Does the same in a network namespace of the guest.
    pub fn serve_in(&self, namespace: &str, at: &str) -> Result<Running> {
        let file = format!("/run/serve-{namespace}-{}", at.replace(['[', ']', ':'], "_"));
        self.serve_by(&format!("exec ip netns exec {namespace}"), &file, at)
    }

    fn serve_by(&self, start: &str, file: &str, at: &str) -> Result<Running> {
        let running = self.start(
            &format!("{start} hawser-traffic serve at={at} >{file} 2>&1"),
            Duration::from_secs(3600),
        )?;
        self.sh(&format!(
            "for n in $(seq 100); do grep -q serving {file} && exit; usleep 50000; done; cat {file}; exit 1"
        ))?;
        Ok(running)
    }

    /// Configures the NIC as a distribution does: DHCPv4, router advertisement, DHCPv6.
    pub fn net_up(&self) -> Result<()> {
        self.sh("net-up").map(drop)
    }

    /// Waits until the NIC has a carrier if `up` is true, or otherwise until it has none.
    pub fn wait_for_carrier(&self, up: bool) -> Result<()> {
        let wanted = if up { "1" } else { "0" };
        until(&format!("the guest sees its carrier as {wanted}"), || {
            Ok(self.sh("cat /sys/class/net/eth0/carrier")?.trim() == wanted)
        })
    }

    /// The virtio features that the NIC's driver has negotiated, as a mask.
    pub fn features(&self) -> Result<u64> {
        let digits = self.sh("cat /sys/class/net/eth0/device/features")?;
        // There is one digit for each feature. The first is for bit 0.
        let reversed: String = digits.trim().chars().rev().collect();
        Ok(u64::from_str_radix(&reversed, 2)?)
    }
}
