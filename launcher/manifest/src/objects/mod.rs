//! Manifests: the YAML that users of KubeVirt, Multus and OVN-Kubernetes write.
//!
//! ```text
//! files ── yaml ── reader + fields ── vm, network, service ── Manifests ── plan
//! ```
//!
//! [`yaml`] produces trees whose nodes contain their line numbers. [`reader`] reads them by the tables in [`fields`],
//! which state for every field whether it is honoured, refused, ignored or passed over. docs/manifests.md is generated
//! from these tables. All errors are added to a [`Report`] and reading continues. The result is typed. [`crate::plan`]
//! combines the objects.

pub mod asked_addresses;
pub mod cni;
pub mod cpu;
pub mod dns;
pub mod endpoint_slice;
pub mod fields;
pub mod interface;
pub mod ipam;
pub mod ipam_claim;
pub mod json;
mod kinds;
pub mod layer2;
pub mod mac_pool;
pub mod macvtap;
pub mod metadata;
pub mod names;
pub mod network;
pub mod network_data;
pub mod node_network;
pub mod node_policy;
pub mod overlay;
pub mod policy;
pub mod ports;
pub mod reader;
pub mod report;
pub mod selector;
pub mod service;
pub mod sriov;
mod teaming;
pub mod topology;
pub mod virtual_services;
pub mod vm;
pub mod written;
pub mod yaml;

use endpoint_slice::EndpointSlice;
use ipam_claim::IpamClaim;
use kinds::Kind;
use mac_pool::MacPool;
use macvtap::DevicePlugin;
use metadata::Metadata;
use network::NamedNetwork;
use node_network::NodeNetwork;
use node_policy::NodePolicy;
use policy::Policy;
use reader::{Item, Object, ObjectType};
use report::{Report, Spot};
use schemars::JsonSchema;
use selector::KnownLabels;
use serde::{Deserialize, Serialize};
use service::Service;
use std::collections::BTreeMap;
use std::rc::Rc;
use vm::Vm;
use yaml::{Budget, Node};

/// The objects in all files.
#[derive(Debug, Default)]
pub struct Manifests {
    /// VMs of the files.
    pub machines: Vec<Vm>,
    /// Networks that interfaces may name.
    pub networks: Vec<NamedNetwork>,
    /// Services.
    pub services: Vec<Service>,
    /// Endpoints of Services.
    pub endpoint_slices: Vec<EndpointSlice>,
    /// Ranges of MACs for interfaces without one.
    pub mac_pools: Vec<MacPool>,
    /// Addresses that a cluster keeps for interfaces.
    pub ipam_claims: Vec<IpamClaim>,
    /// Device plugins of macvtap, with their resources.
    macvtap: Vec<DevicePlugin>,
    /// Policies of the files.
    pub policies: Vec<Policy>,
    /// Policies for the physical functions of nodes.
    pub node_policies: Vec<NodePolicy>,
    /// Policies for the links of nodes.
    pub node_networks: Vec<NodeNetwork>,
    /// Labels of namespaces with a Namespace in the files.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Namespace of objects that name none.
    namespace: String,
    /// Messages about objects that are not read, each with the position of the first object and the number of objects.
    ignored: BTreeMap<String, (Spot, usize)>,
}

/// Kind and apiVersion for objects of a list that have neither, as in lists from the API server (`decodeToList` in
/// apimachinery's unstructured/helpers.go).
#[derive(Clone, Copy, Debug, Default)]
struct Inherited<'a> {
    kind: Option<&'a str>,
    version: Option<&'a str>,
}

/// A file and its text.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SourceFile {
    /// Name of the file in messages.
    pub name: String,
    /// Text of the file.
    pub text: String,
}

/// Maximum length of a file in bytes. Manifests usually have a few kilobytes.
pub const MAX_FILE: u64 = 1 << 20;

/// Reads all documents of all files, and reports those that are not YAML. Only one tree is in memory at a time, because
/// the objects do not refer to it.
fn each_document(files: &[SourceFile], report: &Report, mut take: impl FnMut(Spot, &Node)) {
    let mut budget = Budget::default();
    for file in files {
        let spot = |line| Spot {
            file: Rc::from(file.name.as_str()),
            line,
            path: String::new(),
        };
        for document in yaml::documents(&file.text, &mut budget) {
            match document {
                Ok(root) => take(spot(root.line), &root),
                Err(error) => report.error(&spot(error.line), error.message),
            }
        }
    }
}

/// Reads all documents of all files. Objects without a namespace are in `namespace`.
pub fn read(files: &[SourceFile], namespace: &str, report: &Report) -> Manifests {
    let mut manifests = Manifests {
        namespace: namespace.to_owned(),
        ..Manifests::default()
    };
    each_document(files, report, |spot, root| {
        manifests.take(&Item::root(report, spot, root), Inherited::default());
    });
    macvtap::resolve(&mut manifests.networks, &manifests.macvtap);
    for (what, (spot, count)) in &manifests.ignored {
        let all = match count {
            1 => String::new(),
            all => format!(" ({all} objects, this is the first)"),
        };
        report.warn(spot, format!("ignored: {what}{all}"));
    }
    manifests
}

/// The kind of a supported ConfigMap, which depends on its name.
fn config_map(item: &Item<'_>) -> Option<Kind> {
    let metadata = item.inner("metadata")?;
    match metadata.field_text("name")? {
        mac_pool::NAME => Some(Kind::MacPool),
        macvtap::NAME => Some(Kind::Macvtap),
        _ => None,
    }
}

impl Manifests {
    fn take(&mut self, item: &Item<'_>, inherited: Inherited<'_>) {
        let (kind, version) = (item.field_text("kind"), item.field_text("apiVersion"));
        let is_bare = !item.has_field("kind") && !item.has_field("apiVersion");
        let (kind, version) = match is_bare {
            true => (inherited.kind, inherited.version),
            false => (kind, version),
        };
        let Some(name) = kind else {
            return item.error("this is not a Kubernetes object: kind is missing");
        };
        // kubectl treats every object with items as a list.
        if name == "List" || item.has_field("items") {
            /// The table for a list of objects.
            static LIST: ObjectType = ObjectType {
                name: "List",
                unknown: reader::Unknown::PassedOver,
                fields: &[reader::honoured("items", "")],
            };
            let inherited = Inherited {
                kind: name.strip_suffix("List").filter(|kind| !kind.is_empty()),
                version,
            };
            let list = item.object(&LIST).map(|list| list.list("items"));
            for item in list.unwrap_or_default() {
                self.take(&item, inherited);
            }
            return;
        }
        let Some(known) = kinds::find(name, version) else {
            let of = version.map(|version| format!(" of {version}")).unwrap_or_default();
            return self.ignore(item, format!("kind {name}{of} is not read here"));
        };
        let kind = match known.kind {
            Kind::MacPool => config_map(item),
            kind => Some(kind),
        };
        let Some(kind) = kind else {
            let (pool, macvtap) = (mac_pool::NAME, macvtap::NAME);
            return self.ignore(item, format!("of ConfigMaps only {pool} and {macvtap} are read here"));
        };
        // Errors of an object concern those that refer to it.
        let report = item.report();
        let own = report.apart();
        let item = item.told_to(&own);
        let Some(object) = item.object(kind.table()) else {
            return report.adopt(&own);
        };
        known.check_version(&object, version.filter(|_| is_bare));
        self.read(kind, &object, &own, report);
    }

    /// Adds one message for all objects of the same kind.
    fn ignore(&mut self, item: &Item<'_>, what: String) {
        let first = || (item.spot().clone(), 0);
        self.ignored.entry(what).or_insert_with(first).1 += 1;
    }

    /// Reads an object whose errors are in `own`. They go to `report` if the object is not used.
    fn read(&mut self, kind: Kind, object: &Object<'_>, own: &Report, report: &Report) {
        let namespace = self.namespace.as_str();
        let network = match kind {
            Kind::Machine | Kind::Instance => {
                let mut vm = match kind {
                    Kind::Machine => vm::read_machine(object, namespace),
                    _ => vm::read_instance(object, namespace),
                };
                vm.problems = own.clone();
                return self.machines.push(vm);
            }
            Kind::Service => {
                let mut service = service::read(object, namespace);
                service.problems = own.clone();
                return self.services.push(service);
            }
            Kind::EndpointSlice => {
                let slice = endpoint_slice::read(object, namespace);
                self.endpoint_slices.extend(slice.map(|slice| EndpointSlice {
                    problems: own.clone(),
                    ..slice
                }));
                return;
            }
            Kind::Policy(kind) => {
                let mut policy = policy::read(kind, object, namespace);
                policy.problems = own.clone();
                return self.policies.push(policy);
            }
            Kind::MacPool => {
                self.mac_pools.extend(mac_pool::read(object));
                return report.adopt(own);
            }
            Kind::Macvtap => {
                self.macvtap.extend(macvtap::read(object));
                return report.adopt(own);
            }
            Kind::IpamClaim => {
                self.ipam_claims.extend(ipam_claim::read(object, namespace));
                return report.adopt(own);
            }
            Kind::NodePolicy => {
                self.node_policies.extend(node_policy::read(object, namespace));
                return report.adopt(own);
            }
            Kind::NodeNetwork => {
                self.node_networks.extend(node_network::read(object, namespace));
                return report.adopt(own);
            }
            Kind::Namespace => {
                let metadata = Metadata::read(object, namespace);
                let name = metadata.need_name(object, "the namespace");
                self.namespaces.insert(name, metadata.labels);
                return report.adopt(own);
            }
            Kind::Attachment => network::read_attachment(object, namespace),
            Kind::UserDefined => network::read_user_defined(object, namespace),
            Kind::ClusterUserDefined => network::read_cluster_user_defined(object, namespace),
            Kind::Sriov => network::read_sriov(object, namespace),
        };
        // An object that the API server refuses is always wrong. An error that only a plugin would report concerns the
        // network.
        report.adopt(own);
        self.networks.push(network);
    }

    /// The known labels of a namespace: its name is one, and a Namespace in the files contains all of them.
    pub fn labels_of_namespace(&self, name: &str) -> KnownLabels {
        const NAME: &str = "kubernetes.io/metadata.name";
        let written = self.namespaces.get(name);
        let mut labels = written.cloned().unwrap_or_default();
        labels.insert(NAME.into(), name.into());
        KnownLabels {
            labels,
            complete: written.is_some(),
            unknown: &[],
        }
    }
}

#[cfg(test)]
mod tests;
