//! The objects of the cluster, and the changes that operators make.
//!
//! Every change is a compare-and-swap on the records that it has read, so any agent may make it at any time. A VM has
//! three records that change together: the VM itself, its copy in the folder of its node, and a marker if it has no
//! node. A node reads its own folder only.

mod apply;
mod enactments;
mod moving;
mod nodes;

pub(crate) use apply::{Application, Applied, sources_for};
pub(crate) use moving::MovingView;
pub(crate) use nodes::{LIFETIME, NodeView, Roll};

use crate::objects::{
    self, OtherObject, Power, VmObject, VmStatus, arrival_key, object_key, objects_of, pending_key, placed_key,
    status_key, vm_key,
};
use crate::placement::{Candidate, choose};
use crate::resources::{self, Resource};
use crate::store::AgentStore;
use hawser_store::records::{Batch, Record, RecordKey, Records as _};
use hawser_store::{Store as _, StoreError, VmName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Attempts of a change that loses races.
const ATTEMPTS: u32 = 30;

/// The reason why a request was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The object does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request conflicts with the state of the object.
    #[error("{0}")]
    Conflict(String),
    /// The manifests or the request cannot be used. One line per problem.
    #[error("{0}")]
    Invalid(String),
    /// The store cannot be used.
    #[error("{0}")]
    Store(String),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// An object with its state.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectView {
    /// `kind` of the object.
    pub kind: String,
    /// Namespace of the object, if its kind has one.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
    /// Time of the first `apply`, in seconds since 1970.
    pub created: u64,
    /// The object as it was applied.
    pub manifest: Value,
    /// State of a VM.
    pub vm: Option<VmView>,
    /// State of a node.
    pub node: Option<NodeView>,
}

/// State of a VM.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VmView {
    /// Pending, Waiting, Starting, Running, Stopping, Stopped, Terminating, or Unknown if its node does not answer.
    pub phase: String,
    /// The node that the VM is placed on.
    pub node: Option<String>,
    /// Whether the VM is to run.
    pub power: Power,
    /// The reason for the phase.
    pub message: String,
    /// The last report of the node.
    pub status: Option<VmStatus>,
    /// A move while the VM runs.
    pub moving: Option<MovingView>,
}

/// The objects of a cluster, through a connection to its store.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) store: AgentStore,
    /// Name of this node.
    node: String,
}

impl Cluster {
    pub(crate) const fn new(store: AgentStore, node: String) -> Self {
        Self { store, node }
    }

    /// Objects of a kind, in the order of their names.
    pub(crate) fn get(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Vec<ObjectView>, Refused> {
        let mut found = if *resource == resources::VM {
            self.vms(namespace, name)?
        } else if *resource == resources::NODE {
            self.node_objects()?
        } else {
            let folder = match resource.is_report {
                true => objects::reports_of(resource.kind),
                false => objects_of(resource.kind),
            };
            let list = self.store.list(&folder)?;
            list.iter().map(other_view).collect::<Result<Vec<_>, _>>()?
        };
        if *resource == resources::LINK_POLICY {
            self.add_enactments(&mut found)?;
        }
        found.retain(|object| {
            let in_it = !resource.is_namespaced || namespace.is_none() || object.namespace.as_deref() == namespace;
            in_it && name.is_none_or(|name| object.name == name)
        });
        match name {
            Some(name) if found.is_empty() => Err(not_found(resource, namespace, name)),
            _ => Ok(found),
        }
    }

    fn vms(&self, namespace: Option<&str>, name: Option<&str>) -> Result<Vec<ObjectView>, Refused> {
        let (records, statuses) = match (namespace, name) {
            (Some(namespace), Some(name)) => {
                let vm = VmName {
                    namespace: namespace.into(),
                    name: name.into(),
                };
                let one = |key| {
                    self.store
                        .record(&key)
                        .map(|record| record.into_iter().collect::<Vec<_>>())
                };
                (one(vm_key(&vm))?, one(status_key(&vm))?)
            }
            _ => (
                self.store.list(&objects::vms())?,
                self.store.list(&objects::statuses())?,
            ),
        };
        let statuses: BTreeMap<VmName, &Record> = statuses
            .iter()
            .filter_map(|record| Some((objects::vm_of(&record.key)?, record)))
            .collect();
        let silent = self.silent_nodes()?;
        let mut views = Vec::new();
        for record in &records {
            let Some(vm) = objects::vm_of(&record.key) else {
                continue;
            };
            let object: VmObject = objects::value(record).map_err(Refused::Store)?;
            let status = statuses.get(&vm).map(|record| objects::value::<VmStatus>(record));
            let status = status.transpose().map_err(Refused::Store)?;
            let moving = self.moving_view(&vm, &object)?;
            views.push(vm_view(vm, object, status, moving, &silent));
        }
        Ok(views)
    }

    fn read_vm(&self, vm: &VmName) -> Result<Option<(i64, VmObject)>, Refused> {
        let Some(record) = self.store.record(&vm_key(vm))? else {
            return Ok(None);
        };
        let object = objects::value(&record).map_err(Refused::Store)?;
        Ok(Some((record.version, object)))
    }

    /// Changes a VM. `change` is called again if another agent was first.
    fn change_vm(
        &mut self,
        vm: &VmName,
        mut change: impl FnMut(&Self, &mut VmObject) -> Result<(), Refused>,
    ) -> Result<VmObject, Refused> {
        for _ in 0..ATTEMPTS {
            let Some((version, before)) = self.read_vm(vm)? else {
                return Err(not_found(&resources::VM, Some(&vm.namespace), &vm.name));
            };
            let mut after = before.clone();
            change(self, &mut after)?;
            if after == before || self.store.change(&written(vm, Some((version, &before)), &after))? {
                return Ok(after);
            }
        }
        Err(contended(vm))
    }

    /// Starts or stops a VM.
    pub(crate) fn set_power(&mut self, vm: &VmName, power: Power) -> Result<(), Refused> {
        self.change_vm(vm, |_, object| {
            refuse_deleted(vm, object)?;
            moving::refuse(vm, object)?;
            object.power = power;
            Ok(())
        })
        .map(drop)
    }

    /// Moves a VM that may run to another node, where it starts with the same MAC and addresses. `is_off` says that its
    /// node is known to be off, so that its ports can be taken over.
    ///
    /// Returns the name of the new node.
    pub(crate) fn move_to(&mut self, vm: &VmName, to: Option<&str>, is_off: bool) -> Result<String, Refused> {
        let moved = self.change_vm(vm, |cluster, object| {
            refuse_deleted(vm, object)?;
            let from = object.node.clone();
            if !is_off {
                moving::refuse(vm, object)?;
            }
            let silent = cluster.silent_nodes()?;
            let is_silent = from.as_ref().is_some_and(|from| silent.contains(from));
            if is_silent && !is_off {
                let from = from.unwrap_or_default();
                return Err(Refused::Conflict(format!(
                    "the agent of node {from} does not answer, so it cannot stop VM {vm}: start it, or make sure that \
                     the node is off and give --force"
                )));
            }
            let chosen = cluster.destination(vm, object, to)?;
            object.moving = None;
            object.fenced = from.filter(|_| is_off);
            object.node = Some(chosen);
            object.reason.clear();
            Ok(())
        })?;
        Ok(moved.node.unwrap_or_default())
    }

    /// The node that a VM moves to: the named one, or one that is chosen by its labels and load.
    fn destination(&self, vm: &VmName, object: &VmObject, to: Option<&str>) -> Result<String, Refused> {
        let mut nodes = self.candidates()?;
        match to {
            Some(to) if object.node.as_deref() == Some(to) => {
                return Err(Refused::Conflict(format!(
                    "VM {vm} is on node {to} already: name another node"
                )));
            }
            Some(to) => {
                nodes.retain(|node| node.name == to);
                let missing = || Refused::NotFound(format!("there is no node {to}: hawser-agent get nodes lists them"));
                nodes.first().ok_or_else(missing)?;
            }
            None => nodes.retain(|node| Some(&node.name) != object.node.as_ref()),
        }
        let chosen = choose(&nodes, &object.selector, random());
        chosen.map(str::to_owned).map_err(Refused::Conflict)
    }

    /// Deletes an object. A VM is stopped and its leases are released first, unless `is_off` says that its node is
    /// known to be off.
    pub(crate) fn delete(
        &mut self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        is_off: bool,
    ) -> Result<(), Refused> {
        if *resource == resources::NODE {
            return self.delete_node(name);
        }
        if resource.is_report {
            let (kind, policy) = (resource.kind, resources::LINK_POLICY.kind);
            return Err(Refused::Conflict(format!(
                "{kind} is written by agents: delete the {policy}"
            )));
        }
        if *resource != resources::VM {
            let key = object_key(resource.kind, namespace.filter(|_| resource.is_namespaced), name);
            let record = self.store.record(&key)?;
            let record = record.ok_or_else(|| not_found(resource, namespace, name))?;
            let delete = Batch::default().expect(&key, Some(record.version)).delete(&key);
            return match self.store.change(&delete)? {
                true => Ok(()),
                false => Err(Refused::Conflict(format!("{key} has just been changed: try again"))),
            };
        }
        let vm = VmName {
            namespace: namespace.unwrap_or_default().into(),
            name: name.into(),
        };
        let object = self.change_vm(&vm, |_, object| {
            if !is_off {
                moving::refuse(&vm, object)?;
            }
            object.moving = None;
            object.is_deleted = true;
            Ok(())
        })?;
        match object.node {
            Some(_) if !is_off => Ok(()),
            _ => self.finish_delete(&vm, is_off),
        }
    }

    /// Releases the leases of a VM that is deleted and does not run, then removes its records. Does nothing if the VM
    /// has been applied again.
    pub(crate) fn finish_delete(&mut self, vm: &VmName, takes_ports: bool) -> Result<(), Refused> {
        let Some((version, object)) = self.read_vm(vm)?.filter(|(_, object)| object.is_deleted) else {
            return Ok(());
        };
        if takes_ports {
            self.unbind_all(vm)?;
        }
        self.store.step::<_, StoreError>(|ledger| {
            for lease in ledger.leases(Some(vm))? {
                ledger.remove(&lease.holder)?;
            }
            Ok(())
        })?;
        let mut delete = Batch::default().expect(&vm_key(vm), Some(version));
        for key in [vm_key(vm), status_key(vm), pending_key(vm)] {
            delete = delete.delete(&key);
        }
        if let Some(node) = &object.node {
            delete = delete.delete(&placed_key(node, vm));
        }
        // If another agent was first, the next turn of the node continues.
        self.store.change(&delete)?;
        Ok(())
    }

    /// Places the VMs that have no node. Returns true if one still has none.
    pub(crate) fn place_pending(&mut self) -> Result<bool, Refused> {
        let pending = self.store.list(&objects::pending())?;
        if pending.is_empty() {
            return Ok(false);
        }
        let mut nodes = self.candidates()?;
        let mut is_left = false;
        for record in pending {
            let Some(vm) = objects::vm_of(&record.key) else {
                continue;
            };
            let placed = self.change_vm(&vm, |_, object| {
                if object.node.is_none() {
                    place(&mut nodes, object);
                }
                Ok(())
            });
            match placed {
                Ok(object) => is_left |= object.node.is_none(),
                // The marker of a VM that no longer exists.
                Err(Refused::NotFound(_)) => {
                    self.store.change(
                        &Batch::default()
                            .expect(&record.key, Some(record.version))
                            .delete(&record.key),
                    )?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(is_left)
    }
}

/// Chooses a node for a VM that has none. Later choices see the new load.
fn place(nodes: &mut [Candidate], object: &mut VmObject) {
    match choose(nodes, &object.selector, random()).map(str::to_owned) {
        Ok(chosen) => {
            if let Some(node) = nodes.iter_mut().find(|node| node.name == chosen) {
                node.load += 1;
            }
            object.node = Some(chosen);
            object.reason.clear();
        }
        Err(reason) => object.reason = reason,
    }
}

/// The edits that replace the records of a VM.
fn written(vm: &VmName, before: Option<(i64, &VmObject)>, after: &VmObject) -> Batch {
    let key = vm_key(vm);
    let mut batch = Batch::default()
        .expect(&key, before.map(|(version, _)| version))
        .put(&key, objects::text(after));
    let target = |object: &VmObject| object.moving.as_ref().map(|moving| moving.to.clone());
    let nodes = |object: &VmObject| [object.node.clone(), target(object)].into_iter().flatten();
    let old = before.into_iter().flat_map(|(_, object)| nodes(object));
    for old in old.filter(|old| !nodes(after).any(|node| node == *old)) {
        batch = batch.delete(&placed_key(&old, vm));
    }
    match target(after) {
        Some(to) => batch = batch.put(&placed_key(&to, vm), objects::text(&after.arriving())),
        None if before.is_some_and(|(_, object)| object.moving.is_some()) => batch = batch.delete(&arrival_key(vm)),
        None => {}
    }
    match &after.node {
        Some(node) => batch
            .put(&placed_key(node, vm), objects::text(&after.placed()))
            .delete(&pending_key(vm)),
        None => batch.put(&pending_key(vm), String::new()),
    }
}

fn vm_view(
    vm: VmName,
    object: VmObject,
    status: Option<VmStatus>,
    moving: Option<MovingView>,
    silent: &[String],
) -> ObjectView {
    // A report of the node that the VM was on before says nothing about now.
    let status = status.filter(|status| Some(&status.node) == object.node.as_ref());
    let reported = status.as_ref().map_or("Waiting", |status| status.phase.as_str());
    let message = status.as_ref().map_or("", |status| status.message.as_str());
    let (phase, message) = match &object.node {
        None => ("Pending", object.reason.clone()),
        Some(node) if silent.contains(node) => ("Unknown", format!("the agent of node {node} does not answer")),
        Some(_) if object.is_deleted => ("Terminating", message.to_owned()),
        Some(_) => (reported, message.to_owned()),
    };
    ObjectView {
        kind: object.manifest["kind"]
            .as_str()
            .unwrap_or(resources::VM.kind)
            .to_owned(),
        namespace: Some(vm.namespace),
        name: vm.name,
        created: object.created,
        manifest: object.manifest,
        vm: Some(VmView {
            phase: phase.to_owned(),
            node: object.node,
            power: object.power,
            message,
            status,
            moving,
        }),
        node: None,
    }
}

fn other_view(record: &Record) -> Result<ObjectView, Refused> {
    let object: OtherObject = objects::value(record).map_err(Refused::Store)?;
    let part = |at: usize| record.key.parts().get(at).cloned().unwrap_or_default();
    Ok(ObjectView {
        kind: part(1),
        namespace: objects::namespace_of(&record.key).map(str::to_owned),
        name: part(3),
        created: object.created,
        manifest: object.manifest,
        vm: None,
        node: None,
    })
}

fn refuse_deleted(vm: &VmName, object: &VmObject) -> Result<(), Refused> {
    match object.is_deleted {
        true => Err(Refused::Conflict(format!(
            "VM {vm} is being deleted: wait until it is gone"
        ))),
        false => Ok(()),
    }
}

fn not_found(resource: &Resource, namespace: Option<&str>, name: &str) -> Refused {
    let at = namespace.filter(|_| resource.is_namespaced);
    let at = at
        .map(|namespace| format!(" in namespace {namespace}"))
        .unwrap_or_default();
    Refused::NotFound(format!("{} {name} not found{at}", resource.kind))
}

fn contended(key: &impl std::fmt::Display) -> Refused {
    Refused::Conflict(format!("{key} was changed by others {ATTEMPTS} times: try again"))
}

/// A random number, or 0 if the system has none.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}

/// The key of an object other than a VM.
fn key_of(object: &hawser_manifest::objects::written::Written) -> RecordKey {
    object_key(&object.kind, object.namespace.as_deref(), &object.name)
}

#[cfg(test)]
mod tests;
