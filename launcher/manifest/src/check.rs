//! Parses manifests and plans their VM, or returns the list of all errors.

use crate::cloud_init;
use crate::objects::node_network::NodeNetwork;
use crate::objects::node_policy::NodePolicy;
use crate::objects::report::{Problem, Report, Spot};
use crate::objects::{self, Manifests, SourceFile};
use crate::plan::{self, PlanSetup, VmPlan};

/// Manifests that were checked and can be served.
#[derive(Debug)]
pub struct Checked {
    /// Plan of the VM.
    pub plan: VmPlan,
    /// Differences between the manifests and the plan.
    pub warnings: Vec<Problem>,
}

/// Manifests that cannot be served.
#[derive(Debug)]
pub struct Rejected {
    /// Errors, at least one.
    pub errors: Vec<Problem>,
    /// Warnings in addition to the errors.
    pub warnings: Vec<Problem>,
}

/// Policies for a node.
#[derive(Debug)]
pub struct NodeObjects {
    /// Policies for its physical functions.
    pub policies: Vec<NodePolicy>,
    /// Policies for its links.
    pub networks: Vec<NodeNetwork>,
    /// Parts of the manifests that are not used.
    pub warnings: Vec<Problem>,
}

/// Plans every VM in the files that the options select, without warnings.
///
/// # Errors
/// The errors of the manifests.
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

/// Checks every object in the files, and plans every VM in them. VMs may refer to objects in `context`, which contains
/// no VMs and is not checked itself. Objects without a namespace are in `namespace`.
///
/// # Errors
/// The errors of the files, and of objects in `context` to which their VMs refer.
pub fn check_objects(
    files: &[SourceFile],
    context: &[SourceFile],
    namespace: &str,
    setup: &PlanSetup<'_>,
) -> Result<(Vec<VmPlan>, Vec<Problem>), Rejected> {
    let report = Report::default();
    let own = objects::read(files, namespace, &report);
    plan::check_others(&own, &report);
    let mut plans = Vec::new();
    if !own.machines.is_empty() {
        let all: Vec<SourceFile> = files.iter().chain(context).cloned().collect();
        let manifests = objects::read(&all, namespace, &report);
        plans = plan::make_all(&manifests, setup, &report);
        plans.iter().for_each(|plan| compare(&manifests, plan, &report));
    }
    let (errors, warnings) = report.into_parts();
    match errors.is_empty() {
        true => Ok((plans, warnings)),
        false => Err(Rejected { errors, warnings }),
    }
}

/// Plans the only VM in the files that the options select.
///
/// # Errors
/// The errors of the manifests.
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

/// Reads the policies for a node. Other objects of the files are checked and not used.
///
/// # Errors
/// The errors of the manifests, or that there is no policy.
pub fn node_objects(files: &[SourceFile], namespace: &str) -> Result<NodeObjects, Rejected> {
    let report = Report::default();
    let Manifests {
        node_policies: policies,
        node_networks: networks,
        ..
    } = objects::read(files, namespace, &report);
    if policies.is_empty() && networks.is_empty() && !report.has_errors() {
        let message = "the files contain neither a SriovNetworkNodePolicy nor a NodeNetworkConfigurationPolicy: give \
                       one with -f";
        report.error(&Spot::file("-f"), message);
    }
    let (errors, warnings) = report.into_parts();
    match errors.is_empty() {
        true => Ok(NodeObjects {
            policies,
            networks,
            warnings,
        }),
        false => Err(Rejected { errors, warnings }),
    }
}

/// Reports network data of a plan's VM that contradict the plan.
fn compare(manifests: &Manifests, plan: &VmPlan, report: &Report) {
    let mut machines = manifests.machines.iter();
    let vm = machines.find(|vm| (&vm.namespace, &vm.name) == (&plan.namespace, &plan.name));
    vm.iter()
        .for_each(|vm| cloud_init::check(&vm.network_data, plan, report));
}
