//! The member of etcd, on the loopback.

use hawser_store::etcd::EtcdOptions;
use hawser_testkit::Result;
use hawser_testkit::process::Background;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Longest time for etcd to start serving.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of one member, with its data on the disk of temporary files.
#[derive(Debug)]
pub(super) struct Member {
    ports: [u16; 2],
    process: Option<Background>,
    folder: TempDir,
}

impl Member {
    pub(super) fn start() -> Result<Self> {
        let free = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let mut member = Self {
            ports: [free[0].local_addr()?.port(), free[1].local_addr()?.port()],
            process: None,
            folder: tempfile::tempdir()?,
        };
        drop(free);
        member.restart()?;
        Ok(member)
    }

    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    pub(super) fn restart(&mut self) -> Result<()> {
        let [client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new("etcd");
        command
            .arg(format!("--data-dir={}", self.folder.path().join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"));
        let mut process = Background::start(command, "etcd", self.folder.path().join("log"))?;
        process.wait_until("serving clients", PATIENCE, |log| {
            log.contains("serving insecure client requests")
        })?;
        self.process = Some(process);
        Ok(())
    }

    pub(super) fn options(&self, agent: usize) -> EtcdOptions {
        EtcdOptions {
            endpoints: vec![format!("127.0.0.1:{}", self.ports[0])],
            cluster: "bench".into(),
            node: format!("a{agent}"),
            tls: None,
            user: None,
        }
    }

    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        self.process.as_ref().map_or(Ok(0.0), Background::cpu_seconds)
    }

    pub(super) fn resident_mib(&self) -> Result<u64> {
        Ok(self.process.as_ref().map_or(Ok(0), Background::resident_kib)? / 1024)
    }
}
