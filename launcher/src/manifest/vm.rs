//! VirtualMachine and VirtualMachineInstance: what of them is about the network.

use super::fields::kubevirt as table;
use super::ports::{self, PortRange};
use super::reader::{Item, Object};
use super::report::Spot;
use crate::values::{self, Family};
use hawser_backend::packet::MacAddr;
use ipnet::{Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// A VM.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Where it is.
    pub spot: Spot,
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// A proxy of Istio is in its pod.
    pub istio: bool,
    /// What Services select it by.
    pub labels: BTreeMap<String, String>,
    /// The guest's host name.
    pub hostname: Option<String>,
    /// `terminationGracePeriodSeconds`: how long the guest may take to shut down.
    pub grace: Duration,
    /// Virtual CPUs, where each interface gets a queue pair for each.
    pub multiqueue: Option<u32>,
    /// Its interfaces, in their order.
    pub interfaces: Vec<Interface>,
    /// Its networks.
    pub networks: Vec<Network>,
}

/// `interfaces[]`
#[derive(Clone, Debug)]
pub struct Interface {
    /// Where it is.
    pub spot: Spot,
    /// `name`
    pub name: String,
    /// How it is bound to its network; `None` if a problem was found with that.
    pub binding: Option<Binding>,
    /// `macAddress`
    pub mac: Option<MacAddr>,
    /// `ports` and `portRanges`; `None` if neither is given, which means every port.
    pub ports: Option<Vec<PortRange>>,
    /// `state`
    pub state: LinkState,
    /// `dhcpOptions`
    pub dhcp: DhcpOptions,
    /// What only the VMM needs to know.
    pub device: DeviceHints,
}

/// How an interface is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// `masquerade`
    Masquerade,
    /// `bridge`
    Bridge,
    /// `sriov`
    Sriov,
    /// The plugin `l2bridge`.
    L2Bridge,
}

/// `state`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Also where nothing is given.
    Up,
    /// The guest has the card and no carrier.
    Down,
    /// The guest has not got the card.
    Absent,
}

/// `dhcpOptions`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhcpOptions {
    /// Option 67.
    pub boot_file: Option<String>,
    /// Option 66.
    pub tftp_server: Option<String>,
    /// Option 42.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Options 224 to 254.
    pub private: Vec<(u8, String)>,
}

impl DhcpOptions {
    /// Their codes and values, as DHCPv4 writes them (RFC 2132).
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

/// What of an interface is the VMM's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceHints {
    /// `pciAddress`
    pub pci_address: Option<String>,
    /// `bootOrder`
    pub boot_order: Option<u32>,
    /// `acpiIndex`
    pub acpi_index: Option<u32>,
}

/// `networks[]`
#[derive(Clone, Debug)]
pub struct Network {
    /// Where it is.
    pub spot: Spot,
    /// `name`
    pub name: String,
    /// What it is; `None` if a problem was found with that.
    pub source: Option<NetworkSource>,
}

/// What a network is.
#[derive(Clone, Debug)]
pub enum NetworkSource {
    /// `pod`
    Pod(PodNetwork),
    /// `multus`
    Multus {
        /// Where it is named.
        spot: Spot,
        /// Namespace, if it is named.
        namespace: Option<String>,
        /// Name of the NetworkAttachmentDefinition.
        name: String,
    },
}

/// `pod`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodNetwork {
    /// `vmNetworkCIDR`
    pub ipv4: Option<Ipv4Net>,
    /// `vmIPv6NetworkCIDR`
    pub ipv6: Option<Ipv6Net>,
}

/// Name, namespace, labels and annotations of an object.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// `name`
    pub name: Option<String>,
    /// `namespace`
    pub namespace: Option<String>,
    /// `labels`
    pub labels: BTreeMap<String, String>,
    /// `annotations`
    pub annotations: BTreeMap<String, String>,
}

/// Where names are looked for that say no namespace.
pub const DEFAULT_NAMESPACE: &str = "default";

/// How long KubeVirt gives a guest to shut down.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
const ISTIO_INJECT: &str = "sidecar.istio.io/inject";
/// Network and interface names have to be a file's name and part of QEMU's identifiers.
const MAX_INTERFACE_NAME: usize = 63;

impl Metadata {
    /// Reads the `metadata` of `object`.
    pub fn read(object: &Object<'_>) -> Self {
        let Some(metadata) = object.object("metadata", &table::METADATA) else {
            return Self::default();
        };
        Self {
            name: metadata.text("name").map(str::to_owned),
            namespace: metadata.text("namespace").map(str::to_owned),
            labels: texts(metadata.get("labels")),
            annotations: texts(metadata.get("annotations")),
        }
    }

    fn istio(&self) -> bool {
        self.annotations.get(ISTIO_INJECT).is_some_and(|v| v == "true")
    }
}

/// A map of text to text.
pub fn texts(item: Option<Item<'_>>) -> BTreeMap<String, String> {
    let pairs = item.map(|item| item.texts()).unwrap_or_default();
    let texts = pairs
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned())));
    texts.collect()
}

/// Reads `kind: VirtualMachine`.
pub fn read_machine(object: &Object<'_>) -> Option<Vm> {
    let own = Metadata::read(object);
    let template = object
        .need("spec", "give spec.template")?
        .object(&table::VM_SPEC)?
        .need("template", "give the VirtualMachineInstance it makes")?
        .object(&table::TEMPLATE)?;
    let inner = Metadata::read(&template);
    let spec = template.need("spec", "give domain and networks")?;
    let metadata = Metadata {
        name: own.name,
        namespace: own.namespace,
        ..inner
    };
    read_spec(object, metadata, &spec)
}

/// Reads `kind: VirtualMachineInstance`.
pub fn read_instance(object: &Object<'_>) -> Option<Vm> {
    let metadata = Metadata::read(object);
    read_spec(object, metadata, &object.need("spec", "give domain and networks")?)
}

fn read_spec(object: &Object<'_>, metadata: Metadata, spec: &Item<'_>) -> Option<Vm> {
    let istio = metadata.istio();
    let spec = spec.object(&table::VMI_SPEC)?;
    let domain = spec
        .need("domain", "give domain.devices.interfaces")?
        .object(&table::DOMAIN)?;
    let devices = domain
        .need("devices", "give devices.interfaces")?
        .object(&table::DEVICES)?;
    let hostname = spec.get("hostname").and_then(|item| item.parsed(values::hostname));
    let from_name = || values::hostname(metadata.name.as_deref()?.split('.').next()?).ok();
    let multiqueue = devices.boolean("networkInterfaceMultiqueue") == Some(true);
    let name = metadata.name.clone();
    if name.is_none() {
        object.error("metadata.name is missing: give the VM a name");
    }
    Some(Vm {
        spot: object.spot().clone(),
        hostname: hostname.or_else(from_name),
        grace: spec
            .integer("terminationGracePeriodSeconds", 0..=i64::from(u32::MAX))
            .map_or(DEFAULT_GRACE, Duration::from_secs),
        name: name.unwrap_or_default(),
        namespace: metadata.namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
        istio,
        labels: metadata.labels,
        multiqueue: multiqueue.then(|| virtual_cpus(&domain)),
        interfaces: interfaces(&devices, istio),
        networks: networks(&spec),
    })
}

/// Sockets × cores × threads, or what of CPU is asked for, or one.
fn virtual_cpus(domain: &Object<'_>) -> u32 {
    const MOST: i64 = 65_535;
    if let Some(cpu) = domain.object("cpu", &table::CPU) {
        let parts = ["sockets", "cores", "threads"].map(|name| cpu.integer::<u32>(name, 1..=MOST).unwrap_or(1));
        return parts.into_iter().fold(1, u32::saturating_mul);
    }
    let Some(resources) = domain.object("resources", &table::RESOURCES) else {
        return 1;
    };
    let cpu = |name| {
        let quantities = resources.get(name)?.texts_or_numbers();
        let (_, amount) = quantities.into_iter().find(|(key, _)| *key == "cpu")?;
        cpu_quantity(amount)
    };
    cpu("limits").or_else(|| cpu("requests")).unwrap_or(1)
}

/// "2", "1500m", "0.5": whole CPUs, rounded up.
fn cpu_quantity(text: &str) -> Option<u32> {
    let milli = match text.strip_suffix('m') {
        Some(milli) => milli.parse::<u32>().ok()?,
        None => {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let some = u32::from(fraction.bytes().any(|b| b != b'0'));
            return Some((whole.parse::<u32>().ok()?.checked_add(some)?).max(1));
        }
    };
    Some(milli.div_ceil(1000).max(1))
}

fn interfaces(devices: &Object<'_>, istio: bool) -> Vec<Interface> {
    let items = devices.list("interfaces");
    if items.is_empty() {
        devices.error("interfaces is missing or empty: give the VM one interface at least");
    }
    let mut interfaces: Vec<Interface> = Vec::new();
    let (mut names, mut macs, mut boot) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for item in items {
        let Some(interface) = interface(&item, istio) else {
            continue;
        };
        if !names.insert(interface.name.clone()) {
            item.error(format!(
                "another interface is named {:?} too: give each its own name",
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
    interfaces
}

/// The name of an interface or network, as KubeVirt takes it.
fn interface_name(text: &str) -> Result<String, String> {
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
            _ => Err("only virtio can be served over vhost-user; write virtio, or leave it out".into()),
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
        },
        name,
        binding,
    })
}

fn binding(object: &Object<'_>) -> Option<Binding> {
    /// The methods that are a field of their own, without any below it.
    static EMPTY: super::reader::ObjectType = super::reader::ObjectType {
        name: "a binding",
        fields: &[],
        unknown: super::reader::Unknown::Refused,
    };
    let methods = [
        ("masquerade", Binding::Masquerade),
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
        found.push(name.and_then(|item| item.choice(&[("l2bridge", Binding::L2Bridge)])));
    }
    match found[..] {
        [binding] => binding,
        [] => {
            object.error("it says no way to bind it to its network: give masquerade: {} or bridge: {}");
            None
        }
        _ => {
            object.error("it says several ways to bind it to its network: leave one");
            None
        }
    }
}

/// `0000:81:01.0`
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
    /// Bytes that fit into one option.
    const MOST: usize = 255;
    /// What one message leaves them beside hawser's own.
    const MOST_OF_ALL: usize = 768;
    /// IPv4 addresses that fit into one option.
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
        object.error("privateOptions has an option twice: give each once");
    }
    let ntp_servers: Vec<Ipv4Addr> = object.list("ntpServers").iter().filter_map(server).collect();
    if ntp_servers.len() > MOST_SERVERS {
        object.error(format!(
            "ntpServers has more servers than an option holds: give up to {MOST_SERVERS}"
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

fn networks(spec: &Object<'_>) -> Vec<Network> {
    let mut names = BTreeSet::new();
    let mut networks = Vec::new();
    for item in spec.list("networks") {
        let Some(object) = item.object(&table::NETWORK) else {
            continue;
        };
        let name = object.need("name", "give the name of its interface");
        let Some(name) = name.and_then(|item| item.parsed(interface_name)) else {
            continue;
        };
        if !names.insert(name.clone()) {
            item.error(format!("another network is named {name:?} too: give each its own name"));
        }
        networks.push(Network {
            spot: item.spot().clone(),
            source: source(&object),
            name,
        });
    }
    networks
}

fn source(network: &Object<'_>) -> Option<NetworkSource> {
    let pod = network.get("pod").and_then(|item| item.object(&table::POD_NETWORK));
    let multus = network
        .get("multus")
        .and_then(|item| item.object(&table::MULTUS_NETWORK));
    match (pod, multus) {
        (Some(pod), None) => {
            let ipv4 = pod
                .get("vmNetworkCIDR")
                .and_then(|item| item.parsed(on(values::ipv4_network)));
            let ipv6 = pod
                .get("vmIPv6NetworkCIDR")
                .and_then(|item| item.parsed(on(values::ipv6_network)));
            Some(NetworkSource::Pod(PodNetwork { ipv4, ipv6 }))
        }
        (None, Some(multus)) => {
            if multus.boolean("default") == Some(true) {
                multus
                    .error("default: true makes this the pod's own network, which hawser cannot change: leave it out");
            }
            let item = multus.need("networkName", "name a NetworkAttachmentDefinition")?;
            let (namespace, name) = item.parsed(network_name)?;
            let spot = item.spot().clone();
            Some(NetworkSource::Multus { spot, namespace, name })
        }
        (Some(_), Some(_)) => {
            network.error("pod and multus are both given: leave one");
            None
        }
        (None, None) => {
            network.error("it says no network: give pod: {} or multus.networkName");
            None
        }
    }
}

/// A network's parser without the word "off", which no manifest has.
fn on<N>(parse: impl Fn(&str) -> Result<Family<N>, String>) -> impl Fn(&str) -> Result<N, String> {
    move |text| match parse(text) {
        Ok(Family::On(network)) => Ok(network),
        Ok(Family::Off) => Err("give a network such as 10.0.2.0/24 or fd10:0:2::/120".into()),
        Err(why) => Err(why.trim_end_matches(", or off").to_owned()),
    }
}

fn network_name(text: &str) -> Result<(Option<String>, String), String> {
    let valid = |name: &str| !name.is_empty() && name.split('.').all(|label| values::hostname(label).is_ok());
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    if valid(name) && namespace.is_none_or(valid) {
        Ok((namespace.map(str::to_owned), name.to_owned()))
    } else {
        Err("give name or namespace/name of a NetworkAttachmentDefinition".into())
    }
}
