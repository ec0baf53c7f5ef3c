//! The standby of a failover pair. It is no interface of the manifests: it follows from the interface of its virtual
//! function, once it is known which physical function that has.

use super::NicPlan;
use crate::nic::{AttachmentSpec, DeviceHints, Teaming};
use crate::objects::cni::{PortRules, Segment};
use crate::objects::ipam::Ipam;

impl NicPlan {
    /// The standby of this NIC, with `attachment` as its way to the segment of the physical function. `None` if the NIC
    /// has no standby.
    pub fn standby(&self, attachment: AttachmentSpec) -> Option<Self> {
        let (sriov, name) = (self.mode.sriov()?, self.device.teaming.standby()?);
        let network = &sriov.network;
        Some(Self {
            name: name.to_owned(),
            socket: self.socket.with_file_name(format!("{name}.sock")),
            mode: Segment {
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
            .into(),
            device: DeviceHints {
                teaming: Teaming::Persistent,
                ..DeviceHints::default()
            },
            ..self.clone()
        })
    }
}
