//! The CNI configuration of type `ovn-k8s-cni-overlay`: a network of OVN-Kubernetes that is written
//! without a UserDefinedNetwork, or that OVN-Kubernetes made of one.
//!
//! The messages are those of OVN-Kubernetes where it has one (`ValidateNetConf` in
//! go-controller/pkg/util/multi_network.go, go-controller/pkg/cni/config).

use super::cni::{self, Configuration, LAYER3, Medium, PortRules, Segment, Surroundings};
use super::fields::cni as table;
use super::layer2::{Addresses, IpamSettings, Layer2, Nets, Settings, check_containment, cidr};
use super::reader::{Item, Object};
use super::report::{Report, Spot};
use super::topology;
use crate::nic::{AttachmentSpec, BridgePortSpec};
use ipnet::IpNet;

/// The type of the plugin.
pub const TYPE: &str = "ovn-k8s-cni-overlay";

/// Names that OVN-Kubernetes has taken.
const TAKEN_NAMES: [&str; 2] = ["default", "ovn-kubernetes"];

/// What the network is, by `topology`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    Layer2,
    Layer3,
    Localnet,
}

/// Reads a configuration. `list` is the list of plugins that it is the only one of.
pub fn read(
    item: &Item<'_>,
    list: Option<&Object<'_>>,
    around: &Surroundings<'_>,
    problems: &Report,
) -> Option<Configuration> {
    let object = item.object(&table::OVN)?;
    let name = name(&object, list)?;
    if let Some(item) = object.get("netAttachDefName")
        && let (Some(text), Some(own)) = (item.text(), around.name)
        && text != own
    {
        item.error(format!(
            "net-attach-def name ({own}) is inconsistent with config ({text})"
        ));
        return None;
    }
    if object
        .object("ipam", &table::OVN_IPAM)
        .is_some_and(|ipam| ipam.get("type").is_some())
    {
        object.error("IPAM key is not supported. Use OVN-K provided IPAM via the `subnets` attribute");
        return None;
    }
    let Some(topology) = object.get("topology") else {
        object.error("topology is missing, so this is the cluster's default network: give layer2 or localnet");
        return None;
    };
    let topology = topology.choice(&[
        ("layer2", Topology::Layer2),
        ("layer3", Topology::Layer3),
        ("localnet", Topology::Localnet),
    ])?;
    let primary = role(&object, topology)?;
    for later in object.unserved() {
        problems.error(
            &later.0,
            format!("not supported yet, so the network is refused: {}", later.1),
        );
    }
    let persistent = object.get("allowPersistentIPs");
    let is_persistent = persistent.as_ref().and_then(Item::boolean) == Some(true);
    let settings = settings(&object, primary, is_persistent)?;
    let refuse = |item: Option<Item<'_>>, message: &str| item.map(|item| item.error(message)).is_none();
    let mut holds = true;
    if topology == Topology::Layer3 && is_persistent {
        holds &= refuse(persistent, "layer3 topology does not allow persistent IPs");
    }
    if topology == Topology::Localnet {
        holds &= refuse(
            object.get("joinSubnet"),
            "localnet topology does not allow specifying join-subnet as services are not supported",
        );
    }
    if topology != Topology::Layer2 {
        for name in ["reservedSubnets", "infrastructureSubnets", "defaultGatewayIPs"] {
            holds &= refuse(
                object.get(name),
                &format!("{name} is only supported for layer2 topology"),
            );
        }
    }
    if primary && topology == Topology::Layer2 && settings.subnets.nets.is_empty() {
        object.error("the subnet attribute must be defined for layer2 primary user defined networks");
        holds = false;
    }
    if topology != Topology::Layer3 {
        check_containment(&settings, &mut |spot, message| {
            object.error_at(spot.as_ref().unwrap_or(object.spot()), message);
            holds = false;
        });
    }
    let overlap = |(_, join): &(Spot, IpNet)| {
        let mut subnets = settings.subnets.nets.iter();
        subnets.any(|(_, net)| net.contains(join) || join.contains(net))
    };
    if let Some((spot, _)) = settings.join.nets.iter().find(|join| overlap(join)) {
        object.error_at(
            spot,
            "pod or join subnet overlaps with already configured internal subnets",
        );
        holds = false;
    }
    let medium = match topology {
        _ if !holds => return None,
        Topology::Layer2 => Medium::Layer2(Box::new(Layer2::new(name, &settings, problems)?)),
        Topology::Layer3 => Medium::Unserved(LAYER3),
        Topology::Localnet => localnet(&object, name, &settings, problems)?,
    };
    Some(Configuration {
        medium,
        fields: topology::fields(&object, Some(&settings)),
        primary,
    })
}

/// The network's name in the cluster.
fn name(object: &Object<'_>, list: Option<&Object<'_>>) -> Option<String> {
    let of_list = list.and_then(|list| list.get("name"));
    let Some(item) = of_list.or_else(|| object.get("name")) else {
        object.error("name is missing: give the network's name, which all NetworkAttachmentDefinitions of it have");
        return None;
    };
    let text = item.text()?;
    if TAKEN_NAMES.contains(&text) || text.is_empty() {
        item.error(format!("invalid name in in secondary network netconf ({text})"));
        return None;
    }
    Some(text.to_owned())
}

/// True for a primary network; `None` if the role is refused.
fn role(object: &Object<'_>, topology: Topology) -> Option<bool> {
    let Some(item) = object.get("role") else {
        return Some(false);
    };
    let text = item.text()?;
    match text {
        "" | "secondary" => Some(false),
        "primary" if topology == Topology::Localnet => {
            item.error(format!(
                "unexpected network field \"role\" {text} for \"localnet\" topology, localnet topology does not allow \
                 network roles to be set since its always a secondary network"
            ));
            None
        }
        "primary" => Some(true),
        _ => {
            item.error(format!("invalid network role value {text}: give primary or secondary"));
            None
        }
    }
}

fn settings(object: &Object<'_>, primary: bool, persistent: bool) -> Option<Settings> {
    let gateways = listed(object, "defaultGatewayIPs", |text| {
        text.parse().map_err(|_| "IP is invalid".to_owned())
    })?;
    let nets = |name| {
        let (spot, nets) = listed(object, name, cidr)?;
        Some(Nets { spot, nets })
    };
    let mtu = object.get("mtu");
    let mtu = mtu.and_then(|item| Some((item.spot().clone(), cni::mtu(object)?)));
    let [subnets, excluded, reserved, infrastructure, join] = [
        "subnets",
        "excludeSubnets",
        "reservedSubnets",
        "infrastructureSubnets",
        "joinSubnet",
    ]
    .map(nets);
    Some(Settings {
        spot: object.spot().clone(),
        primary,
        mtu,
        subnets: of_two_families(object, subnets?)?,
        excluded: excluded?,
        reserved: reserved?,
        infrastructure: infrastructure?,
        gateways: Addresses {
            spot: gateways.0,
            addresses: gateways.1,
        },
        join: join?,
        ipam: IpamSettings {
            disabled: None,
            persistent,
        },
    })
}

/// The parts of a field that lists them with commas; a layer3 network's have a node's prefix too.
type Listed<T> = (Option<Spot>, Vec<(Spot, T)>);

fn listed<T>(object: &Object<'_>, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Listed<T>> {
    let Some(item) = object.get(name) else {
        return Some((None, Vec::new()));
    };
    let text = item.text()?;
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        // cidr/hostSubnet
        let of_network = match part.match_indices('/').nth(1) {
            Some((end, _)) => &part[..end],
            None => part,
        };
        match parse(of_network) {
            Ok(value) => all.push((item.spot().clone(), value)),
            Err(why) => {
                item.error(format!("\"{part}\": {why}"));
                return None;
            }
        }
    }
    let spot = (!all.is_empty()).then(|| item.spot().clone());
    Some((spot, all))
}

/// One subnet of each family at most.
fn of_two_families(object: &Object<'_>, subnets: Nets) -> Option<Nets> {
    let of = |ipv4: bool| {
        subnets
            .nets
            .iter()
            .filter(|(_, net)| net.addr().is_ipv4() == ipv4)
            .count()
    };
    let is_layer3 = object.text("topology") == Some("layer3");
    if !is_layer3 && (of(true) > 1 || of(false) > 1) {
        let spot = subnets.spot.as_ref().unwrap_or_else(|| object.spot());
        object.error_at(spot, "hawser serves one subnet of each family: leave the others out");
        return None;
    }
    Some(subnets)
}

/// The bridge of a physical network, which by default has the network's own name.
fn localnet(object: &Object<'_>, name: String, settings: &Settings, problems: &Report) -> Option<Medium> {
    let physical = object.get("physicalNetworkName");
    let bridge = match &physical {
        Some(item) => item.parsed(topology::bridge_of)?,
        None => match topology::bridge_of(&name) {
            Ok(bridge) => bridge,
            Err(why) => {
                object.error(format!("\"{name}\": {why} as physicalNetworkName"));
                return None;
            }
        },
    };
    let vlan = object.integer("vlanID", 0..=4094).filter(|vlan| *vlan != 0);
    let addresses = Layer2::new(name, settings, problems)?;
    Some(Medium::Segment(Box::new(Segment {
        attachment: AttachmentSpec::Bridge(BridgePortSpec {
            bridge,
            ..BridgePortSpec::default()
        }),
        rules: Some(PortRules {
            vlan,
            mac_spoof_check: true,
            ..PortRules::default()
        }),
        mac: None,
        mtu: addresses.mtu,
        ipam: addresses.ipam(),
        dns: None,
    })))
}
