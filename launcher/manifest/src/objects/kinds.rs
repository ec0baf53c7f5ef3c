//! The supported kinds of objects, and versions of their API.

use super::fields::{kubevirt, network, node_network, policy as policy_table, sriov};
use super::policy::PolicyKind;
use super::reader::{Item, Object, ObjectType};

/// A supported kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Machine,
    Instance,
    Attachment,
    UserDefined,
    ClusterUserDefined,
    Sriov,
    NodePolicy,
    NodeNetwork,
    Service,
    EndpointSlice,
    MacPool,
    Macvtap,
    IpamClaim,
    Namespace,
    Policy(PolicyKind),
}

/// A kind, found by its name in manifests.
#[derive(Debug)]
pub(super) struct KnownKind {
    name: &'static str,
    group: &'static str,
    /// Supported versions. The first is the preferred one.
    versions: &'static [&'static str],
    /// Supported versions that the API will drop.
    deprecated: &'static [&'static str],
    /// Kind of the objects, which selects the reader.
    pub kind: Kind,
}

const fn known(name: &'static str, group: &'static str, versions: &'static [&'static str], kind: Kind) -> KnownKind {
    KnownKind {
        name,
        group,
        versions,
        deprecated: &[],
        kind,
    }
}

/// KubeVirt still serves its first API (`ApiSupportedVersions` in staging/src/kubevirt.io/api/core/v1/register.go),
/// with the same fields.
const fn machine(name: &'static str, kind: Kind) -> KnownKind {
    KnownKind {
        deprecated: &["v1alpha3"],
        ..known(name, "kubevirt.io", &["v1"], kind)
    }
}

const fn policy(group: &'static str, versions: &'static [&'static str], kind: PolicyKind) -> KnownKind {
    known(kind.name(), group, versions, Kind::Policy(kind))
}

const ADMIN: &str = "policy.networking.k8s.io";
const ALPHA1: &[&str] = &["v1alpha1"];
/// Any version is accepted, since only the name is read.
const ANY: &[&str] = &[];

static KINDS: &[KnownKind] = &[
    machine("VirtualMachine", Kind::Machine),
    machine("VirtualMachineInstance", Kind::Instance),
    known(
        "NetworkAttachmentDefinition",
        "k8s.cni.cncf.io",
        &["v1"],
        Kind::Attachment,
    ),
    known("UserDefinedNetwork", "k8s.ovn.org", &["v1"], Kind::UserDefined),
    known(
        "ClusterUserDefinedNetwork",
        "k8s.ovn.org",
        &["v1"],
        Kind::ClusterUserDefined,
    ),
    known("SriovNetwork", "sriovnetwork.openshift.io", &["v1"], Kind::Sriov),
    known(
        "SriovNetworkNodePolicy",
        "sriovnetwork.openshift.io",
        &["v1"],
        Kind::NodePolicy,
    ),
    KnownKind {
        deprecated: &["v1alpha1", "v1beta1"],
        ..known(
            "NodeNetworkConfigurationPolicy",
            "nmstate.io",
            &["v1"],
            Kind::NodeNetwork,
        )
    },
    known("Service", "", &["v1"], Kind::Service),
    known("EndpointSlice", "discovery.k8s.io", &["v1"], Kind::EndpointSlice),
    // The object's name determines which ConfigMap it is.
    known("ConfigMap", "", &["v1"], Kind::MacPool),
    known("Namespace", "", &["v1"], Kind::Namespace),
    known("IPAMClaim", "k8s.cni.cncf.io", ALPHA1, Kind::IpamClaim),
    policy("networking.k8s.io", &["v1"], PolicyKind::Network),
    policy("k8s.cni.cncf.io", &["v1beta1", "v1beta2"], PolicyKind::MultiNetwork),
    policy(ADMIN, ALPHA1, PolicyKind::Cluster("AdminNetworkPolicy")),
    policy(ADMIN, ALPHA1, PolicyKind::Cluster("BaselineAdminNetworkPolicy")),
    policy(ADMIN, &["v1alpha2"], PolicyKind::Cluster("ClusterNetworkPolicy")),
    policy("k8s.ovn.org", &["v1"], PolicyKind::EgressFirewall),
    policy(
        "network.openshift.io",
        ANY,
        PolicyKind::OtherNamespaced("EgressNetworkPolicy"),
    ),
    policy("cilium.io", ANY, PolicyKind::OtherNamespaced("CiliumNetworkPolicy")),
    policy(
        "cilium.io",
        ANY,
        PolicyKind::OtherCluster("CiliumClusterwideNetworkPolicy"),
    ),
    policy("projectcalico.org", ANY, PolicyKind::OtherNamespaced("NetworkPolicy")),
    policy(
        "projectcalico.org",
        ANY,
        PolicyKind::OtherCluster("GlobalNetworkPolicy"),
    ),
    policy(
        "crd.projectcalico.org",
        ANY,
        PolicyKind::OtherNamespaced("NetworkPolicy"),
    ),
    policy(
        "crd.projectcalico.org",
        ANY,
        PolicyKind::OtherCluster("GlobalNetworkPolicy"),
    ),
];

/// The kind of an object. A name with another meaning in another group does not match. A VM of another group is an
/// error.
pub(super) fn find(name: &str, version: Option<&str>) -> Option<&'static KnownKind> {
    let group = version.map(|version| version.split_once('/').map_or("", |(group, _)| group));
    let mut named = KINDS.iter().filter(|known| known.name == name);
    let first = named.clone().next()?;
    let is_machine = matches!(first.kind, Kind::Machine | Kind::Instance);
    match group {
        Some(group) if group.contains('.') && !is_machine => named.find(|known| known.group == group),
        Some(group) => named.find(|known| known.group == group).or(Some(first)),
        None => Some(first),
    }
}

/// Where the name of an object is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// In its namespace.
    Namespace,
    /// In the cluster.
    Cluster,
}

impl KnownKind {
    /// The scope of the names of such objects.
    pub(super) const fn scope(&self) -> Scope {
        match self.kind {
            Kind::ClusterUserDefined
            | Kind::Namespace
            | Kind::NodeNetwork
            | Kind::Policy(PolicyKind::Cluster(_) | PolicyKind::OtherCluster(_)) => Scope::Cluster,
            _ => Scope::Namespace,
        }
    }

    /// The first of the kind's versions, with the group.
    fn version(&self) -> String {
        let version = self.versions.first().copied().unwrap_or("v1");
        match self.group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    /// Reports an unsupported version of the object, which may be that of its list. The object is read nevertheless.
    pub(super) fn check_version(&self, object: &Object<'_>, inherited: Option<&str>) {
        let item = object.get("apiVersion");
        let given = match &item {
            Some(item) => item.text(),
            None if inherited.is_none() => {
                return object.error(format!("apiVersion is missing: give {}", self.version()));
            }
            None => inherited,
        };
        let Some(given) = given else { return };
        let spot = item.as_ref().map_or_else(|| object.spot(), Item::spot);
        let (group, version) = given.split_once('/').unwrap_or(("", given));
        if group == self.group && self.deprecated.contains(&version) {
            object.warn_at(
                spot,
                format!(
                    "{given:?} is deprecated and will be dropped from the API: write {}",
                    self.version()
                ),
            );
        } else if group != self.group || !self.versions.is_empty() && !self.versions.contains(&version) {
            object.error_at(spot, format!("{given:?}: this kind is read as {}", self.version()));
        }
    }
}

impl Kind {
    /// Field table of the kind.
    pub(super) const fn table(self) -> &'static ObjectType {
        match self {
            Self::Machine | Self::Instance => &kubevirt::VIRTUAL_MACHINE,
            Self::Attachment => &network::ATTACHMENT,
            Self::UserDefined => &network::USER_DEFINED,
            Self::ClusterUserDefined => &network::CLUSTER_USER_DEFINED,
            Self::Sriov => &network::SRIOV_NETWORK,
            Self::NodePolicy => &sriov::NODE_POLICY,
            Self::NodeNetwork => &node_network::NODE_NETWORK,
            Self::Service => &network::SERVICE,
            Self::EndpointSlice => &network::ENDPOINT_SLICE,
            Self::MacPool => &network::MAC_POOL,
            Self::Macvtap => &network::MACVTAP_PLUGIN,
            Self::IpamClaim => &network::IPAM_CLAIM,
            Self::Namespace => &policy_table::NAMESPACE,
            Self::Policy(kind) => kind.table(),
        }
    }
}
