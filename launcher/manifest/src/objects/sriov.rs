//! Networks of virtual functions: SriovNetwork, and the CNI plugin sriov. Both state what the physical function's driver
//! is to do with the frames of a guest.

use super::reader::{Item, Object};
use crate::values;
use hawser_packet::MacAddr;
use serde::Serialize;

/// A network of virtual functions. A setting that is `None` stays as the driver has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SriovNetwork {
    /// The pool of the virtual functions, without a prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// PCI address of the only virtual function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// VLAN; 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// IEEE 802.1p priority of the VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan_qos: Option<u8>,
    /// Tag protocol of the VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan_proto: Option<VlanProtocol>,
    /// MAC for an interface without one.
    #[serde(skip)]
    pub mac: Option<MacAddr>,
    /// Whether frames from other MACs are dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spoof_chk: Option<bool>,
    /// Whether the guest may change its MAC and be promiscuous.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
    /// Link state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_state: Option<VfLinkState>,
    /// Guaranteed rate in Mbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tx_rate: Option<u32>,
    /// Limit of the rate in Mbit/s; 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tx_rate: Option<u32>,
}

/// Tag protocol of a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum VlanProtocol {
    /// 802.1Q
    #[serde(rename = "802.1q")]
    Customer,
    /// 802.1ad
    #[serde(rename = "802.1ad")]
    Service,
}

/// Link state of a virtual function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of ip-link(8)")]
pub enum VfLinkState {
    Auto,
    Enable,
    Disable,
}

/// Names of fields that the two kinds of objects write differently.
pub(super) struct Names {
    pub spoof_chk: &'static str,
    pub link_state: &'static str,
    pub min_rate: &'static str,
    pub max_rate: &'static str,
}

/// Reads the settings of the frames.
pub(super) fn read(object: &Object<'_>, names: &Names) -> SriovNetwork {
    let vlan: Option<u16> = object.integer("vlan", 0..=4094);
    let vlan_qos: Option<u8> = object.integer("vlanQoS", 0..=7);
    let has_vlan = vlan.is_some_and(|vlan| vlan != 0);
    if vlan_qos.is_some_and(|qos| qos != 0) && !has_vlan {
        object.error("vlanQoS needs a vlan: give one from 1 to 4094, or leave out vlanQoS");
    }
    let switch = |name| {
        object
            .get(name)
            .and_then(|item| item.choice(&[("on", true), ("off", false)]))
    };
    let vlan_proto = object.get("vlanProto").and_then(|item| protocol(&item));
    if vlan_proto == Some(VlanProtocol::Service) && !has_vlan {
        object.error("vlanProto needs a vlan: give one from 1 to 4094, or leave out vlanProto");
    }
    let link_state = object.get(names.link_state).and_then(|item| {
        item.choice(&[
            ("auto", VfLinkState::Auto),
            ("enable", VfLinkState::Enable),
            ("disable", VfLinkState::Disable),
        ])
    });
    let rate = |name| object.integer::<u32>(name, 0..=i64::from(u32::MAX));
    let (min_tx_rate, max_tx_rate) = (rate(names.min_rate), rate(names.max_rate));
    if let (Some(least), Some(most @ 1..)) = (min_tx_rate, max_tx_rate)
        && least > most
    {
        object.error(format!("{} {least} is above {} {most}", names.min_rate, names.max_rate));
    }
    SriovNetwork {
        vlan,
        vlan_qos,
        vlan_proto,
        spoof_chk: switch(names.spoof_chk),
        trust: switch("trust"),
        link_state,
        min_tx_rate,
        max_tx_rate,
        ..SriovNetwork::default()
    }
}

fn protocol(item: &Item<'_>) -> Option<VlanProtocol> {
    item.choice(&[
        ("802.1q", VlanProtocol::Customer),
        ("802.1ad", VlanProtocol::Service),
        ("802.1Q", VlanProtocol::Customer),
        ("802.1AD", VlanProtocol::Service),
    ])
}

/// The configuration of the CNI plugin sriov; `resource` is the annotation of its NetworkAttachmentDefinition.
pub(super) fn read_cni(object: &Object<'_>, resource: Option<&str>) -> Option<SriovNetwork> {
    let names = Names {
        spoof_chk: "spoofchk",
        link_state: "link_state",
        min_rate: "min_tx_rate",
        max_rate: "max_tx_rate",
    };
    let network = read(object, &names);
    let device = object.get("deviceID");
    let device = device.map(|item| item.parsed(pci_address));
    let pool = resource
        .and_then(|resource| resource.rsplit('/').next())
        .filter(|name| !name.is_empty());
    if pool.is_none() && device.is_none() {
        object.error(
            "which virtual functions? Give the annotation k8s.v1.cni.cncf.io/resourceName with the resourceName of a \
             SriovNetworkNodePolicy, or deviceID with the PCI address of one",
        );
        return None;
    }
    Some(SriovNetwork {
        resource: pool.map(str::to_owned),
        device: device.map_or(Some(None), |device| device.map(Some))?,
        mac: object.get("mac").and_then(|item| item.parsed(values::guest_mac)),
        ..network
    })
}

fn pci_address(text: &str) -> Result<String, String> {
    let widths: Vec<usize> = text.split([':', '.']).map(str::len).collect();
    let letters = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.');
    match widths == [4, 2, 2, 1] && letters && text.matches(':').count() == 2 {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("give a PCI address such as 0000:01:10.0".to_owned()),
    }
}
