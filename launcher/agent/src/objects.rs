//! The records of a cluster, and their keys.
//!
//! | key | record |
//! |---|---|
//! | `vm/NAMESPACE/NAME` | [`VmObject`]: the manifest, and where and whether the VM is to run |
//! | `placed/NODE/NAMESPACE/NAME` | [`PlacedVm`]: the part of it that its node needs; written together with it |
//! | `pending/NAMESPACE/NAME` | empty; a VM without a node |
//! | `status/NAMESPACE/NAME` | [`VmStatus`], written by the node |
//! | `arrival/NAMESPACE/NAME` | the same of a VM that moves while it runs, written by the node that it moves to |
//! | `object/KIND/NAMESPACE/NAME` | [`OtherObject`]; the namespace is `-` for kinds without one |
//! | `report/KIND/-/NAME` | [`OtherObject`] that an agent writes to report a state |
//! | `node/NAME` | [`NodeObject`] |
//!
//! Every value has a version. An agent refuses the record of a newer agent by its name.

use crate::history::Event;
use hawser_store::VmName;
use hawser_store::records::{Record, RecordKey};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Version of all values.
const VERSION: u32 = 1;
/// The part of a key for objects without a namespace.
const NO_NAMESPACE: &str = "-";
/// Label with the name of a node.
pub(crate) const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// Whether a VM is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Power {
    /// Its process runs.
    #[default]
    On,
    /// Its process does not run. Its MAC and addresses stay leased.
    Off,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VmObject {
    pub manifest: Value,
    /// Seconds since 1970.
    pub created: u64,
    /// Labels that the node must have.
    pub selector: BTreeMap<String, String>,
    /// The node that the VM is placed on.
    pub node: Option<String>,
    /// The reason why it is placed on none.
    pub reason: String,
    pub power: Power,
    /// True once the VM is to be deleted. The node stops it, releases its leases and then removes the record.
    pub is_deleted: bool,
    /// A node that is known to be off. The VM's new node takes over the ports that this node has bound.
    pub fenced: Option<String>,
    /// A move while the VM runs.
    #[serde(default)]
    pub moving: Option<Moving>,
}

/// A move of a VM that runs. Both nodes have a process; that of the target is silent until the guest runs there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Moving {
    /// The node that the VM moves to.
    pub to: String,
    /// True once that node takes over the ports. The move can no longer be cancelled.
    pub is_flipping: bool,
}

/// A VM, for its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlacedVm {
    pub manifest: Value,
    pub power: Power,
    pub is_deleted: bool,
    pub fenced: Option<String>,
    /// The node on which the VM runs, if it is to arrive from there.
    #[serde(default)]
    pub arrives_from: Option<String>,
}

impl VmObject {
    /// The record for the node that the VM moves to.
    pub(crate) fn arriving(&self) -> PlacedVm {
        PlacedVm {
            arrives_from: self.node.clone(),
            ..self.placed()
        }
    }

    pub(crate) fn placed(&self) -> PlacedVm {
        PlacedVm {
            manifest: self.manifest.clone(),
            power: self.power,
            is_deleted: self.is_deleted,
            fenced: self.fenced.clone(),
            arrives_from: None,
        }
    }
}

/// An object other than a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OtherObject {
    pub manifest: Value,
    /// Seconds since 1970.
    pub created: u64,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeObject {
    /// Identifies the agent's directory. Two agents with one name have different ones.
    pub instance: String,
    /// Name of the host, for people.
    pub host: String,
    pub labels: BTreeMap<String, String>,
    /// Address to which other nodes send frames, if it is known.
    pub vtep: Option<String>,
    /// Version of the agent.
    pub version: String,
    /// Seconds since 1970.
    pub created: u64,
}

/// State of a VM on its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VmStatus {
    /// The node that reports this.
    pub node: String,
    /// Waiting, Starting, Running, Stopping or Stopped.
    pub phase: String,
    /// The reason why it waits, or the problem of its newest manifest.
    pub message: String,
    /// Directory of its sockets on the node.
    pub folder: PathBuf,
    /// Interfaces with leases.
    pub interfaces: Vec<InterfaceStatus>,
    /// The newest events on this node, oldest first.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// State of an interface with a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InterfaceStatus {
    /// Name of the interface.
    pub name: String,
    /// Name of its network.
    pub network: String,
    /// MAC of the guest's NIC.
    pub mac: Option<String>,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// Tunnel endpoint of the interface, on a network that spans nodes.
    pub vtep: Option<String>,
}

/// A value with its version.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u32,
    #[serde(flatten)]
    value: T,
}

/// The text of a record.
pub(crate) fn text<T: Serialize>(value: &T) -> String {
    // This fails only for maps with keys other than text, and there are none.
    serde_json::to_string(&Versioned { v: VERSION, value }).unwrap_or_default()
}

/// The value of a record.
///
/// # Errors
/// A newer agent has written the record, or it is damaged.
pub(crate) fn value<T: DeserializeOwned>(record: &Record) -> Result<T, String> {
    #[derive(Deserialize)]
    struct OnlyVersion {
        v: u32,
    }
    let key = &record.key;
    let damaged =
        |error: serde_json::Error| format!("the record {key} cannot be read: {error}; apply its object again");
    let OnlyVersion { v } = serde_json::from_str(&record.text).map_err(damaged)?;
    if v > VERSION {
        return Err(format!(
            "a newer hawser-agent wrote the record {key} (version {v}, this one supports {VERSION}): upgrade this agent"
        ));
    }
    let Versioned { value, .. } = serde_json::from_str(&record.text).map_err(damaged)?;
    Ok(value)
}

/// Keys of VMs.
pub(crate) fn vm_key(vm: &VmName) -> RecordKey {
    RecordKey::new(["vm", &vm.namespace, &vm.name])
}

pub(crate) fn vms() -> RecordKey {
    RecordKey::new(["vm"])
}

/// The VM of a key that ends with its namespace and name.
pub(crate) fn vm_of(key: &RecordKey) -> Option<VmName> {
    let [.., namespace, name] = key.parts() else {
        return None;
    };
    Some(VmName {
        namespace: namespace.clone(),
        name: name.clone(),
    })
}

pub(crate) fn placed_key(node: &str, vm: &VmName) -> RecordKey {
    RecordKey::new(["placed", node, &vm.namespace, &vm.name])
}

pub(crate) fn placed_on(node: &str) -> RecordKey {
    RecordKey::new(["placed", node])
}

pub(crate) fn placed() -> RecordKey {
    RecordKey::new(["placed"])
}

pub(crate) fn pending_key(vm: &VmName) -> RecordKey {
    RecordKey::new(["pending", &vm.namespace, &vm.name])
}

pub(crate) fn pending() -> RecordKey {
    RecordKey::new(["pending"])
}

pub(crate) fn status_key(vm: &VmName) -> RecordKey {
    RecordKey::new(["status", &vm.namespace, &vm.name])
}

pub(crate) fn statuses() -> RecordKey {
    RecordKey::new(["status"])
}

pub(crate) fn arrival_key(vm: &VmName) -> RecordKey {
    RecordKey::new(["arrival", &vm.namespace, &vm.name])
}

/// True for the key of an [arrival](arrival_key).
pub(crate) fn is_arrival(key: &RecordKey) -> bool {
    key.parts().first().is_some_and(|part| part == "arrival")
}

pub(crate) fn object_key(kind: &str, namespace: Option<&str>, name: &str) -> RecordKey {
    RecordKey::new(["object", kind, namespace.unwrap_or(NO_NAMESPACE), name])
}

pub(crate) fn objects() -> RecordKey {
    RecordKey::new(["object"])
}

pub(crate) fn objects_of(kind: &str) -> RecordKey {
    RecordKey::new(["object", kind])
}

pub(crate) fn report_key(kind: &str, name: &str) -> RecordKey {
    RecordKey::new(["report", kind, NO_NAMESPACE, name])
}

pub(crate) fn reports_of(kind: &str) -> RecordKey {
    RecordKey::new(["report", kind])
}

/// The namespace in the key of an object.
pub(crate) fn namespace_of(key: &RecordKey) -> Option<&str> {
    let namespace = key.parts().get(2)?;
    (namespace != NO_NAMESPACE).then_some(namespace)
}

pub(crate) fn node_key(name: &str) -> RecordKey {
    RecordKey::new(["node", name])
}

pub(crate) fn nodes() -> RecordKey {
    RecordKey::new(["node"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: String) -> Record {
        Record {
            key: node_key("n1"),
            version: 1,
            text,
        }
    }

    #[test]
    fn a_record_is_read_back_and_one_of_a_newer_agent_is_refused_by_its_name() {
        let object = OtherObject {
            manifest: serde_json::json!({"kind": "Service"}),
            created: 5,
        };
        let written = text(&object);
        assert_eq!(value::<OtherObject>(&record(written.clone())), Ok(object));
        let newer = written.replace("\"v\":1", "\"v\":2");
        let error = value::<OtherObject>(&record(newer)).unwrap_err();
        assert!(error.contains("node/n1") && error.contains("newer"), "{error}");
        let error = value::<OtherObject>(&record("{}".into())).unwrap_err();
        assert!(error.contains("node/n1") && error.contains("cannot be read"), "{error}");
    }

    #[test]
    fn keys_contain_the_names_of_their_objects() {
        let vm: VmName = "blue/web".parse().unwrap();
        assert_eq!(vm_of(&placed_key("n1", &vm)), Some(vm.clone()));
        assert_eq!(vm_of(&vm_key(&vm)), Some(vm));
        assert_eq!(namespace_of(&object_key("Service", Some("blue"), "db")), Some("blue"));
        assert_eq!(namespace_of(&object_key("Namespace", None, "blue")), None);
    }
}
