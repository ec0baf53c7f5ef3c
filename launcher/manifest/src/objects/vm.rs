//! Reads VirtualMachine and VirtualMachineInstance: the parts that concern the network.

use super::asked_addresses::{self, AskedAddresses};
use super::cpu::virtual_cpus;
use super::fields::kubevirt as table;
use super::interface::{self, Binding, Interface, interface_name};
use super::metadata::{Metadata, texts};
use super::names;
use super::network_data::{self, Device};
use super::reader::{Item, Object};
use super::report::{Report, Spot};
use crate::nic::Family;
use crate::values;
use ipnet::{Ipv4Net, Ipv6Net};
use sha1::{Digest as _, Sha1};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A VM and its interfaces.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Position in the manifest.
    pub spot: Spot,
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// True if its pod contains an Istio proxy.
    pub istio: bool,
    /// Labels of the pod, by which Services and policies select the VM.
    pub labels: BTreeMap<String, String>,
    /// Labels that the VM's node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Host name of the guest.
    pub hostname: Option<String>,
    /// `terminationGracePeriodSeconds`: how long the guest may take to shut down.
    pub grace: Duration,
    /// Number of virtual CPUs, if each interface gets a queue pair for each.
    pub multiqueue: Option<u32>,
    /// True if neither interfaces nor networks are given, so that KubeVirt adds one of each.
    pub default_interface: bool,
    /// Interfaces of the VM, in order.
    pub interfaces: Vec<Interface>,
    /// Networks of the VM.
    pub networks: Vec<Network>,
    /// Addresses requested by the VM's annotation.
    pub addresses: Vec<AskedAddresses>,
    /// Devices in cloud-init's network configuration of the guest.
    pub network_data: Vec<Device>,
    /// Errors of the VM, which matter only if it is served.
    pub problems: Report,
}

/// An entry of `networks[]`
#[derive(Clone, Debug)]
pub struct Network {
    /// Position in the manifest.
    pub spot: Spot,
    /// `name`
    pub name: String,
    /// Source of the network. `None` if it has an error.
    pub source: Option<NetworkSource>,
}

/// Where a network comes from.
#[derive(Clone, Debug)]
pub enum NetworkSource {
    /// `pod`
    Pod(PodNetwork),
    /// `multus`
    Multus {
        /// Position of the name.
        spot: Spot,
        /// Namespace of the name, if given.
        namespace: Option<String>,
        /// Name of the NetworkAttachmentDefinition.
        name: String,
    },
}

/// Settings of `pod`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodNetwork {
    /// `vmNetworkCIDR`
    pub ipv4: Option<Ipv4Net>,
    /// `vmIPv6NetworkCIDR`
    pub ipv6: Option<Ipv6Net>,
}

impl Vm {
    /// Adds the default interface and network of KubeVirt (`SetDefaultNetworkInterface` in
    /// pkg/network/vmispec/defaults.go).
    pub fn with_default_interface(&self, binding: Binding) -> Self {
        const NAME: &str = "default";
        let mut vm = self.clone();
        vm.interfaces = vec![Interface::plain(self.spot.clone(), NAME.into(), binding)];
        vm.networks = vec![Network {
            spot: self.spot.clone(),
            name: NAME.into(),
            source: Some(NetworkSource::Pod(PodNetwork::default())),
        }];
        vm
    }
}

/// Time that KubeVirt gives a guest to shut down by default.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// Annotation of a VM with Istio's proxy in its pod, which KubeVirt copies to a label.
const ISTIO_INJECT: &str = "sidecar.istio.io/inject";

/// Reads `kind: VirtualMachine`. `namespace` is the default. A missing part is an error, but the rest is still read.
pub fn read_machine(object: &Object<'_>, namespace: &str) -> Vm {
    let own = Metadata::read(object, namespace);
    let spec = object.need("spec", "give spec.template");
    let spec = spec.and_then(|spec| spec.object(&table::VM_SPEC));
    let template = spec.and_then(|spec| {
        spec.need(
            "template",
            "give the VirtualMachineInstance \
        that it creates",
        )
    });
    let template = template.and_then(|template| template.object(&table::TEMPLATE));
    let inner = template.as_ref().map(|template| Metadata::read(template, namespace));
    let spec = template.and_then(|template| template.need("spec", "give domain and networks"));
    let metadata = Metadata {
        name: own.name,
        is_generated: own.is_generated,
        namespace: own.namespace,
        ..inner.unwrap_or_default()
    };
    read_spec(object, metadata, spec.as_ref())
}

/// Reads `kind: VirtualMachineInstance`, in the same way as [`read_machine`].
pub fn read_instance(object: &Object<'_>, namespace: &str) -> Vm {
    let metadata = Metadata::read(object, namespace);
    let spec = object.need("spec", "give domain and networks");
    read_spec(object, metadata, spec.as_ref())
}

fn read_spec(object: &Object<'_>, metadata: Metadata, spec: Option<&Item<'_>>) -> Vm {
    let name = metadata.need_name(object, "the VM");
    let spec = spec.and_then(|spec| spec.object(&table::VMI_SPEC));
    let domain = spec
        .as_ref()
        .and_then(|spec| spec.need("domain", "give domain.devices"))
        .and_then(|domain| domain.object(&table::DOMAIN));
    let devices = domain
        .as_ref()
        .and_then(|domain| domain.need("devices", "give {} if it has only what KubeVirt adds"))
        .and_then(|devices| devices.object(&table::DEVICES));
    let of_devices = |name| devices.as_ref().and_then(|devices| devices.boolean(name));
    let istio = is_injected(&metadata);
    let hostname = hostname(object, spec.as_ref(), &name);
    let interfaces = devices.as_ref().map(|devices| interface::read_all(devices, istio));
    let networks = spec.as_ref().map(networks).unwrap_or_default();
    let is_declined = of_devices("autoattachPodInterface") == Some(false);
    let none_written = networks.is_empty() && interfaces.as_ref().is_some_and(Vec::is_empty);
    let grace = |spec: &Object<'_>| spec.integer("terminationGracePeriodSeconds", 0..=i64::from(u32::MAX));
    Vm {
        spot: object.spot().clone(),
        grace: spec.as_ref().and_then(grace).map_or(DEFAULT_GRACE, Duration::from_secs),
        namespace: metadata.namespace.clone(),
        istio,
        addresses: asked_addresses::read(object, &metadata),
        node_selector: texts(spec.as_ref().and_then(|spec| spec.get("nodeSelector"))),
        labels: pod_labels(metadata, &name, hostname.as_deref()),
        multiqueue: domain
            .as_ref()
            .filter(|_| of_devices("networkInterfaceMultiqueue") == Some(true))
            .map(virtual_cpus),
        default_interface: none_written && !is_declined,
        interfaces: interfaces.unwrap_or_default(),
        networks,
        network_data: spec.as_ref().map(network_data::read).unwrap_or_default(),
        problems: object.apart(),
        hostname,
        name,
    }
}

/// Reads the annotation as KubeVirt does (`ProxyInjectionEnabled` in pkg/network/istio).
fn is_injected(metadata: &Metadata) -> bool {
    let inject = metadata.annotations.get(ISTIO_INJECT);
    inject.is_some_and(|inject| inject.eq_ignore_ascii_case("true"))
}

/// The host name that KubeVirt gives the pod, which DHCP hands out (`SanitizeHostname` in pkg/util/net/dns). It is
/// `spec.hostname`, or else the first label of the VM's name, cut at the end of a label.
fn hostname(object: &Object<'_>, spec: Option<&Object<'_>>, name: &str) -> Option<String> {
    if let Some(item) = spec.and_then(|spec| spec.get("hostname")) {
        return item.parsed(names::dns_label);
    }
    let label = name.split('.').next()?;
    let cut = label.get(..names::MAX_LABEL).unwrap_or(label);
    // An invalid name has already been reported.
    let hostname = names::dns_label(cut).ok();
    if hostname.is_none() && names::dns_subdomain(name).is_ok() {
        object.error(format!(
            "the first {} bytes of the name are the host name, which cannot end with a hyphen: give spec.hostname",
            names::MAX_LABEL
        ));
    }
    hostname
}

/// Labels that the cluster adds to the pod with its own values. KubeVirt adds those with UIDs (`CreatedByLabel`,
/// `MigrationJobLabel`), and the API server adds those of the node's location (PodTopologyLabels).
pub const UNKNOWN_POD_LABELS: &[&str] = &[
    "kubevirt.io/created-by",
    "kubevirt.io/migrationJobUID",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// The labels of the pod that KubeVirt creates for a VirtualMachineInstance (`podLabels` in
/// pkg/virt-controller/services/template.go): the instance's own labels, unless KubeVirt's replace them. Those in
/// [`UNKNOWN_POD_LABELS`] are unknown.
fn pod_labels(metadata: Metadata, name: &str, hostname: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = metadata.labels;
    let mut set = |key: &str, value: &str| labels.insert(key.to_owned(), value.to_owned());
    set("kubevirt.io", "virt-launcher");
    set("vmi.kubevirt.io/id", &instance_id(name));
    if let Some(hostname) = hostname {
        set("vm.kubevirt.io/name", hostname);
    }
    if let Some(inject) = metadata.annotations.get(ISTIO_INJECT) {
        set(ISTIO_INJECT, inject);
    }
    labels
}

/// The name or, if it is too long, the part of the name that fits into a label together with a hash
/// (`CalculateVirtualMachineInstanceID` in pkg/apimachinery).
fn instance_id(name: &str) -> String {
    const HASH: usize = 8;
    if name.len() <= names::MAX_LABEL {
        return name.to_owned();
    }
    let prefix = name.get(..names::MAX_LABEL - HASH - 1).unwrap_or(name);
    let hash = Sha1::digest(name).into_iter().take(HASH / 2);
    let hash: String = hash.map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}-{hash}")
}

fn networks(spec: &Object<'_>) -> Vec<Network> {
    let mut names = BTreeSet::new();
    let mut networks = Vec::new();
    for item in spec.list("networks") {
        let Some(object) = item.object(&table::NETWORK) else {
            continue;
        };
        let name = object.need("name", "give the name of its interface");
        let Some(name) = name.and_then(|item| item.parsed(interface_name)) else {
            continue;
        };
        if !names.insert(name.clone()) {
            item.error(format!(
                "another network is also named {name:?}: give each its own name"
            ));
        }
        networks.push(Network {
            spot: item.spot().clone(),
            source: source(&object),
            name,
        });
    }
    networks
}

fn source(network: &Object<'_>) -> Option<NetworkSource> {
    let pod = network.get("pod").and_then(|item| item.object(&table::POD_NETWORK));
    let multus = network
        .get("multus")
        .and_then(|item| item.object(&table::MULTUS_NETWORK));
    match (pod, multus) {
        (Some(pod), None) => {
            let ipv4 = pod
                .get("vmNetworkCIDR")
                .and_then(|item| item.parsed(on(values::ipv4_network)));
            let ipv6 = pod
                .get("vmIPv6NetworkCIDR")
                .and_then(|item| item.parsed(on(values::ipv6_network)));
            Some(NetworkSource::Pod(PodNetwork { ipv4, ipv6 }))
        }
        (None, Some(multus)) => {
            if multus.boolean("default") == Some(true) {
                multus
                    .error("default: true makes this the pod's own network, which hawser cannot change: leave it out");
            }
            let item = multus.need("networkName", "name a NetworkAttachmentDefinition")?;
            let (namespace, name) = item.parsed(network_name)?;
            let spot = item.spot().clone();
            Some(NetworkSource::Multus { spot, namespace, name })
        }
        (Some(_), Some(_)) => {
            network.error("pod and multus are both given: keep one of them");
            None
        }
        (None, None) => {
            network.error("it has no source: give pod: {} or multus.networkName");
            None
        }
    }
}

/// A network parser that does not accept the word "off", which manifests do not use.
fn on<N>(parse: impl Fn(&str) -> Result<Family<N>, String>) -> impl Fn(&str) -> Result<N, String> {
    move |text| match parse(text) {
        Ok(Family::On(network)) => Ok(network),
        Ok(Family::Off) => Err("give a network such as 10.0.2.0/24 or fd10:0:2::/120".into()),
        Err(why) => Err(why.trim_end_matches(", or off").to_owned()),
    }
}

fn network_name(text: &str) -> Result<(Option<String>, String), String> {
    let valid = |name: &str| !name.is_empty() && name.split('.').all(|label| values::hostname(label).is_ok());
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    if valid(name) && namespace.is_none_or(valid) {
        Ok((namespace.map(str::to_owned), name.to_owned()))
    } else {
        Err("give name or namespace/name of a NetworkAttachmentDefinition".into())
    }
}
