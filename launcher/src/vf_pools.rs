//! The pools of VFs on this node, which `hawser node apply` records and from which `hawser run` chooses.

use crate::failure::Failure;
use hawser_host::pci::PciAddress;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Version of the record.
const VERSION: u32 = 1;

/// Name of the file, in the directory of the lease store.
pub(crate) const FILE: &str = "vf-pools.json";

/// The record of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pools {
    version: u32,
    /// Physical functions, in the order of their addresses.
    pub functions: Vec<PfRecord>,
}

/// A physical function that a policy covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PfRecord {
    /// Address of the function.
    pub pf: PciAddress,
    /// Name of its network device when the policies were applied.
    pub name: String,
    /// Number of virtual functions.
    pub num_vfs: u32,
    /// MTU that the policies request.
    pub mtu: Option<u16>,
    /// True if the policies do not change the number of virtual functions.
    pub externally_managed: bool,
    /// Pools of the function.
    pub pools: Vec<Pool>,
}

/// Virtual functions of one physical function in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pool {
    /// `resourceName`
    pub resource: String,
    /// Name of the policy.
    pub policy: String,
    /// `deviceType`
    pub device_type: String,
    /// Number of the first function.
    pub first: u32,
    /// Number of the last one.
    pub last: u32,
}

impl Pools {
    /// The record of the node; an empty one if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is not such a record.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::runtime(format_args!("{}: {error}", path.display()));
        match fs::read(path) {
            Ok(bytes) => {
                let pools: Self = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
                match pools.version {
                    VERSION => Ok(pools),
                    other => Err(failed(&format_args!(
                        "it has version {other}, and this hawser reads {VERSION}"
                    ))),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self {
                version: VERSION,
                functions: Vec::new(),
            }),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Replaces the record of these functions and keeps that of others.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn record(mut self, path: &Path, functions: Vec<PfRecord>) -> Result<(), Failure> {
        let is_replaced = |old: &PfRecord| functions.iter().any(|new| new.pf == old.pf);
        self.functions.retain(|old| !is_replaced(old));
        self.functions.extend(functions);
        self.functions.sort_by_key(|function| function.pf);
        self.write(path)
            .map_err(|error| Failure::runtime(format_args!("{}: {error}", path.display())))
    }

    /// Replaces the whole file, so that a reader finds either the old or the new record.
    fn write(&self, path: &Path) -> io::Result<()> {
        let new = PathBuf::from(format!("{}.new", path.display()));
        fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&new, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_other_policies_stay_in_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let function = |pf: &str, num_vfs| PfRecord {
            pf: pf.parse().unwrap(),
            name: "eth0".into(),
            num_vfs,
            mtu: None,
            externally_managed: false,
            pools: Vec::new(),
        };
        let read = || Pools::read(&path).unwrap();
        assert_eq!(read().functions, []);
        read()
            .record(&path, vec![function("0000:02:00.0", 2), function("0000:01:00.0", 1)])
            .unwrap();
        read().record(&path, vec![function("0000:02:00.0", 7)]).unwrap();
        let numbers: Vec<u32> = read().functions.iter().map(|function| function.num_vfs).collect();
        assert_eq!(numbers, [1, 7]);
        fs::write(&path, "{").unwrap();
        assert!(Pools::read(&path).unwrap_err().to_string().contains(FILE));
    }
}
