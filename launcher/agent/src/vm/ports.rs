//! The ports of a VM on networks that span nodes: bound before its process starts, and unbound after it has ended. A file
//! in the VM's directory lets a later agent unbind them.

use super::{Obstacle, Site, Vm, unwritable};
use crate::peers::replace;
use crate::store::AgentStore;
use hawser_manifest::plan::VmPlan;
use hawser_store::bindings::{BindError, Binding, Bound, Epoch, Epochs as _, Flip, PortId, Watch as _};
use hawser_store::liveness::ProcessId;
use hawser_store::{Holder, StoreError};
use std::fs;
use std::net::SocketAddr;

/// A port of the VM on a network that spans nodes.
#[derive(Clone, Debug)]
pub(crate) struct OwnPort {
    pub port: PortId,
    pub binding: Binding,
    /// The epoch of the binding, or that of the node from which the guest is to arrive.
    pub(super) epoch: Epoch,
    /// False until the guest has arrived.
    is_bound: bool,
}

/// The data with which a later agent can unbind a port.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct KnownPort {
    network: String,
    interface: String,
    epoch: u32,
    /// UDP port on which the process listens, if the port is not bound yet.
    #[serde(default)]
    waits_on: Option<u16>,
}

impl KnownPort {
    fn of(own: &OwnPort) -> Self {
        Self {
            network: own.port.network.clone(),
            interface: own.port.holder.interface.clone(),
            epoch: own.epoch.0,
            waits_on: (!own.is_bound).then(|| own.binding.vtep.port()),
        }
    }
}

impl Vm {
    /// Unbinds the ports of the VM, including those that an earlier agent has bound.
    pub(super) fn give_back(&mut self, store: &mut AgentStore) -> Result<(), StoreError> {
        let mut ports: Vec<KnownPort> = self.ports.iter().map(KnownPort::of).collect();
        if ports.is_empty() {
            ports = self.known_ports();
        }
        for KnownPort {
            network,
            interface,
            epoch,
            ..
        } in ports.into_iter().filter(|port| port.waits_on.is_none())
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
        let terms = self.file.as_ref().map(|file| file.terms.clone()).unwrap_or_default();
        if terms.arrives_from.is_none() {
            // The operator has moved the VM here in another way.
            self.ports.retain(|own| own.is_bound);
        }
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
            let arrives = |found: &Bound| terms.arrives_from.as_ref() == Some(&found.binding.process.node);
            let is_free = |found: &Bound| is_own(found) || terms.fenced.as_ref() == Some(&found.binding.process.node);
            if found.is_none() && terms.arrives_from.is_some() {
                return Err(Obstacle::Elsewhere(
                    "the node that it is to arrive from has not bound its ports yet".to_owned(),
                ));
            }
            if let Some(other) = found.as_ref().filter(|found| !is_free(found) && !arrives(found)) {
                return Err(Obstacle::Elsewhere(format!(
                    "it runs on node {} (interface {}, epoch {}): remove it there first",
                    other.binding.process.node, nic.name, other.epoch
                )));
            }
            let arriving = found.as_ref().filter(|found| !is_own(found) && arrives(found));
            let vtep_port = match found.as_ref().filter(|_| self.process.is_some()) {
                Some(bound) if is_own(bound) => bound.binding.vtep.port(),
                Some(_) => self.waits_on(&port).map_or_else(|| site.free_port(), Ok)?,
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
                Some(bound) if bound.binding == binding || arriving.is_some() => bound.epoch,
                _ => store
                    .bind(&port, found.as_ref().map(|bound| bound.epoch), &binding)
                    .map_err(|error| error.to_string())?,
            };
            let is_bound = arriving.is_none();
            self.ports.push(OwnPort {
                port,
                binding,
                epoch,
                is_bound,
            });
            self.note_ports()?;
        }
        Ok(())
    }

    /// True if all ports of a plan are known, and bound unless the guest is yet to arrive.
    pub(super) fn has_ports_of(&self, plan: &VmPlan) -> bool {
        let is_claimed = |own: &OwnPort| own.is_bound || self.arrives();
        self.ports.len() == super::shared(plan) && self.ports.iter().all(is_claimed)
    }

    /// Binds the ports of a VM whose guest has arrived, all in one transaction: from the epochs of the node that it has
    /// left to the next ones.
    ///
    /// # Errors
    /// The store cannot be used, or another node has a port.
    pub(crate) fn take_ports(&mut self, store: &mut AgentStore) -> Result<(), String> {
        let flip = |own: &OwnPort| Flip {
            port: own.port.clone(),
            seen: own.epoch,
            binding: own.binding.clone(),
        };
        let flips: Vec<Flip> = self.ports.iter().filter(|own| !own.is_bound).map(flip).collect();
        let epochs = store.flip(&flips).map_err(|error| error.to_string())?;
        let waiting = self.ports.iter_mut().filter(|own| !own.is_bound);
        for (own, epoch) in waiting.zip(epochs) {
            own.epoch = epoch;
            own.is_bound = true;
        }
        self.note_ports()
    }

    /// The name of another node that has taken over a port of this VM. `None` if there is none.
    pub(super) fn taken_by(&self, store: &AgentStore, node: &str) -> Result<Option<String>, StoreError> {
        for own in self.ports.iter().filter(|own| own.is_bound) {
            let found = store.bound(&own.port)?;
            if let Some(other) = found.filter(|found| found.epoch > own.epoch && found.binding.process.node != node) {
                return Ok(Some(other.binding.process.node));
            }
        }
        Ok(None)
    }

    /// Lets a later agent unbind the ports.
    fn note_ports(&self) -> Result<(), String> {
        let known: Vec<KnownPort> = self.ports.iter().map(KnownPort::of).collect();
        let path = self.folder.ports();
        let text = serde_json::to_string(&known).map_err(|error| error.to_string())?;
        replace(&path, &text).map_err(|error| unwritable(&path, &error))
    }

    /// What the last agent has noted.
    fn known_ports(&self) -> Vec<KnownPort> {
        let text = fs::read_to_string(self.folder.ports()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// UDP port on which a process that an earlier agent started waits for its guest.
    fn waits_on(&self, port: &PortId) -> Option<u16> {
        let known = self.known_ports().into_iter();
        let mut same = known.filter(|known| known.network == port.network && known.interface == port.holder.interface);
        same.find_map(|known| known.waits_on)
    }
}
