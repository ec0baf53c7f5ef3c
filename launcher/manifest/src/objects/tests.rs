//! Tests with whole manifests: the messages and their positions.

use super::*;
use crate::check::{Checked, Rejected, check_sources};
use crate::plan::PlanSetup;
use crate::plan::options::PlanOptions;
use std::path::Path;

mod documentation;
mod examples;
mod layer2;
mod machines;
mod networks;
mod node_networks;
mod node_policies;
mod policies;
mod reading;
mod refusals;
mod services;

/// Plans one file.
pub(super) fn planned(text: &str, args: &PlanOptions) -> Result<Checked, Rejected> {
    let file = SourceFile {
        name: "vm.yaml".into(),
        text: text.into(),
    };
    check_sources(&[file], &PlanSetup::new(Path::new("/run/hawser"), args))
}

/// Returns the problems of one file, errors first.
pub(super) fn problems(text: &str) -> Vec<String> {
    problems_with(text, &PlanOptions::default())
}

/// Returns the problems of one file with options.
pub(super) fn problems_with(text: &str, args: &PlanOptions) -> Vec<String> {
    let (errors, warnings) = match planned(text, args) {
        Ok(checked) => (Vec::new(), checked.warnings),
        Err(rejected) => (rejected.errors, rejected.warnings),
    };
    errors.iter().chain(&warnings).map(ToString::to_string).collect()
}

/// A VM with one interface on one network, each in flow style.
pub(super) fn machine(interface: &str, network: &str) -> String {
    format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: vm}}\nspec:\n  domain:\n    \
         devices:\n      interfaces:\n      - {interface}\n  networks:\n  - {network}\n"
    )
}
