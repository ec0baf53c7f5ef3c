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

/// Specification of a VM's NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct NicSpec {
    /// Name of the NIC in logs, the API and the VMM.
    pub name: String,
    /// MAC of the guest.
    pub mac: Option<MacAddr>,
    /// MTU of the guest's NIC, in bytes.
    pub mtu: Option<u16>,
    /// Number of receive and transmit queue pairs.
    pub queue_pairs: NonZeroU16,
    /// How a worker polls and sleeps between turns.
    pub pace: PaceConfig,
    /// Rules for the frames that may cross the port.
    pub policy: PolicyConfig,
    /// Names that hawser's DHCP servers hand out to the guest.
    pub names: NameSpec,
    /// True if the guest has a carrier at the start.
    pub link_up: bool,
    /// Settings that only the VMM needs.
    pub device: DeviceHints,
    /// Mode of the NIC, with its settings.
    pub mode: ModeSpec,
    /// Positions of the settings in the manifests. `None` for a NIC of the command line.
    pub places: Option<Places>,
}

impl NicSpec {
    /// A NIC behind NAT, with one queue pair and otherwise without settings.
    pub fn behind_nat(name: String, mode: MasqueradeSpec) -> Self {
        Self {
            name,
            mac: None,
            mtu: None,
            queue_pairs: NonZeroU16::MIN,
            pace: PaceConfig::default(),
            policy: PolicyConfig::default(),
            names: NameSpec::default(),
            link_up: true,
            device: DeviceHints::default(),
            mode: ModeSpec::Masquerade(mode),
            places: None,
        }
    }
}

/// Names and servers that a guest gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NameSpec {
    /// Host name of the guest.
    pub hostname: Option<String>,
    /// Name servers. `None`: those of resolv.conf.
    pub servers: Option<Vec<IpAddr>>,
    /// Search domains. `None`: those of resolv.conf.
    pub search: Option<Vec<String>>,
    /// Domain of the guest.
    pub domain: Option<String>,
    /// Additional DHCPv4 options: code and value.
    pub dhcp_options: Vec<(u8, Vec<u8>)>,
}

/// The mode of a NIC.
#[derive(Clone, Debug, PartialEq)]
pub enum ModeSpec {
    /// NAT through ordinary sockets of the network namespace.
    Masquerade(MasqueradeSpec),
    /// An attachment to an L2 segment.
    Bridge(BridgeSpec),
    /// A network that spans nodes.
    Layer2(Layer2Spec),
}

impl ModeSpec {
    /// True if the guest has the addresses of an interface of the host.
    pub const fn shares_addresses(&self) -> bool {
        match self {
            Self::Masquerade(mode) => matches!(mode.network, NetworkSpec::Shared(_)),
            Self::Bridge(_) | Self::Layer2(_) => false,
        }
    }

    /// The segment that the NIC is attached to. `None` in modes without a segment.
    pub const fn segment(&self) -> Option<&BridgeSpec> {
        match self {
            Self::Masquerade(_) | Self::Layer2(_) => None,
            Self::Bridge(bridge) => Some(bridge),
        }
    }
}

/// A network behind NAT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MasqueradeSpec {
    /// Addresses of the guest.
    pub network: NetworkSpec,
    /// Ports that are forwarded to the guest.
    pub forwards: Vec<Forward>,
    /// If set, all other ports are forwarded too.
    pub every_port: Option<EveryPort>,
    /// Addresses that map to the loopback of the network namespace.
    pub map_host_loopback: Vec<IpAddr>,
}

/// The addresses of a guest behind NAT.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkSpec {
    /// A private network, whose first two hosts are the gateway and the guest.
    Private {
        /// IPv4 network of the guest, or off.
        ipv4: Option<Family<Ipv4Net>>,
        /// IPv6 network of the guest, or off.
        ipv6: Option<Family<Ipv6Net>>,
    },
    /// The network of an interface, whose addresses the guest has too.
    Shared(SharedSpec),
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self::Private { ipv4: None, ipv6: None }
    }
}

/// The network of an interface of the network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSpec {
    /// Name of the interface. `None`: in each family that of the default route.
    pub interface: Option<String>,
    /// IPv4 values in place of the interface's, or off.
    pub ipv4: Family<SharedAddress>,
    /// IPv6 values in place of the interface's, or off.
    pub ipv6: Family<SharedAddress>,
}

impl Default for SharedSpec {
    fn default() -> Self {
        Self {
            interface: None,
            ipv4: Family::On(SharedAddress::default()),
            ipv6: Family::On(SharedAddress::default()),
        }
    }
}

/// Values of one family in place of an interface's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedAddress {
    /// Address of the guest.
    pub address: Option<IpAddr>,
    /// Length of its network's prefix.
    pub prefix_len: Option<u8>,
    /// Router of the network.
    pub gateway: Option<IpAddr>,
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
    /// Addresses of the guest in the subnets. In a family without one, the guest gets the first free host address.
    pub guests: Vec<IpAddr>,
    /// Ports that are forwarded to the guest through the gateway.
    pub forwards: Vec<Forward>,
    /// Guests that other processes serve.
    pub peers: Vec<PeerConfig>,
    /// File with further such guests. It may change while the NIC is served.
    pub peers_file: Option<PathBuf>,
    /// Source addresses that the guest may use.
    pub sources: SourceSpec,
    /// The name that OVN-Kubernetes gives the network, if it is known.
    pub network: Option<String>,
    /// Services that the guest reaches through the gateway.
    pub services: Vec<ServicePort>,
    /// File of more Services, which may change while the NIC is served.
    pub services_file: Option<PathBuf>,
    /// The guest may use any source MAC, for guests of its own.
    pub any_mac: bool,
}

/// Source addresses that the guest of a NIC may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// The addresses that the network assigns to the guest, and these.
    Assigned(AddressCheck),
    /// Any address.
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
    /// The gateway has these addresses. In a subnet without one, it has the first host address.
    At(Vec<IpAddr>),
    /// The network has no gateway. It is a secondary network.
    Off,
}

/// The local end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VtepSpec {
    /// Address of the local end, or how to find it.
    pub address: UnderlaySpec,
    /// UDP port of the local end.
    pub port: u16,
}

/// How the address of the local end of a tunnel is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderlaySpec {
    /// The address is given.
    Address(IpAddr),
    /// It is the source address of the default route.
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
    /// How the NIC reaches the segment.
    pub attachment: AttachmentSpec,
    /// Known addresses of the guest. An ipvtap needs them.
    pub guests: Vec<IpAddr>,
    /// Addresses that hawser's DHCP servers give the guest. Empty if the segment has servers of its own.
    pub addresses: Vec<StaticAddress>,
    /// Routes that are handed out together with the addresses.
    pub routes: Vec<Route>,
}

/// How a NIC reaches a segment.
///
/// Both the options of the command line and the networks of the manifests are lowered to this enum, from which the
/// launcher attaches the NIC. The differences between the variants are in [`Self::way`] and in the launcher's
/// `attachment`, which has a module for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "attachment")]
pub enum AttachmentSpec {
    /// A TAP device as a port of a Linux bridge.
    Bridge(BridgePortSpec),
    /// A TAP device, which is created if it does not exist.
    Tap {
        /// Name of the device.
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
        /// Name of the interface.
        interface: String,
    },
}

/// Properties of an attachment that do not depend on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way<'a> {
    /// Option that selects the attachment on a command line.
    pub option: &'static str,
    /// Name of the link. Empty for descriptors.
    pub link: &'a str,
    /// False if the guest shares the MAC of the link.
    pub has_own_mac: bool,
}

impl AttachmentSpec {
    /// The properties of this variant.
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
    /// Name of the bridge.
    pub bridge: String,
    /// True if the bridge may send frames back to the port from which they arrived.
    pub hairpin: bool,
    /// True if the port does not exchange frames with other isolated ports.
    pub isolated: bool,
    /// True if the bridge is in promiscuous mode while hawser serves the NIC.
    pub promiscuous: bool,
}

/// A link, and the mode of the macvtap or ipvtap to create on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stack<M> {
    /// Name of the lower link.
    pub lower: String,
    /// Mode of the upper link. `None`: the default, or the mode of an existing link.
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
    /// Address and its prefix length.
    pub address: IpNet,
    /// Router of the network, if it has one.
    pub gateway: Option<IpAddr>,
}

/// A static route of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Destination network.
    pub destination: IpNet,
    /// Next hop. `None`: the gateway.
    pub via: Option<IpAddr>,
}

/// An address family of the guest's network: either disabled, or enabled with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family<N> {
    /// The family is disabled.
    Off,
    /// The family is enabled, with this network (host bits zero).
    On(N),
}

impl<N> Family<N> {
    /// The network, if the family is enabled.
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
    /// `failover`, `teaming`
    pub teaming: Teaming,
}

/// Place of a NIC in a failover pair, which the guest sees as one NIC. The names are those of libvirt's `<teaming>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Teaming {
    /// The NIC is in no pair.
    #[default]
    None,
    /// The standby, which stays with the VM when it migrates.
    Persistent,
    /// The primary, which is unplugged when the VM migrates.
    Transient {
        /// Name of the standby.
        persistent: String,
    },
}

/// What an interface with a virtual function gets if its pool has none left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shortage {
    /// Nothing: the VM does not start.
    #[default]
    Refused,
    /// A macvtap on the physical function.
    Macvtap,
}

impl Teaming {
    /// Name of the standby of a primary.
    pub fn standby(&self) -> Option<&str> {
        match self {
            Self::Transient { persistent } => Some(persistent),
            Self::None | Self::Persistent => None,
        }
    }
}

/// Positions in the manifests, as `file:line: path.to.field`, of the values that the survey of the host may reject.
/// They are ignored when two NICs are compared.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Position of the interface.
    pub interface: String,
    /// `ipam`
    pub ipam: String,
    /// Position of the name of the segment's link.
    pub segment: String,
    /// `mtu`
    pub mtu: String,
    /// `macAddress`
    pub mac: String,
    /// True if no manifest contains the interface because KubeVirt adds it.
    pub added: bool,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
