//! Reads the networks that interfaces name: NetworkAttachmentDefinition, and the objects from which one is created
//! (UserDefinedNetwork, SriovNetwork).

use super::cni::{self, Fields, Medium, Surroundings};
use super::fields::network as table;
use super::ipam::{self, Requested};
use super::json::Json;
use super::layer2::Layer2;
use super::metadata::Metadata;
use super::node_policy;
use super::reader::{Item, Object};
use super::report::{Report, Spot};
use super::selector::Selector;
use super::sriov::{self, SriovNetwork};
use super::topology::{self, Network, Topology};

/// A network with a name.
#[derive(Clone, Debug)]
pub struct NamedNetwork {
    /// Position in the manifest.
    pub spot: Spot,
    /// Namespace that may name the network. `None` for any.
    pub namespace: Option<String>,
    /// Name of the network.
    pub name: String,
    /// What the network consists of. `None` if it has an error.
    pub medium: Option<Medium>,
    /// Positions of its fields, if the network is a CNI configuration.
    pub fields: Option<Fields>,
    /// True if the network replaces the pod network of its namespace.
    pub primary: bool,
    /// True if OVN-Kubernetes generated the object from a user-defined network.
    pub is_made: bool,
    /// Namespaces of a cluster network. `None` for a network of `namespace`.
    pub namespaces: Option<Selector>,
    /// Errors of the network. They concern only the VMs that name it.
    pub problems: Report,
}

impl NamedNetwork {
    /// The network, if it spans nodes.
    pub fn layer2(&self) -> Option<&Layer2> {
        match &self.medium {
            Some(Medium::Layer2(layer2)) => Some(layer2),
            _ => None,
        }
    }
}

/// Label of a NetworkAttachmentDefinition that OVN-Kubernetes has created.
const MADE_OF_USER_DEFINED: &str = "k8s.ovn.org/user-defined-network";
const RESOURCE_NAME: &str = "k8s.v1.cni.cncf.io/resourceName";

fn named(object: &Object<'_>, metadata: Metadata) -> NamedNetwork {
    if metadata.name.is_none() {
        object.error("metadata.name is missing: give the network a name");
    }
    NamedNetwork {
        spot: object.spot().clone(),
        namespace: Some(metadata.namespace),
        name: metadata.name.unwrap_or_default(),
        medium: None,
        fields: None,
        primary: false,
        is_made: false,
        namespaces: None,
        problems: object.apart(),
    }
}

/// Reads `kind: NetworkAttachmentDefinition`. The API server accepts any configuration. Only a pod that names the
/// network would fail.
pub fn read_attachment(object: &Object<'_>, namespace: &str) -> NamedNetwork {
    let problems = object.apart();
    let metadata = Metadata::read(object, namespace);
    let resource = metadata.annotations.get(RESOURCE_NAME).cloned();
    let name = metadata.name.as_ref();
    let name = name.map(|name| format!("{}/{name}", metadata.namespace));
    let around = Surroundings {
        resource: resource.as_deref(),
        name: name.as_deref(),
    };
    let config = || {
        let spec = object.object("spec", &table::ATTACHMENT_SPEC);
        let Some(config) = spec.as_ref().and_then(|spec| spec.get("config")) else {
            // In that case Multus looks for a file on the node that has the network's name.
            let place = spec.as_ref().map_or_else(|| object.spot(), Object::spot);
            problems.error(place, "spec.config is missing: give the CNI configuration");
            return None;
        };
        cni::read(&problems, &config, &around)
    };
    let found = config();
    NamedNetwork {
        primary: found.as_ref().is_some_and(|found| found.primary),
        fields: found.as_ref().map(|found| found.fields.clone()),
        medium: found.map(|found| found.medium),
        is_made: metadata.labels.contains_key(MADE_OF_USER_DEFINED),
        problems,
        ..named(object, metadata)
    }
}

/// Reports fields that need a mode that hawser lacks. VMs that name the network are refused because of these fields
/// too.
fn refuse_unserved(object: &Object<'_>, problems: &Report) {
    for (spot, note) in object.unserved() {
        problems.error(&spot, format!("not supported yet, so the network is refused: {note}"));
    }
}

/// Reads `kind: UserDefinedNetwork`.
pub fn read_user_defined(object: &Object<'_>, namespace: &str) -> NamedNetwork {
    let problems = object.apart();
    let metadata = Metadata::read(object, namespace);
    let name = metadata.name.as_deref().unwrap_or_default();
    let network = format!("{}_{name}", metadata.namespace);
    let spec = object
        .need("spec", "give the topology")
        .and_then(|spec| spec.object(&table::USER_DEFINED_SPEC));
    let found = spec.and_then(|spec| topology::read(&spec, &[Topology::Layer2, Topology::Layer3], network, &problems));
    NamedNetwork {
        problems,
        ..user_defined(object, metadata, found)
    }
}

fn user_defined(object: &Object<'_>, metadata: Metadata, found: Option<Network>) -> NamedNetwork {
    NamedNetwork {
        primary: found.as_ref().is_some_and(|found| found.primary),
        fields: found.as_ref().map(|found| found.fields.clone()),
        medium: found.and_then(|found| found.medium),
        ..named(object, metadata)
    }
}

/// Reads `kind: ClusterUserDefinedNetwork`.
pub fn read_cluster_user_defined(object: &Object<'_>, namespace: &str) -> NamedNetwork {
    let problems = object.apart();
    let metadata = Metadata::read(object, namespace);
    let name = format!("cluster_udn_{}", metadata.name.as_deref().unwrap_or_default());
    let spec = object.need("spec", "give the network");
    let spec = spec.and_then(|spec| spec.object(&table::CLUSTER_USER_DEFINED_SPEC));
    let network = spec.as_ref().and_then(|spec| {
        refuse_unserved(spec, &problems);
        spec.need("network", "give the topology")?
            .object(&table::CLUSTER_NETWORK)
    });
    let found = network.and_then(|spec| {
        refuse_unserved(&spec, &problems);
        let all = [Topology::Layer2, Topology::Layer3, Topology::Localnet];
        topology::read(&spec, &all, name, &problems)
    });
    let namespaces = spec
        .as_ref()
        .and_then(|spec| spec.need("namespaceSelector", "give {} for all"));
    NamedNetwork {
        namespace: None,
        namespaces: namespaces.and_then(|item| Selector::read(&item)),
        problems,
        ..user_defined(object, metadata, found)
    }
}

/// Reads `kind: SriovNetwork`.
pub fn read_sriov(object: &Object<'_>, namespace: &str) -> NamedNetwork {
    let mut network = named(object, Metadata::read(object, namespace));
    let spec = object
        .need("spec", "give resourceName")
        .and_then(|spec| spec.object(&table::SRIOV_NETWORK_SPEC));
    let Some(spec) = spec else {
        return network;
    };
    if let Some(namespace) = spec.text("networkNamespace") {
        network.namespace = Some(namespace.to_owned());
    }
    let resource = spec.need("resourceName", "name the pool of virtual functions");
    let resource = resource.and_then(|item| item.parsed(node_policy::resource_name));
    let names = sriov::Names {
        spoof_chk: "spoofChk",
        link_state: "linkState",
        min_rate: "minTxRate",
        max_rate: "maxTxRate",
    };
    let settings = sriov::read(&spec, &names);
    spec.text("capabilities");
    let problems = object.apart();
    if let Some(ipam) = spec.get("ipam") {
        check_sriov_ipam(&ipam, &problems);
    }
    if let Some(item) = spec.get("metaPlugins").filter(|item| item.text().is_some()) {
        problems.warn(item.spot(), "ignored: hawser runs no plugins after the first");
    }
    network.medium = resource.map(|resource| {
        Medium::Sriov(Box::new(SriovNetwork {
            resource: Some(resource),
            ..settings
        }))
    });
    network.problems = problems;
    network
}

/// A guest on a virtual function speaks to the segment without hawser.
pub const VF_ADDRESSES: &str =
    "ignored: hawser gives no addresses to the guest of a VF: configure them in the guest, such as with cloud-init";

/// Checks `ipam`, the JSON string that the operator puts into the configuration that it writes.
fn check_sriov_ipam(item: &Item<'_>, problems: &Report) {
    let is_empty = |item: &Item<'_>| {
        item.scalar()
            .is_some_and(|scalar| scalar.is_text() && scalar.text.is_empty())
    };
    if !is_empty(item)
        && let Some(json) = Json::read(item, problems)
        && let Some((ipam, _)) = ipam::read(&json.item(problems), &Requested::default())
        && ipam.is_told()
        && !problems.has_errors()
    {
        problems.warn(item.spot(), VF_ADDRESSES);
    }
}
