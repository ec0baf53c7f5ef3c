//! VMs and their interfaces, by name.

use std::fmt;
use std::str::FromStr;

/// A VM, by its name in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmName {
    /// Namespace of the VM.
    pub namespace: String,
    /// Name of the VM in this namespace.
    pub name: String,
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for VmName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => Ok(Self {
                namespace: namespace.into(),
                name: name.into(),
            }),
            _ => Err("give NAMESPACE/NAME of the VM, such as default/vm1".into()),
        }
    }
}

/// An interface of a VM: the holder of a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// VM that has the interface.
    pub vm: VmName,
    /// Name of the interface.
    pub interface: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {} of VM {}", self.interface, self.vm)
    }
}
