//! Plans the NICs of a VM from its manifests, with one entry per NIC.
//!
//! All checks between documents are here: interfaces and their networks, references, ports that collide. Nothing
//! depends on the host, so the same files yield the same plan anywhere. Values of the host (address families of the
//! pod, MTU, name servers) are added when the plan is served.

mod choice;
mod claims;
pub mod layer2;
mod networks;
pub mod options;
mod policies;
mod services;
mod spec;
mod standby;

use crate::forward::{self, Kept};
use crate::nic::{AttachmentSpec, DeviceHints, Places, Route, Shortage};
use crate::objects::Manifests;
use crate::objects::cni::Segment;
use crate::objects::interface::{Binding, DhcpOptions, Interface, LinkState};
use crate::objects::ipam::Ipam;
use crate::objects::ipam_claim::IpamClaim;
use crate::objects::ports::ISTIO_RESERVED;
use crate::objects::report::{Report, Spot};
use crate::objects::sriov::SriovNetwork;
use crate::objects::vm::{Network, NetworkSource, PodNetwork, Vm};
use crate::values;
use hawser_config::Forward;
use hawser_packet::MacAddr;
use hawser_packet::MacRange;
use layer2::Layer2Plan;
use options::PlanOptions;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The NICs of a VM that hawser serves.
#[derive(Clone, Debug)]
pub struct VmPlan {
    /// Name of the VM.
    pub name: String,
    /// Namespace of the VM.
    pub namespace: String,
    /// Labels that the VM's node must have.
    pub node_selector: BTreeMap<String, String>,
    /// NICs that are served, in the order of the interfaces.
    pub nics: Vec<NicPlan>,
    /// Maximum time for the guest to shut down.
    pub grace: Duration,
    /// Interfaces in state `absent`. They are not served, but their leases are kept.
    pub absent: Vec<String>,
    /// Range of MACs for interfaces without one, if the manifests set it.
    pub mac_range: Option<MacRange>,
}

/// A NIC that is served.
#[derive(Clone, Debug, PartialEq)]
pub struct NicPlan {
    /// Name of the interface.
    pub name: String,
    /// Name of the network: "pod", or namespace/name.
    pub network: String,
    /// Socket to which the VMM connects.
    pub socket: PathBuf,
    /// MAC of the NIC. `None`: the VMM assigns it.
    pub mac: Option<MacAddr>,
    /// Number of receive and transmit queue pairs.
    pub queue_pairs: NonZeroU16,
    /// Host name of the guest.
    pub hostname: Option<String>,
    /// State of the guest's link at the start.
    pub state: LinkState,
    /// Mode of the NIC, with its settings.
    pub mode: NicMode,
    /// Settings that only the VMM needs.
    pub device: DeviceHints,
    /// Positions of the settings in the manifests.
    pub places: Places,
}

impl VmPlan {
    /// Excludes ports from the NIC that forwards every port, so that the pod keeps them. False if there is no such NIC.
    pub fn keep_ports(&mut self, ports: &[Kept]) -> bool {
        let mut plans = self.nics.iter_mut().filter_map(|nic| nic.mode.masquerade_mut());
        let found = plans.find(|plan| plan.every_port);
        found.map(|plan| plan.kept.extend_from_slice(ports)).is_some()
    }
}

impl NicPlan {
    /// True if the guest gets its names from hawser's DHCP server.
    pub fn tells_names(&self) -> bool {
        match &self.mode {
            NicMode::Masquerade(_) | NicMode::Pod(_) => true,
            NicMode::Bridge(Segment { ipam, .. }) => ipam.is_told(),
            NicMode::Layer2(plan) => plan.ipam.is_told(),
            NicMode::Sriov(_) => false,
        }
    }

    /// True if the NIC can have any MAC. False if it shares the MAC of its lower link.
    pub fn has_own_mac(&self) -> bool {
        match &self.mode {
            NicMode::Masquerade(_) | NicMode::Layer2(_) | NicMode::Sriov(_) => true,
            NicMode::Bridge(Segment { attachment, .. }) | NicMode::Pod(PodPlan { attachment, .. }) => {
                attachment.way().has_own_mac
            }
        }
    }
}

/// Mode of a NIC.
#[derive(Clone, Debug, PartialEq)]
pub enum NicMode {
    /// NAT through sockets of the pod.
    Masquerade(MasqueradePlan),
    /// An attachment to a segment.
    Bridge(Segment),
    /// A takeover of the pod's interface.
    Pod(PodPlan),
    /// A network that spans nodes.
    Layer2(Box<Layer2Plan>),
    /// A virtual function, which the VMM passes to the guest.
    Sriov(Box<SriovPlan>),
}

/// A virtual function of a VM.
#[derive(Clone, Debug, PartialEq)]
pub struct SriovPlan {
    /// The network.
    pub network: SriovNetwork,
    /// PCI address of the virtual function, once it is chosen.
    pub device: Option<String>,
    /// What the interface gets if none can be chosen.
    pub shortage: Shortage,
}

/// The scope in which the MAC and the addresses of a NIC must be unique.
#[derive(Clone, Copy, Debug)]
pub enum LeaseScope<'a> {
    /// Among the NICs of the VM.
    Vm,
    /// On the segment.
    Segment(&'a Segment),
    /// On a network that all nodes share.
    Network(&'a Layer2Plan),
    /// Behind the physical functions of a pool.
    Pool(&'a SriovNetwork),
}

impl NicMode {
    /// The segment that a NIC is attached to by a network of the manifests.
    pub const fn segment(&self) -> Option<&Segment> {
        match self {
            Self::Bridge(segment) => Some(segment),
            Self::Masquerade(_) | Self::Pod(_) | Self::Layer2(_) | Self::Sriov(_) => None,
        }
    }

    /// The virtual function.
    pub fn sriov(&self) -> Option<&SriovPlan> {
        match self {
            Self::Sriov(plan) => Some(plan),
            _ => None,
        }
    }

    /// The virtual function, for filling it in.
    pub fn sriov_mut(&mut self) -> Option<&mut SriovPlan> {
        match self {
            Self::Sriov(plan) => Some(plan),
            _ => None,
        }
    }

    /// Mutable source of the guest's addresses, to fill in assigned ones.
    pub fn ipam_mut(&mut self) -> Option<&mut Ipam> {
        match self {
            Self::Bridge(segment) => Some(&mut segment.ipam),
            Self::Layer2(plan) => Some(&mut plan.ipam),
            Self::Masquerade(_) | Self::Pod(_) | Self::Sriov(_) => None,
        }
    }

    /// The settings of a NIC on a network that spans nodes.
    pub fn layer2(&self) -> Option<&Layer2Plan> {
        match self {
            Self::Layer2(plan) => Some(plan),
            _ => None,
        }
    }

    /// Mutable access to the settings of a NIC on a network that spans nodes.
    pub fn layer2_mut(&mut self) -> Option<&mut Layer2Plan> {
        match self {
            Self::Layer2(plan) => Some(plan),
            _ => None,
        }
    }

    /// The scope of the NIC's lease. `None` if the NIC takes over MAC and addresses of the pod.
    pub fn lease_scope(&self) -> Option<LeaseScope<'_>> {
        match self {
            // Behind NAT, a VM is alone on its segment.
            Self::Masquerade(_) => Some(LeaseScope::Vm),
            Self::Bridge(segment) => Some(LeaseScope::Segment(segment)),
            Self::Layer2(plan) => Some(LeaseScope::Network(plan)),
            Self::Sriov(plan) => Some(LeaseScope::Pool(&plan.network)),
            Self::Pod(_) => None,
        }
    }

    const fn masquerade_mut(&mut self) -> Option<&mut MasqueradePlan> {
        match self {
            Self::Masquerade(plan) => Some(plan),
            Self::Bridge(_) | Self::Pod(_) | Self::Layer2(_) | Self::Sriov(_) => None,
        }
    }

    /// True if Services can forward to the NIC.
    fn takes_services(&self) -> bool {
        match self {
            Self::Masquerade(_) => true,
            Self::Layer2(plan) => plan.network.primary,
            Self::Bridge(_) | Self::Pod(_) | Self::Sriov(_) => false,
        }
    }

    /// True if a NIC without a MAC gets one that follows from its address.
    pub fn derives_mac(&self) -> bool {
        self.layer2().is_some_and(Layer2Plan::derives_mac)
    }

    /// The network's MAC for a NIC that has none.
    pub fn mac(&self) -> Option<MacAddr> {
        match self {
            Self::Bridge(segment) => segment.mac,
            Self::Layer2(plan) => plan.derived_mac(),
            Self::Sriov(plan) => plan.network.mac,
            Self::Masquerade(_) | Self::Pod(_) => None,
        }
    }
}

/// A NIC that takes over the pod's interface.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPlan {
    /// Attachment of the interface.
    pub attachment: AttachmentSpec,
    /// Additional DHCPv4 options.
    pub dhcp: DhcpOptions,
}

/// Name that every CNI runtime gives the pod's own interface.
const POD_INTERFACE: &str = "eth0";

/// A masqueraded NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct MasqueradePlan {
    /// Addresses of the guest.
    pub network: GuestNetwork,
    /// Ports that are forwarded to the guest.
    pub forwards: Vec<Forward>,
    /// True if the manifest names no ports, so that every port is forwarded.
    pub every_port: bool,
    /// Ports that the pod keeps if every port is forwarded.
    pub kept: Vec<Kept>,
    /// Additional DHCPv4 options.
    pub dhcp: DhcpOptions,
}

/// The addresses of a guest behind NAT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GuestNetwork {
    /// Networks of the guest's own, if they differ from the defaults.
    Private(PodNetwork),
    /// The addresses of the pod.
    OfPod,
}

impl GuestNetwork {
    /// The networks of the guest's own, without any if it has the pod's addresses.
    pub fn private(self) -> PodNetwork {
        match self {
            Self::Private(network) => network,
            Self::OfPod => PodNetwork::default(),
        }
    }
}

/// Inputs of a plan in addition to the manifests.
#[derive(Clone, Copy, Debug)]
pub struct PlanSetup<'a> {
    /// Directory for the sockets.
    pub socket_dir: &'a Path,
    /// Options that complete the manifests.
    pub options: &'a PlanOptions,
    /// Namespace and name of the VM that is already served, if there is one.
    pub served: Option<(&'a str, &'a str)>,
}

impl<'a> PlanSetup<'a> {
    /// Inputs for a process that does not serve a VM yet.
    pub const fn new(socket_dir: &'a Path, options: &'a PlanOptions) -> Self {
        Self {
            socket_dir,
            options,
            served: None,
        }
    }
}

/// Plans the NICs of the selected VM. Returns `None` if there are errors, which are in the report.
pub fn make(manifests: &Manifests, setup: &PlanSetup<'_>, report: &Report) -> Option<VmPlan> {
    let vm = choice::one(manifests, setup, report)?;
    Some(plan(manifests, vm, setup, report))
}

/// Plans every VM of the files that the options select.
pub fn make_all(manifests: &Manifests, setup: &PlanSetup<'_>, report: &Report) -> Vec<VmPlan> {
    let machines = choice::all(manifests, setup, report);
    let plans = machines.into_iter().map(|vm| plan(manifests, vm, setup, report));
    plans.collect()
}

const NO_VM: &str = "the files contain no VirtualMachine or VirtualMachineInstance: give one with -f";

/// Without a VM, only the other objects are checked.
fn without_vm(manifests: &Manifests, report: &Report) {
    check_others(manifests, report);
    if !report.has_errors() {
        report.error(&Spot::file("-f"), NO_VM);
    }
}

/// Reports the problems of objects other than VMs, whether or not a VM refers to them.
pub(crate) fn check_others(manifests: &Manifests, report: &Report) {
    let networks = manifests.networks.iter().map(|network| &network.problems);
    let services = manifests.services.iter().map(|service| &service.problems);
    let policies = manifests.policies.iter().map(|policy| &policy.problems);
    networks
        .chain(services)
        .chain(policies)
        .for_each(|problems| report.adopt(problems));
}

fn plan(manifests: &Manifests, vm: &Vm, setup: &PlanSetup<'_>, report: &Report) -> VmPlan {
    report.adopt(&vm.problems);
    let with_default = vm
        .default_interface
        .then(|| vm.with_default_interface(setup.options.default_binding.binding()));
    let planner = Planner {
        manifests,
        vm: with_default.as_ref().unwrap_or(vm),
        socket_dir: setup.socket_dir,
        options: setup.options,
        report,
    };
    planner.plan()
}

struct Planner<'a> {
    manifests: &'a Manifests,
    vm: &'a Vm,
    socket_dir: &'a Path,
    options: &'a PlanOptions,
    report: &'a Report,
}

impl Planner<'_> {
    fn plan(&self) -> VmPlan {
        self.check_names();
        self.check_services();
        self.check_policies();
        self.check_one_primary();
        let nics: Vec<NicPlan> = self.vm.interfaces.iter().filter_map(|i| self.nic(i)).collect();
        if nics.is_empty() && !self.report.has_errors() {
            let message = if self.vm.interfaces.is_empty() {
                "it has no interfaces, and autoattachPodInterface: false adds none: there is nothing to serve"
            } else {
                "every interface is absent: nothing is left to serve"
            };
            self.report.error(&self.vm.spot, message);
        }
        self.check_tunnels(&nics);
        let is_absent = |interface: &&Interface| interface.state == LinkState::Absent;
        let absent = self.vm.interfaces.iter().filter(is_absent);
        let absent = absent.map(|interface| interface.name.clone()).collect();
        if !nics.iter().any(|nic| nic.mode.takes_services()) {
            for service in self.services() {
                let message = "ignored: the VM has no interface bound with masquerade, or on a primary network, that it \
                               could lead to";
                self.report.warn(&service.spot, message);
            }
        }
        let mut plan = VmPlan {
            name: self.vm.name.clone(),
            namespace: self.vm.namespace.clone(),
            node_selector: self.vm.node_selector.clone(),
            nics,
            grace: self.vm.grace,
            absent,
            mac_range: self.manifests.mac_pools.first().map(|pool| pool.range),
        };
        // The tunnels of the same process listen in the same namespace.
        let tunnels = plan.nics.iter().filter_map(|nic| nic.mode.layer2());
        let tunnels: Vec<Kept> = tunnels.map(|layer2| Kept::udp(layer2.tunnel.vtep.port)).collect();
        plan.keep_ports(&tunnels);
        plan
    }

    /// Checks that names are present and unique.
    fn check_names(&self) {
        for network in &self.vm.networks {
            if !self.vm.interfaces.iter().any(|i| i.name == network.name) {
                let message = format!(
                    "no interface is named {:?}: add it, or leave the network out",
                    network.name
                );
                self.report.error(&network.spot, message);
            }
        }
        let is_pod = |n: &&Network| matches!(n.source, Some(NetworkSource::Pod(_)));
        for network in self.vm.networks.iter().filter(is_pod).skip(1) {
            let message = "another network is also the pod network: a VM has only one";
            self.report.error(&network.spot, message);
        }
        if let [first, more @ ..] = &self.manifests.mac_pools[..] {
            for pool in more {
                let message = format!(
                    "KubeMacPool's range is already given at {}:{}: leave one out",
                    first.spot.file, first.spot.line
                );
                self.report.error(&pool.spot, message);
            }
        }
    }

    fn nic(&self, interface: &Interface) -> Option<NicPlan> {
        let network = self.vm.networks.iter().find(|n| n.name == interface.name);
        let Some(network) = network else {
            let message = format!("no network is named {:?}: add it to spec.networks", interface.name);
            self.report.error(&interface.spot, message);
            return None;
        };
        if interface.state == LinkState::Absent {
            return None;
        }
        let source = network.source.as_ref()?;
        let (network, mode) = self.mode(interface, source)?;
        Some(NicPlan {
            places: self.places(interface, source),
            name: interface.name.clone(),
            network,
            socket: self.socket(interface)?,
            mac: interface.mac.or_else(|| mode.mac()),
            queue_pairs: self.queue_pairs(),
            hostname: self.vm.hostname.clone(),
            state: interface.state,
            mode,
            device: interface.device.clone(),
        })
    }

    fn socket(&self, interface: &Interface) -> Option<PathBuf> {
        let path = self.socket_dir.join(format!("{}.sock", interface.name));
        match values::socket_path(&path.to_string_lossy()) {
            Ok(_) => Some(path),
            Err(why) => {
                self.report.error(&interface.spot, format!("{}: {why}", path.display()));
                None
            }
        }
    }

    fn queue_pairs(&self) -> NonZeroU16 {
        let most = values::MAX_QUEUE_PAIRS;
        let wanted = self.vm.multiqueue.unwrap_or(1);
        let served = u16::try_from(wanted).unwrap_or(most).min(most);
        if u32::from(served) < wanted {
            let message = format!("{wanted} CPUs get {served} queue pairs, the most that vhost-user can number");
            self.report.warn(&self.vm.spot, message);
        }
        NonZeroU16::new(served).unwrap_or(NonZeroU16::MIN)
    }

    /// The mode of an interface on its network, and the network's name.
    fn mode(&self, interface: &Interface, source: &NetworkSource) -> Option<(String, NicMode)> {
        let refuse = |message: &str| {
            self.report.error(&interface.spot, message);
            None
        };
        match (interface.binding?, source) {
            (Binding::Sriov, NetworkSource::Pod(_)) => {
                refuse("sriov is for networks of VFs: name a SriovNetwork with multus: {networkName: NAME}")
            }
            (Binding::Sriov, NetworkSource::Multus { spot, namespace, name }) => {
                let network = self.find(spot, namespace.as_deref(), name)?;
                let plan = self.virtual_function(interface, network)?;
                let namespace = network.namespace.as_deref().unwrap_or(&self.vm.namespace);
                Some((format!("{namespace}/{name}"), NicMode::Sriov(Box::new(plan))))
            }
            (Binding::L2Bridge | Binding::ManagedTap, NetworkSource::Pod(pod)) => {
                let (network, plan) = self.primary_layer2(interface, *pod)?;
                Some((network, NicMode::Layer2(plan)))
            }
            (Binding::Masquerade | Binding::Passt, NetworkSource::Multus { .. }) => {
                refuse("this binding is for the pod network: give bridge: {} for this one")
            }
            (binding @ (Binding::Masquerade | Binding::Passt), NetworkSource::Pod(network)) => {
                self.check_primary(interface)?;
                self.no_claim(interface);
                let network = match binding {
                    Binding::Passt if *network != PodNetwork::default() => {
                        return refuse(
                            "with passtBinding the guest has the pod's address: leave the CIDRs out of its network",
                        );
                    }
                    Binding::Passt => GuestNetwork::OfPod,
                    _ => GuestNetwork::Private(*network),
                };
                let mode = NicMode::Masquerade(self.masquerade(interface, network));
                Some(("pod".into(), mode))
            }
            (Binding::Bridge, NetworkSource::Pod(_)) => {
                self.check_primary(interface)?;
                self.no_claim(interface);
                let mode = NicMode::Pod(PodPlan {
                    attachment: AttachmentSpec::PodInterface {
                        interface: POD_INTERFACE.into(),
                    },
                    dhcp: interface.dhcp.clone(),
                });
                Some(("pod".into(), mode))
            }
            (
                Binding::Bridge | Binding::L2Bridge | Binding::ManagedTap,
                NetworkSource::Multus { spot, namespace, name },
            ) => {
                let network = self.find(spot, namespace.as_deref(), name)?;
                if network.layer2().is_some() {
                    let (network, plan) = self.secondary_layer2(interface, network)?;
                    return Some((network, NicMode::Layer2(plan)));
                }
                self.no_dhcp_options(interface);
                let mut segment = self.served(interface, network)?;
                if let Some(claim) = self.claim(interface) {
                    claims::apply(claim, &mut segment.ipam, self.report);
                }
                self.check_segment(interface, &segment);
                let namespace = network.namespace.as_deref().unwrap_or(&self.vm.namespace);
                Some((format!("{namespace}/{name}"), NicMode::Bridge(segment)))
            }
        }
    }

    fn no_dhcp_options(&self, interface: &Interface) {
        if interface.dhcp != DhcpOptions::default() {
            let message = "dhcpOptions are ignored: the DHCP server of this network is not hawser's";
            self.report.warn(&interface.spot, message);
        }
    }

    /// The IPAMClaim of an interface.
    fn claim(&self, interface: &Interface) -> Option<&IpamClaim> {
        let (namespace, vm) = (&self.vm.namespace, &self.vm.name);
        let mut claims = self.manifests.ipam_claims.iter();
        claims.find(|claim| claim.is_for(namespace, vm, &interface.name))
    }

    /// Warns that the IPAMClaim of an interface on the pod network has no effect.
    fn no_claim(&self, interface: &Interface) {
        if let Some(claim) = self.claim(interface) {
            let message = "ignored: the interface is on the pod network, whose addresses are the pod's";
            self.report.warn(&claim.spot, message);
        }
    }

    /// Warns about addresses and routes of a segment that hawser's DHCP server cannot pass to the guest.
    fn check_segment(&self, interface: &Interface, segment: &Segment) {
        let warn = |message: &str| self.report.warn(&interface.spot, message);
        let (addresses, routes, has_router6): (Vec<IpAddr>, &[Route], bool) = match &segment.ipam {
            Ipam::None | Ipam::Dhcp => {
                if segment.dns.is_some() {
                    warn("the guest does not get the dns of its network: the DHCP server there is not hawser's");
                }
                return;
            }
            Ipam::HostLocal(ranges) | Ipam::Whereabouts(ranges) => (ranges.samples(), &ranges.routes, false),
            Ipam::Static { addresses, routes } => {
                let has_router6 = addresses
                    .iter()
                    .any(|a| a.gateway.is_some_and(|gateway| gateway.is_ipv6()));
                (
                    addresses.iter().map(|a| a.address.addr()).collect(),
                    routes,
                    has_router6,
                )
            }
        };
        let of_family = |ipv4: bool| addresses.iter().filter(move |a| a.is_ipv4() == ipv4).count();
        if of_family(true) > 1 || of_family(false) > 1 {
            warn("the guest gets only the first address of each family");
        }
        if routes.iter().any(|route| route.destination.addr().is_ipv6()) || has_router6 {
            warn("the guest gets no IPv6 routes or gateway from hawser: the segment's routers advertise them");
        }
    }

    fn masquerade(&self, interface: &Interface, network: GuestNetwork) -> MasqueradePlan {
        let mut forwards: Vec<(Spot, Forward)> = Vec::new();
        for range in interface.ports.iter().flatten() {
            let count = NonZeroU16::new(range.last - range.first + 1);
            if let Some(count) = count {
                let forward = Forward {
                    transport: range.transport,
                    bind: None,
                    host_port: range.first,
                    guest_port: range.first,
                    count,
                };
                forwards.push((range.spot.clone(), forward));
            }
        }
        forwards.extend(self.node_ports(interface));
        let every_port = interface.ports.is_none();
        let istio = ISTIO_RESERVED.iter().filter(|_| every_port && self.vm.istio);
        self.check_overlap(&forwards);
        MasqueradePlan {
            network,
            forwards: forwards.into_iter().map(|(_, forward)| forward).collect(),
            every_port,
            kept: istio.map(|port| Kept::tcp(*port)).collect(),
            dhcp: interface.dhcp.clone(),
        }
    }

    /// The forwards for the ports of Services on which nodes listen.
    fn node_ports(&self, interface: &Interface) -> Vec<(Spot, Forward)> {
        let mut forwards = Vec::new();
        for service in self.services().filter(|service| service.on_nodes) {
            for port in &service.ports {
                let forward = self.service_forward(interface, service, port);
                forwards.extend(forward.map(|forward| (port.spot.clone(), forward)));
            }
        }
        forwards
    }

    /// The same forwards for an interface without ports of its own.
    fn node_forwards(&self, interface: &Interface) -> Vec<Forward> {
        let forwards = self.node_ports(interface);
        self.check_overlap(&forwards);
        forwards.into_iter().map(|(_, forward)| forward).collect()
    }

    fn check_overlap(&self, forwards: &[(Spot, Forward)]) {
        for (n, (spot, forward)) in forwards.iter().enumerate() {
            let collides = |(_, other): &&(Spot, Forward)| forward::collide(other, forward);
            if let Some((other, _)) = forwards[..n].iter().find(collides) {
                let message = format!("hawser already listens on this port for {}:{}", other.file, other.line);
                self.report.error(spot, message);
            }
        }
    }
}
