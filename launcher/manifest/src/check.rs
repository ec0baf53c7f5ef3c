//! From the text of manifests to a plan, or to everything that is wrong with them.

use crate::cloud_init;
use crate::objects::report::{Problem, Report};
use crate::objects::{self, Manifests, SourceFile};
use crate::plan::{self, PlanSetup, VmPlan};

/// Manifests that can be served.
#[derive(Debug)]
pub struct Checked {
    /// What would be.
    pub plan: VmPlan,
    /// What is not as the manifests say.
    pub warnings: Vec<Problem>,
}

/// Manifests that cannot be served.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub errors: Vec<Problem>,
    /// And what else is to be said about them.
    pub warnings: Vec<Problem>,
}

/// Plans every VM of the files that the options mean; warnings are left out.
///
/// # Errors
/// What is wrong with the manifests.
pub fn check_all(files: &[SourceFile], setup: &PlanSetup<'_>) -> Result<Vec<VmPlan>, Rejected> {
    let report = Report::default();
    let manifests = objects::read(files, setup.options.namespace(), &report);
    let plans = plan::make_all(&manifests, setup, &report);
    plans.iter().for_each(|plan| compare(&manifests, plan, &report));
    let (errors, warnings) = report.into_parts();
    if errors.is_empty() {
        Ok(plans)
    } else {
        Err(Rejected { errors, warnings })
    }
}

/// Plans the one VM of the files that the options mean.
///
/// # Errors
/// What is wrong with the manifests.
pub fn check_sources(files: &[SourceFile], setup: &PlanSetup<'_>) -> Result<Checked, Rejected> {
    let report = Report::default();
    let manifests = objects::read(files, setup.options.namespace(), &report);
    let plan = plan::make(&manifests, setup, &report);
    plan.iter().for_each(|plan| compare(&manifests, plan, &report));
    let (errors, warnings) = report.into_parts();
    match plan {
        Some(plan) if errors.is_empty() => Ok(Checked { plan, warnings }),
        _ => Err(Rejected { errors, warnings }),
    }
}

/// Says what of the network data of a plan's VM contradicts the plan.
fn compare(manifests: &Manifests, plan: &VmPlan, report: &Report) {
    let mut machines = manifests.machines.iter();
    let vm = machines.find(|vm| (&vm.namespace, &vm.name) == (&plan.namespace, &plan.name));
    vm.iter()
        .for_each(|vm| cloud_init::check(&vm.network_data, plan, report));
}
