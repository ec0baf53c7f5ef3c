//! Networks that interfaces name: NetworkAttachmentDefinition, and what makes one of its
//! own (UserDefinedNetwork, SriovNetwork).

use super::cni::{self, Attachment, Fields, Segment, Surroundings};
use super::fields::network as table;
use super::ipam::{self, Ipam};
use super::reader::Object;
use super::report::{Report, Spot};
use super::vm::{DEFAULT_NAMESPACE, Metadata};

/// A network that can be named.
#[derive(Clone, Debug)]
pub struct NamedNetwork {
    /// Where it is.
    pub spot: Spot,
    /// Where it can be named from; `None`: anywhere.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// What it is; `None` if a problem was found with that.
    pub segment: Option<Segment>,
    /// Where what it is stands, if that is a CNI configuration.
    pub fields: Option<Fields>,
    /// It takes the place of the pod network in its namespace.
    pub primary: bool,
    /// What is wrong with what it is. It concerns only the VMs that name the network.
    pub problems: Report,
}

const RESOURCE_NAME: &str = "k8s.v1.cni.cncf.io/resourceName";

fn named(object: &Object<'_>, metadata: Metadata) -> NamedNetwork {
    if metadata.name.is_none() {
        object.error("metadata.name is missing: give the network a name");
    }
    NamedNetwork {
        spot: object.spot().clone(),
        namespace: Some(metadata.namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into())),
        name: metadata.name.unwrap_or_default(),
        segment: None,
        fields: None,
        primary: false,
        problems: Report::default(),
    }
}

/// Reads `kind: NetworkAttachmentDefinition`. The API server takes whatever its configuration
/// says, and only a pod that names it finds out.
pub fn read_attachment(object: &Object<'_>) -> NamedNetwork {
    let problems = Report::default();
    let metadata = Metadata::read(object);
    let resource = metadata.annotations.get(RESOURCE_NAME).cloned();
    let around = Surroundings {
        resource: resource.as_deref(),
    };
    let config = || {
        let spec = object.object("spec", &table::ATTACHMENT_SPEC);
        let Some(config) = spec.as_ref().and_then(|spec| spec.get("config")) else {
            // Multus looks for a file of the node then, which has the network's name.
            let place = spec.as_ref().map_or_else(|| object.spot(), Object::spot);
            problems.error(place, "spec.config is missing: give the CNI configuration");
            return None;
        };
        cni::read(&problems, &config, &around)
    };
    let (segment, fields) = config().unzip();
    NamedNetwork {
        segment,
        fields,
        problems,
        ..named(object, metadata)
    }
}

fn overlay() -> Segment {
    Segment {
        attachment: Attachment::Overlay,
        mtu: None,
        ipam: Ipam::None,
        dns: None,
    }
}

/// Reads the topology of a user-defined network: true if it is primary.
fn read_topology(spec: &Object<'_>, topologies: &[(&str, &str)]) -> Option<bool> {
    let field = spec.need("topology", "give Layer2 or Layer3")?.choice(topologies)?;
    let details = spec
        .need(field, "give what belongs to the topology")?
        .object(&table::TOPOLOGY)?;
    let role = details.need("role", "give Primary or Secondary")?;
    role.choice(&[("Primary", true), ("Secondary", false)])
}

/// Reads `kind: UserDefinedNetwork`.
pub fn read_user_defined(object: &Object<'_>) -> NamedNetwork {
    let topologies = [("Layer2", "layer2"), ("Layer3", "layer3")];
    let spec = object
        .need("spec", "give the topology")
        .and_then(|spec| spec.object(&table::USER_DEFINED_SPEC));
    let primary = spec.and_then(|spec| read_topology(&spec, &topologies));
    NamedNetwork {
        segment: primary.map(|_| overlay()),
        primary: primary == Some(true),
        ..named(object, Metadata::read(object))
    }
}

/// Reads `kind: ClusterUserDefinedNetwork`.
pub fn read_cluster_user_defined(object: &Object<'_>) -> NamedNetwork {
    let topologies = [("Layer2", "layer2"), ("Layer3", "layer3"), ("Localnet", "localnet")];
    let network = || {
        let spec = object
            .need("spec", "give the network")?
            .object(&table::CLUSTER_USER_DEFINED_SPEC)?;
        spec.need("network", "give the topology")?
            .object(&table::CLUSTER_NETWORK)
    };
    let primary = network().and_then(|spec| read_topology(&spec, &topologies));
    NamedNetwork {
        segment: primary.map(|_| overlay()),
        primary: primary == Some(true),
        namespace: None,
        ..named(object, Metadata::read(object))
    }
}

/// Reads `kind: SriovNetwork`.
pub fn read_sriov(object: &Object<'_>) -> NamedNetwork {
    let mut network = named(object, Metadata::read(object));
    network.segment = Some(Segment {
        attachment: Attachment::Sriov,
        mtu: None,
        ipam: Ipam::None,
        dns: None,
    });
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
        spec.error("vlanQoS needs a vlan: give one from 1 to 4094, or leave vlanQoS out");
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
    if let Some(segment) = &mut network.segment {
        segment.ipam = spec.get("ipam").map(|_| ipam::read(&spec).0).unwrap_or_default();
    }
    network
}
