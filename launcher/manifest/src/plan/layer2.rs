//! Plans NICs on networks that span nodes: their addresses and tunnel endpoints.

use super::Planner;
use crate::nic::{SourceSpec, UnderlaySpec, VtepSpec};
use crate::objects::interface::{Binding, DhcpOptions, Interface};
use crate::objects::ipam::Ipam;
use crate::objects::layer2::Layer2;
use crate::objects::metadata::DEFAULT_NAMESPACE;
use crate::objects::network::NamedNetwork;
use crate::objects::report::Spot;
use crate::objects::virtual_services;
use crate::objects::vm::PodNetwork;
use hawser_config::{Forward, ServicePort, mac_of_address};
use hawser_packet::MacAddr;
use hawser_packet::geneve::{self, Vni};
use std::net::IpAddr;
use std::path::PathBuf;

/// A NIC on a network that spans nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer2Plan {
    /// Network that the NIC is on.
    pub network: Layer2,
    /// Source of the guest's addresses.
    pub ipam: Ipam,
    /// Local end of the tunnel.
    pub tunnel: TunnelPlan,
    /// Ports that are forwarded to the guest through the gateway.
    pub forwards: Vec<Forward>,
    /// Services that the guest reaches through the gateway.
    pub services: Vec<ServicePort>,
    /// More options of DHCPv4.
    pub dhcp: DhcpOptions,
}

/// The local end of a NIC's tunnel.
#[derive(Clone, Debug, PartialEq)]
pub struct TunnelPlan {
    /// Identifier of the network. `None` if no option gives one.
    pub vni: Option<Vni>,
    /// Address and port of the local end, or how to find them.
    pub vtep: VtepSpec,
    /// File of the network's guests, including those of this process.
    pub peers: Option<PathBuf>,
    /// Source addresses that the guest may use.
    pub sources: SourceSpec,
    /// File of Services and their endpoints.
    pub services: Option<PathBuf>,
    /// The guest may use any source MAC.
    pub any_mac: bool,
}

/// Tunnel settings that manifests do not contain.
#[derive(Clone, Debug, Default)]
pub struct TunnelOptions {
    /// Address that peers send to. `None`: that of the default route.
    pub address: Option<UnderlaySpec>,
    /// UDP ports that peers send to.
    pub ports: Vec<OfNetwork<u16>>,
    /// Who chooses the UDP ports that are not among these.
    pub other_ports: OtherPorts,
    /// Identifiers of networks in the tunnel.
    pub vnis: Vec<OfNetwork<Vni>>,
    /// Files with the guests of networks.
    pub peers: Vec<OfNetwork<PathBuf>>,
    /// Source addresses that guests may use.
    pub sources: Vec<OfNetwork<SourceSpec>>,
    /// Files of Services.
    pub services: Vec<OfNetwork<PathBuf>>,
    /// Networks, named as in [`OfNetwork`], whose guests may use any source MAC.
    pub any_mac: Vec<String>,
}

/// UDP ports of networks for which no option gives one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtherPorts {
    /// All have the port of Geneve, so one network may go without an option.
    #[default]
    Geneve,
    /// The caller chooses a port for each network, once the plan is known.
    Later,
}

/// A value that applies to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfNetwork<T> {
    /// Name of the network, as `[namespace/]name`. `None` for the only network of the VM that spans nodes.
    pub network: Option<String>,
    /// Value for the network.
    pub value: T,
}

impl Layer2Plan {
    /// True if a NIC without a MAC gets one that is derived from its address, as in OVN-Kubernetes.
    pub fn derives_mac(&self) -> bool {
        self.network.subnets().next().is_some()
    }

    /// The MAC derived from the guest's address, once the address is known.
    pub(super) fn derived_mac(&self) -> Option<MacAddr> {
        let Ipam::Static { addresses, .. } = &self.ipam else {
            return None;
        };
        // IPv4 has priority.
        let addresses = addresses.iter().map(|given| given.address.addr());
        addresses.min_by_key(|address| address.is_ipv6()).map(mac_of_address)
    }
}

impl TunnelOptions {
    /// The tunnel settings for a network that has one of these names.
    fn of(&self, names: &[&str]) -> TunnelPlan {
        TunnelPlan {
            vni: find(&self.vnis, names).copied(),
            vtep: VtepSpec {
                address: self.address.unwrap_or(UnderlaySpec::DefaultRoute(None)),
                port: find(&self.ports, names).copied().unwrap_or(geneve::PORT),
            },
            peers: find(&self.peers, names).cloned(),
            sources: find(&self.sources, names).cloned().unwrap_or_default(),
            services: find(&self.services, names).cloned(),
            any_mac: self.any_mac.iter().any(|network| names.contains(&network.as_str())),
        }
    }

    /// Name of an option that is given without a network.
    fn unnamed(&self) -> Option<&'static str> {
        let is_unnamed = |network: &Option<String>| network.is_none();
        if self.vnis.iter().any(|of| is_unnamed(&of.network)) {
            Some("--vni")
        } else if self.ports.iter().any(|of| is_unnamed(&of.network)) {
            Some("--vtep-port")
        } else if self.peers.iter().any(|of| is_unnamed(&of.network)) {
            Some("--peers")
        } else if self.sources.iter().any(|of| is_unnamed(&of.network)) {
            Some("--ip-spoof-check")
        } else if self.services.iter().any(|of| is_unnamed(&of.network)) {
            Some("--services")
        } else {
            None
        }
    }
}

fn find<'a, T>(values: &'a [OfNetwork<T>], names: &[&str]) -> Option<&'a T> {
    let named = |of: &&OfNetwork<T>| of.network.as_deref().is_some_and(|network| names.contains(&network));
    let found = values.iter().find(named);
    let found = found.or_else(|| values.iter().find(|of| of.network.is_none()));
    found.map(|of| &of.value)
}

impl Planner<'_> {
    /// Plans the NIC of an interface on a network that replaces the pod network.
    pub(super) fn primary_layer2(&self, interface: &Interface, pod: PodNetwork) -> Option<(String, Box<Layer2Plan>)> {
        let Some((network, _)) = self.primary() else {
            let message = "its binding is for the primary user-defined network of the namespace, and the files have \
                           none: give its UserDefinedNetwork with -f, or bind the interface with masquerade: {}";
            self.report.error(&interface.spot, message);
            return None;
        };
        self.report.adopt(&network.problems);
        self.check_primary_namespace(interface);
        if pod != PodNetwork::default() {
            let message =
                "vmNetworkCIDR and vmIPv6NetworkCIDR are ignored: the guest gets addresses of the primary network";
            self.report.warn(&interface.spot, message);
        }
        self.on_network(interface, network)
    }

    /// Plans the NIC of an interface on a network that spans nodes.
    pub(super) fn secondary_layer2(
        &self,
        interface: &Interface,
        network: &NamedNetwork,
    ) -> Option<(String, Box<Layer2Plan>)> {
        if network.primary {
            let message = format!(
                "its network {:?} takes the place of the pod network: give pod: {{}} and binding: {{name: l2bridge}}",
                network.name
            );
            self.report.error(&interface.spot, message);
            return None;
        }
        self.on_network(interface, network)
    }

    fn on_network(&self, interface: &Interface, network: &NamedNetwork) -> Option<(String, Box<Layer2Plan>)> {
        let layer2 = self.layer2_of(interface, network)?;
        let name = self.full_name(network);
        let names = [name.as_str(), network.name.as_str(), layer2.network.as_str()];
        let tunnel = self.options.tunnels.of(&names);
        if tunnel.any_mac && layer2.primary {
            let message = format!("{name} has a gateway, which serves one guest: leave the option out for it");
            self.report.error(&Spot::file("--any-mac"), message);
        }
        let forwards = if layer2.primary {
            self.node_forwards(interface)
        } else {
            Vec::new()
        };
        let services = if layer2.primary {
            virtual_services::of(self.manifests, Some(&layer2.network), self.report)
        } else {
            Vec::new()
        };
        if !layer2.primary && tunnel.services.is_some() {
            let message = "Services are for primary networks: give --services=NETWORK=FILE with the primary network, or \
                           leave it out";
            self.report.error(&Spot::file("--services"), message);
        }
        let plan = Layer2Plan {
            services,
            ipam: self.addresses_on(interface, layer2),
            network: layer2.clone(),
            tunnel,
            forwards,
            dhcp: interface.dhcp.clone(),
        };
        Some((name, Box::new(plan)))
    }

    /// `namespace/name`, or the name alone for a network of the cluster.
    fn full_name(&self, network: &NamedNetwork) -> String {
        match (&network.namespaces, &network.namespace) {
            (Some(_), _) | (None, None) => network.name.clone(),
            (None, Some(namespace)) => format!("{namespace}/{}", network.name),
        }
    }

    /// The guest's addresses: those that the VM requests, those that a cluster reserves for it, or free ones.
    fn addresses_on(&self, interface: &Interface, layer2: &Layer2) -> Ipam {
        let mut ipam = layer2.ipam();
        let asked = self.vm.addresses.iter().find(|asked| asked.interface == interface.name);
        let claim = self.claim(interface);
        let named: Vec<(&Spot, IpAddr)> = match (claim, asked) {
            (Some(claim), _) => claim.ips.iter().map(|ip| (&claim.spot, ip.addr())).collect(),
            (None, Some(asked)) => asked.addresses.iter().map(|address| (&asked.spot, *address)).collect(),
            (None, None) => return ipam,
        };
        if let (Some(claim), Some(asked)) = (claim, asked)
            && asked
                .addresses
                .iter()
                .any(|address| !claim.ips.iter().any(|ip| ip.addr() == *address))
        {
            let message = format!("ignored: the IPAMClaim {} has other addresses", claim.name);
            self.report.warn(&asked.spot, message);
        }
        let Ipam::HostLocal(ranges) = &mut ipam else {
            for (spot, _) in named {
                self.report.warn(spot, "ignored: the network has no subnets");
            }
            return ipam;
        };
        for (spot, address) in named {
            match layer2.ask_for(address) {
                Ok(fixed) => {
                    ranges.ranges.retain(|set| !is_of_family(set, address));
                    ranges.addresses.push(fixed);
                }
                Err(why) => self.report.error(spot, why),
            }
        }
        if ranges.ranges.is_empty() {
            return Ipam::Static {
                addresses: std::mem::take(&mut ranges.addresses),
                routes: std::mem::take(&mut ranges.routes),
            };
        }
        ipam
    }

    /// Reports networks that share a value that must be unique, and options that apply to several networks.
    pub(super) fn check_tunnels(&self, nics: &[super::NicPlan]) {
        let plans: Vec<(&str, &Layer2Plan)> = nics
            .iter()
            .filter_map(|nic| Some((nic.network.as_str(), nic.mode.layer2()?)))
            .collect();
        let names: Vec<&str> = plans.iter().map(|(name, _)| *name).collect();
        if plans.len() > 1
            && let Some(option) = self.options.tunnels.unnamed()
        {
            let message = format!(
                "the VM is on several networks that span nodes: give {option}=NETWORK=… for each of {}",
                names.join(", ")
            );
            return self.report.error(&Spot::file(option), message);
        }
        for (n, (name, plan)) in plans.iter().enumerate() {
            for (other, earlier) in &plans[..n] {
                let is_same = plan.network.network == earlier.network.network;
                if plan.tunnel.vni.is_some() && plan.tunnel.vni == earlier.tunnel.vni && !is_same {
                    let message = format!("{other} and {name} have the same identifier: give each its own");
                    self.report.error(&Spot::file("--vni"), message);
                }
                if is_same && self.options.tunnels.other_ports == OtherPorts::Later {
                    let message = format!("the VM has two interfaces on {name}: give it one on each network");
                    self.report.error(&Spot::file("interfaces"), message);
                }
                if self.options.tunnels.other_ports == OtherPorts::Geneve
                    && plan.tunnel.vtep.port == earlier.tunnel.vtep.port
                {
                    let message = format!(
                        "{other} and {name} both have UDP port {}: give each interface's network its own, with \
                         --vtep-port=NETWORK=PORT",
                        plan.tunnel.vtep.port
                    );
                    self.report.error(&Spot::file("--vtep-port"), message);
                }
            }
        }
    }

    /// Checks the label that OVN-Kubernetes requires on a namespace with a primary network, from the creation of the
    /// namespace.
    fn check_primary_namespace(&self, interface: &Interface) {
        const LABEL: &str = "k8s.ovn.org/primary-user-defined-network";
        let known = self.manifests.labels_of_namespace(&self.vm.namespace);
        if known.complete && !known.labels.contains_key(LABEL) {
            let message = format!(
                "the Namespace {} has no label {LABEL}, without which OVN-Kubernetes creates no primary network in it: \
                 add it",
                self.vm.namespace
            );
            self.report.error(&interface.spot, message);
        }
        if self.vm.namespace == DEFAULT_NAMESPACE {
            let message = "OVN-Kubernetes creates no primary network in the namespace default";
            self.report.warn(&interface.spot, message);
        }
    }

    /// The network with this name, if it spans nodes and all objects with this name agree.
    fn layer2_of<'a>(&'a self, interface: &Interface, network: &'a NamedNetwork) -> Option<&'a Layer2> {
        let layer2 = network.layer2()?;
        let others = self
            .manifests
            .networks
            .iter()
            .filter(|other| !std::ptr::eq(*other, network));
        let differs = |other: &&NamedNetwork| {
            other
                .layer2()
                .is_some_and(|other| other.network == layer2.network && other != layer2)
        };
        if let Some(other) = others.filter(|other| !other.is_made).find(differs) {
            let message = format!(
                "its network {:?} is described otherwise at {}:{}: all objects of one network must agree",
                layer2.network, other.spot.file, other.spot.line
            );
            self.report.error(&interface.spot, message);
            return None;
        }
        Some(layer2)
    }
}

fn is_of_family(set: &[crate::objects::ipam::Range], address: IpAddr) -> bool {
    set.first()
        .is_some_and(|range| range.first.is_ipv4() == address.is_ipv4())
}

impl Binding {
    /// True for bindings to a network that replaces the pod network.
    pub const fn is_for_primary(self) -> bool {
        matches!(self, Self::L2Bridge | Self::ManagedTap)
    }
}
