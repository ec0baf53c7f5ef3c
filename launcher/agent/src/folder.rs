//! The directory with the sockets, leases and peers of a VM's process.

use hawser_store::VmName;
use std::path::{Path, PathBuf};

/// The directory of a VM's process.
#[derive(Clone, Debug)]
pub(crate) struct VmFolder(PathBuf);

impl VmFolder {
    pub(crate) fn of(run_dir: &Path, vm: &VmName) -> Self {
        Self(run_dir.join("vms").join(format!("{}.{}", vm.namespace, vm.name)))
    }

    /// The VMs that have a directory.
    pub(crate) fn all(run_dir: &Path) -> Vec<VmName> {
        let Ok(entries) = std::fs::read_dir(run_dir.join("vms")) else {
            return Vec::new();
        };
        let name = |entry: std::fs::DirEntry| {
            // The name of a namespace contains no dot, but the name of a VM may.
            let name = entry.file_name().into_string().ok()?;
            let (namespace, name) = name.split_once('.')?;
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Some(VmName { namespace, name })
        };
        entries.flatten().filter_map(name).collect()
    }

    /// Path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The manifests with which the process was started, or which it has adopted since.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }

    /// The ports that the VM has in the store.
    pub(crate) fn ports(&self) -> PathBuf {
        self.0.join("ports.json")
    }

    /// PID and start time of the process.
    pub(crate) fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }

    /// Output of the process.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("hawser.log")
    }

    /// The socket on which the process reports that it is ready.
    pub(crate) fn reports(&self) -> PathBuf {
        self.0.join("notify.sock")
    }

    /// The socket of the process's API.
    pub(crate) fn api(&self) -> PathBuf {
        self.0.join("api.sock")
    }

    /// The arguments of the process, if it is a unit of systemd.
    pub(crate) fn unit(&self) -> PathBuf {
        self.0.join("unit.env")
    }

    /// What the agent has made of the process's network namespace.
    pub(crate) fn netns(&self) -> PathBuf {
        self.0.join("netns.json")
    }

    /// Output of the last run of the operator's program for network namespaces.
    pub(crate) fn netns_log(&self) -> PathBuf {
        self.0.join("netns.log")
    }

    /// Output of the last `hawser plug`.
    pub(crate) fn plug_log(&self) -> PathBuf {
        self.0.join("plug.log")
    }

    /// The store of the process: the leases of this VM only.
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store.db")
    }

    /// The peers file of a network.
    pub(crate) fn peers(&self, network: &str) -> PathBuf {
        self.0.join(format!("peers-{}", network.replace('/', ".")))
    }
}
