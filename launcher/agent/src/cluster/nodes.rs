//! The nodes of a cluster: which there are, which of them answer, and how many VMs each has.

use super::{Cluster, ObjectView, Refused};
use crate::moment;
use crate::objects::{self, NodeObject, node_key};
use crate::placement::Candidate;
use crate::resources::NODE;
use hawser_store::Store as _;
use hawser_store::VmName;
use hawser_store::bindings::{BindError, Epochs as _, Watch as _};
use hawser_store::liveness::{Liveness as _, ProcessId};
use hawser_store::records::{Batch, Records as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Name of the agent among the processes of its node.
const PROCESS: &str = "hawser-agent";
/// Time after which an agent that does not renew this counts as silent.
pub(crate) const LIFETIME: Duration = Duration::from_secs(15);

/// State of a node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeView {
    /// True if its agent answers.
    pub is_ready: bool,
    /// Number of VMs that are placed on it.
    pub vms: usize,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Address to which other nodes send frames.
    pub vtep: Option<String>,
    /// Host of the agent.
    pub host: String,
    /// Version of the agent.
    pub version: String,
}

/// The result of a roll call: what the store knows about this node's name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Roll {
    /// This agent serves the node.
    Ours,
    /// Another agent serves the node of this name. Contains its host.
    Taken(String),
}

fn process(node: &str) -> ProcessId {
    ProcessId {
        node: node.to_owned(),
        process: PROCESS.to_owned(),
    }
}

impl Cluster {
    /// Records that this agent serves its node, until [`LIFETIME`] has passed.
    ///
    /// The record of another agent with the same name is replaced only if that agent is silent.
    pub(crate) fn answer_roll(&mut self, own: &NodeObject) -> Result<Roll, Refused> {
        let key = node_key(&self.node);
        let record = self.store.record(&key)?;
        let known = record
            .as_ref()
            .map(objects::value::<NodeObject>)
            .transpose()
            .map_err(Refused::Store)?;
        let version = record.map(|record| record.version);
        if let Some(known) = known.as_ref().filter(|known| known.instance != own.instance)
            && !self.silent_nodes()?.contains(&self.node)
        {
            return Ok(Roll::Taken(known.host.clone()));
        }
        let mut object = own.clone();
        if let Some(known) = known.as_ref() {
            object.created = known.created;
        }
        if known.as_ref() != Some(&object) {
            let put = Batch::default().expect(&key, version).put(&key, objects::text(&object));
            if !self.store.change(&put)? {
                return Ok(Roll::Taken("another host, which was first".to_owned()));
            }
        }
        self.store.keep_alive(&process(&self.node), &moment::now(), LIFETIME)?;
        Ok(Roll::Ours)
    }

    /// Names of the nodes whose agents do not answer.
    pub(super) fn silent_nodes(&self) -> Result<Vec<String>, Refused> {
        let dead = self.store.dead(&moment::now())?;
        let agents = dead.into_iter().filter(|process| process.process == PROCESS);
        Ok(agents.map(|process| process.node).collect())
    }

    /// The nodes, for a choice.
    pub(super) fn candidates(&self) -> Result<Vec<Candidate>, Refused> {
        let nodes = self.node_objects()?;
        let candidate = |object: ObjectView| {
            let node = object.node?;
            Some(Candidate {
                name: object.name,
                labels: node.labels,
                load: node.vms,
                is_alive: node.is_ready,
            })
        };
        Ok(nodes.into_iter().filter_map(candidate).collect())
    }

    pub(super) fn node_objects(&self) -> Result<Vec<ObjectView>, Refused> {
        let records = self.store.list(&objects::nodes())?;
        let silent = self.silent_nodes()?;
        let mut loads: BTreeMap<String, usize> = BTreeMap::new();
        for key in self.store.keys(&objects::placed())? {
            if let Some(node) = key.parts().get(1) {
                *loads.entry(node.clone()).or_default() += 1;
            }
        }
        let mut views = Vec::new();
        for record in &records {
            let name = record.key.parts().get(1).cloned().unwrap_or_default();
            let node: NodeObject = objects::value(record).map_err(Refused::Store)?;
            let manifest = serde_json::json!({
                "apiVersion": "v1", "kind": NODE.kind, "metadata": {"name": name, "labels": node.labels},
            });
            views.push(ObjectView {
                kind: NODE.kind.to_owned(),
                namespace: None,
                created: node.created,
                manifest,
                vm: None,
                node: Some(NodeView {
                    is_ready: !silent.contains(&name),
                    vms: loads.get(&name).copied().unwrap_or(0),
                    labels: node.labels,
                    vtep: node.vtep,
                    host: node.host,
                    version: node.version,
                }),
                name,
            });
        }
        Ok(views)
    }

    /// Removes a node that is silent and has no VMs.
    pub(super) fn delete_node(&mut self, name: &str) -> Result<(), Refused> {
        let nodes = self.node_objects()?;
        let node = nodes
            .into_iter()
            .find(|object| object.name == name)
            .and_then(|object| object.node);
        let node = node.ok_or_else(|| super::not_found(&NODE, None, name))?;
        if node.is_ready {
            return Err(Refused::Conflict(format!(
                "the agent of node {name} runs: end it first"
            )));
        }
        if node.vms > 0 {
            return Err(Refused::Conflict(format!(
                "{} VMs are placed on node {name}: move or delete them first",
                node.vms
            )));
        }
        self.store.forget(&process(name))?;
        self.store.change(&Batch::default().delete(&node_key(name)))?;
        Ok(())
    }

    /// Unbinds the ports of a VM whose node is off.
    pub(super) fn unbind_all(&mut self, vm: &VmName) -> Result<(), Refused> {
        let leases = self.store.leases(Some(vm))?;
        let networks: BTreeSet<String> = leases
            .into_iter()
            .filter_map(|lease| match lease.segment {
                hawser_store::Segment::Network(name) => Some(name),
                _ => None,
            })
            .collect();
        for network in networks {
            let (bound, _) = self.store.bindings(&network)?;
            for bound in bound.into_iter().filter(|bound| bound.port.holder.vm == *vm) {
                match self.store.unbind(&bound.port, bound.epoch) {
                    Ok(()) | Err(BindError::Fenced { .. }) => {}
                    Err(BindError::Store(error)) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}
