//! Options that attach the guest to a segment.

use clap::Args;
use hawser_manifest::nic::{AttachmentSpec, BridgePortSpec, IpvtapMode, MacvtapMode, Stack};
use hawser_manifest::values;
use std::net::IpAddr;
use std::os::fd::RawFd;

/// The guest's attachment to a segment, and its options.
#[derive(Debug, Default, Args)]
#[group(skip)]
pub(crate) struct SegmentArgs {
    /// Linux bridge; hawser creates a TAP device as a port of it
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Segment (--mode=bridge)",
        group = "way",
        value_parser = values::interface_name
    )]
    pub bridge: Option<String>,
    /// TAP device; created if it does not exist
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Segment (--mode=bridge)",
        group = "way",
        value_parser = values::interface_name
    )]
    pub tap: Option<String>,
    /// Inherited descriptor of a queue of a TAP or macvtap device; once per queue pair
    #[arg(
        long,
        value_name = "N",
        help_heading = "Segment (--mode=bridge)",
        group = "way",
        value_parser = values::descriptor
    )]
    pub tap_fd: Vec<RawFd>,
    /// Link on which to create a macvtap, and its mode: private, vepa, bridge or passthru; or an existing macvtap
    /// [default mode: bridge]
    #[arg(
        long,
        value_name = "LINK[:MODE]",
        help_heading = "Segment (--mode=bridge)",
        group = "way",
        value_parser = values::macvtap
    )]
    pub macvtap: Option<Stack<MacvtapMode>>,
    /// Link on which to create an ipvtap, and its mode: l2, l3 or l3s; or an existing ipvtap [default mode: l2]
    #[arg(
        long,
        value_name = "LINK[:MODE]",
        help_heading = "Segment (--mode=bridge)",
        group = "way",
        value_parser = values::ipvtap
    )]
    pub ipvtap: Option<Stack<IpvtapMode>>,
    /// With --ipvtap: addresses of the guest; hawser assigns them to the ipvtap so that the kernel
    /// delivers the guest's packets there
    #[arg(
        long,
        value_name = "ADDR,…",
        help_heading = "Segment (--mode=bridge)",
        value_delimiter = ',',
        value_parser = values::guest_address
    )]
    pub guest_address: Vec<IpAddr>,
    /// Interface of the pod whose MAC and addresses the guest takes over, as with KubeVirt's bridge
    /// binding; hawser restores it at the end
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Segment (--mode=bridge)",
        group = "way",
        value_parser = values::interface_name
    )]
    pub pod_interface: Option<String>,
    /// With --bridge: let the bridge return frames to the port from which they arrived (hairpin)
    #[arg(long, help_heading = "Segment (--mode=bridge)")]
    pub hairpin_mode: bool,
    /// With --bridge: set the bridge to promiscuous mode while hawser serves the NIC
    #[arg(long, help_heading = "Segment (--mode=bridge)")]
    pub promisc_mode: bool,
    /// With --bridge: isolate the guest from other isolated ports of the bridge
    #[arg(long, help_heading = "Segment (--mode=bridge)")]
    pub port_isolation: bool,
    /// Standby of a failover pair: the guest sends here while its primary, such as a VF with the same MAC, is away, and
    /// hawser announces the MAC when it begins to; needs --mac
    #[arg(long, help_heading = "Segment (--mode=bridge)")]
    pub standby: bool,
}

impl SegmentArgs {
    /// The attachment to the segment; `None` if no option names one.
    pub(crate) fn attachment(&self) -> Option<AttachmentSpec> {
        let bridge = self.bridge.clone().map(|bridge| {
            AttachmentSpec::Bridge(BridgePortSpec {
                bridge,
                hairpin: self.hairpin_mode,
                isolated: self.port_isolation,
                promiscuous: self.promisc_mode,
            })
        });
        // clap refuses a second attachment.
        bridge
            .or_else(|| {
                Some(AttachmentSpec::Tap {
                    name: self.tap.clone()?,
                })
            })
            .or_else(|| (!self.tap_fd.is_empty()).then_some(AttachmentSpec::Descriptors))
            .or_else(|| self.macvtap.clone().map(AttachmentSpec::Macvtap))
            .or_else(|| self.ipvtap.clone().map(AttachmentSpec::Ipvtap))
            .or_else(|| {
                let interface = self.pod_interface.clone()?;
                Some(AttachmentSpec::PodInterface { interface })
            })
    }

    /// The first option that is given without the option it requires, and the required option.
    pub(crate) fn alone(&self) -> Option<(&'static str, &'static str)> {
        const BRIDGE: &str = "--bridge";
        const IPVTAP: &str = "--ipvtap";
        let (bridge, ipvtap) = (self.bridge.is_some(), self.ipvtap.is_some());
        let options = [
            (self.hairpin_mode && !bridge, "--hairpin-mode", BRIDGE),
            (self.promisc_mode && !bridge, "--promisc-mode", BRIDGE),
            (self.port_isolation && !bridge, "--port-isolation", BRIDGE),
            (!self.guest_address.is_empty() && !ipvtap, "--guest-address", IPVTAP),
        ];
        let alone = options.iter().find(|(alone, ..)| *alone);
        alone.map(|(_, option, other)| (*option, *other))
    }
}
