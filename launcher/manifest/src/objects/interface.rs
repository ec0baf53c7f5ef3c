//! Reads `interfaces[]` of a VM.

use super::fields::kubevirt as table;
use super::ports::{self, PortRange};
use super::reader::{Item, Object};
use super::report::Spot;
use super::teaming;
use crate::nic::{DeviceHints, Shortage};
use crate::values;
use hawser_packet::MacAddr;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// An entry of `interfaces[]`
#[derive(Clone, Debug)]
pub struct Interface {
    /// Position in the manifest.
    pub spot: Spot,
    /// `name`
    pub name: String,
    /// Binding of the interface to its network. `None` if it has an error.
    pub binding: Option<Binding>,
    /// `macAddress`
    pub mac: Option<MacAddr>,
    /// `ports` and `portRanges`. `None` if neither is given, which means every port.
    pub ports: Option<Vec<PortRange>>,
    /// `state`
    pub state: LinkState,
    /// `dhcpOptions`
    pub dhcp: DhcpOptions,
    /// Settings that only the VMM needs.
    pub device: DeviceHints,
    /// `fallback`
    pub shortage: Shortage,
}

impl Interface {
    /// Creates an interface with a binding and no other settings.
    pub fn plain(spot: Spot, name: String, binding: Binding) -> Self {
        Self {
            spot,
            name,
            binding: Some(binding),
            mac: None,
            ports: None,
            state: LinkState::Up,
            dhcp: DhcpOptions::default(),
            device: DeviceHints::default(),
            shortage: Shortage::default(),
        }
    }
}

/// The binding of an interface to its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// `masquerade`
    Masquerade,
    /// `passtBinding`, or the plugin `passt`.
    Passt,
    /// `bridge`
    Bridge,
    /// `sriov`
    Sriov,
    /// The plugin `l2bridge`.
    L2Bridge,
    /// The plugin `managedtap`.
    ManagedTap,
}

/// `state`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The link is up. This is the default.
    Up,
    /// The guest has the NIC, but no carrier.
    Down,
    /// The guest does not have the NIC.
    Absent,
}

/// `dhcpOptions`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhcpOptions {
    /// Name of the boot file (option 67).
    pub boot_file: Option<String>,
    /// Name of the TFTP server (option 66).
    pub tftp_server: Option<String>,
    /// NTP servers (option 42).
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Code and text of private options (224 to 254).
    pub private: Vec<(u8, String)>,
}

impl DhcpOptions {
    /// Codes and values of the options in the format of DHCPv4 (RFC 2132).
    pub fn encoded(&self) -> Vec<(u8, Vec<u8>)> {
        const NTP_SERVERS: u8 = 42;
        const TFTP_SERVER: u8 = 66;
        const BOOT_FILE: u8 = 67;
        let mut options = Vec::new();
        let servers: Vec<u8> = self.ntp_servers.iter().flat_map(|a| a.octets()).collect();
        if !servers.is_empty() {
            options.push((NTP_SERVERS, servers));
        }
        let texts = [(TFTP_SERVER, &self.tftp_server), (BOOT_FILE, &self.boot_file)];
        let given = texts.into_iter().filter_map(|(code, text)| Some((code, text.clone()?)));
        options.extend(
            given
                .chain(self.private.clone())
                .map(|(code, text)| (code, text.into_bytes())),
        );
        options
    }
}

/// Maximum length of a name. Network and interface names become file names and parts of QEMU identifiers.
const MAX_INTERFACE_NAME: usize = 63;

/// Reads `interfaces`, which may be missing.
pub fn read_all(devices: &Object<'_>, istio: bool) -> Vec<Interface> {
    let items = devices.list("interfaces");
    let mut interfaces: Vec<Interface> = Vec::new();
    let (mut names, mut macs, mut boot) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for item in items {
        let Some(interface) = interface(&item, istio) else {
            continue;
        };
        if !names.insert(interface.name.clone()) {
            item.error(format!(
                "another interface is also named {:?}: give each its own name",
                interface.name
            ));
        }
        if interface.mac.is_some_and(|mac| !macs.insert(mac.0)) {
            item.error("another interface of this VM has the same macAddress: give each its own");
        }
        if interface.device.boot_order.is_some_and(|order| !boot.insert(order)) {
            item.error("another interface of this VM has the same bootOrder: give each its own");
        }
        interfaces.push(interface);
    }
    for interface in &interfaces {
        if let Some(standby) = interface.device.teaming.standby()
            && names.contains(standby)
        {
            let message = format!(
                "its standby, which hawser adds, is named {standby:?} like another interface: give teaming with another name"
            );
            devices.error_at(&interface.spot, message);
        }
    }
    interfaces
}

/// Checks the name of an interface or network by KubeVirt's rules.
pub fn interface_name(text: &str) -> Result<String, String> {
    let letters = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if letters && (1..=MAX_INTERFACE_NAME).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "give up to {MAX_INTERFACE_NAME} letters, digits, hyphens and underscores"
        ))
    }
}

fn interface(item: &Item<'_>, istio: bool) -> Option<Interface> {
    let object = item.object(&table::INTERFACE)?;
    let name = object
        .need("name", "give the name of its network")?
        .parsed(interface_name)?;
    let binding = binding(&object);
    if let Some(model) = object.get("model") {
        model.parsed(|text| match text {
            "virtio" | "virtio-transitional" | "virtio-non-transitional" => Ok(()),
            _ => Err("only virtio can be served over vhost-user: write virtio, or leave it out".into()),
        });
    }
    let state = object.get("state").and_then(|item| {
        item.choice(&[
            ("up", LinkState::Up),
            ("down", LinkState::Down),
            ("absent", LinkState::Absent),
        ])
    });
    let state = state.unwrap_or(LinkState::Up);
    if state == LinkState::Absent && binding.is_some_and(|b| b != Binding::Bridge) {
        object.error("state absent is for interfaces bound with bridge: remove this one from the manifest instead");
    }
    Some(Interface {
        spot: item.spot().clone(),
        mac: object.get("macAddress").and_then(|item| item.parsed(values::guest_mac)),
        ports: ports::read(&object, binding, istio),
        state,
        dhcp: dhcp_options(&object),
        device: DeviceHints {
            pci_address: object.get("pciAddress").and_then(|item| item.parsed(pci_address)),
            boot_order: object.integer("bootOrder", 1..=i64::from(u32::MAX)),
            acpi_index: object.integer("acpiIndex", 1..=i64::from(u32::MAX)),
            teaming: teaming::read(&object, &name, binding),
        },
        shortage: shortage(&object, binding),
        name,
        binding,
    })
}

fn binding(object: &Object<'_>) -> Option<Binding> {
    /// Table for binding methods that are fields without subfields.
    static EMPTY: super::reader::ObjectType = super::reader::ObjectType {
        name: "a binding",
        fields: &[],
        unknown: super::reader::Unknown::Refused,
    };
    let methods = [
        ("masquerade", Binding::Masquerade),
        ("passtBinding", Binding::Passt),
        ("bridge", Binding::Bridge),
        ("sriov", Binding::Sriov),
    ];
    let mut found: Vec<Option<Binding>> = Vec::new();
    for (name, binding) in methods {
        if let Some(item) = object.get(name) {
            found.push(item.object(&EMPTY).map(|_| binding));
        }
    }
    if let Some(plugin) = object.object("binding", &table::BINDING) {
        let name = plugin.need("name", "name the binding plugin");
        found.push(name.and_then(|item| item.parsed(binding_plugin)));
    }
    // If the table refuses the field, its message says what to write instead.
    let refused = object.has_refused();
    match found[..] {
        [binding] => binding,
        [] if refused => None,
        [] => {
            object.error("it has no binding to its network: give masquerade: {} or bridge: {}");
            None
        }
        _ => {
            object.error("it has several bindings to its network: keep one of them");
            None
        }
    }
}

/// Replacements for the plugins of KubeVirt's repository (cmd/cniplugins, cmd/sidecars and
/// docs/network) and of the user guide.
fn binding_plugin(name: &str) -> Result<Binding, String> {
    let instead = match name {
        "l2bridge" => return Ok(Binding::L2Bridge),
        "managedtap" => return Ok(Binding::ManagedTap),
        "passt" => return Ok(Binding::Passt),
        "slirp" => "KubeVirt has removed it: write masquerade: {} instead",
        "macvtap" => {
            "write bridge: {} instead, on a network of type macvtap or macvlan: hawser creates the \
             macvtap itself"
        }
        _ => {
            "plugins of the cluster are not known here: write masquerade: {} for the pod network, \
             bridge: {} for another"
        }
    };
    Err(instead.into())
}

/// Reads what the interface gets if no virtual function is left.
fn shortage(object: &Object<'_>, binding: Option<Binding>) -> Shortage {
    let Some(item) = object.get("fallback") else {
        return Shortage::default();
    };
    if binding.is_some_and(|binding| binding != Binding::Sriov) {
        item.error("it is for interfaces bound with sriov, which may find no VF: leave it out");
    }
    item.choice(&[("macvtap", Shortage::Macvtap)]).unwrap_or_default()
}

/// Parses a PCI address such as `0000:81:01.0`
fn pci_address(text: &str) -> Result<String, String> {
    let lengths_of = |parts: &[&str]| parts.iter().map(|p| p.len()).collect::<Vec<_>>();
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let hex = parts.iter().all(|p| p.bytes().all(|b| b.is_ascii_hexdigit()));
    if hex && lengths_of(&parts) == [4, 2, 2, 1] && text.as_bytes()[10] == b'.' {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("give domain:bus:slot.function in hexadecimal, such as 0000:81:01.0".into())
    }
}

fn dhcp_options(interface: &Object<'_>) -> DhcpOptions {
    /// Maximum number of bytes in one option.
    const MOST: usize = 255;
    /// Maximum number of bytes in all options together. It leaves space for hawser's own options.
    const MOST_OF_ALL: usize = 768;
    /// Maximum number of IPv4 addresses in one option.
    const MOST_SERVERS: usize = 63;
    let Some(object) = interface.object("dhcpOptions", &table::DHCP_OPTIONS) else {
        return DhcpOptions::default();
    };
    let value = |text: &str| match text.len() {
        1..=MOST => Ok(text.to_owned()),
        _ => Err(format!("give 1 to {MOST} bytes")),
    };
    let text = |name| object.get(name).and_then(|item| item.parsed(value));
    let server = |item: &Item<'_>| item.parsed(|text| text.parse().map_err(|_| "give an IPv4 address".to_owned()));
    let private = |item: &Item<'_>| {
        let option = item.object(&table::PRIVATE_OPTION)?;
        let number = option.need("option", "give its number")?.integer(224..=254);
        let value = option.need("value", "give its text")?.parsed(value);
        Some((number?, value?))
    };
    let private: Vec<(u8, String)> = object.list("privateOptions").iter().filter_map(private).collect();
    let numbers: BTreeSet<u8> = private.iter().map(|(number, _)| *number).collect();
    if numbers.len() < private.len() {
        object.error("privateOptions contains an option twice: give each option once");
    }
    let ntp_servers: Vec<Ipv4Addr> = object.list("ntpServers").iter().filter_map(server).collect();
    if ntp_servers.len() > MOST_SERVERS {
        object.error(format!(
            "ntpServers has more servers than fit into an option: give up to {MOST_SERVERS}"
        ));
    }
    let options = DhcpOptions {
        boot_file: text("bootFileName"),
        tftp_server: text("tftpServerName"),
        ntp_servers,
        private,
    };
    let size: usize = options.encoded().iter().map(|(_, data)| data.len() + 2).sum();
    if size > MOST_OF_ALL {
        object.error(format!(
            "{size} bytes of options are too many for a DHCP message: give up to {MOST_OF_ALL}"
        ));
    }
    options
}
