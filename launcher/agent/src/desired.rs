//! The directory of VMs, one of the two sources of VMs that this node serves.
//!
//! Files that operators write determine which VMs this node serves.
//!
//! Each file describes one VM, together with the manifests that all VMs share. A problem in a file concerns its VM
//! only: a running VM continues as before, and a VM that does not run is not started.

use hawser_manifest::check::{Rejected, check_sources};
use hawser_manifest::objects::{MAX_FILE, SourceFile};
use hawser_manifest::plan::layer2::{OtherPorts, TunnelOptions};
use hawser_manifest::plan::options::PlanOptions;
use hawser_manifest::plan::{PlanSetup, VmPlan};
use hawser_store::VmName;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Files by their paths.
type Files = BTreeMap<PathBuf, Stamp>;

/// Distinguishes versions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

/// The directory, and the files that its VMs share.
#[derive(Debug)]
pub(crate) struct VmDir {
    vm_dir: Option<PathBuf>,
    shared: Vec<PathBuf>,
    seen: Option<(Files, Files)>,
}

/// Where a VM is described.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// A file of the directory.
    File(PathBuf),
    /// An object in the store.
    Store(VmName),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Store(vm) => write!(f, "VM {vm} in the store"),
        }
    }
}

/// The descriptions of a source.
pub(crate) type Descriptions = BTreeMap<Origin, Described>;

/// What a source describes.
#[derive(Clone, Debug)]
pub(crate) enum Described {
    /// A VM that can be served.
    Vm(Arc<VmFile>),
    /// Nothing that can be served. Contains the problem, with file and line.
    Wrong(String),
}

/// A VM and the files that describe it.
#[derive(Clone, Debug)]
pub(crate) struct VmFile {
    /// The source.
    pub origin: Origin,
    /// Content of the VM's file, followed by that of the shared files.
    pub sources: Vec<SourceFile>,
    /// How the VM gets its ports.
    pub terms: Terms,
    /// The plan, without leases. The paths of its sockets have no directory.
    pub plan: VmPlan,
}

/// How a VM gets its ports on networks that span nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// A node that is known to be off. Ports that it has bound are taken over.
    pub fenced: Option<String>,
    /// The node on which the VM runs. Its ports are taken over once the guest runs here.
    pub arrives_from: Option<String>,
}

impl VmDir {
    pub(crate) fn new(vm_dir: Option<&Path>, shared: &[PathBuf]) -> Self {
        Self {
            vm_dir: vm_dir.map(Path::to_owned),
            shared: shared.to_vec(),
            seen: None,
        }
    }

    /// The description in each file, by its path; `None` if nothing has changed since the last call.
    ///
    /// # Errors
    /// The directory or a shared file cannot be read. The known descriptions stay as they are.
    pub(crate) fn changed(&mut self) -> Result<Option<Descriptions>, String> {
        let mut own = Files::new();
        if let Some(vm_dir) = &self.vm_dir {
            list(vm_dir, &mut own).map_err(|error| unreadable(vm_dir, &error))?;
        }
        let mut shared = Files::new();
        for path in &self.shared {
            list(path, &mut shared).map_err(|error| unreadable(path, &error))?;
        }
        let found = (own, shared);
        if self.seen.as_ref() == Some(&found) {
            return Ok(None);
        }
        let read_all = |files: &Files| files.keys().map(|path| read(path)).collect::<Result<Vec<_>, String>>();
        let common = read_all(&found.1)?;
        let describe = |path: &PathBuf| {
            let origin = Origin::File(path.clone());
            let with_common = |own| [own].into_iter().chain(common.iter().cloned()).collect();
            let described = read(path).map(|own| describe(origin.clone(), with_common(own), Terms::default()));
            (origin, described.unwrap_or_else(Described::Wrong))
        };
        let described = found.0.keys().map(describe).collect();
        self.seen = Some(found);
        Ok(Some(described))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Describes the only VM of these files.
pub(crate) fn describe(origin: Origin, sources: Vec<SourceFile>, terms: Terms) -> Described {
    let options = plan_options();
    let setup = PlanSetup::new(Path::new(""), &options);
    match check_sources(&sources, &setup) {
        Ok(checked) => Described::Vm(Arc::new(VmFile {
            origin,
            sources,
            terms,
            plan: checked.plan,
        })),
        Err(rejected) => Described::Wrong(text(&rejected)),
    }
}

/// The options with which manifests are planned before a node has chosen the UDP ports of a VM.
pub(crate) fn plan_options() -> PlanOptions {
    let tunnels = TunnelOptions {
        other_ports: OtherPorts::Later,
        ..TunnelOptions::default()
    };
    PlanOptions {
        tunnels,
        ..PlanOptions::default()
    }
}

/// All errors, one per line.
fn text(rejected: &Rejected) -> String {
    let lines: Vec<String> = rejected.errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Adds the manifests of a directory, or the file itself, to `files`.
fn list(path: &Path, files: &mut Files) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        let modified = metadata.modified().ok();
        let length = metadata.len();
        files.insert(path.to_owned(), Stamp { modified, length });
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !path.is_dir() && extension.is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json")) {
            match list(&path, files) {
                // The file was removed in the meantime.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                listed => listed?,
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<SourceFile, String> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(io::Error::other(format!(
                "it is larger than any manifest ({MAX_FILE} bytes)"
            )));
        }
        Ok(text)
    };
    let text = read().map_err(|error| unreadable(path, &error))?;
    let name = path.display().to_string();
    Ok(SourceFile { name, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: vm}\nspec:\n  domain: \
                      {devices: {interfaces: [{name: default, masquerade: {}}]}}\n  networks: [{name: default, pod: \
                      {}}]\n";

    #[test]
    fn a_wrong_file_concerns_its_own_vm_only() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), VM).unwrap();
        fs::write(folder.path().join("b.yaml"), VM.replace("masquerade", "masqerade")).unwrap();
        fs::write(folder.path().join("notes.txt"), "no manifest").unwrap();
        let mut watched = VmDir::new(Some(folder.path()), &[]);
        let described = watched.changed().unwrap().unwrap();
        let described: Vec<_> = described.values().collect();
        let [Described::Vm(vm), Described::Wrong(problem)] = described[..] else {
            panic!("{described:?}");
        };
        assert_eq!(vm.plan.name, "vm");
        assert!(
            problem.contains("b.yaml:5: ") && problem.contains("masqerade"),
            "{problem}"
        );
        assert!(watched.changed().unwrap().is_none());
    }

    #[test]
    fn a_file_that_changes_or_goes_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().join("shared.yaml");
        let own = folder.path().join("vms");
        fs::create_dir(&own).unwrap();
        fs::write(&shared, "").unwrap();
        let mut watched = VmDir::new(Some(&own), std::slice::from_ref(&shared));
        assert!(watched.changed().unwrap().unwrap().is_empty());
        fs::write(own.join("a.json"), VM).unwrap();
        assert_eq!(watched.changed().unwrap().unwrap().len(), 1);
        fs::write(&shared, "# another length").unwrap();
        assert_eq!(watched.changed().unwrap().unwrap().len(), 1);
        fs::remove_file(own.join("a.json")).unwrap();
        assert!(watched.changed().unwrap().unwrap().is_empty());
        fs::remove_file(&shared).unwrap();
        let error = watched.changed().unwrap_err();
        assert!(error.contains("shared.yaml: No such file"), "{error}");
    }
}
