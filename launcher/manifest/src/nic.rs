//! The spec of one NIC: plain data to which both the command line and manifests lower.
//!
//! ```text
//!  options ──┐
//!            ├── NicSpec ── survey of the host (launcher) ── port
//!  NicPlan ──┘
//! ```
//!
//! A field that is `None` is left to the host: the launcher uses the MTU of the default route or of the segment, the
//! families of the network namespace, and the name servers of resolv.conf.

use hawser_config::{AddressCheck, EveryPort, Forward, PaceConfig, PeerConfig, PolicyConfig, ServicePort};
use hawser_packet::MacAddr;
use hawser_packet::geneve::Vni;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;

/// One NIC of a VM.
#[derive(Clone, Debug, PartialEq)]
pub struct NicSpec {
    /// Name in logs, the API and the VMM.
    pub name: String,
    /// The guest's MAC.
    pub mac: Option<MacAddr>,
    /// MTU of the guest's NIC.
    pub mtu: Option<u16>,
    /// Receive and transmit queue pairs.
    pub queue_pairs: NonZeroU16,
    /// Polling and sleeping of a worker between turns.
    pub pace: PaceConfig,
    /// The frames that may cross the port.
    pub policy: PolicyConfig,
    /// Names that hawser's DHCP servers give the guest.
    pub names: NameSpec,
    /// True if the guest has a carrier initially.
    pub link_up: bool,
    /// Settings that only the VMM needs.
    pub device: DeviceHints,
    /// The mode, with its settings.
    pub mode: ModeSpec,
    /// Places of the settings in the manifests; `None` for a NIC of the command line.
    pub places: Option<Places>,
}

/// Names and servers of a guest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NameSpec {
    /// Host name.
    pub hostname: Option<String>,
    /// Name servers; `None`: those of resolv.conf.
    pub servers: Option<Vec<IpAddr>>,
    /// Search domains; `None`: those of resolv.conf.
    pub search: Option<Vec<String>>,
    /// The guest's own domain.
    pub domain: Option<String>,
    /// More options of DHCPv4: code and value.
    pub dhcp_options: Vec<(u8, Vec<u8>)>,
}

/// The mode of a NIC.
#[derive(Clone, Debug, PartialEq)]
pub enum ModeSpec {
    /// NAT on ordinary sockets of the network namespace.
    Masquerade(MasqueradeSpec),
    /// An L2 segment.
    Bridge(BridgeSpec),
    /// A network that spans nodes.
    Layer2(Layer2Spec),
}

impl ModeSpec {
    /// The segment that the NIC is on; `None` in modes without one.
    pub const fn segment(&self) -> Option<&BridgeSpec> {
        match self {
            Self::Masquerade(_) | Self::Layer2(_) => None,
            Self::Bridge(bridge) => Some(bridge),
        }
    }
}

/// A private network behind NAT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MasqueradeSpec {
    /// IPv4 network of the guest.
    pub ipv4: Option<Family<Ipv4Net>>,
    /// IPv6 network of the guest.
    pub ipv6: Option<Family<Ipv6Net>>,
    /// Ports that are forwarded to the guest.
    pub forwards: Vec<Forward>,
    /// Set to forward all other ports too.
    pub every_port: Option<EveryPort>,
    /// Addresses that stand for the loopback of the network namespace.
    pub map_host_loopback: Vec<IpAddr>,
}

/// A NIC on a network that spans nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer2Spec {
    /// Identifier of the network in the tunnel. A NIC without one is planned, but not served.
    pub vni: Option<Vni>,
    /// Local end of the tunnel.
    pub vtep: VtepSpec,
    /// IPv4 subnet of the network.
    pub ipv4: Option<Ipv4Net>,
    /// IPv6 subnet of the network.
    pub ipv6: Option<Ipv6Net>,
    /// Gateway of the network.
    pub gateway: GatewaySpec,
    /// Addresses of the guest in the subnets; a family without one gets its first free host address.
    pub guests: Vec<IpAddr>,
    /// Ports that are forwarded to the guest through the gateway.
    pub forwards: Vec<Forward>,
    /// Guests that other processes serve.
    pub peers: Vec<PeerConfig>,
    /// File of more such guests, which may change while the NIC is served.
    pub peers_file: Option<PathBuf>,
    /// Source addresses that the guest may use.
    pub sources: SourceSpec,
    /// The name that OVN-Kubernetes gives the network, if it is known.
    pub network: Option<String>,
    /// Services that the guest reaches through the gateway.
    pub services: Vec<ServicePort>,
    /// File of more Services, which may change while the NIC is served.
    pub services_file: Option<PathBuf>,
}

/// Source addresses that the guest of a NIC may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// Those that the network assigns to it, and these.
    Assigned(AddressCheck),
    /// Any.
    Any,
}

impl Default for SourceSpec {
    fn default() -> Self {
        Self::Assigned(AddressCheck::default())
    }
}

/// The gateway of a network that spans nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewaySpec {
    /// Its addresses; in a subnet without one it has the first host address.
    At(Vec<IpAddr>),
    /// The network has none: a secondary network.
    Off,
}

/// The local end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VtepSpec {
    /// Its address.
    pub address: UnderlaySpec,
    /// Its UDP port.
    pub port: u16,
}

/// How the address of the local end of a tunnel is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderlaySpec {
    /// This address.
    Address(IpAddr),
    /// The source address of the default route.
    DefaultRoute(Option<Underlay>),
}

/// Family of the network that carries a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

/// A NIC on an L2 segment.
#[derive(Clone, Debug, PartialEq)]
pub struct BridgeSpec {
    /// The way to the segment.
    pub attachment: AttachmentSpec,
    /// Known addresses of the guest. An ipvtap needs them.
    pub guests: Vec<IpAddr>,
    /// Addresses that hawser's DHCP servers give the guest; empty if the segment has servers of
    /// its own.
    pub addresses: Vec<StaticAddress>,
    /// Routes that go with the addresses.
    pub routes: Vec<Route>,
}

/// The way to a segment.
///
/// Both the options of the command line and the networks of the manifests lower to this enum, from
/// which the launcher attaches the NIC. The differences between the variants are in [`Self::way`] and
/// in the launcher's `attachment`, which has a module for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "attachment")]
pub enum AttachmentSpec {
    /// A TAP device as a port of a Linux bridge.
    Bridge(BridgePortSpec),
    /// A TAP device, created if it does not exist.
    Tap {
        /// Its name.
        name: String,
    },
    /// Open queues of a TAP or macvtap device, which are passed separately.
    Descriptors,
    /// A macvtap on a link, or an existing macvtap.
    Macvtap(Stack<MacvtapMode>),
    /// An ipvtap on a link, or an existing ipvtap.
    Ipvtap(Stack<IpvtapMode>),
    /// An interface of the pod, whose MAC and addresses the guest takes over.
    PodInterface {
        /// Its name.
        interface: String,
    },
}

/// Properties of a way to a segment that do not depend on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way<'a> {
    /// The option that names the way on a command line.
    pub option: &'static str,
    /// Name of the link; empty for descriptors.
    pub link: &'a str,
    /// False if the guest shares the MAC of the link.
    pub has_own_mac: bool,
}

impl AttachmentSpec {
    /// The properties of the variant.
    pub fn way(&self) -> Way<'_> {
        let (option, link, has_own_mac) = match self {
            Self::Bridge(port) => ("--bridge", &*port.bridge, true),
            Self::Tap { name } => ("--tap", &**name, true),
            Self::Descriptors => ("--tap-fd", "", true),
            Self::Macvtap(stack) => ("--macvtap", &*stack.lower, stack.mode != Some(MacvtapMode::Passthru)),
            Self::Ipvtap(stack) => ("--ipvtap", &*stack.lower, false),
            Self::PodInterface { interface } => ("--pod-interface", &**interface, false),
        };
        Way {
            option,
            link,
            has_own_mac,
        }
    }
}

/// A port of a Linux bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BridgePortSpec {
    /// The bridge.
    pub bridge: String,
    /// The bridge may send frames back to the port from which they arrived.
    pub hairpin: bool,
    /// The port does not exchange frames with other isolated ports.
    pub isolated: bool,
    /// The bridge is in promiscuous mode while hawser serves the NIC.
    pub promiscuous: bool,
}

/// A link, and the mode of the macvtap or ipvtap to create on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stack<M> {
    /// Name of the link below.
    pub lower: String,
    /// Mode of the link above; `None`: the default, or the mode of an existing link.
    pub mode: Option<M>,
}

/// Modes of macvtap (ip-link(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the kernel's names")]
pub enum MacvtapMode {
    Bridge,
    Private,
    Vepa,
    Passthru,
}

/// Modes of ipvtap (ip-link(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the kernel's names")]
pub enum IpvtapMode {
    L2,
    L3,
    L3s,
}

/// A fixed address of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StaticAddress {
    /// The address and its prefix length.
    pub address: IpNet,
    /// The network's router.
    pub gateway: Option<IpAddr>,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Destination network.
    pub destination: IpNet,
    /// Next hop; `None`: the gateway.
    pub via: Option<IpAddr>,
}

/// An address family of the guest's network: switched off, or on with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family<N> {
    /// Switched off.
    Off,
    /// On, with this network (host bits zero).
    On(N),
}

impl<N> Family<N> {
    /// The network of a family that is on.
    pub fn on(self) -> Option<N> {
        match self {
            Self::Off => None,
            Self::On(network) => Some(network),
        }
    }
}

/// Settings of the device that only the VMM needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceHints {
    /// `pciAddress`
    pub pci_address: Option<String>,
    /// `bootOrder`
    pub boot_order: Option<u32>,
    /// `acpiIndex`
    pub acpi_index: Option<u32>,
}

/// Places in the manifests, as `file:line: path.to.field`, of the values that the survey of the host may reject. They
/// are ignored when two NICs are compared.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The interface.
    pub interface: String,
    /// `ipam`
    pub ipam: String,
    /// The name of the segment's link.
    pub segment: String,
    /// `mtu`
    pub mtu: String,
    /// `macAddress`
    pub mac: String,
    /// No manifest contains the interface; KubeVirt adds it.
    pub added: bool,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
