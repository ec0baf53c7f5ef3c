//! Values of the records, as JSON. Unknown fields are ignored, so that a later version may add some.

use crate::bindings::{Binding, Bound, Change, Epoch, PortId};
use crate::error::StoreProblem;
use crate::holder::{Holder, VmName};
use crate::lease::Lease;
use crate::liveness::ProcessId;
use crate::network::NetworkRecord;
use crate::segment::Segment;
use hawser_packet::geneve::Vni;
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Number of the layout that this version writes.
pub(super) const LAYOUT: i64 = 1;

/// Layout of the store.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SchemaValue {
    pub layout: i64,
}

/// Leases of a VM.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct VmValue {
    leases: Vec<LeaseValue>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeaseValue {
    interface: String,
    network: String,
    segment: String,
    mac: Option<String>,
    addresses: Vec<IpNet>,
}

/// Holder of a MAC or an address.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HolderValue {
    namespace: String,
    vm: String,
    interface: String,
}

/// Identity of a network.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NetworkValue {
    name: String,
    vni: u32,
    subnets: Vec<IpNet>,
}

/// Last state of a port.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PortValue {
    epoch: u32,
    /// Binding of the port. `None`: the port is not bound.
    binding: Option<BindingValue>,
}

#[derive(Debug, Serialize, Deserialize)]
struct BindingValue {
    node: String,
    process: String,
    mac: String,
    addresses: Vec<IpAddr>,
    vtep: SocketAddr,
}

/// Lowest epoch of a port without a record.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct FloorValue {
    pub epoch: u32,
}

/// Serialises a record's value as JSON.
pub(super) fn written(value: &impl Serialize) -> Result<Vec<u8>, StoreProblem> {
    serde_json::to_vec(value).map_err(|error| StoreProblem::Other(format!("a record cannot be written: {error}")))
}

/// Parses a record.
pub(super) fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StoreProblem> {
    serde_json::from_slice(value).map_err(|error| damaged(key, &error.to_string()))
}

/// The problem of a record that cannot be used.
pub(super) fn damaged(key: &str, problem: &str) -> StoreProblem {
    StoreProblem::Record {
        key: key.to_owned(),
        problem: problem.to_owned(),
    }
}

impl VmValue {
    pub(super) fn of(leases: &[Lease]) -> Self {
        let leases = leases.iter().map(|lease| LeaseValue {
            interface: lease.holder.interface.clone(),
            network: lease.network.clone(),
            segment: lease.segment.key(),
            mac: lease.mac.map(|mac| mac.to_string()),
            addresses: lease.addresses.clone(),
        });
        Self {
            leases: leases.collect(),
        }
    }

    pub(super) fn leases(self, vm: &VmName, key: &str) -> Result<Vec<Lease>, StoreProblem> {
        let lease = |value: LeaseValue| {
            let mac = value.mac.map(|mac| mac.parse()).transpose();
            Ok(Lease {
                holder: Holder {
                    vm: vm.clone(),
                    interface: value.interface,
                },
                network: value.network,
                segment: Segment::from_key(&value.segment)
                    .ok_or_else(|| damaged(key, "its segment has no known kind"))?,
                mac: mac.map_err(|_| damaged(key, "its MAC is not valid"))?,
                addresses: value.addresses,
            })
        };
        let mut leases: Vec<Lease> = self.leases.into_iter().map(lease).collect::<Result<_, _>>()?;
        leases.sort_by(|a, b| a.holder.cmp(&b.holder));
        Ok(leases)
    }
}

impl From<&Holder> for HolderValue {
    fn from(holder: &Holder) -> Self {
        Self {
            namespace: holder.vm.namespace.clone(),
            vm: holder.vm.name.clone(),
            interface: holder.interface.clone(),
        }
    }
}

impl From<HolderValue> for Holder {
    fn from(value: HolderValue) -> Self {
        Self {
            vm: VmName {
                namespace: value.namespace,
                name: value.vm,
            },
            interface: value.interface,
        }
    }
}

impl From<&NetworkRecord> for NetworkValue {
    fn from(network: &NetworkRecord) -> Self {
        Self {
            name: network.name.clone(),
            vni: network.vni.into(),
            subnets: network.subnets.clone(),
        }
    }
}

impl NetworkValue {
    pub(super) fn record(self, key: &str) -> Result<NetworkRecord, StoreProblem> {
        Ok(NetworkRecord {
            name: self.name,
            vni: Vni::try_from(self.vni).map_err(|_| damaged(key, "its vni is not a valid VNI"))?,
            subnets: self.subnets,
        })
    }
}

impl PortValue {
    pub(super) fn of(change: &Change) -> Self {
        let (epoch, binding) = match change {
            Change::Bound(bound) => (bound.epoch, Some(&bound.binding)),
            Change::Unbound { epoch, .. } => (*epoch, None),
        };
        let binding = binding.map(|binding| BindingValue {
            node: binding.process.node.clone(),
            process: binding.process.process.clone(),
            mac: binding.mac.to_string(),
            addresses: binding.addresses.clone(),
            vtep: binding.vtep,
        });
        let epoch = epoch.0;
        Self { epoch, binding }
    }

    /// The last change of `port`.
    pub(super) fn change(self, port: PortId, key: &str) -> Result<Change, StoreProblem> {
        let epoch = Epoch(self.epoch);
        let Some(binding) = self.binding else {
            return Ok(Change::Unbound { port, epoch });
        };
        let binding = Binding {
            process: ProcessId {
                node: binding.node,
                process: binding.process,
            },
            mac: binding.mac.parse().map_err(|_| damaged(key, "its MAC is not valid"))?,
            addresses: binding.addresses,
            vtep: binding.vtep,
        };
        Ok(Change::Bound(Bound { port, epoch, binding }))
    }
}
