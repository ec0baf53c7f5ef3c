//! A cluster of etcd with one member, in a namespace.

use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, failure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Port for clients.
pub const PORT: u16 = 2379;
/// Longest time for etcd to start serving.
const PATIENCE: Duration = Duration::from_secs(30);

/// The member. Its data outlives it.
#[derive(Debug)]
pub struct Etcd {
    address: String,
    folder: PathBuf,
    process: Option<Background>,
}

impl Etcd {
    /// Starts the member in `namespace`, at one of its IPv4 addresses, with its data in `folder`.
    pub fn start(namespace: &Namespace, address: &str, folder: &Path) -> Result<Self> {
        let mut member = Self {
            address: address.to_owned(),
            folder: folder.to_owned(),
            process: None,
        };
        member.restart(namespace)?;
        Ok(member)
    }

    /// Starts the member again with its data.
    pub fn restart(&mut self, namespace: &Namespace) -> Result<()> {
        self.kill();
        let url = format!("http://{}:{PORT}", self.address);
        let peer = format!("http://{}:{}", self.address, PORT + 1);
        let mut command = namespace.command("etcd");
        command
            .arg(format!("--data-dir={}", self.folder.display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"));
        let log = self.folder.with_extension("log");
        let mut process = Background::start(command, "etcd", log)
            .map_err(|error| failure(format!("{error}; hack/setup installs etcd")))?;
        process.wait_until("serving clients", PATIENCE, |log| {
            log.contains("serving insecure client requests")
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills the member without warning.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Kills the member while others use it. [`restart`](Self::restart) starts it again.
    pub fn kill_now(&self) {
        if let Some(process) = &self.process {
            // It may have ended.
            let _ = process.signal(libc::SIGKILL);
        }
    }

    /// All keys of the store.
    pub fn keys(&self, namespace: &Namespace) -> Result<Vec<String>> {
        let mut command = namespace.command("etcdctl");
        command.args(["--endpoints", &format!("http://{}:{PORT}", self.address)]);
        let output = command
            .args(["get", "--prefix", "--keys-only", "/hawser/"])
            .env("ETCDCTL_API", "3")
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// The value of `--store` for an agent.
    pub fn store(&self) -> String {
        format!("etcd://{}:{PORT}/test", self.address)
    }
}
