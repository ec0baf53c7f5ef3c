//! Lowers a NIC of the plan to its [`NicSpec`].

use super::layer2::Layer2Plan;
use super::{GuestNetwork, MasqueradePlan, NicMode, NicPlan, PodPlan};
use crate::forward::{self, Ports};
use crate::nic::{
    BridgeSpec, Family, GatewaySpec, Layer2Spec, MasqueradeSpec, ModeSpec, NameSpec, NetworkSpec, NicSpec, Route,
    SharedSpec, StaticAddress,
};
use crate::objects::cni::{PortRules, Segment};
use crate::objects::dns::Dns;
use crate::objects::interface::LinkState;
use crate::objects::ipam::Ipam;
use hawser_config::{EveryPort, MacCheck, Otherwise, PaceConfig, PolicyConfig, VlanConfig, VlanSet};
use hawser_packet::vlan::VlanId;

impl NicPlan {
    /// The spec for the launcher; `None` for a virtual function, which has no port. Ranges must already have been
    /// replaced by `static` addresses.
    pub fn spec(&self) -> Option<NicSpec> {
        let hostname = self.hostname.clone();
        let (mtu, policy, names, mode) = match &self.mode {
            NicMode::Masquerade(plan) => {
                let names = NameSpec {
                    hostname,
                    dhcp_options: plan.dhcp.encoded(),
                    ..NameSpec::default()
                };
                let mode = ModeSpec::Masquerade(masquerade(plan));
                (None, PolicyConfig::default(), names, mode)
            }
            NicMode::Pod(plan) => {
                let names = NameSpec {
                    hostname,
                    dhcp_options: plan.dhcp.encoded(),
                    ..NameSpec::default()
                };
                (None, open_policy(), names, ModeSpec::Bridge(pod(plan)))
            }
            NicMode::Bridge(segment) => {
                let names = names(hostname, segment.dns.as_ref());
                let mode = ModeSpec::Bridge(bridge(segment));
                (segment.mtu, policy(segment), names, mode)
            }
            NicMode::Layer2(plan) => {
                let names = NameSpec {
                    hostname,
                    dhcp_options: plan.dhcp.encoded(),
                    ..NameSpec::default()
                };
                let mode = ModeSpec::Layer2(layer2(plan));
                (plan.network.mtu, PolicyConfig::default(), names, mode)
            }
            NicMode::Sriov(_) => return None,
        };
        Some(NicSpec {
            name: self.name.clone(),
            mac: self.mac,
            mtu,
            queue_pairs: self.queue_pairs,
            pace: PaceConfig::default(),
            policy,
            names,
            link_up: self.state == LinkState::Up,
            device: self.device.clone(),
            mode,
            places: Some(self.places.clone()),
        })
    }
}

/// A NIC on a segment of the node.
impl From<Segment> for NicMode {
    fn from(segment: Segment) -> Self {
        Self::Bridge(segment)
    }
}

fn masquerade(plan: &MasqueradePlan) -> MasqueradeSpec {
    let all = plan.every_port.then_some(Ports::All(None));
    let ports: Vec<Ports> = plan.forwards.iter().cloned().map(Ports::Some).chain(all).collect();
    let (forwards, every_port) = forward::split(&ports, &plan.kept);
    MasqueradeSpec {
        network: match plan.network {
            GuestNetwork::Private(network) => NetworkSpec::Private {
                ipv4: network.ipv4.map(Family::On),
                ipv6: network.ipv6.map(Family::On),
            },
            GuestNetwork::OfPod => NetworkSpec::Shared(SharedSpec::default()),
        },
        forwards,
        // Even if not every port can be forwarded, connections that the guest opens can still be served.
        every_port: every_port.map(|ports| EveryPort {
            ports,
            otherwise: Otherwise::Warn,
        }),
        map_host_loopback: Vec::new(),
    }
}

fn pod(plan: &PodPlan) -> BridgeSpec {
    BridgeSpec {
        attachment: plan.attachment.clone(),
        guests: Vec::new(),
        addresses: Vec::new(),
        routes: Vec::new(),
    }
}

fn layer2(plan: &Layer2Plan) -> Layer2Spec {
    let Layer2Plan { network, tunnel, .. } = plan;
    let addresses: &[StaticAddress] = match &plan.ipam {
        Ipam::Static { addresses, .. } => addresses,
        _ => &[],
    };
    Layer2Spec {
        vni: tunnel.vni,
        vtep: tunnel.vtep,
        ipv4: network.ipv4,
        ipv6: network.ipv6,
        gateway: if network.primary {
            GatewaySpec::At(network.gateways.clone())
        } else {
            GatewaySpec::Off
        },
        guests: addresses.iter().map(|given| given.address.addr()).collect(),
        forwards: plan.forwards.clone(),
        peers: Vec::new(),
        peers_file: tunnel.peers.clone(),
        sources: tunnel.sources.clone(),
        network: Some(network.network.clone()),
        services: plan.services.clone(),
        services_file: tunnel.services.clone(),
        any_mac: tunnel.any_mac,
    }
}

/// The names of a network replace those of resolv.conf. A domain without search domains results in an empty search
/// list.
fn names(hostname: Option<String>, dns: Option<&Dns>) -> NameSpec {
    let Some(dns) = dns else {
        return NameSpec {
            hostname,
            ..NameSpec::default()
        };
    };
    let has_search = dns.domain.is_some() || !dns.search.is_empty();
    NameSpec {
        hostname,
        servers: (!dns.nameservers.is_empty()).then(|| dns.nameservers.clone()),
        search: has_search.then(|| dns.search.clone()),
        domain: dns.domain.clone(),
        dhcp_options: Vec::new(),
    }
}

fn bridge(segment: &Segment) -> BridgeSpec {
    let (addresses, routes): (&[StaticAddress], &[Route]) = match &segment.ipam {
        Ipam::Static { addresses, routes } => (addresses, routes),
        _ => (&[], &[]),
    };
    BridgeSpec {
        attachment: segment.attachment.clone(),
        guests: addresses.iter().map(|given| given.address.addr()).collect(),
        addresses: addresses.to_vec(),
        routes: routes.to_vec(),
    }
}

/// The policy of a segment for which no policy settings are given.
fn open_policy() -> PolicyConfig {
    PolicyConfig {
        vlan: VlanConfig::Transparent,
        mac_check: MacCheck::Off,
        ..PolicyConfig::default()
    }
}

fn policy(segment: &Segment) -> PolicyConfig {
    let Some(rules) = &segment.rules else {
        return open_policy();
    };
    PolicyConfig {
        vlan: vlans(rules),
        mac_check: if rules.mac_spoof_check {
            MacCheck::Enforced
        } else {
            MacCheck::Off
        },
        ..PolicyConfig::default()
    }
}

/// The VLANs of a port. Contradictions were refused when the manifest was parsed.
fn vlans(rules: &PortRules) -> VlanConfig {
    let native = rules.vlan.and_then(VlanId::new);
    let keep_default = rules.preserve_default_vlan;
    if rules.trunk.is_empty() {
        return native.map_or(VlanConfig::Transparent, |id| VlanConfig::Access { id, keep_default });
    }
    let mut tagged = VlanSet::default();
    for range in &rules.trunk {
        if let (Some(first), Some(last)) = (VlanId::new(*range.start()), VlanId::new(*range.end())) {
            let _ = tagged.add(first..=last);
        }
    }
    VlanConfig::Trunk {
        tagged,
        native,
        keep_default,
    }
}
