//! Selects the VM to serve among the VMs of the files.

use super::{PlanSetup, without_vm};
use crate::objects::Manifests;
use crate::objects::report::{Report, Spot};
use crate::objects::vm::Vm;

/// The VM to serve. If there is none or more than one, that is reported as an error and `None` is returned.
pub(super) fn one<'a>(manifests: &'a Manifests, setup: &PlanSetup<'_>, report: &Report) -> Option<&'a Vm> {
    let machines = &manifests.machines;
    if machines.is_empty() {
        without_vm(manifests, report);
        return None;
    }
    // A change applies to the served VM. The caller refuses files of another VM.
    let served = setup
        .served
        .and_then(|(namespace, name)| machines.iter().find(|vm| vm.namespace == namespace && vm.name == name));
    if served.is_some() {
        return served;
    }
    match wanted(manifests, setup)[..] {
        [vm] => Some(vm),
        [] => {
            nothing_fits(machines, setup, report);
            None
        }
        [first, ref more @ ..] if more.iter().all(|vm| is_same(first, vm)) => {
            more.iter().for_each(|vm| twice(first, vm, report));
            None
        }
        ref several => {
            let message = format!(
                "{} VMs are in the files, and one process serves one: choose one with --vm, or --namespace: {}",
                several.len(),
                names(several.iter().copied())
            );
            report.error(&Spot::file("-f"), message);
            None
        }
    }
}

/// Every VM that the options select, without duplicates.
pub(super) fn all<'a>(manifests: &'a Manifests, setup: &PlanSetup<'_>, report: &Report) -> Vec<&'a Vm> {
    let machines = &manifests.machines;
    let wanted = wanted(manifests, setup);
    for (n, vm) in wanted.iter().enumerate() {
        if let Some(other) = wanted[..n].iter().find(|other| is_same(other, vm)) {
            twice(other, vm, report);
        }
    }
    if machines.is_empty() {
        without_vm(manifests, report);
    } else if wanted.is_empty() {
        nothing_fits(machines, setup, report);
    }
    wanted
}

fn wanted<'a>(manifests: &'a Manifests, setup: &PlanSetup<'_>) -> Vec<&'a Vm> {
    let options = setup.options;
    let fits = |vm: &&Vm| {
        options.vm.as_ref().is_none_or(|name| *name == vm.name)
            && options
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == vm.namespace)
    };
    manifests.machines.iter().filter(fits).collect()
}

fn is_same(a: &Vm, b: &Vm) -> bool {
    (&a.namespace, &a.name) == (&b.namespace, &b.name)
}

fn twice(first: &Vm, second: &Vm, report: &Report) {
    let message = format!(
        "a VM of this name is already at {}:{}: leave one out",
        first.spot.file, first.spot.line
    );
    report.error(&second.spot, message);
}

fn nothing_fits(machines: &[Vm], setup: &PlanSetup<'_>, report: &Report) {
    let options = [("--vm", &setup.options.vm), ("--namespace", &setup.options.namespace)];
    let options = options
        .iter()
        .filter_map(|(option, value)| Some(format!("{option}={}", value.as_ref()?)));
    let options: Vec<String> = options.collect();
    let message = format!(
        "none of the VMs in the files is that of {}: they have {}",
        options.join(" "),
        names(machines)
    );
    report.error(&Spot::file("-f"), message);
}

/// The names of VMs, as many as are readable.
fn names<'a>(machines: impl IntoIterator<Item = &'a Vm>) -> String {
    const MOST: usize = 20;
    let mut names: Vec<String> = machines
        .into_iter()
        .map(|vm| format!("{}/{}", vm.namespace, vm.name))
        .collect();
    if names.len() > MOST {
        let more = names.len() - MOST;
        names.truncate(MOST);
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}
