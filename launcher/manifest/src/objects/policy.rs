//! Reads policies far enough to determine which VMs they select. Their rules are not enforced: [`crate::plan`] refuses
//! a VM that a policy selects.

use super::fields::policy as table;
use super::metadata::Metadata;
use super::reader::{Item, Object, ObjectType};
use super::report::{Report, Spot};
use super::selector::Selector;

/// A policy and the VMs that it selects.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Position in the manifest.
    pub spot: Spot,
    /// `kind`
    pub kind: &'static str,
    /// Namespace of the policy. `None` for a cluster policy.
    pub namespace: Option<String>,
    /// Name of the policy.
    pub name: String,
    /// VMs that the policy selects.
    pub subject: Subject,
    /// Errors of the policy.
    pub problems: Report,
}

/// The VMs that a policy selects.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Pods of the policy's namespace, on the pod network.
    Pods(Selector),
    /// Pods of namespaces, on the pod network. Without a pod selector, all of their pods.
    Namespaces(Selector, Option<Selector>),
    /// Pods of the policy's namespace, on networks named `[namespace/]name`.
    Networks(Vec<String>, Selector),
    /// The selector is in a language that is not supported.
    Unread,
}

/// Annotation `k8s.v1.cni.cncf.io/policy-for`, which names the networks of a MultiNetworkPolicy.
const POLICY_FOR: &str = "k8s.v1.cni.cncf.io/policy-for";

impl Policy {
    /// Title of the policy in messages: `kind [namespace/]name`
    pub fn title(&self) -> String {
        let Self { kind, name, .. } = self;
        match &self.namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        }
    }
}

/// The kinds of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// NetworkPolicy
    Network,
    /// MultiNetworkPolicy
    MultiNetwork,
    /// AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy
    Cluster(&'static str),
    /// EgressFirewall
    EgressFirewall,
    /// Namespaced policies of other projects.
    OtherNamespaced(&'static str),
    /// Cluster policies of other projects.
    OtherCluster(&'static str),
}

impl PolicyKind {
    /// Field table of the kind.
    pub const fn table(self) -> &'static ObjectType {
        match self {
            Self::Network => &table::NETWORK_POLICY,
            Self::MultiNetwork => &table::MULTI_NETWORK_POLICY,
            Self::Cluster(_) => &table::CLUSTER_POLICY,
            Self::EgressFirewall => &table::EGRESS_FIREWALL,
            Self::OtherNamespaced(_) | Self::OtherCluster(_) => &table::OTHER_POLICY,
        }
    }

    /// `kind`
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "NetworkPolicy",
            Self::MultiNetwork => "MultiNetworkPolicy",
            Self::EgressFirewall => "EgressFirewall",
            Self::Cluster(name) | Self::OtherNamespaced(name) | Self::OtherCluster(name) => name,
        }
    }
}

/// Reads a policy. A selector with an error is assumed to select the VM, and the VM's report contains the error.
pub fn read(kind: PolicyKind, object: &Object<'_>, namespace: &str) -> Policy {
    let metadata = Metadata::read(object, namespace);
    let of_cluster = matches!(kind, PolicyKind::Cluster(_) | PolicyKind::OtherCluster(_));
    let selector = |item: Option<Item<'_>>| item.and_then(|item| Selector::read(&item)).unwrap_or_default();
    let subject = match kind {
        PolicyKind::Network => Subject::Pods(selector(pod_selector(object))),
        PolicyKind::MultiNetwork => {
            let networks = metadata.annotations.get(POLICY_FOR).map(String::as_str);
            let networks = networks.unwrap_or_default().split(',').map(str::trim);
            let networks = networks.filter(|name| !name.is_empty()).map(str::to_owned);
            Subject::Networks(networks.collect(), selector(pod_selector(object)))
        }
        PolicyKind::Cluster(_) => cluster_subject(object),
        PolicyKind::EgressFirewall => Subject::Pods(Selector::default()),
        PolicyKind::OtherNamespaced(_) | PolicyKind::OtherCluster(_) => Subject::Unread,
    };
    Policy {
        spot: object.spot().clone(),
        kind: kind.name(),
        name: metadata.need_name(object, "the policy"),
        namespace: (!of_cluster).then_some(metadata.namespace),
        subject,
        problems: object.apart(),
    }
}

fn pod_selector<'a>(object: &Object<'a>) -> Option<Item<'a>> {
    let spec = object.need("spec", "give podSelector")?.object(&table::POLICY_SPEC)?;
    spec.get("podSelector")
}

fn cluster_subject(object: &Object<'_>) -> Subject {
    let read = || {
        let spec = object
            .need("spec", "give the subject")?
            .object(&table::CLUSTER_POLICY_SPEC)?;
        let subject = spec
            .need("subject", "give namespaces or pods")?
            .object(&table::SUBJECT)?;
        if let Some(namespaces) = subject.get("namespaces") {
            return Some(Subject::Namespaces(Selector::read(&namespaces)?, None));
        }
        let pods = subject.need("pods", "or namespaces")?.object(&table::SUBJECT_PODS)?;
        let selector = |name| Selector::read(&pods.need(name, "give {} for all")?);
        let (namespaces, pods) = (selector("namespaceSelector"), selector("podSelector"));
        Some(Subject::Namespaces(namespaces?, Some(pods?)))
    };
    read().unwrap_or_else(|| Subject::Namespaces(Selector::default(), None))
}
