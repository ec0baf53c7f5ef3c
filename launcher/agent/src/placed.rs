//! The VMs that the cluster has placed on this node, the other source of VMs that this node serves.
//!
//! The node follows its own folder of the store, and the objects that VMs may refer to. When one of the two changes, it
//! reads both as a whole, and describes anew what differs.

use crate::cluster::sources_for;
use crate::desired::{Described, Descriptions, Origin, Terms, describe};
use crate::objects::{self, PlacedVm, Power};
use crate::store::AgentStore;
use hawser_store::VmName;
use hawser_store::records::{Record, Records as _};
use std::collections::BTreeMap;

/// What the cluster wants of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Its process is to run.
    Running,
    /// Its process is to run, silent until its guest arrives from another node.
    Arriving,
    /// Its process is to end.
    Stopped,
    /// Its process is to end, and its records are to be removed.
    Deleted,
}

/// The VMs placed on a node.
#[derive(Debug)]
pub(crate) struct Placed {
    node: String,
    stamps: Option<(i64, i64)>,
    /// The objects that VMs may refer to, as they were listed last.
    objects: Vec<Record>,
    /// The texts of the VMs that are to run, and the descriptions that follow from them and from the objects.
    known: BTreeMap<VmName, (String, Described)>,
    /// The VMs, as they were listed last.
    pub vms: BTreeMap<VmName, Wanted>,
}

impl Placed {
    pub(crate) const fn new(node: String) -> Self {
        Self {
            node,
            stamps: None,
            objects: Vec::new(),
            known: BTreeMap::new(),
            vms: BTreeMap::new(),
        }
    }

    /// True once the VMs have been listed.
    pub(crate) const fn is_known(&self) -> bool {
        self.stamps.is_some()
    }

    /// The descriptions of the VMs that are to run; `None` if nothing has changed since the last call.
    ///
    /// # Errors
    /// The store cannot be read. The known descriptions stay as they are.
    pub(crate) fn changed(&mut self, store: &AgentStore) -> Result<Option<Descriptions>, String> {
        let failed = |error: hawser_store::StoreError| error.to_string();
        let folder = objects::placed_on(&self.node);
        // A change after this has another stamp.
        let stamp = store.stamp(&folder).map_err(failed)?;
        let stamps = (stamp, store.stamp(&objects::objects()).map_err(failed)?);
        if self.stamps == Some(stamps) {
            return Ok(None);
        }
        let others = store.list(&objects::objects()).map_err(failed)?;
        if others != self.objects {
            self.known.clear();
        }
        let mut known = BTreeMap::new();
        let mut vms = BTreeMap::new();
        let mut descriptions = Descriptions::new();
        for record in store.list(&folder).map_err(failed)? {
            let Some(vm) = objects::vm_of(&record.key) else {
                continue;
            };
            let origin = Origin::Store(vm.clone());
            let placed: PlacedVm = match objects::value(&record) {
                Ok(placed) => placed,
                Err(problem) => {
                    // A VM that runs continues.
                    vms.insert(vm, Wanted::Running);
                    descriptions.insert(origin, Described::Wrong(problem));
                    continue;
                }
            };
            let wanted = match placed.power {
                _ if placed.is_deleted => Wanted::Deleted,
                Power::Off => Wanted::Stopped,
                Power::On if placed.arrives_from.is_some() => Wanted::Arriving,
                Power::On => Wanted::Running,
            };
            if matches!(wanted, Wanted::Running | Wanted::Arriving) {
                let terms = Terms {
                    fenced: placed.fenced,
                    arrives_from: placed.arrives_from,
                };
                // With many VMs, describing them takes much longer than reading their records.
                let same = self.known.remove(&vm).filter(|(text, _)| *text == record.text);
                let described = match same {
                    Some((_, described)) => described,
                    None => match sources_for(&vm, &placed.manifest, &others) {
                        Ok(sources) => describe(origin.clone(), sources, terms),
                        Err(problem) => Described::Wrong(problem),
                    },
                };
                known.insert(vm.clone(), (record.text, described.clone()));
                descriptions.insert(origin, described);
            }
            vms.insert(vm, wanted);
        }
        self.objects = others;
        self.known = known;
        self.vms = vms;
        self.stamps = Some(stamps);
        Ok(Some(descriptions))
    }
}
