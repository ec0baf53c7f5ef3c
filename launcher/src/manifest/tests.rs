//! Whole manifests: what is said about them, and where.

use super::*;
use crate::validate::check_sources;
use std::path::Path;

mod documentation;
mod examples;
mod networks;
mod refusals;

/// The problems of one file, errors first.
pub fn problems(text: &str) -> Vec<String> {
    let file = SourceFile {
        name: "vm.yaml".into(),
        text: text.into(),
    };
    let (errors, warnings) = match check_sources(&[file], Path::new("/run/hawser")) {
        Ok(checked) => (Vec::new(), checked.warnings),
        Err(rejected) => (rejected.errors, rejected.warnings),
    };
    errors.iter().chain(&warnings).map(ToString::to_string).collect()
}

/// A VM with one interface on one network, each in flow style.
pub fn machine(interface: &str, network: &str) -> String {
    format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: vm}}\nspec:\n  domain:\n    \
         devices:\n      interfaces:\n      - {interface}\n  networks:\n  - {network}\n"
    )
}
