//! NICs on the segment of a physical function: the standby of a failover pair, and the NIC that takes the place of a
//! virtual function where none is left. They are no interfaces of the manifests: they follow from the interface of a
//! virtual function, once its physical function is known.

use super::{NicMode, NicPlan};
use crate::nic::{AttachmentSpec, DeviceHints, Shortage, Teaming};
use crate::objects::cni::{PortRules, Segment};
use crate::objects::ipam::Ipam;
use crate::objects::sriov::SriovNetwork;

impl NicPlan {
    /// The standby of this NIC, with `attachment` as its way to the segment of the physical function. `None` if the NIC
    /// has no standby.
    pub fn standby(&self, attachment: AttachmentSpec) -> Option<Self> {
        let (sriov, name) = (self.mode.sriov()?, self.device.teaming.standby()?);
        Some(Self {
            name: name.to_owned(),
            socket: self.socket.with_file_name(format!("{name}.sock")),
            mode: on_segment(&sriov.network, attachment),
            device: DeviceHints {
                teaming: Teaming::Persistent,
                ..DeviceHints::default()
            },
            ..self.clone()
        })
    }

    /// True if the NIC has no virtual function and is to get another NIC in its place.
    pub fn lacks_function(&self) -> bool {
        let sriov = self.mode.sriov();
        sriov.is_some_and(|sriov| sriov.device.is_none() && sriov.shortage == Shortage::Macvtap)
    }

    /// The NIC that takes the place of the virtual function, with `attachment` as its way to the segment of the physical
    /// function. `None` if the NIC has none.
    pub fn in_place_of_function(&self, attachment: AttachmentSpec) -> Option<Self> {
        let sriov = self.mode.sriov()?;
        Some(Self {
            mode: on_segment(&sriov.network, attachment),
            ..self.clone()
        })
    }
}

/// A port with the settings that a network has for its virtual functions.
fn on_segment(network: &SriovNetwork, attachment: AttachmentSpec) -> NicMode {
    Segment {
        attachment,
        rules: Some(PortRules {
            vlan: network.vlan.filter(|vlan| *vlan != 0),
            mac_spoof_check: network.spoof_chk == Some(true) && network.trust != Some(true),
            ..PortRules::default()
        }),
        mac: None,
        mtu: None,
        ipam: Ipam::None,
        dns: None,
    }
    .into()
}
