//! The files that the process of a VM reads: its manifests, and a store of its own with its leases.

use super::Vm;
use crate::desired::VmFile;
use crate::peers::replace;
use hawser_manifest::plan::VmPlan;
use hawser_store::sqlite::{Access, Sqlite};
use hawser_store::{Store as _, StoreError, StoreProblem, agreement};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

impl Vm {
    /// Stores the manifests as they were checked, so that a restarted process does not read a later, invalid version.
    pub(super) fn write_manifests(&self, file: &VmFile) -> io::Result<()> {
        let folder = self.folder.manifests();
        fs::create_dir_all(&folder)?;
        let mut written = BTreeSet::new();
        for (number, source) in file.sources.iter().enumerate() {
            let name = Path::new(&source.name)
                .file_name()
                .unwrap_or_default()
                .to_string_lossy();
            let path = folder.join(format!("{number:02}-{name}"));
            replace(&path, &source.text)?;
            written.insert(path);
        }
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if !written.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Writes the leases into the private store of the VM's process, which then leases the same MACs and addresses.
    pub(super) fn seed(&self, plan: &VmPlan) -> Result<(), StoreError> {
        match self.try_seed(plan) {
            // The host has crashed. The agent's store has all records.
            Err(error) if matches!(error.problem, StoreProblem::Damaged(_) | StoreProblem::Foreign) => {
                log::warn!("VM {}: {error}: it is made again", self.name);
                let store = self.folder.store();
                let mut journal = store.clone().into_os_string();
                journal.push("-journal");
                for path in [journal.as_ref(), store.as_path()] {
                    // It may not exist. If it stays, the next attempt tells why.
                    let _ = fs::remove_file(path);
                }
                self.try_seed(plan)
            }
            seeded => seeded,
        }
    }

    fn try_seed(&self, plan: &VmPlan) -> Result<(), StoreError> {
        let mut own = Sqlite::open(&self.folder.store(), Access::MakeCopy)?;
        let seeded: Result<(), agreement::NetworkError> = own.step(|ledger| {
            for lease in ledger.leases(None)? {
                ledger.remove(&lease.holder)?;
            }
            agreement::agree(ledger, &self.name, &hawser_leases::networks(plan))?;
            for lease in &self.leases {
                ledger.put(lease)?;
            }
            Ok(())
        });
        match seeded {
            Ok(()) => Ok(()),
            Err(agreement::NetworkError::Store(error)) => Err(error),
            // No other VM has a lease in that store.
            Err(error) => {
                log::error!("VM {}: {error}", self.name);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::desired::{Described, Origin, Terms, describe};
    use clap::Parser as _;
    use hawser_manifest::objects::SourceFile;
    use hawser_packet::MacRange;
    use std::time::Instant;

    const VM: &str = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: vm, namespace: blue}\n\
                      spec:\n  domain: {devices: {interfaces: [{name: default, masquerade: {}}]}}\n  networks: [{name: \
                      default, pod: {}}]\n";

    #[test]
    fn a_store_that_a_crash_of_the_host_has_damaged_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = format!("--run-dir={}", folder.path().display());
        let cli = Cli::parse_from(["hawser-agent", "serve", &run_dir]);
        let Command::Serve(args) = cli.command else { panic!() };
        let source = SourceFile {
            name: "vm.yaml".into(),
            text: VM.into(),
        };
        let Described::Vm(file) = describe(Origin::File("vm.yaml".into()), vec![source], Terms::default()) else {
            panic!()
        };
        let mut vm = Vm::new(&args, hawser_leases::vm_of(&file.plan), Instant::now());
        fs::create_dir_all(vm.folder.path()).unwrap();
        let mut store = Sqlite::open(&folder.path().join("all.db"), Access::Make).unwrap();
        vm.leases = hawser_leases::reserve(&mut store, &file.plan, &MacRange::DEFAULT).unwrap();
        assert_eq!(vm.leases.len(), 1);
        vm.seed(&file.plan).unwrap();
        let size = usize::try_from(fs::metadata(vm.folder.store()).unwrap().len()).unwrap();
        for damaged in [vec![0; size], vec![7; size], b"SQLite format 3\0".repeat(size / 16)] {
            fs::write(vm.folder.store(), damaged).unwrap();
            vm.seed(&file.plan).unwrap();
            let own = Sqlite::open(&vm.folder.store(), Access::Read).unwrap();
            assert_eq!(own.leases(None).unwrap(), vm.leases);
        }
    }
}
