//! Lowers options to specs. Only the modules of the command line depend on options.

use super::policy::PolicyError;
use super::{EndpointArgs, Mode, PortArgs, RunArgs};
use crate::attachment::{Site, default_runtime_folder};
use crate::failure::Failure;
use crate::inherited::inherited;
use crate::machine::Endpoint;
use hawser_config::{EveryPort, Otherwise};
use hawser_host::namespace::Namespace;
use hawser_manifest::forward;
use hawser_manifest::nic::{
    BridgeSpec, DeviceHints, Family, GatewaySpec, Layer2Spec, MasqueradeSpec, ModeSpec, NameSpec, NetworkSpec, NicSpec,
    SharedAddress, SharedSpec, Teaming, UnderlaySpec, VtepSpec,
};
use std::os::fd::{OwnedFd, RawFd};

/// The reason why options contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    /// Ports are excluded from forwarding, but not every port is forwarded.
    #[error("--keep-port has an effect only with --port=all: leave it out, or add --port=all")]
    KeptOfNone,
    /// An option belongs to another mode.
    #[error("{option} has no effect with --mode={mode}: leave it out, or choose the other mode")]
    OtherMode {
        /// Name of the option, with its dashes.
        option: &'static str,
        /// Mode that was selected.
        mode: &'static str,
    },
    /// A virtual function is described by manifests.
    #[error("--mode=sriov: a VF is passed by hawser run -f FILE, with sriov: {{}} in the interface")]
    VirtualFunction,
    /// Bridge mode is selected without a segment.
    #[error(
        "--mode=bridge needs a segment: give one of --bridge, --tap, --tap-fd, --macvtap, --ipvtap and --pod-interface"
    )]
    NoSegment,
    /// Hairpin and promiscuous mode are selected together. The bridge would return the guest's own frames twice.
    #[error("--hairpin-mode and --promisc-mode exclude each other, as in the bridge CNI plugin: leave one of them out")]
    HairpinPromiscuous,
    /// The MAC check is selected without a MAC.
    #[error("--mac-spoof-check needs --mac: give the guest's MAC, or leave the check out")]
    CheckWithoutMac,
    /// An option belongs to another kind of attachment.
    #[error("{0} has an effect only with {1}: leave it out")]
    OnlyWith(&'static str, &'static str),
    /// The numbers of descriptors and queue pairs differ.
    #[error("--tap-fd was given {descriptors} times and --queue-pairs={pairs}: give one descriptor for each pair")]
    TapDescriptors {
        /// Number of descriptors.
        descriptors: usize,
        /// Number of queue pairs.
        pairs: u16,
    },
    /// A required option of layer2 mode is missing.
    #[error("--mode=layer2 needs {0}: give it, see hawser --help")]
    Missing(&'static str),
    /// An option needs the gateway, and the network has none.
    #[error("{0} has no effect with --gateway=off, because it needs the gateway; leave one of them out")]
    NoGateway(&'static str),
    /// The guest's network is given twice.
    #[error("{0} names a private network, and --guest-address-of that of an interface: leave one of them out")]
    TwoNetworks(&'static str),
    /// Options of the policy contradict each other.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl EndpointArgs {
    /// The endpoint to which front ends connect. Call this before the process opens any descriptor.
    ///
    /// # Errors
    /// No option names an endpoint, or the descriptor is not open.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        match (&self.socket_path, self.fd) {
            (Some(path), _) if self.connect => Ok(Endpoint::Connect(path.clone())),
            (Some(path), _) => Ok(Endpoint::Listen(path.clone())),
            (None, Some(fd)) => Ok(Endpoint::Inherited(fd, inherited("--fd", fd)?)),
            (None, None) => Err(Failure::usage(
                "give --socket-path=PATH or --fd=N, the socket the VMM connects to; see hawser --help",
            )),
        }
    }
}

impl RunArgs {
    /// The namespace and settings for attaching NICs.
    ///
    /// # Errors
    /// The network namespace cannot be entered.
    pub(crate) fn site(&self) -> Result<Site, Failure> {
        let namespace = self.netns.as_deref().map(Namespace::enter).transpose();
        Ok(Site {
            namespace: namespace.map_err(Failure::runtime)?.unwrap_or_default(),
            runtime_folder: self.runtime_dir.clone().unwrap_or_else(default_runtime_folder),
        })
    }
}

impl PortArgs {
    /// Takes over the queues of `--tap-fd`. Call this before the process opens any descriptor.
    ///
    /// # Errors
    /// A descriptor is named twice or is not open.
    pub(crate) fn queues(&self) -> Result<Vec<OwnedFd>, Failure> {
        let numbers = if self.mode.uses_links() {
            &self.segment.tap_fd[..]
        } else {
            &[]
        };
        let queue = |(n, number): (usize, &RawFd)| {
            if numbers[..n].contains(number) {
                return Err(Failure::usage(format_args!(
                    "--tap-fd={number} was given twice: each queue has a descriptor of its own"
                )));
            }
            inherited("--tap-fd", *number)
        };
        numbers.iter().enumerate().map(queue).collect()
    }

    /// Lowers the options to a NIC.
    ///
    /// # Errors
    /// The first contradiction between the options.
    pub(crate) fn spec(&self, name: String) -> Result<NicSpec, OptionError> {
        if self.policy.mac_spoof_check && self.mac.is_none() {
            return Err(OptionError::CheckWithoutMac);
        }
        let (mode, policy) = match self.mode {
            Mode::Masquerade => (ModeSpec::Masquerade(self.masquerade()?), self.policy.off_segment()),
            Mode::Bridge => {
                self.refuse_masquerade()?;
                let policy = self.policy.on_segment()?;
                (ModeSpec::Bridge(self.bridge()?), policy)
            }
            Mode::Layer2 => (ModeSpec::Layer2(self.layer2()?), self.policy.off_segment()),
            Mode::Sriov => return Err(OptionError::VirtualFunction),
        };
        Ok(NicSpec {
            name,
            mac: self.mac,
            mtu: self.mtu,
            queue_pairs: self.queue_pairs,
            pace: self.pace.config(),
            policy,
            names: NameSpec {
                hostname: self.hostname.clone(),
                servers: (!self.dns.is_empty()).then(|| self.dns.clone()),
                search: (!self.search.is_empty()).then(|| self.search.clone()),
                domain: self.layer2.domain.clone(),
                ..NameSpec::default()
            },
            link_up: true,
            device: DeviceHints {
                teaming: match self.segment.standby {
                    true => Teaming::Persistent,
                    false => Teaming::None,
                },
                ..DeviceHints::default()
            },
            mode,
            places: None,
        })
    }

    fn masquerade(&self) -> Result<MasqueradeSpec, OptionError> {
        if let Some(attachment) = self.segment.attachment() {
            return Err(OptionError::OtherMode {
                option: attachment.way().option,
                mode: "masquerade",
            });
        }
        refuse("masquerade", &self.policy.of_a_segment())?;
        refuse(
            "masquerade",
            &[(!self.policy.ip_spoof_check.is_empty(), "--ip-spoof-check")],
        )?;
        refuse("masquerade", &[(self.segment.standby, "--standby")])?;
        refuse("masquerade", &self.layer2.given())?;
        let (forwards, every_port) = forward::split(&self.ports, &self.kept.kept_ports);
        if every_port.is_none() && !self.kept.kept_ports.is_empty() {
            return Err(OptionError::KeptOfNone);
        }
        Ok(MasqueradeSpec {
            network: self.network()?,
            forwards,
            every_port: every_port.map(|ports| EveryPort {
                ports,
                otherwise: Otherwise::Fail,
            }),
            map_host_loopback: self.map_host_loopback.clone(),
        })
    }

    fn network(&self) -> Result<NetworkSpec, OptionError> {
        /// The word for the interface of the default route.
        const POD: &str = "pod";
        let Some(interface) = &self.guest_address_of else {
            return Ok(NetworkSpec::Private {
                ipv4: self.ipv4,
                ipv6: self.ipv6,
            });
        };
        let off = |option, is_off: Option<bool>| match is_off {
            None => Ok(Family::On(SharedAddress::default())),
            Some(true) => Ok(Family::Off),
            Some(false) => Err(OptionError::TwoNetworks(option)),
        };
        Ok(NetworkSpec::Shared(SharedSpec {
            interface: (interface != POD).then(|| interface.clone()),
            ipv4: off("--ipv4", self.ipv4.map(|family| family == Family::Off))?,
            ipv6: off("--ipv6", self.ipv6.map(|family| family == Family::Off))?,
        }))
    }

    fn layer2(&self) -> Result<Layer2Spec, OptionError> {
        const MODE: &str = "layer2";
        if let Some(attachment) = self.segment.attachment() {
            return Err(OptionError::OtherMode {
                option: attachment.way().option,
                mode: MODE,
            });
        }
        refuse(MODE, &self.policy.of_a_segment())?;
        let (forwards, every_port) = forward::split(&self.ports, &self.kept.kept_ports);
        refuse(
            MODE,
            &[
                (every_port.is_some(), "--port=all"),
                (self.guest_address_of.is_some(), "--guest-address-of"),
                (self.segment.standby, "--standby"),
                (!self.kept.kept_ports.is_empty(), "--keep-port"),
                (!self.map_host_loopback.is_empty(), "--map-host-loopback"),
            ],
        )?;
        let network = &self.layer2;
        let gateway = network.gateway.clone().unwrap_or(GatewaySpec::At(Vec::new()));
        if gateway == GatewaySpec::Off && !forwards.is_empty() {
            return Err(OptionError::NoGateway("--port"));
        }
        if gateway == GatewaySpec::Off && network.services_file.is_some() {
            return Err(OptionError::NoGateway("--services"));
        }
        if network.any_mac && gateway != GatewaySpec::Off {
            return Err(OptionError::OnlyWith("--any-mac", "--gateway=off"));
        }
        Ok(Layer2Spec {
            vni: Some(network.vni.ok_or(OptionError::Missing("--vni"))?),
            vtep: VtepSpec {
                address: network.vtep.unwrap_or(UnderlaySpec::DefaultRoute(None)),
                port: network.vtep_port,
            },
            ipv4: self.ipv4.and_then(Family::on),
            ipv6: self.ipv6.and_then(Family::on),
            gateway,
            guests: self.segment.guest_address.clone(),
            forwards,
            peers: network.peers.clone(),
            peers_file: network.peers_file.clone(),
            sources: self.policy.sources()?,
            network: None,
            services: Vec::new(),
            services_file: network.services_file.clone(),
            any_mac: network.any_mac,
        })
    }

    fn refuse_masquerade(&self) -> Result<(), OptionError> {
        // hawser hands out names to the guest only if it takes over an interface of the pod.
        let takes_over = self.segment.pod_interface.is_some();
        refuse("bridge", &self.layer2.given())?;
        refuse(
            "bridge",
            &[
                (self.ipv4.is_some(), "--ipv4"),
                (self.ipv6.is_some(), "--ipv6"),
                (self.guest_address_of.is_some(), "--guest-address-of"),
                (!takes_over && self.hostname.is_some(), "--hostname"),
                (!takes_over && !self.dns.is_empty(), "--dns"),
                (!takes_over && !self.search.is_empty(), "--search"),
                (!self.ports.is_empty(), "--port"),
                (!self.kept.kept_ports.is_empty(), "--keep-port"),
                (!self.map_host_loopback.is_empty(), "--map-host-loopback"),
            ],
        )
    }

    fn bridge(&self) -> Result<BridgeSpec, OptionError> {
        let Some(attachment) = self.segment.attachment() else {
            return Err(OptionError::NoSegment);
        };
        if let Some((option, other)) = self.segment.alone() {
            return Err(OptionError::OnlyWith(option, other));
        }
        if self.segment.hairpin_mode && self.segment.promisc_mode {
            return Err(OptionError::HairpinPromiscuous);
        }
        let (descriptors, pairs) = (self.segment.tap_fd.len(), self.queue_pairs.get());
        if descriptors != 0 && descriptors != usize::from(pairs) {
            return Err(OptionError::TapDescriptors { descriptors, pairs });
        }
        Ok(BridgeSpec {
            attachment,
            guests: self.segment.guest_address.clone(),
            addresses: Vec::new(),
            routes: Vec::new(),
        })
    }
}

/// Refuses the first given option that belongs to another mode.
fn refuse(mode: &'static str, options: &[(bool, &'static str)]) -> Result<(), OptionError> {
    match options.iter().find(|(given, _)| *given) {
        Some(&(_, option)) => Err(OptionError::OtherMode { option, mode }),
        None => Ok(()),
    }
}
