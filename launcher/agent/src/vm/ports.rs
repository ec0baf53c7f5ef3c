//! The ports of a VM on networks that span nodes: bound before its process starts, and unbound after it has ended. A file
//! in the VM's directory lets a later agent unbind them.

use super::{Obstacle, Site, Vm, unwritable};
use crate::peers::replace;
use crate::store::AgentStore;
use hawser_manifest::plan::VmPlan;
use hawser_store::bindings::{BindError, Binding, Bound, Epoch, Epochs as _, PortId, Watch as _};
use hawser_store::liveness::ProcessId;
use hawser_store::{Holder, StoreError};
use std::fs;
use std::net::SocketAddr;

/// A port of the VM on a network that spans nodes.
#[derive(Clone, Debug)]
pub(crate) struct OwnPort {
    pub port: PortId,
    pub binding: Binding,
    pub(super) epoch: Epoch,
}

/// The data with which a later agent can unbind a port.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct KnownPort {
    network: String,
    interface: String,
    epoch: u32,
}

impl KnownPort {
    fn of(own: &OwnPort) -> Self {
        Self {
            network: own.port.network.clone(),
            interface: own.port.holder.interface.clone(),
            epoch: own.epoch.0,
        }
    }
}

impl Vm {
    /// Unbinds the ports of the VM, including those that an earlier agent has bound.
    pub(super) fn give_back(&mut self, store: &mut AgentStore) -> Result<(), StoreError> {
        let mut ports: Vec<KnownPort> = self.ports.iter().map(KnownPort::of).collect();
        if ports.is_empty() {
            let text = fs::read_to_string(self.folder.ports()).unwrap_or_default();
            ports = serde_json::from_str(&text).unwrap_or_default();
        }
        for KnownPort {
            network,
            interface,
            epoch,
        } in ports
        {
            let vm = self.name.clone();
            let holder = Holder { vm, interface };
            match store.unbind(&PortId { network, holder }, Epoch(epoch)) {
                // Another node already has the port.
                Ok(()) | Err(BindError::Fenced { .. }) => {}
                Err(BindError::Store(error)) => return Err(error),
            }
        }
        self.ports.clear();
        self.accepted = None;
        // The file is written again with the next ports.
        let _ = fs::remove_file(self.folder.ports());
        Ok(())
    }

    /// Binds the ports of a plan that this node has not bound yet.
    pub(super) fn claim_ports(
        &mut self,
        plan: &VmPlan,
        store: &mut AgentStore,
        site: &mut Site<'_>,
    ) -> Result<(), Obstacle> {
        let fenced = self.file.as_ref().and_then(|file| file.fenced.clone());
        for nic in &plan.nics {
            let Some(layer2) = nic.mode.layer2() else { continue };
            let port = PortId {
                network: layer2.network.network.clone(),
                holder: Holder {
                    vm: self.name.clone(),
                    interface: nic.name.clone(),
                },
            };
            if self.ports.iter().any(|known| known.port == port) {
                continue;
            }
            let lease = self.leases.iter().find(|lease| lease.holder == port.holder);
            let lease = lease.ok_or_else(|| format!("interface {} has no lease", nic.name))?;
            let mac = nic.mac.or(lease.mac);
            let mac = mac.ok_or_else(|| format!("interface {} has no MAC: give macAddress", nic.name))?;
            let own = ProcessId {
                node: site.node.to_owned(),
                process: self.name.to_string(),
            };
            let is_own = |found: &Bound| found.binding.process == own;
            // A port that an earlier agent has bound keeps its UDP port, because the process listens on it.
            let found = store.bound(&port).map_err(|error| error.to_string())?;
            let is_free = |found: &Bound| is_own(found) || fenced.as_ref() == Some(&found.binding.process.node);
            if let Some(other) = found.as_ref().filter(|found| !is_free(found)) {
                return Err(Obstacle::Elsewhere(format!(
                    "it runs on node {} (interface {}, epoch {}): remove it there first",
                    other.binding.process.node, nic.name, other.epoch
                )));
            }
            let vtep_port = match found.as_ref().filter(|_| self.process.is_some()) {
                Some(bound) => bound.binding.vtep.port(),
                None => site.free_port()?,
            };
            site.ports.insert(vtep_port);
            let binding = Binding {
                process: own,
                mac,
                addresses: lease.addresses.iter().map(|net| net.addr()).collect(),
                vtep: SocketAddr::new(site.vtep.clone()?, vtep_port),
            };
            let epoch = match &found {
                Some(bound) if bound.binding == binding => bound.epoch,
                _ => store
                    .bind(&port, found.as_ref().map(|bound| bound.epoch), &binding)
                    .map_err(|error| error.to_string())?,
            };
            self.ports.retain(|known| known.port != port);
            self.ports.push(OwnPort { port, binding, epoch });
            let known: Vec<KnownPort> = self.ports.iter().map(KnownPort::of).collect();
            let path = self.folder.ports();
            let text = serde_json::to_string(&known).map_err(|error| error.to_string())?;
            replace(&path, &text).map_err(|error| unwritable(&path, &error))?;
        }
        Ok(())
    }
}
