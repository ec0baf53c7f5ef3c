//! The node as a member of its cluster: its record, the placement of VMs without a node, and the states of its VMs.

use super::Node;
use crate::cli::{Failure, ServeArgs};
use crate::cluster::{LIFETIME, Refused, Roll, random};
use crate::history;
use crate::objects::{self, HOSTNAME_LABEL, NodeObject, VmStatus, arrival_key, status_key};
use crate::placed::Wanted;
use crate::report::interfaces;
use hawser_store::VmName;
use hawser_store::records::{Batch, MAX_EDITS, RecordKey, Records as _};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Interval at which the agent answers the roll call, a third of the time after which it counts as silent.
const ROLL: Duration = Duration::from_secs(LIFETIME.as_secs() / 3);
/// Interval at which VMs without a node are tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Longest random pause before VMs without a node are placed, in milliseconds, so that not all agents try at once.
const SPREAD: u64 = 200;
/// Phase of a VM that is not to run.
const STOPPED: &str = "Stopped";

/// What the node knows about its membership.
#[derive(Debug)]
pub(super) struct Membership {
    own: NodeObject,
    /// Time of the next answer to the roll call.
    roll: Instant,
    /// Stamps of the folders of pending VMs and of nodes.
    seen: Option<(i64, i64)>,
    /// Time at which pending VMs are placed.
    place: Option<Instant>,
    /// True if another agent serves the node of this name.
    is_taken: bool,
    /// States as they were written last.
    told: BTreeMap<RecordKey, VmStatus>,
}

impl Membership {
    /// Prepares the record of the node.
    ///
    /// # Errors
    /// The identifier of the agent's directory cannot be written.
    pub(super) fn join(args: &ServeArgs) -> Result<Self, Failure> {
        let name = args.node.clone().map_or_else(super::host_name, Ok)?;
        let vtep = args.vtep.map_or_else(super::source_address, Ok);
        let mut labels: BTreeMap<String, String> = args.labels.iter().cloned().collect();
        labels.entry(HOSTNAME_LABEL.to_owned()).or_insert(name);
        Ok(Self {
            own: NodeObject {
                instance: instance(args)?,
                host: super::host_name().unwrap_or_default(),
                labels,
                vtep: vtep.ok().map(|address| address.to_string()),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                created: history::now(),
            },
            roll: Instant::now(),
            seen: None,
            place: None,
            is_taken: false,
            told: BTreeMap::new(),
        })
    }

    /// The labels of the node.
    pub(super) const fn labels(&self) -> &BTreeMap<String, String> {
        &self.own.labels
    }

    /// True if another agent serves the node of this name, by the last answer of the store.
    pub(super) const fn is_taken(&self) -> bool {
        self.is_taken
    }
}

/// The identifier in the agent's directory, which another agent with the same node name does not have.
fn instance(args: &ServeArgs) -> Result<String, Failure> {
    let path = args.run_dir.join("instance");
    let known = fs::read_to_string(&path).unwrap_or_default();
    if !known.trim().is_empty() {
        return Ok(known.trim().to_owned());
    }
    let new = format!("{:016x}", random());
    fs::write(&path, format!("{new}\n"))
        .map_err(|error| Failure::runtime(format_args!("{}: {error}", path.display())))?;
    Ok(new)
}

fn taken(node: &str, host: &str) -> String {
    format!(
        "another agent serves node {node} (on host {host}): give each agent another --node; this one changes nothing \
         until the other is gone"
    )
}

impl Node<'_> {
    /// Enters the node in the cluster.
    ///
    /// # Errors
    /// Another agent serves a node of this name.
    pub(super) fn enter(&mut self, now: Instant) -> Result<(), Failure> {
        match self.cluster.answer_roll(&self.membership.own) {
            Ok(Roll::Ours) => {
                self.membership.roll = now + ROLL;
                Ok(())
            }
            Ok(Roll::Taken(host)) => Err(Failure::runtime(taken(self.node, &host))),
            // The store is away. The node continues what runs, and tries again.
            Err(Refused::Store(problem)) => {
                log::warn!("{problem}");
                Ok(())
            }
            Err(error) => Err(Failure::runtime(error)),
        }
    }

    /// Answers the roll call, and places VMs without a node.
    pub(super) fn attend(&mut self, now: Instant) -> Result<(), String> {
        if now >= self.membership.roll {
            let roll = self
                .cluster
                .answer_roll(&self.membership.own)
                .map_err(|error| error.to_string())?;
            self.membership.is_taken = roll != Roll::Ours;
            match roll {
                Roll::Ours => self.membership.roll = now + ROLL,
                Roll::Taken(host) => return Err(taken(self.node, &host)),
            }
        }
        let stamp = |folder| self.cluster.store.stamp(&folder).map_err(|error| error.to_string());
        let stamps = (stamp(objects::pending())?, stamp(objects::nodes())?);
        if self.membership.seen != Some(stamps) {
            self.membership.seen = Some(stamps);
            self.membership.place = Some(now + Duration::from_millis(random() % SPREAD));
        }
        if self.membership.place.is_some_and(|at| at <= now) {
            let is_left = self.cluster.place_pending().map_err(|error| error.to_string())?;
            self.membership.place = is_left.then(|| now + RETRY);
        }
        Ok(())
    }

    /// Writes the states of VMs that have changed, and removes VMs that are to be deleted and no longer run.
    pub(super) fn tell(&mut self) -> Result<(), String> {
        let deleted = |(vm, wanted): (&VmName, &Wanted)| {
            (*wanted == Wanted::Deleted && !self.vms.contains_key(vm)).then(|| vm.clone())
        };
        let deleted: Vec<VmName> = self.placed.vms.iter().filter_map(deleted).collect();
        for vm in &deleted {
            self.cluster
                .finish_delete(vm, false)
                .map_err(|error| error.to_string())?;
            self.membership.told.remove(&status_key(vm));
        }
        let key = |vm: &VmName, wanted: Wanted| match wanted {
            Wanted::Arriving => arrival_key(vm),
            Wanted::Running | Wanted::Stopped | Wanted::Deleted => status_key(vm),
        };
        let vms = self.placed.vms.iter().filter(|(vm, _)| !deleted.contains(vm));
        let states: BTreeMap<RecordKey, VmStatus> =
            vms.map(|(vm, wanted)| (key(vm, *wanted), self.state_of(vm))).collect();
        // The record of an arrival ends with it; others end with their VM.
        let ended = self.membership.told.keys().filter(|key| !states.contains_key(*key));
        let ended: Vec<RecordKey> = ended.filter(|key| objects::is_arrival(key)).cloned().collect();
        for part in ended.chunks(MAX_EDITS) {
            let batch = part.iter().fold(Batch::default(), Batch::delete);
            self.cluster.store.change(&batch).map_err(|error| error.to_string())?;
        }
        self.membership.told.retain(|key, _| states.contains_key(key));
        let told = &self.membership.told;
        let new: Vec<(RecordKey, VmStatus)> = states
            .into_iter()
            .filter(|(key, state)| told.get(key) != Some(state))
            .collect();
        for part in new.chunks(MAX_EDITS) {
            let put = |batch: Batch, (key, state): &(RecordKey, VmStatus)| batch.put(key, objects::text(state));
            let batch = part.iter().fold(Batch::default(), put);
            self.cluster.store.change(&batch).map_err(|error| error.to_string())?;
            self.membership.told.extend(part.iter().cloned());
        }
        Ok(())
    }

    fn state_of(&self, name: &VmName) -> VmStatus {
        let problem = self.wrong.get(&crate::desired::Origin::Store(name.clone()));
        let node = self.node.to_owned();
        match self.vms.get(name) {
            Some(vm) => VmStatus {
                node,
                phase: format!("{:?}", vm.phase),
                message: problem.unwrap_or(&vm.message).clone(),
                folder: vm.folder.path().to_owned(),
                interfaces: interfaces(vm),
                events: vm.history.events(),
            },
            None => VmStatus {
                node,
                phase: if problem.is_some() { "Waiting" } else { STOPPED }.to_owned(),
                message: problem.cloned().unwrap_or_default(),
                folder: crate::folder::VmFolder::of(&self.args.run_dir, name).path().to_owned(),
                interfaces: Vec::new(),
                events: Vec::new(),
            },
        }
    }
}
