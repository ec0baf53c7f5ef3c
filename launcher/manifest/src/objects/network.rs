//! Networks that interfaces name: NetworkAttachmentDefinition, and the objects from which one is
//! created (UserDefinedNetwork, SriovNetwork).

use super::cni::{self, Fields, Medium, SRIOV, Surroundings};
use super::fields::network as table;
use super::ipam::{self, Requested};
use super::json::Json;
use super::metadata::Metadata;
use super::reader::{Item, Object, ObjectType};
use super::report::{Report, Spot};
use super::selector::Selector;

/// A network with a name.
#[derive(Clone, Debug)]
pub struct NamedNetwork {
    /// Position in the manifest.
    pub spot: Spot,
    /// The namespace that may name it; `None` for any.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its medium; `None` after an error in it.
    pub medium: Option<Medium>,
    /// Positions of its fields, if it is a CNI configuration.
    pub fields: Option<Fields>,
    /// It replaces the pod network of its namespace.
    pub primary: bool,
    /// The namespaces of a cluster network; `None` for a network of `namespace`.
    pub namespaces: Option<Selector>,
    /// Its errors. They concern only the VMs that name the network.
    pub problems: Report,
}

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
        namespaces: None,
        problems: object.apart(),
    }
}

/// Reads `kind: NetworkAttachmentDefinition`. The API server accepts any configuration; only a pod that names the
/// network would fail.
pub fn read_attachment(object: &Object<'_>, namespace: &str) -> NamedNetwork {
    let problems = object.apart();
    let metadata = Metadata::read(object, namespace);
    let resource = metadata.annotations.get(RESOURCE_NAME).cloned();
    let around = Surroundings {
        resource: resource.as_deref(),
    };
    let config = || {
        let spec = object.object("spec", &table::ATTACHMENT_SPEC);
        let Some(config) = spec.as_ref().and_then(|spec| spec.get("config")) else {
            // Multus then looks for a file on the node that has the network's name.
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
        problems,
        ..named(object, metadata)
    }
}

/// A topology of OVN-Kubernetes.
const OVERLAY: Medium = Medium::Unserved(cni::LAYER2);

/// A topology: its name, the field with its settings, and the table of that field.
type Topology = (&'static str, (&'static str, &'static ObjectType));

const LAYER2: Topology = ("Layer2", ("layer2", &table::LAYER2));
const LAYER3: Topology = ("Layer3", ("layer3", &table::LAYER3));
const LOCALNET: Topology = ("Localnet", ("localnet", &table::LOCALNET));

/// Reads the topology of a user-defined network: true if it is primary.
fn read_topology(spec: &Object<'_>, topologies: &[Topology]) -> Option<bool> {
    let (field, kind) = spec.need("topology", "give Layer2 or Layer3")?.choice(topologies)?;
    for (topology, (other, _)) in topologies.iter().filter(|(_, (other, _))| *other != field) {
        if let Some(item) = spec.get(other) {
            item.error(format!(
                "it belongs to the topology {topology}: leave it out, or set that topology"
            ));
        }
    }
    let details = spec.need(field, "give the settings of the topology")?.object(kind)?;
    let roles = [("Secondary", false), ("Primary", true)];
    if field == LOCALNET.1.0 {
        return details.need("role", "give Secondary")?.choice(&roles[..1]);
    }
    details.need("role", "give Primary or Secondary")?.choice(&roles)
}

/// Reports fields that need a mode that hawser lacks, because VMs that name the network are refused for these too.
fn refuse_unserved(object: &Object<'_>, problems: &Report) {
    for (spot, note) in object.unserved() {
        problems.error(&spot, format!("not supported yet, so the network is refused: {note}"));
    }
}

/// Reads `kind: UserDefinedNetwork`.
pub fn read_user_defined(object: &Object<'_>, namespace: &str) -> NamedNetwork {
    let spec = object
        .need("spec", "give the topology")
        .and_then(|spec| spec.object(&table::USER_DEFINED_SPEC));
    let primary = spec.and_then(|spec| read_topology(&spec, &[LAYER2, LAYER3]));
    NamedNetwork {
        medium: primary.map(|_| OVERLAY),
        primary: primary == Some(true),
        ..named(object, Metadata::read(object, namespace))
    }
}

/// Reads `kind: ClusterUserDefinedNetwork`.
pub fn read_cluster_user_defined(object: &Object<'_>, namespace: &str) -> NamedNetwork {
    let problems = object.apart();
    let spec = object.need("spec", "give the network");
    let spec = spec.and_then(|spec| spec.object(&table::CLUSTER_USER_DEFINED_SPEC));
    let network = spec.as_ref().and_then(|spec| {
        refuse_unserved(spec, &problems);
        spec.need("network", "give the topology")?
            .object(&table::CLUSTER_NETWORK)
    });
    let primary = network.and_then(|spec| {
        refuse_unserved(&spec, &problems);
        read_topology(&spec, &[LAYER2, LAYER3, LOCALNET])
    });
    let namespaces = spec
        .as_ref()
        .and_then(|spec| spec.need("namespaceSelector", "give {} for all"));
    NamedNetwork {
        medium: primary.map(|_| OVERLAY),
        primary: primary == Some(true),
        namespace: None,
        namespaces: namespaces.and_then(|item| Selector::read(&item)),
        problems,
        ..named(object, Metadata::read(object, namespace))
    }
}

/// Reads `kind: SriovNetwork`.
pub fn read_sriov(object: &Object<'_>, namespace: &str) -> NamedNetwork {
    let mut network = named(object, Metadata::read(object, namespace));
    network.medium = Some(Medium::Unserved(SRIOV));
    let spec = object
        .need("spec", "give resourceName")
        .and_then(|spec| spec.object(&table::SRIOV_NETWORK_SPEC));
    let Some(spec) = spec else {
        return network;
    };
    if let Some(namespace) = spec.text("networkNamespace") {
        network.namespace = Some(namespace.to_owned());
    }
    spec.need("resourceName", "name the pool of virtual functions");
    let vlan: Option<u16> = spec.integer("vlan", 0..=4094);
    let qos: Option<u8> = spec.integer("vlanQoS", 0..=7);
    if qos.is_some_and(|qos| qos != 0) && vlan.is_none_or(|vlan| vlan == 0) {
        spec.error("vlanQoS needs a vlan: give one from 1 to 4094, or leave out vlanQoS");
    }
    let choose = |name, words: &[&str]| {
        let words: Vec<(&str, ())> = words.iter().map(|word| (*word, ())).collect();
        spec.get(name).and_then(|item| item.choice(&words))
    };
    choose("vlanProto", &["802.1q", "802.1ad", "802.1Q", "802.1AD"]);
    choose("spoofChk", &["on", "off"]);
    choose("trust", &["on", "off"]);
    choose("linkState", &["auto", "enable", "disable"]);
    let [least, most] = ["minTxRate", "maxTxRate"].map(|name| spec.integer::<u32>(name, 0..=i64::from(u32::MAX)));
    if let (Some(least), Some(most @ 1..)) = (least, most)
        && least > most
    {
        spec.error(format!("minTxRate {least} is above maxTxRate {most}"));
    }
    spec.text("capabilities");
    let problems = object.apart();
    if let Some(ipam) = spec.get("ipam") {
        check_sriov_ipam(&ipam, &problems);
    }
    if let Some(item) = spec.get("metaPlugins").filter(|item| item.text().is_some()) {
        problems.warn(item.spot(), "ignored: hawser runs no plugins after the first");
    }
    network.problems = problems;
    network
}

/// Checks `ipam`, the string of JSON that the operator puts into the configuration it writes.
fn check_sriov_ipam(item: &Item<'_>, problems: &Report) {
    let is_empty = |item: &Item<'_>| {
        item.scalar()
            .is_some_and(|scalar| scalar.is_text() && scalar.text.is_empty())
    };
    if !is_empty(item)
        && let Some(json) = Json::read(item, problems)
    {
        ipam::read(&json.item(problems), &Requested::default());
    }
}
