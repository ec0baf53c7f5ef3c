//! Moves of VMs that run. The operator's migration decides when the guest stops on one node and runs on the other; the
//! records follow.
//!
//! ```text
//!  begin ── target: a second process, silent ── the guest runs there ── flip ── ports bound ── finish
//!     └──────────── cancel ────────────────────────────┘
//! ```
//!
//! The target may take over the ports only after [`flip`](Cluster::flip_move), and from then on a cancellation is
//! refused. Each step is a compare-and-swap of the VM's record and may be repeated.

use super::{Cluster, Refused, refuse_deleted};
use crate::objects::{self, Moving, Power, VmObject, VmStatus, arrival_key};
use hawser_store::VmName;
use hawser_store::records::Records as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a move.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MovingView {
    /// The node that the VM moves to.
    pub to: String,
    /// True once that node takes over the ports. The move can no longer be cancelled.
    pub is_flipping: bool,
    /// The last report of that node. Its phase is Running once its process waits for the guest.
    pub status: Option<VmStatus>,
}

/// Refuses a change of a VM that moves.
pub(super) fn refuse(vm: &VmName, object: &VmObject) -> Result<(), Refused> {
    match &object.moving {
        None => Ok(()),
        Some(moving) => Err(Refused::Conflict(format!(
            "VM {vm} is moving to node {}: wait until it is there, or cancel that (hawser-agent move {} -n {} --cancel)",
            moving.to, vm.name, vm.namespace
        ))),
    }
}

impl Cluster {
    /// Begins to move a VM that runs: another node prepares a process for it. Returns the name of that node.
    pub(crate) fn begin_move(&mut self, vm: &VmName, to: Option<&str>) -> Result<String, Refused> {
        let object = self.change_vm(vm, |cluster, object| {
            refuse_deleted(vm, object)?;
            if object
                .moving
                .as_ref()
                .is_some_and(|moving| Some(moving.to.as_str()) == to)
            {
                return Ok(());
            }
            refuse(vm, object)?;
            if object.node.is_none() || object.power == Power::Off {
                return Err(Refused::Conflict(format!(
                    "VM {vm} does not run: move it without --live"
                )));
            }
            let to = cluster.destination(vm, object, to)?;
            let is_flipping = false;
            object.moving = Some(Moving { to, is_flipping });
            Ok(())
        })?;
        Ok(object.moving.map(|moving| moving.to).unwrap_or_default())
    }

    /// Cancels a move whose guest does not run on the other node. Returns the node on which it stays.
    pub(crate) fn cancel_move(&mut self, vm: &VmName) -> Result<String, Refused> {
        let object = self.change_vm(vm, |_, object| {
            let refused = |why: &str| Err(Refused::Conflict(format!("VM {vm} {why}")));
            match &object.moving {
                None => return refused("is not moving"),
                Some(moving) if moving.is_flipping => return refused("runs on the other node already"),
                Some(_) => object.moving = None,
            }
            Ok(())
        })?;
        Ok(object.node.unwrap_or_default())
    }

    /// Allows this node to take over the ports of a VM whose guest runs here. False if the move was cancelled.
    pub(crate) fn flip_move(&mut self, vm: &VmName) -> Result<bool, Refused> {
        let node = self.node.clone();
        let object = self.change_vm(vm, |_, object| {
            if let Some(moving) = object.moving.as_mut().filter(|moving| moving.to == node) {
                moving.is_flipping = true;
            }
            Ok(())
        })?;
        Ok(object
            .moving
            .is_some_and(|moving| moving.to == node && moving.is_flipping))
    }

    /// Records that the VM is on this node, which has its ports.
    pub(crate) fn finish_move(&mut self, vm: &VmName) -> Result<(), Refused> {
        let node = self.node.clone();
        let finished = self.change_vm(vm, |_, object| {
            if object.moving.as_ref().is_some_and(|moving| moving.to == node) {
                object.moving = None;
                object.fenced = None;
                object.node = Some(node.clone());
            }
            Ok(())
        });
        finished.map(drop)
    }

    /// The state of a VM's move.
    pub(super) fn moving_view(&self, vm: &VmName, object: &VmObject) -> Result<Option<MovingView>, Refused> {
        let Some(Moving { to, is_flipping }) = object.moving.clone() else {
            return Ok(None);
        };
        let record = self.store.record(&arrival_key(vm))?;
        let status = record.map(|record| objects::value::<VmStatus>(&record)).transpose();
        let status = status.map_err(Refused::Store)?.filter(|status| status.node == to);
        Ok(Some(MovingView {
            to,
            is_flipping,
            status,
        }))
    }
}
