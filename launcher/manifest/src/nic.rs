//! One NIC as asked for: the plain data that the command line and manifests both lower to.
//!
//! ```text
//!  options ──┐
//!            ├── NicSpec ── the launcher looks at the host ── port
//!  NicPlan ──┘
//! ```
//!
//! A field that is `None` is left to the host: the launcher takes the MTU of the default route or
//! of the segment, the families of the network namespace, the name servers of resolv.conf.

use crate::objects::cni::{IpvtapMode, MacvtapMode};
use crate::objects::interface::DeviceHints;
use crate::objects::ipam::{Route, StaticAddress};
use crate::plan::Places;
use crate::values::{Family, Stack};
use hawser_config::{EveryPort, Forward, PaceConfig, PolicyConfig};
use hawser_packet::MacAddr;
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::IpAddr;
use std::num::NonZeroU16;

/// One NIC of a VM.
#[derive(Clone, Debug, PartialEq)]
pub struct NicSpec {
    /// Name, in logs, the API and the VMM.
    pub name: String,
    /// The guest's MAC.
    pub mac: Option<MacAddr>,
    /// MTU of the guest's NIC.
    pub mtu: Option<u16>,
    /// Receive and transmit queue pairs.
    pub queue_pairs: NonZeroU16,
    /// Waiting between the turns of a worker.
    pub pace: PaceConfig,
    /// Which frames cross the port.
    pub policy: PolicyConfig,
    /// Names that hawser's DHCP servers give the guest.
    pub names: NameSpec,
    /// Whether the guest has a carrier at first.
    pub link_up: bool,
    /// Settings that only the VMM needs.
    pub device: DeviceHints,
    /// What stands between the NIC and the world.
    pub mode: ModeSpec,
    /// Where the manifests say all this; `None`: on the command line.
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
}

/// A private network behind NAT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MasqueradeSpec {
    /// IPv4 network of the guest.
    pub ipv4: Option<Family<Ipv4Net>>,
    /// IPv6 network of the guest.
    pub ipv6: Option<Family<Ipv6Net>>,
    /// Ports that reach the guest.
    pub forwards: Vec<Forward>,
    /// All other ports.
    pub every_port: Option<EveryPort>,
    /// Addresses that stand for the loopback of the network namespace.
    pub map_host_loopback: Vec<IpAddr>,
}

/// A NIC on an L2 segment.
#[derive(Clone, Debug, PartialEq)]
pub struct BridgeSpec {
    /// The way to the segment.
    pub attachment: AttachmentSpec,
    /// Addresses that hawser's DHCP servers give the guest; empty: the segment has servers of its
    /// own.
    pub addresses: Vec<StaticAddress>,
    /// Routes that go with the addresses.
    pub routes: Vec<Route>,
}

/// The way to a segment.
#[derive(Clone, Debug, PartialEq)]
pub enum AttachmentSpec {
    /// A TAP device as a port of a Linux bridge.
    Bridge(BridgePortSpec),
    /// A TAP device, created if it does not exist.
    Tap(String),
    /// Open queues of a TAP or macvtap device, which travel beside the spec.
    Descriptors,
    /// A macvtap on a link, or an existing macvtap.
    Macvtap(Stack<MacvtapMode>),
    /// An ipvtap on a link with addresses of the guest, or an existing ipvtap.
    Ipvtap(Stack<IpvtapMode>, Vec<IpAddr>),
    /// An interface of the pod, whose MAC and addresses the guest takes over.
    PodInterface(String),
}

/// A port of a Linux bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgePortSpec {
    /// The bridge.
    pub bridge: String,
    /// The bridge may send frames back to the port they came from.
    pub hairpin: bool,
    /// The port does not exchange frames with other isolated ports.
    pub isolated: bool,
    /// The bridge is in promiscuous mode while the guest is there.
    pub promiscuous: bool,
}

impl AttachmentSpec {
    /// The option that names the way on a command line.
    pub const fn option(&self) -> &'static str {
        match self {
            Self::Bridge(_) => "--bridge",
            Self::Tap(_) => "--tap",
            Self::Descriptors => "--tap-fd",
            Self::Macvtap(_) => "--macvtap",
            Self::Ipvtap(..) => "--ipvtap",
            Self::PodInterface(_) => "--pod-interface",
        }
    }

    /// The link that is named; empty for descriptors.
    pub fn link(&self) -> &str {
        match self {
            Self::Bridge(port) => &port.bridge,
            Self::Tap(name) | Self::PodInterface(name) => name,
            Self::Macvtap(stack) => &stack.lower,
            Self::Ipvtap(stack, _) => &stack.lower,
            Self::Descriptors => "",
        }
    }
}
