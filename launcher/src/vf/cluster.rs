//! The virtual functions that a cluster has chosen for a pod, which hawser then uses and no other.
//!
//! KubeVirt writes the choice of Multus to a file of the pod (`network-info`, by the downward API), often some time after
//! the pod has started: the file is waited for. Without it, the device plugin's choice is in the environment, as
//! `PCIDEVICE_` and the name of the resource.

use crate::failure::Failure;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for the file. KubeVirt has written it up to two minutes late (its issue 13659).
const PATIENCE: Duration = Duration::from_secs(120);
/// Interval at which the file is read.
const LOOK: Duration = Duration::from_millis(100);
/// Prefix of the device plugin's variables.
const PREFIX: &str = "PCIDEVICE_";

/// Where a cluster tells its choice.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    /// KubeVirt's file, if hawser is to use it.
    network_info: Option<PathBuf>,
}

/// The content of KubeVirt's file (`NetworkInfo` in pkg/network/downwardapi).
#[derive(Debug, Deserialize)]
struct NetworkInfo {
    #[serde(default)]
    interfaces: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    network: String,
    #[serde(rename = "deviceInfo")]
    device: Option<DeviceInfo>,
}

/// The device of a network (`DeviceInfo` of the network-attachment-definition client).
#[derive(Debug, Deserialize)]
struct DeviceInfo {
    pci: Option<PciDevice>,
}

#[derive(Debug, Deserialize)]
struct PciDevice {
    #[serde(rename = "pci-address")]
    address: String,
}

/// The reason why the file does not name a function.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Lack {
    #[error("cannot be read ({0})")]
    Unread(String),
    #[error("is empty")]
    Empty,
    #[error("is not KubeVirt's JSON ({0})")]
    Json(String),
    #[error("names no PCI address for it")]
    Interface,
}

impl Cluster {
    /// The choice in KubeVirt's file, if there is one, and in the environment.
    pub(crate) const fn new(network_info: Option<PathBuf>) -> Self {
        Self { network_info }
    }

    /// The functions among which the cluster leaves the choice for an interface. `None` if it has made none.
    ///
    /// # Errors
    /// KubeVirt's file does not name the function of the interface in time.
    pub(super) fn candidates(&self, interface: &str, resource: Option<&str>) -> Result<Option<Vec<String>>, Failure> {
        match &self.network_info {
            Some(file) => wait(file, interface, PATIENCE).map(|device| Some(vec![device])),
            None => Ok(resource.and_then(|resource| of_plugin(std::env::vars(), resource))),
        }
    }
}

fn wait(file: &Path, interface: &str, patience: Duration) -> Result<String, Failure> {
    let deadline = Instant::now() + patience;
    loop {
        let text = std::fs::read_to_string(file).map_err(|error| Lack::Unread(error.to_string()));
        let lack = match text.and_then(|text| address(&text, interface)) {
            Ok(address) => return Ok(address),
            Err(lack) => lack,
        };
        if Instant::now() >= deadline {
            return Err(Failure::runtime(format_args!(
                "--network-info={} {lack} after {} s: check the pod's annotation kubevirt.io/network-info, or leave the \
                 option out",
                file.display(),
                patience.as_secs()
            ))
            .of(interface));
        }
        thread::sleep(LOOK);
    }
}

/// The PCI address of an interface in KubeVirt's file.
fn address(text: &str, interface: &str) -> Result<String, Lack> {
    if text.trim().is_empty() {
        return Err(Lack::Empty);
    }
    let info: NetworkInfo = serde_json::from_str(text).map_err(|error| Lack::Json(error.to_string()))?;
    let entry = info.interfaces.into_iter().find(|entry| entry.network == interface);
    let device = entry.and_then(|entry| entry.device?.pci);
    device
        .map(|pci| pci.address.to_ascii_lowercase())
        .ok_or(Lack::Interface)
}

/// The addresses in the variable of a resource. Its name has the prefix of a domain, which a SriovNetwork leaves out.
fn of_plugin(variables: impl Iterator<Item = (String, String)>, resource: &str) -> Option<Vec<String>> {
    let letter = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() => letter.to_ascii_uppercase(),
        _ => '_',
    };
    let resource: String = resource.chars().map(letter).collect();
    let is_of_resource = |name: &str| {
        let rest = name.strip_prefix(PREFIX);
        rest.is_some_and(|rest| rest == resource || rest.ends_with(&format!("_{resource}")))
    };
    let (_, value) = variables.into_iter().find(|(name, _)| is_of_resource(name))?;
    let addresses = value.split(',').map(str::trim).filter(|address| !address.is_empty());
    let addresses: Vec<String> = addresses.map(str::to_ascii_lowercase).collect();
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = r#"{"interfaces":[{"network":"blue","mac":"02:00:00:00:00:01"},{"network":"nic1","deviceInfo":
        {"type":"pci","version":"1.0.0","pci":{"pci-address":"0000:3B:02.1"}}}]}"#;

    #[test]
    fn the_file_of_kubevirt_names_the_function_of_an_interface_or_the_reason_why_not() {
        assert_eq!(address(INFO, "nic1").as_deref(), Ok("0000:3b:02.1"));
        assert_eq!(address(INFO, "blue"), Err(Lack::Interface));
        assert_eq!(address(INFO, "red"), Err(Lack::Interface));
        assert_eq!(address(" \n", "nic1"), Err(Lack::Empty));
        assert!(matches!(address("{", "nic1"), Err(Lack::Json(_))));
    }

    #[test]
    fn the_file_is_waited_for_with_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("network-info");
        let late = file.clone();
        let writer = thread::spawn(move || {
            std::fs::write(&late, "").unwrap();
            thread::sleep(LOOK);
            std::fs::write(&late, INFO).unwrap();
        });
        assert_eq!(wait(&file, "nic1", PATIENCE).unwrap(), "0000:3b:02.1");
        writer.join().unwrap();
        let error = wait(&file, "red", Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("names no PCI address for it after 0 s"), "{error}");
        let error = wait(&folder.path().join("none"), "nic1", Duration::ZERO);
        assert!(error.unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn the_variable_of_the_device_plugin_names_the_functions_of_a_resource() {
        let variables = || {
            let pairs = [
                ("PATH", "/bin"),
                ("PCIDEVICE_OPENSHIFT_IO_NICS_INFO", "{}"),
                ("PCIDEVICE_OPENSHIFT_IO_NICS", "0000:01:10.0,0000:01:10.2"),
                ("PCIDEVICE_INTEL_COM_FAST_NICS2", ""),
            ];
            pairs
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let expected = vec!["0000:01:10.0".to_owned(), "0000:01:10.2".to_owned()];
        assert_eq!(of_plugin(variables(), "nics"), Some(expected));
        assert_eq!(of_plugin(variables(), "fast-nics2"), None);
        assert_eq!(of_plugin(variables(), "ics"), None);
    }
}
