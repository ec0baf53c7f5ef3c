//! A NIC to serve, by the way the VMM reaches its device.

use super::Endpoint;
use crate::attachment::Site;
use crate::config::{self, ConfigError, Found};
use crate::failure::Failure;
use crate::host::Host;
use crate::sandbox::{Access, Needs};
use crate::startup;
use crate::vmm::Card;
use hawser_config::ModeConfig;
use hawser_manifest::nic::{DeviceHints, NicSpec};
use hawser_manifest::plan::NicPlan;

/// A NIC to serve.
#[derive(Debug)]
pub enum Nic {
    /// hawser is the back end of the device.
    VhostUser(Box<VhostUserNic>),
}

/// A NIC whose device is a vhost-user back end.
#[derive(Debug)]
pub struct VhostUserNic {
    /// Where front ends connect.
    pub endpoint: Endpoint,
    /// What this host makes of it.
    pub found: Found,
    /// Whether the guest has a carrier at first.
    pub link_up: bool,
    /// Settings for the VMM.
    pub device: DeviceHints,
}

impl Nic {
    /// A NIC that was asked for and found possible.
    pub fn vhost_user(spec: &NicSpec, endpoint: Endpoint, found: Found) -> Self {
        Self::VhostUser(Box::new(VhostUserNic {
            endpoint,
            found,
            link_up: spec.link_up,
            device: spec.device.clone(),
        }))
    }

    /// A NIC of a plan on this host.
    ///
    /// # Errors
    /// What keeps it from being served here.
    pub fn planned(nic: &NicPlan, host: &Host, site: &Site) -> Result<Self, Failure> {
        let spec = nic.spec();
        let found = config::resolve(&spec, host).map_err(|error| match error {
            ConfigError::NoAddress => Failure::runtime(
                "this network namespace has no address that reaches beyond its link: give it one, or name the guest's \
                 network with vmNetworkCIDR",
            ),
            error => Failure::runtime(error),
        });
        let found = found.map_err(|failure| failure.of(&spec.name))?;
        let found = found.look(&spec, Vec::new(), host, site)?;
        Ok(Self::vhost_user(&spec, Endpoint::Listen(nic.socket.clone()), found))
    }

    /// Name of the NIC.
    pub fn name(&self) -> &str {
        match self {
            Self::VhostUser(nic) => &nic.found.port.name,
        }
    }

    /// Mode of the NIC's port, if hawser moves its packets.
    pub const fn mode(&self) -> Option<&ModeConfig> {
        match self {
            Self::VhostUser(nic) => Some(&nic.found.port.mode),
        }
    }

    /// Messages for the log before it is served.
    pub fn notices(&self) -> &[String] {
        match self {
            Self::VhostUser(nic) => &nic.found.notices,
        }
    }

    /// What a VMM's flags are made from; `None` on a descriptor, which no flag can name.
    pub fn card(&self) -> Option<Card<'_>> {
        match self {
            Self::VhostUser(nic) => {
                let (socket, vmm_listens) = match &nic.endpoint {
                    Endpoint::Listen(path) => (path, false),
                    Endpoint::Connect(path) => (path, true),
                    Endpoint::Inherited(..) => return None,
                };
                Some(Card {
                    socket,
                    vmm_listens,
                    port: &nic.found.port,
                    device: nic.device.clone(),
                    bus: None,
                })
            }
        }
    }

    /// Adds what the process needs while it serves the NIC.
    pub fn add_needs(&self, needs: &mut Needs) {
        match self {
            Self::VhostUser(nic) => {
                if let Some(path) = nic.endpoint.listens_at() {
                    needs.reach.folder_of(&path, Access::Sockets);
                }
                if let Some(segment) = &nic.found.segment {
                    segment.add_needs(needs);
                }
                let mode = nic.found.port.mode.properties();
                needs.raw_sockets |= mode.echo_families().any() && startup::echo_takes_raw_sockets();
                needs.low_ports |= mode.inbound().is_some_and(|inbound| inbound.has_every_port);
            }
        }
    }
}
