//! The CNI configuration inside a NetworkAttachmentDefinition.

use super::dns::{self, Dns};
use super::fields::cni as table;
use super::ipam::{self, Ipam, Requested};
use super::json::Json;
use super::layer2::Layer2;
use super::overlay;
use super::reader::{Item, Object, ObjectType};
use super::report::{Report, Spot};
use super::sriov::{self, SriovNetwork};
use crate::nic::{AttachmentSpec, BridgePortSpec, IpvtapMode, MacvtapMode, Stack};
use crate::values;
use hawser_packet::MacAddr;
use serde::Serialize;
use std::ops::RangeInclusive;

/// What a network consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A segment of the node.
    Segment(Box<Segment>),
    /// A network that spans nodes.
    Layer2(Box<Layer2>),
    /// Virtual functions.
    Sriov(Box<SriovNetwork>),
    /// A network for which hawser has no mode yet.
    Unserved(UnservedMode),
}

impl Medium {
    /// A localnet network: a bridge of the node, with the VLAN and the addresses that the network states.
    pub fn localnet(bridge: String, vlan: Option<u16>, addresses: &Layer2) -> Self {
        Self::Segment(Box::new(Segment {
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
        }))
    }
}

/// The name of a mode that hawser does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnservedMode(pub &'static str);

/// Logical switches of OVN-Kubernetes with a router between nodes.
pub const LAYER3: UnservedMode = UnservedMode("layer3");

/// An L2 segment of the node, and the guest's place there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// How to reach the segment.
    #[serde(flatten)]
    pub attachment: AttachmentSpec,
    /// Rules of a bridge's port.
    #[serde(flatten)]
    pub rules: Option<PortRules>,
    /// MAC of the guest, used if its interface has no macAddress.
    #[serde(skip)]
    pub mac: Option<MacAddr>,
    /// `mtu`; `None` for that of the segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Source of the guest's addresses.
    pub ipam: Ipam,
    /// Names and servers. `None`: those of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
}

/// A CNI configuration that was parsed.
#[derive(Debug)]
pub struct Configuration {
    /// What the network consists of.
    pub medium: Medium,
    /// Positions of fields in the configuration.
    pub fields: Fields,
    /// True if the network replaces the pod network of its namespace.
    pub primary: bool,
}

/// Positions of fields that may contradict the host.
#[derive(Clone, Debug)]
pub struct Fields {
    /// Position of the field that names the link, or else of the configuration.
    pub link: Spot,
    /// Position of `mtu`, or else of the configuration.
    pub mtu: Spot,
    /// Position of `ipam`, or else of the configuration.
    pub ipam: Spot,
    /// Position of the MAC, if the configuration has one.
    pub mac: Option<Spot>,
    /// True if a resource of a device plugin names the lower device.
    pub is_resource: bool,
}

/// Rules for the frames that may pass a bridge port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRules {
    /// VLAN of the guest's untagged frames. `None`: they are untagged on the segment too.
    pub vlan: Option<u16>,
    /// VLANs with which the guest may tag its frames. Empty if there are none.
    pub trunk: Vec<RangeInclusive<u16>>,
    /// True if the port also stays in the bridge's default VLAN.
    pub preserve_default_vlan: bool,
    /// True if only frames with the guest's own MAC may leave.
    pub mac_spoof_check: bool,
}

/// Parts of the NetworkAttachmentDefinition that a plugin reads in addition to its configuration.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Value of its annotation `k8s.v1.cni.cncf.io/resourceName`.
    pub resource: Option<&'a str>,
    /// Namespace and name of the object, as `namespace/name`.
    pub name: Option<&'a str>,
}

/// Bridge that the CNI plugin uses by default.
const DEFAULT_BRIDGE: &str = "cni0";
/// Longest name of a network device: IFNAMSIZ without its NUL.
const MAX_DEVICE_NAME: usize = 15;
const VLANS: RangeInclusive<i64> = 1..=4094;
const MTUS: RangeInclusive<i64> = 68..=65_535;

/// Reads `spec.config`. Errors in its content go to `problems`.
pub fn read(problems: &Report, config: &Item<'_>, around: &Surroundings<'_>) -> Option<Configuration> {
    let json = Json::read(config, problems)?;
    let item = json.item(problems);
    if item.has_field("plugins") {
        let list = item.object(&table::CONF_LIST)?;
        let plugins = list.list("plugins");
        if let Some(plugin) = plugins.iter().find(|plugin| is_overlay(plugin)) {
            if plugins.len() > 1 {
                plugin.error("CNI plugin chaining is not supported");
                return None;
            }
            return overlay::read(plugin, Some(&list), around, problems);
        }
        for chained in plugins.iter().skip(1) {
            let kind = chained.field_text("type").unwrap_or("?");
            chained.warn(format!(
                "ignored: hawser does not run the plugin {kind}, only the first of the list"
            ));
        }
        return match plugins.first() {
            Some(plugin) => read_plugin(plugin, around),
            None => {
                list.error("plugins is empty: give at least one");
                None
            }
        };
    }
    if is_overlay(&item) {
        return overlay::read(&item, None, around, problems);
    }
    read_plugin(&item, around)
}

fn is_overlay(plugin: &Item<'_>) -> bool {
    plugin.field_text("type") == Some(overlay::TYPE)
}

/// The way to a segment with the rules of its port, or another medium.
type Attached = Result<(AttachmentSpec, Option<PortRules>), Medium>;

/// Reads the way to the network from a configuration.
type AttachmentReader = fn(&Object<'_>, &Surroundings<'_>) -> Option<Attached>;

/// The table of a plugin, and the reader of its attachment.
fn plugin(kind: &str) -> Option<(&'static ObjectType, AttachmentReader)> {
    Some(match kind {
        "bridge" | "cnv-bridge" => (&table::BRIDGE, |object, _| bridge(object)),
        "tap" => (&table::TAP, |object, _| tap(object)),
        "macvlan" => (&table::MACVLAN, |object, _| macvlan(object)),
        "ipvlan" => (&table::IPVLAN, |object, _| ipvlan(object)),
        "macvtap" => (&table::MACVTAP, macvtap),
        "sriov" => (&table::SRIOV, |object, around| {
            let network = sriov::read_cni(object, around.resource)?;
            Some(Err(Medium::Sriov(Box::new(network))))
        }),
        _ => return None,
    })
}

fn read_plugin(item: &Item<'_>, around: &Surroundings<'_>) -> Option<Configuration> {
    let Some(kind) = item.field_text("type") else {
        item.error("type is missing: name the CNI plugin, such as cnv-bridge or macvlan");
        return None;
    };
    let Some((table, read_attachment)) = plugin(kind) else {
        item.error(format!(
            "type {kind:?} is not served: choose bridge, cnv-bridge, macvlan, ipvlan, tap, macvtap or sriov"
        ));
        return None;
    };
    let object = item.object(table)?;
    let attachment = read_attachment(&object, around);
    let mtu = if table.reads("mtu") { mtu(&object) } else { None };
    let arguments = Arguments::read(&object, table);
    let mut mac = table.reads("mac").then(|| object.get("mac")).flatten();
    mac = arguments.mac.clone().or(mac);
    let ipam_item = table.reads("ipam").then(|| object.get("ipam")).flatten();
    let read = |item: &Item<'_>| ipam::read(item, &arguments.requested);
    let (mut ipam, of_ipam) = ipam_item.as_ref().and_then(read).unwrap_or_default();
    let idle_gateway = ipam.idle_gateway();
    if table.reads("isDefaultGateway") {
        put_behind_gateway(&object, &mut ipam);
    }
    if let (Some(gateway), false, Some(item)) = (idle_gateway, ipam.has_default_route(), &ipam_item) {
        item.warn(format!(
            "no route uses the gateway {gateway}, so the guest gets no router, like a pod; add \
             routes: [{{\"dst\": \"0.0.0.0/0\"}}] if it needs one"
        ));
    }
    // As in the plugins, the configuration's own DNS settings replace those of the addresses.
    let dns = if table.reads("dns") { dns::read(&object) } else { None };
    let spot = |names: &[&str]| {
        let mut given = names.iter().filter(|name| table.reads(name));
        let given = given.find_map(|name| object.get(name));
        given.map_or_else(|| object.spot().clone(), |item| item.spot().clone())
    };
    let fields = Fields {
        link: spot(&["bridge", "master"]),
        mtu: spot(&["mtu"]),
        ipam: spot(&["ipam"]),
        mac: mac.as_ref().map(|item| item.spot().clone()),
        is_resource: std::ptr::eq(table, &raw const table::MACVTAP),
    };
    let attachment = attachment?;
    let mac = mac.and_then(|item| item.parsed(values::guest_mac));
    let medium = match attachment {
        Ok((attachment, rules)) => Medium::Segment(Box::new(Segment {
            attachment,
            rules,
            mac,
            mtu,
            ipam,
            dns: dns.or(of_ipam),
        })),
        Err(medium) => medium,
    };
    Some(Configuration {
        medium,
        fields,
        primary: false,
    })
}

/// `args.cni` and `runtimeConfig`. These arguments are passed to plugins by a runtime. A configuration may also contain
/// them itself.
struct Arguments<'a> {
    /// The MAC that replaces the one in the configuration. `runtimeConfig` has priority over `args`.
    mac: Option<Item<'a>>,
    requested: Requested<'a>,
}

impl<'a> Arguments<'a> {
    fn read(object: &Object<'a>, table: &'static ObjectType) -> Self {
        let object_of = |name, kind| table.reads(name).then(|| object.object(name, kind)).flatten();
        let args = object_of("args", &table::ARGS).and_then(|args| args.object("cni", &table::CNI_ARGS));
        let runtime = object_of("runtimeConfig", &table::RUNTIME_CONFIG);
        let of_args = args.as_ref().and_then(|args| args.get("mac"));
        // Among the supported plugins only bridge reads this field (BridgeArgs of its bridge.go).
        let of_args = of_args.filter(|item| {
            let is_read = std::ptr::eq(table, &raw const table::BRIDGE);
            if !is_read {
                item.warn("ignored: this plugin does not read it; give mac or runtimeConfig.mac");
            }
            is_read
        });
        let list = |object: &Option<Object<'a>>, name| object.as_ref().map(|o| o.list(name)).unwrap_or_default();
        Self {
            mac: runtime.as_ref().and_then(|runtime| runtime.get("mac")).or(of_args),
            requested: Requested {
                ips: [list(&args, "ips"), list(&runtime, "ips")],
                ranges: list(&runtime, "ipRanges"),
            },
        }
    }
}

/// Applies `isGateway` and `isDefaultGateway` to the guest. The bridge itself stays unchanged.
fn put_behind_gateway(object: &Object<'_>, ipam: &mut Ipam) {
    let [gateway, default] = ["isGateway", "isDefaultGateway"].map(|name| object.get(name));
    let is_on = |item: &Option<Item<'_>>| item.as_ref().and_then(Item::boolean) == Some(true);
    let (is_gateway, is_default) = (is_on(&gateway), is_on(&default));
    let Some(item) = default.filter(|_| is_default).or(gateway.filter(|_| is_gateway)) else {
        return;
    };
    if ipam.is_told() {
        ipam.behind_gateway(is_default);
        item.warn("hawser adds no address to the bridge: check that it has the gateway's");
    }
}

/// Reads `mtu`; `None` if it is not given.
pub fn mtu(object: &Object<'_>) -> Option<u16> {
    let item = object.get("mtu")?;
    let mtu: u16 = item.integer(0..=*MTUS.end())?;
    // A CNI configuration uses zero for "not given".
    if mtu != 0 && !MTUS.contains(&i64::from(mtu)) {
        item.error(format!("{mtu}: give {} to {}", MTUS.start(), MTUS.end()));
    }
    (mtu != 0).then_some(mtu)
}

fn tap(object: &Object<'_>) -> Option<Attached> {
    let bridge = object.need("bridge", "name the bridge of which the TAP becomes a port")?;
    let port = BridgePortSpec {
        bridge: bridge.parsed(device_name)?,
        ..BridgePortSpec::default()
    };
    Some(Ok((AttachmentSpec::Bridge(port), Some(PortRules::default()))))
}

fn macvlan(object: &Object<'_>) -> Option<Attached> {
    let lower = lower_device(object);
    let mode = match object.get("mode") {
        Some(mode) => macvtap_mode(&mode)?,
        None => MacvtapMode::Bridge,
    };
    Some(Ok((AttachmentSpec::Macvtap(stack(lower?, mode)), None)))
}

fn ipvlan(object: &Object<'_>) -> Option<Attached> {
    let lower = lower_device(object);
    let mode = match object.get("mode") {
        Some(mode) => ipvtap_mode(&mode)?,
        None => IpvtapMode::L2,
    };
    Some(Ok((AttachmentSpec::Ipvtap(stack(lower?, mode)), None)))
}

fn macvtap(object: &Object<'_>, around: &Surroundings<'_>) -> Option<Attached> {
    let stack = stack(macvtap_lower(object, around)?, MacvtapMode::Bridge);
    Some(Ok((AttachmentSpec::Macvtap(stack), None)))
}

const fn stack<M>(lower: String, mode: M) -> Stack<M> {
    Stack {
        lower,
        mode: Some(mode),
    }
}

/// The name of a network device, by the kernel's rules.
///
/// # Errors
/// A description of the error.
pub fn device_name(text: &str) -> Result<String, String> {
    let letters = text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if letters && (1..=MAX_DEVICE_NAME).contains(&text.len()) && text != "." && text != ".." {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "give the name of a network device, up to {MAX_DEVICE_NAME} bytes"
        ))
    }
}

fn lower_device(object: &Object<'_>) -> Option<String> {
    if object.boolean("linkInContainer") == Some(true) {
        object.error("linkInContainer: true is not served: give hawser a namespace that has the lower device");
    }
    object.need("master", "name the lower device")?.parsed(device_name)
}

/// Reads a mode of macvtap.
pub fn macvtap_mode(item: &Item<'_>) -> Option<MacvtapMode> {
    item.choice(&[
        ("bridge", MacvtapMode::Bridge),
        ("private", MacvtapMode::Private),
        ("vepa", MacvtapMode::Vepa),
        ("passthru", MacvtapMode::Passthru),
    ])
}

fn ipvtap_mode(item: &Item<'_>) -> Option<IpvtapMode> {
    item.choice(&[("l2", IpvtapMode::L2), ("l3", IpvtapMode::L3), ("l3s", IpvtapMode::L3s)])
}

fn macvtap_lower(object: &Object<'_>, around: &Surroundings<'_>) -> Option<String> {
    if object.boolean("promiscMode") == Some(true) {
        object.error("promiscMode: true is not served: leave it out");
    }
    // The device with the resource is looked up later, in macvtap::resolve.
    let resource = around.resource.and_then(|resource| resource.rsplit('/').next());
    match resource.filter(|name| !name.is_empty()) {
        Some(name) => Some(name.to_owned()),
        None => {
            object.error(
                "the lower device is not known: name it in the annotation \
                 k8s.v1.cni.cncf.io/resourceName: macvtap.network.kubevirt.io/DEVICE",
            );
            None
        }
    }
}

fn bridge(object: &Object<'_>) -> Option<Attached> {
    let bridge = match object.get("bridge") {
        Some(item) => item.parsed(device_name)?,
        None => DEFAULT_BRIDGE.to_owned(),
    };
    let flag = |name| object.boolean(name).unwrap_or(false);
    let rules = PortRules {
        vlan: object.integer("vlan", 0..=*VLANS.end()).filter(|vlan| *vlan != 0),
        trunk: trunk(object),
        preserve_default_vlan: flag("preserveDefaultVlan"),
        mac_spoof_check: flag("macspoofchk"),
    };
    let port = BridgePortSpec {
        bridge,
        hairpin: flag("hairpinMode"),
        promiscuous: flag("promiscMode"),
        isolated: flag("portIsolation"),
    };
    if let Some(vlan) = rules
        .vlan
        .filter(|vlan| rules.trunk.iter().any(|range| range.contains(vlan)))
    {
        error_at(
            object,
            "vlan",
            format!(
                "{vlan} is also in vlanTrunk, and cannot be both tagged and untagged: remove \
                it from one"
            ),
        );
    }
    if port.hairpin && port.promiscuous {
        error_at(
            object,
            "promiscMode",
            "it cannot be combined with hairpinMode: leave out one of them".into(),
        );
    }
    Some(Ok((AttachmentSpec::Bridge(port), Some(rules))))
}

/// An error in a given field.
fn error_at(object: &Object<'_>, field: &str, message: String) {
    if let Some(item) = object.get(field) {
        item.error(message);
    }
}

fn trunk(object: &Object<'_>) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for item in object.list("vlanTrunk") {
        let Some(range) = item.object(&table::VLAN_TRUNK).and_then(|entry| trunk_range(&entry)) else {
            continue;
        };
        if ranges
            .iter()
            .any(|r| r.start() <= range.end() && range.start() <= r.end())
        {
            item.error("VLANs of this entry are also in an earlier one: name each once");
        }
        ranges.push(range);
    }
    ranges
}

fn trunk_range(entry: &Object<'_>) -> Option<RangeInclusive<u16>> {
    let [id, first, last] = ["id", "minID", "maxID"].map(|name| entry.get(name));
    match (id, first, last) {
        (Some(id), None, None) => id.integer(VLANS).map(|id| id..=id),
        (None, Some(first), Some(last)) => {
            let (first, last): (Option<u16>, Option<u16>) = (first.integer(VLANS), last.integer(VLANS));
            let range = first?..=last?;
            if range.is_empty() {
                let (first, last) = (range.start(), range.end());
                entry.error(format!("maxID {last} is less than minID {first}: swap them"));
                return None;
            }
            Some(range)
        }
        _ => {
            entry.error("give id, or minID and maxID");
            None
        }
    }
}
