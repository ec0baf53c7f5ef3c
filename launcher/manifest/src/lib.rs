//! Manifests of KubeVirt, Multus and OVN-Kubernetes as a plan: one entry for each NIC to serve.
//!
//! ```text
//!  text ── objects ── plan ── plan_text (for people, as JSON)
//!                       └──── cloud_init (network data compared, or written)
//! ```
//!
//! Everything here is a function of its arguments, without access to files, netlink, databases or clocks. The same text
//! yields the same plan in the launcher, in a webhook and in a CNI plugin.
//!
//! ```
//! use hawser_manifest::check::check_sources;
//! use hawser_manifest::objects::SourceFile;
//! use hawser_manifest::plan::PlanSetup;
//! use hawser_manifest::plan::options::PlanOptions;
//! use std::path::Path;
//!
//! let text = "
//! apiVersion: kubevirt.io/v1
//! kind: VirtualMachineInstance
//! metadata: {name: web}
//! spec:
//!   domain: {devices: {interfaces: [{name: default, masquerade: {}, ports: [{port: 80}]}]}}
//!   networks: [{name: default, pod: {}}]
//! ";
//! let file = SourceFile { name: "vm.yaml".into(), text: text.into() };
//! let options = PlanOptions::default();
//! let setup = PlanSetup::new(Path::new("/run/hawser"), &options);
//! let checked = check_sources(&[file], &setup).expect("the manifest can be served");
//! assert_eq!(checked.plan.nics[0].socket, Path::new("/run/hawser/default.sock"));
//! ```

#![forbid(unsafe_code)]

pub mod check;
pub mod cloud_init;
pub mod forward;
pub mod links;
pub mod nic;
pub mod objects;
pub mod passt_ports;
pub mod peers;
pub mod plan;
pub mod plan_text;
pub mod values;
