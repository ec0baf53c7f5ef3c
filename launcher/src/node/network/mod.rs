//! The links of this node, by NodeNetworkConfigurationPolicy objects.
//!
//! ```text
//!  policies ──┐
//!             ├── plan ── steps ── apply ── check-point ──┬── the changes stay
//!  survey  ───┘                                           └── put back
//! ```
//!
//! Each change is entered in the journal before it is made. The changes stay only if the node has what was asked for
//! afterwards, and still reaches its default gateways. Otherwise, and after a kill at any moment, they are undone.

mod apply;
mod check_point;
mod plan;
mod status;
mod survey;

use crate::attachment::default_runtime_folder;
use crate::cli::node::ApplyPolicies;
use crate::failure::Failure;
use hawser_host::journal;
use hawser_manifest::objects::node_network::NodeNetwork;
use plan::Step;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Steps for the links of a node, in order.
#[derive(Debug)]
pub(super) struct NetworkPlan {
    policies: Vec<NodeNetwork>,
    steps: Vec<Step>,
}

impl NetworkPlan {
    /// Undoes what a process left that was killed, and plans the changes.
    ///
    /// # Errors
    /// The policies cannot be applied to this node.
    pub(super) fn new(policies: Vec<NodeNetwork>, args: &ApplyPolicies) -> Result<Self, Failure> {
        if !args.dry_run && !policies.is_empty() {
            journal::recover(&runtime_folder(args));
        }
        for policy in policies.iter().filter(|policy| !policy.selector.is_empty()) {
            log::warn!(
                "policy {}: nodeSelector is not compared: this node is the one",
                policy.name
            );
        }
        let steps = plan::plan(&policies, &survey::look()?).map_err(Failure::usage)?;
        Ok(Self { policies, steps })
    }

    /// Writes one line for each step.
    pub(super) fn describe(&self, text: &mut String) {
        // Writing to a string cannot fail.
        for step in &self.steps {
            let _ = writeln!(text, "{step}");
        }
        if self.steps.is_empty() && !self.policies.is_empty() {
            let _ = writeln!(text, "links: nothing to change");
        }
    }

    /// Makes the changes.
    ///
    /// # Errors
    /// The step that failed, or what was lost afterwards. The node is as it was.
    pub(super) fn carry_out(&self, args: &ApplyPolicies) -> Result<(), Failure> {
        if self.steps.is_empty() {
            return Ok(());
        }
        apply::carry_out(self, &runtime_folder(args), args)
    }
}

/// The links of this node, as a NodeNetworkState.
///
/// # Errors
/// The kernel refuses to list them.
pub(super) fn state(node: &str) -> Result<Value, Failure> {
    Ok(status::state(node, &survey::look()?))
}

fn runtime_folder(args: &ApplyPolicies) -> PathBuf {
    args.runtime_dir.clone().unwrap_or_else(default_runtime_folder)
}
