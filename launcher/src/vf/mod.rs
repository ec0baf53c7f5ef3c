//! Virtual functions of a VM: which one an interface gets, and the process that sets it up and puts it back.
//!
//! ```text
//!  NicPlan ── choice (lease of a device) ── Vf ── Keeper ═══ socket ═══ hawser vf-keeper ── PF, sysfs, vfio
//! ```
//!
//! [`keeper`] runs in a process of its own, in the network namespace of the PF. It keeps the right to change
//! devices, which the process that moves packets gives up. When the socket closes, however the other process ended, it
//! puts every function back and exits.

mod choice;
mod client;
mod cluster;
pub(crate) mod keeper;
mod pair;

pub(crate) use choice::{preview, settle};
pub(crate) use client::Keeper;
pub(crate) use cluster::Cluster;
pub(crate) use pair::{PortChange, add_ports};

use crate::failure::Failure;
use hawser_host::passthrough::PfSegment;
use hawser_host::pci::PciAddress;
use hawser_host::virtual_function::{Attribute, LinkMode, TagProtocol};
use hawser_manifest::nic::DeviceHints;
use hawser_manifest::objects::sriov::{SriovNetwork, VfLinkState, VlanProtocol};
use hawser_manifest::plan::NicPlan;
use hawser_packet::MacAddr;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A virtual function to pass to a guest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Vf {
    /// Name of the interface.
    pub name: String,
    /// Place of the interface in the manifests.
    pub place: String,
    /// The function.
    pub address: PciAddress,
    /// The MAC of the interface.
    pub mac: Option<MacAddr>,
    /// What the driver of its physical function has to set.
    pub attributes: Vec<Attribute>,
    /// Its position as the guest's firmware sees it.
    pub device: DeviceHints,
}

impl Vf {
    /// The virtual function of a plan whose device is chosen.
    ///
    /// # Errors
    /// No device is chosen yet.
    pub(crate) fn planned(nic: &NicPlan) -> Result<Self, Failure> {
        let plan = nic.mode.sriov();
        let address = plan
            .and_then(|plan| plan.device.as_deref())
            .and_then(|device| device.parse().ok());
        let (Some(plan), Some(address)) = (plan, address) else {
            return Err(
                Failure::usage("no VF is chosen for it: leave out --store=off, or give deviceID").of(&nic.name),
            );
        };
        Ok(Self {
            name: nic.name.clone(),
            place: nic.places.interface.clone(),
            address,
            mac: nic.mac,
            attributes: attributes(&plan.network, nic.mac),
            device: nic.device.clone(),
        })
    }
}

/// The settings of a network, in the order in which sriov-cni makes them.
fn attributes(network: &SriovNetwork, mac: Option<MacAddr>) -> Vec<Attribute> {
    let vlan = network.vlan.map(|id| Attribute::Vlan {
        id,
        qos: network.vlan_qos.unwrap_or_default(),
        protocol: match network.vlan_proto {
            Some(VlanProtocol::Service) => TagProtocol::Service,
            _ => TagProtocol::Customer,
        },
    });
    let rate = (network.min_tx_rate.is_some() || network.max_tx_rate.is_some()).then(|| Attribute::Rate {
        min: network.min_tx_rate.unwrap_or_default(),
        max: network.max_tx_rate.unwrap_or_default(),
    });
    let link = network.link_state.map(|state| {
        Attribute::Link(match state {
            VfLinkState::Auto => LinkMode::Auto,
            VfLinkState::Enable => LinkMode::Enable,
            VfLinkState::Disable => LinkMode::Disable,
        })
    });
    let all = [
        vlan,
        mac.map(|mac| Attribute::Mac(mac.0)),
        rate,
        network.spoof_chk.map(Attribute::SpoofCheck),
        network.trust.map(Attribute::Trust),
        link,
    ];
    all.into_iter().flatten().collect()
}

/// A request to the keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Request {
    /// The functions of a pool that no VMM has, by number.
    Candidates { resource: String, pools: PathBuf },
    /// Finds the segment of the physical function.
    Segment { vf: PciAddress },
    /// Checks that a function can be passed.
    Check {
        vf: PciAddress,
        attributes: Vec<Attribute>,
        /// True if a standby may have the MAC already.
        is_paired: bool,
    },
    /// Passes a function.
    Pass {
        name: String,
        vf: PciAddress,
        attributes: Vec<Attribute>,
    },
    /// Puts a function back.
    GiveBack { name: String },
    /// Reports a passed function.
    Report { name: String },
}

/// An answer of the keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Answer {
    Candidates(Vec<PciAddress>),
    Segment(PfSegment),
    Report(Box<Report>),
    /// How long the set-up took.
    Passed(String),
    Done,
    Refused(String),
}

/// State of a virtual function.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Name of its physical function.
    pub pf: String,
    /// Driver of that.
    pub driver: String,
    /// Its number there.
    pub number: u32,
    /// MTU of the physical function.
    pub mtu: u32,
    /// The physical function is up and has a carrier, or the function does not depend on it.
    pub link_up: bool,
    /// VLAN; 0: none.
    pub vlan: u16,
    /// A VMM has the function open.
    pub is_used: bool,
    /// Frames and bytes to the guest, and from the guest, if the driver counts them.
    pub traffic: Option<[u64; 4]>,
}
