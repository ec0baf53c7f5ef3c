//! A NIC to serve. The variants differ in how the VMM reaches the device.

use super::Endpoint;
use super::PassedThrough;
use crate::attachment::{self, Site, Survey};
use crate::config::{self, ConfigError, Found, Layer2Error, PeerSource, ServiceSource};
use crate::failure::Failure;
use crate::host::Host;
use crate::sandbox::{Access, Needs};
use crate::startup;
use crate::vf::{Keeper, Vf};
use crate::vmm::{Card, Passed};
use crate::watcher::files;
use hawser_backend::port::Identity;
use hawser_config::ModeConfig;
use hawser_manifest::nic::NicSpec;
use hawser_manifest::plan::NicPlan;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A NIC that can be served.
#[derive(Debug)]
pub(crate) enum Nic {
    /// hawser is the back end of the device.
    VhostUser {
        /// How front ends connect.
        endpoint: Endpoint,
        /// Configuration of the port on this host.
        found: Box<Found>,
    },
    /// A virtual function that the VMM passes to the guest.
    PassedThrough(PassedThrough),
}

impl Nic {
    /// A requested NIC that this host can serve.
    pub(crate) fn vhost_user(endpoint: Endpoint, found: Found) -> Self {
        Self::VhostUser {
            endpoint,
            found: Box::new(found),
        }
    }

    /// A NIC of the command line on this host. `queues` are inherited ones of its device, if any.
    ///
    /// # Errors
    /// The reason this host cannot serve the NIC.
    pub(crate) fn of_options(
        spec: NicSpec,
        endpoint: Endpoint,
        queues: Vec<OwnedFd>,
        site: &Site,
    ) -> Result<Self, Failure> {
        let host = Host::probe_for(std::iter::once(&spec))?;
        let segment = attachment::survey(&spec, queues, site)?;
        let found = config::resolve(spec, &host, segment).map_err(|error| match error.is_usage() {
            true => Failure::usage(error),
            false => Failure::runtime(error),
        })?;
        Ok(Self::vhost_user(endpoint, found))
    }

    /// A NIC of a plan on this host. `segment` is the survey of its segment, in bridge mode.
    ///
    /// # Errors
    /// The reason this host cannot serve the NIC.
    pub(crate) fn planned(
        nic: &NicPlan,
        host: &Host,
        mut segment: Option<Survey>,
        keeper: Option<&Arc<Keeper>>,
    ) -> Result<Self, Failure> {
        let Some(spec) = nic.spec() else {
            return Self::passed_through(nic, keeper);
        };
        if let Some(segment) = &mut segment {
            segment.settle(&spec)?;
        }
        let found = config::resolve(spec, host, segment).map_err(|error| match error {
            ConfigError::NoAddress => Failure::runtime(
                "this network namespace has no address that reaches beyond its link: give it one, or name the guest's \
                 network with vmNetworkCIDR",
            ),
            ConfigError::AddressWithoutMac | ConfigError::Layer2(Layer2Error::NoVni) => Failure::usage(error),
            error => Failure::runtime(error),
        });
        let found = found.map_err(|failure| failure.of(&nic.name))?;
        Ok(Self::vhost_user(Endpoint::Listen(nic.socket.clone()), found))
    }

    fn passed_through(nic: &NicPlan, keeper: Option<&Arc<Keeper>>) -> Result<Self, Failure> {
        let vf = Vf::planned(nic)?;
        let keeper = keeper.ok_or_else(|| {
            Failure::usage("VFs need a process that keeps them: start hawser with an sriov interface").of(&nic.name)
        })?;
        keeper.check(&vf).map_err(|failure| failure.of(&nic.name))?;
        Ok(Self::PassedThrough(PassedThrough::of(vf, Arc::clone(keeper))))
    }

    /// Flags that give the VMM a virtual function; `None` for other NICs.
    pub(crate) fn passed(&self) -> Option<Passed<'_>> {
        match self {
            Self::VhostUser { .. } => None,
            Self::PassedThrough(device) => device.card(),
        }
    }

    /// Name of the NIC.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::VhostUser { found, .. } => &found.port.name,
            Self::PassedThrough(device) => &device.name,
        }
    }

    /// What a guest knows about the NIC, if packets pass through hawser.
    pub(crate) fn identity(&self) -> Option<Identity> {
        match self {
            Self::VhostUser { found, .. } => Some(Identity::of(&found.port)),
            Self::PassedThrough(_) => None,
        }
    }

    /// Mode of the NIC's port, if packets pass through hawser.
    pub(crate) const fn mode(&self) -> Option<&ModeConfig> {
        match self {
            Self::VhostUser { found, .. } => Some(&found.port.mode),
            Self::PassedThrough(_) => None,
        }
    }

    /// Messages for the log, written before the NIC is served.
    pub(crate) fn notices(&self) -> &[String] {
        match self {
            Self::VhostUser { found, .. } => &found.notices,
            Self::PassedThrough(_) => &[],
        }
    }

    /// Inputs for the VMM's flags. `None` for a descriptor, which no flag can name.
    pub(crate) fn card(&self) -> Option<Card<'_>> {
        match self {
            Self::VhostUser { endpoint, found } => {
                let (socket, vmm_listens) = match endpoint {
                    Endpoint::Listen(path) => (path, false),
                    Endpoint::Connect(path) => (path, true),
                    Endpoint::Inherited(..) => return None,
                };
                Some(Card {
                    socket,
                    vmm_listens,
                    port: (&found.port).into(),
                    device: found.spec.device.clone(),
                    bus: None,
                })
            }
            Self::PassedThrough(_) => None,
        }
    }

    /// Adds the privileges that the process needs while it serves the NIC.
    pub(crate) fn add_needs(&self, needs: &mut Needs) {
        match self {
            Self::VhostUser { endpoint, found } => {
                if let Some(path) = endpoint.listens_at() {
                    needs.reach.folder_of(&path, Access::Sockets);
                }
                if let Some(segment) = &found.segment {
                    segment.add_needs(needs);
                }
                let peers = found.peers.as_ref().and_then(PeerSource::file);
                let services = found.services.as_ref().and_then(ServiceSource::file);
                let all = [peers, services].into_iter().flatten();
                needs.followed.extend(all.flat_map(files::folders));
                let mode = found.port.mode.properties();
                needs.raw_sockets |= mode.echo_families().any() && startup::echo_takes_raw_sockets();
                needs.low_ports |= mode.inbound().is_some_and(|inbound| inbound.has_every_port);
            }
            Self::PassedThrough(_) => {}
        }
    }
}
