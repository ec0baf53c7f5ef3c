//! Manifests: the YAML that users of KubeVirt, Multus and OVN-Kubernetes write.
//!
//! ```text
//!  files ── yaml ── reader + fields ── vm, network, service ── Manifests ── plan
//! ```
//!
//! [`yaml`] gives trees whose nodes know their lines. [`reader`] reads them by the tables
//! in [`fields`], which say of every field whether it is honoured, refused, ignored or
//! passed over, and from which docs/manifests.md is made. What is wrong goes into a
//! [`Report`], all of it, and reading goes on; what comes out is typed. What the objects
//! mean together is for [`crate::plan`].

pub mod cni;
pub mod dns;
pub mod fields;
pub mod ipam;
pub mod ipam_claim;
pub mod json;
pub mod mac_pool;
pub mod network;
pub mod ports;
pub mod reader;
pub mod report;
pub mod service;
pub mod vm;
pub mod yaml;

use ipam_claim::IpamClaim;
use mac_pool::MacPool;
use network::NamedNetwork;
use reader::{Item, Object, ObjectType};
use report::{Report, Spot};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Service;
use std::rc::Rc;
use vm::Vm;
use yaml::Budget;

/// What was found in all files.
#[derive(Debug, Default)]
pub struct Manifests {
    /// VMs.
    pub machines: Vec<Vm>,
    /// Networks that interfaces can name.
    pub networks: Vec<NamedNetwork>,
    /// Services.
    pub services: Vec<Service>,
    /// Ranges of MACs for interfaces that name none.
    pub mac_pools: Vec<MacPool>,
    /// Addresses that are kept for interfaces.
    pub ipam_claims: Vec<IpamClaim>,
}

/// A file and what it holds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SourceFile {
    /// Its name, as problems show it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Largest file that is read; manifests have kilobytes.
pub const MAX_FILE: u64 = 1 << 20;

/// Reads all documents of all files.
pub fn read(files: &[SourceFile], report: &Report) -> Manifests {
    let mut manifests = Manifests::default();
    let mut budget = Budget::default();
    for file in files {
        let spot = |line| Spot {
            file: Rc::from(file.name.as_str()),
            line,
            path: String::new(),
        };
        // One tree at a time: what is read from it does not need it any more.
        for document in yaml::documents(&file.text, &mut budget) {
            match document {
                Ok(root) => manifests.take(&Item::root(report, spot(root.line), &root)),
                Err(error) => report.error(&spot(error.line), error.message),
            }
        }
    }
    manifests
}

/// A kind of object that is read.
#[derive(Clone, Copy)]
enum Kind {
    Machine,
    Instance,
    Attachment,
    UserDefined,
    ClusterUserDefined,
    Sriov,
    Service,
    MacPool,
    IpamClaim,
}

/// Kinds, the group and version they are read in, and the table.
const KINDS: &[(&str, &str, Kind)] = &[
    ("VirtualMachine", "kubevirt.io/v1", Kind::Machine),
    ("VirtualMachineInstance", "kubevirt.io/v1", Kind::Instance),
    ("NetworkAttachmentDefinition", "k8s.cni.cncf.io/v1", Kind::Attachment),
    ("UserDefinedNetwork", "k8s.ovn.org/v1", Kind::UserDefined),
    ("ClusterUserDefinedNetwork", "k8s.ovn.org/v1", Kind::ClusterUserDefined),
    ("SriovNetwork", "sriovnetwork.openshift.io/v1", Kind::Sriov),
    ("Service", "v1", Kind::Service),
    (CONFIG_MAP, "v1", Kind::MacPool),
    ("IPAMClaim", "k8s.cni.cncf.io/v1alpha1", Kind::IpamClaim),
];

const CONFIG_MAP: &str = "ConfigMap";

impl Kind {
    const fn table(self) -> &'static ObjectType {
        use fields::{kubevirt, network};
        match self {
            Self::Machine | Self::Instance => &kubevirt::VIRTUAL_MACHINE,
            Self::Attachment => &network::ATTACHMENT,
            Self::UserDefined => &network::USER_DEFINED,
            Self::ClusterUserDefined => &network::CLUSTER_USER_DEFINED,
            Self::Sriov => &network::SRIOV_NETWORK,
            Self::Service => &network::SERVICE,
            Self::MacPool => &network::MAC_POOL,
            Self::IpamClaim => &network::IPAM_CLAIM,
        }
    }
}

impl Manifests {
    fn take(&mut self, item: &Item<'_>) {
        // `kubectl get -o yaml` wraps what it found.
        if item.field_text("kind") == Some("List") {
            /// A list of objects.
            static LIST: ObjectType = ObjectType {
                name: "List",
                unknown: reader::Unknown::PassedOver,
                fields: &[reader::honoured("items", "")],
            };
            let list = item.object(&LIST).map(|list| list.list("items"));
            for item in list.unwrap_or_default() {
                self.take(&item);
            }
            return;
        }
        let Some(kind) = item.field_text("kind") else {
            return item.error("this is no Kubernetes object: kind is missing");
        };
        let Some((name, version, kind)) = KINDS.iter().find(|(name, ..)| *name == kind) else {
            return item.warn(format!("ignored: kind {kind} is not read here"));
        };
        if *name == CONFIG_MAP && !mac_pool::is_mac_pool(item) {
            return item.warn(format!("ignored: of ConfigMaps only {} is read here", mac_pool::NAME));
        }
        let Some(object) = item.object(kind.table()) else {
            return;
        };
        match object.get("apiVersion").map(|item| (item.text(), item)) {
            Some((Some(given), item)) if given != *version => {
                item.error(format!("{given:?}: this kind is read as {version}"));
            }
            Some(_) => self.read(*kind, &object),
            None => object.error(format!("apiVersion is missing: give {version}")),
        }
    }

    fn read(&mut self, kind: Kind, object: &Object<'_>) {
        match kind {
            Kind::Machine => self.machines.extend(vm::read_machine(object)),
            Kind::Instance => self.machines.extend(vm::read_instance(object)),
            Kind::Attachment => self.networks.push(network::read_attachment(object)),
            Kind::UserDefined => self.networks.push(network::read_user_defined(object)),
            Kind::ClusterUserDefined => self.networks.push(network::read_cluster_user_defined(object)),
            Kind::Sriov => self.networks.push(network::read_sriov(object)),
            Kind::Service => self.services.extend(service::read(object)),
            Kind::MacPool => self.mac_pools.extend(mac_pool::read(object)),
            Kind::IpamClaim => self.ipam_claims.extend(ipam_claim::read(object)),
        }
    }
}

#[cfg(test)]
mod tests;
