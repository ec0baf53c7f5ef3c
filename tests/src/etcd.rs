//! Members of etcd, in namespaces.

use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, failure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Port for clients.
pub const PORT: u16 = 2379;
/// Longest time for etcd to start serving.
const PATIENCE: Duration = Duration::from_secs(30);

/// A member. Its data outlives it.
#[derive(Debug)]
pub struct Etcd {
    address: String,
    /// The addresses of all members of its cluster.
    members: Vec<String>,
    folder: PathBuf,
    process: Option<Background>,
}

impl Etcd {
    /// Starts the only member of a cluster in `namespace`, at one of its IPv4 addresses, with its data in `folder`.
    pub fn start(namespace: &Namespace, address: &str, folder: &Path) -> Result<Self> {
        let mut member = Self::member(address, folder, &[address.to_owned()]);
        member.restart(namespace)?;
        Ok(member)
    }

    /// Starts a cluster with a member in each namespace, at these addresses, with its data in `folder`.
    pub fn start_all(namespaces: &[Namespace], addresses: &[String], folder: &Path) -> Result<Vec<Self>> {
        std::fs::create_dir_all(folder)?;
        let member = |address: &String| Self::member(address, &folder.join(address), addresses);
        let mut members: Vec<Self> = addresses.iter().map(member).collect();
        for (member, namespace) in members.iter_mut().zip(namespaces) {
            member.begin(namespace)?;
        }
        for member in &mut members {
            member.wait_serving()?;
        }
        Ok(members)
    }

    fn member(address: &str, folder: &Path, members: &[String]) -> Self {
        Self {
            address: address.to_owned(),
            members: members.to_vec(),
            folder: folder.to_owned(),
            process: None,
        }
    }

    /// Starts the member again with its data.
    pub fn restart(&mut self, namespace: &Namespace) -> Result<()> {
        self.kill();
        self.begin(namespace)?;
        self.wait_serving()
    }

    fn begin(&mut self, namespace: &Namespace) -> Result<()> {
        let url = format!("http://{}:{PORT}", self.address);
        let peer = format!("http://{}:{}", self.address, PORT + 1);
        let all = self.members.iter();
        let all: Vec<String> = all.map(|at| format!("{at}=http://{at}:{}", PORT + 1)).collect();
        let mut command = namespace.command("etcd");
        command
            .arg(format!("--name={}", self.address))
            .arg(format!("--data-dir={}", self.folder.display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", all.join(",")));
        let log = PathBuf::from(format!("{}.log", self.folder.display()));
        let process = Background::start(command, "etcd", log)
            .map_err(|error| failure(format!("{error}; hack/setup installs etcd")))?;
        self.process = Some(process);
        Ok(())
    }

    fn wait_serving(&mut self) -> Result<()> {
        let process = self.process.as_mut().ok_or_else(|| failure("etcd is not started"))?;
        process.wait_until("serving clients", PATIENCE, |log| {
            log.contains("serving insecure client requests")
        })
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
        let all = self.members.iter();
        let all: Vec<String> = all.map(|at| format!("{at}:{PORT}")).collect();
        format!("etcd://{}/test", all.join(","))
    }
}
