//! Finds the policies that select the VM. hawser does not enforce them.

use super::Planner;
use crate::objects::interface::{Interface, LinkState};
use crate::objects::policy::{Policy, Subject};
use crate::objects::selector::{KnownLabels, Selector};
use crate::objects::vm::{NetworkSource, UNKNOWN_POD_LABELS};

/// How certain it is that a policy selects the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Selection {
    No,
    Yes,
    /// This depends on unknown labels of the VM's namespace.
    PerhapsNamespace,
    /// This depends on labels that the cluster adds to the pod.
    PerhapsPod,
    /// It is unknown, because hawser does not read the policy's selectors.
    Unread,
}

impl Planner<'_> {
    pub(super) fn check_policies(&self) {
        for policy in &self.manifests.policies {
            let selection = self.selection(policy);
            if selection != Selection::No {
                if self.options.ignore_policies {
                    self.report.adopt_waived(&policy.problems);
                } else {
                    self.report.adopt(&policy.problems);
                }
                self.refuse(policy, selection);
            }
        }
    }

    fn refuse(&self, policy: &Policy, selection: Selection) {
        let vm = format!("VM {}/{}", self.vm.namespace, self.vm.name);
        let policy_name = policy.title();
        let what = match selection {
            Selection::Yes => format!("{policy_name} selects {vm}"),
            _ => format!("{policy_name} may select {vm}"),
        };
        if self.options.ignore_policies {
            let message = format!("{what}, and is not enforced: --ignore-policies");
            return self.report.warn(&policy.spot, message);
        }
        let more = match selection {
            Selection::PerhapsNamespace => format!(
                "; labels of the namespace {} decide, which are not known: give its Namespace with -f",
                self.vm.namespace
            ),
            Selection::PerhapsPod => "; labels that the cluster puts on its pod decide, which are not known".into(),
            Selection::Unread => "; its selectors are not read here".into(),
            _ => String::new(),
        };
        let message = format!(
            "{what}{more}. hawser enforces no policies: leave it out, or serve the VM open with --ignore-policies"
        );
        self.report.error(&policy.spot, message);
    }

    fn selection(&self, policy: &Policy) -> Selection {
        let vm = self.vm;
        if policy
            .namespace
            .as_ref()
            .is_some_and(|namespace| *namespace != vm.namespace)
        {
            return Selection::No;
        }
        let pod = KnownLabels {
            labels: vm.labels.clone(),
            complete: true,
            unknown: UNKNOWN_POD_LABELS,
        };
        let selects = |selector: &Selector| match selector.selects(&pod) {
            Some(true) => Selection::Yes,
            Some(false) => Selection::No,
            None => Selection::PerhapsPod,
        };
        match &policy.subject {
            Subject::Networks(networks, pods) if self.is_on_any(networks) => selects(pods),
            Subject::Networks(..) => Selection::No,
            _ if !self.is_on_pod_network() => Selection::No,
            Subject::Pods(pods) => selects(pods),
            Subject::Unread => Selection::Unread,
            Subject::Namespaces(namespaces, pods) => {
                let namespace = namespaces.selects(&self.manifests.labels_of_namespace(&vm.namespace));
                let pods = pods.as_ref().map_or(Selection::Yes, selects);
                match namespace {
                    Some(false) => Selection::No,
                    None if pods != Selection::No => Selection::PerhapsNamespace,
                    _ => pods,
                }
            }
        }
    }

    /// The networks of the interfaces that are not absent.
    fn sources(&self) -> impl Iterator<Item = &NetworkSource> {
        let is_there = |interface: &&Interface| interface.state != LinkState::Absent;
        let interfaces = self.vm.interfaces.iter().filter(is_there);
        interfaces.filter_map(|interface| {
            let mut networks = self.vm.networks.iter();
            networks.find(|network| network.name == interface.name)?.source.as_ref()
        })
    }

    fn is_on_pod_network(&self) -> bool {
        self.sources().any(|source| matches!(source, NetworkSource::Pod(_)))
    }

    /// True if the VM is on any of these networks, given as `[namespace/]name`. A name without a namespace is in the
    /// VM's namespace.
    fn is_on_any(&self, networks: &[String]) -> bool {
        let own = self.vm.namespace.as_str();
        self.sources().any(|source| {
            let NetworkSource::Multus { namespace, name, .. } = source else {
                return false;
            };
            let on = (namespace.as_deref().unwrap_or(own), name.as_str());
            networks
                .iter()
                .any(|network| network.split_once('/').unwrap_or((own, network)) == on)
        })
    }
}
