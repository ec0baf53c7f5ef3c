//! Reads cloud-init's configuration of the guest's NICs: the network data in a VM's volumes.
//!
//! KubeVirt passes on the text without reading it. So errors in it do not keep a VM from being served, except for those
//! that KubeVirt refuses too: two sources at once, and invalid base64. A part that is not understood causes a warning
//! with its line. The rest is converted to [`Device`]s with the positions of their values. [`crate::cloud_init`] finds
//! the contradictions.

mod v1;
mod v2;

use super::fields::cloud_init as table;
use super::reader::{Item, Object};
use super::report::{Report, Spot};
use super::yaml::{self, Budget};
use data_encoding::BASE64;
use hawser_packet::MacAddr;
use ipnet::IpNet;
use std::net::IpAddr;

/// A value with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given<T> {
    /// The value itself.
    pub value: T,
    /// Its position.
    pub spot: Spot,
}

/// A device of the guest.
#[derive(Clone, Debug)]
pub struct Device {
    /// Position in the manifest.
    pub spot: Spot,
    /// How the device's NIC is identified.
    pub is: Match,
    /// True if the device is part of a bond, bridge or VLAN, which has the addresses instead.
    pub is_member: bool,
    /// MAC that the guest gives the NIC.
    pub own_mac: Option<Given<MacAddr>>,
    /// MTU that the guest sets.
    pub mtu: Option<Given<u32>>,
    /// True if the guest requests an IPv4 address.
    pub dhcp4: bool,
    /// True if the guest requests an IPv6 address, whatever routers announce.
    pub dhcp6: bool,
    /// True if the guest accepts router advertisements. `None` if that is not given.
    pub accept_ra: Option<bool>,
    /// Addresses that the guest sets itself.
    pub addresses: Vec<Given<IpNet>>,
    /// Next hops of its default routes.
    pub gateways: Vec<Given<IpAddr>>,
}

/// The way in which the guest identifies a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// By its MAC address.
    Mac(Given<MacAddr>),
    /// By the kernel's name, or by a pattern of names.
    Name(String),
    /// By a property that is unknown outside the guest, such as its driver.
    Unknown,
}

impl Device {
    /// Creates a device that requests no addresses.
    fn new(spot: Spot, is: Match) -> Self {
        Self {
            spot,
            is,
            is_member: false,
            own_mac: None,
            mtu: None,
            dhcp4: false,
            dhcp6: false,
            accept_ra: None,
            addresses: Vec::new(),
            gateways: Vec::new(),
        }
    }

    /// All positions in the device.
    fn spots(&mut self) -> Vec<&mut Spot> {
        let mut spots = vec![&mut self.spot];
        if let Match::Mac(mac) = &mut self.is {
            spots.push(&mut mac.spot);
        }
        spots.extend(self.own_mac.as_mut().map(|mac| &mut mac.spot));
        spots.extend(self.mtu.as_mut().map(|mtu| &mut mtu.spot));
        spots.extend(self.addresses.iter_mut().map(|address| &mut address.spot));
        spots.extend(self.gateways.iter_mut().map(|gateway| &mut gateway.spot));
        spots
    }
}

/// Reads the volumes of a VM.
pub fn read(spec: &Object<'_>) -> Vec<Device> {
    let volumes = spec.list("volumes");
    let objects = volumes.iter().filter_map(|volume| volume.object(&table::VOLUME));
    objects.flat_map(|volume| of_volume(&volume)).collect()
}

fn of_volume(volume: &Object<'_>) -> Vec<Device> {
    let kinds = ["cloudInitNoCloud", "cloudInitConfigDrive"];
    let sources = kinds.iter().filter_map(|kind| volume.object(kind, &table::CLOUD_INIT));
    sources.flat_map(|source| of_source(&source)).collect()
}

fn of_source(source: &Object<'_>) -> Vec<Device> {
    let plain = source.get("networkData").filter(|item| item.scalar().is_some());
    let encoded = source.get("networkDataBase64");
    let secret = source.get("networkDataSecretRef");
    let given = [&plain, &encoded, &secret].into_iter().flatten().count();
    if given > 1 {
        source.error("networkData, networkDataBase64 and networkDataSecretRef exclude each other: give one of them");
        return Vec::new();
    }
    if let Some(item) = secret {
        let name = item.inner("name").and_then(|name| name.text()).unwrap_or_default();
        item.warn(format!(
            "not compared: the guest's network configuration is in the Secret {name:?}, which is \
             not known here"
        ));
        return Vec::new();
    }
    if let Some(item) = encoded {
        return of_base64(&item);
    }
    plain.map(|item| of_text(&item)).unwrap_or_default()
}

fn of_base64(item: &Item<'_>) -> Vec<Device> {
    let Some(text) = item.text() else {
        return Vec::new();
    };
    // Go's decoder, which KubeVirt uses, skips line breaks.
    let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    let decoded = BASE64.decode(text.as_bytes());
    let Some(decoded) = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
        item.error("this is not base64 of a text");
        return Vec::new();
    };
    let line = item.spot().line;
    parse(item, &decoded, |_| line)
}

fn of_text(item: &Item<'_>) -> Vec<Device> {
    let Some(scalar) = item.scalar().filter(|_| item.text().is_some()) else {
        return Vec::new();
    };
    match &scalar.lines {
        // Maps lines of the text to lines of the file.
        Some(lines) => parse(item, &lines.text, |inner| lines.first + inner - 1),
        None => parse(item, &scalar.text, |_| item.spot().line),
    }
}

/// Parses the text. `line_of` maps its lines to those of the file.
fn parse(item: &Item<'_>, text: &str, line_of: impl Fn(usize) -> usize) -> Vec<Device> {
    if text.len() > MAX_LENGTH {
        item.error(format!(
            "KubeVirt accepts {MAX_LENGTH} bytes here, and this is longer: give a \
             networkDataSecretRef"
        ));
        return Vec::new();
    }
    let own = Report::default();
    let mut budget = Budget::within(MAX_NODES, MAX_LENGTH * 2);
    let mut devices = Vec::new();
    match yaml::documents(text, &mut budget).next() {
        None => {}
        Some(Ok(root)) => devices = of_root(&Item::root(&own, item.spot().on_line(WHOLE), &root)),
        Some(Err(error)) => own.error(&item.spot().on_line(error.line), error.message),
    }
    let moved = |spot: &Spot| match spot.line {
        WHOLE => spot.on_line(item.spot().line),
        line => spot.on_line(line_of(line)),
    };
    // Errors here concern only the guest and cloud-init, so they become warnings.
    let (errors, warnings) = own.into_parts();
    for problem in errors.iter().chain(&warnings) {
        item.warn_at(&moved(&problem.spot), format!("not compared: {}", problem.message));
    }
    for device in &mut devices {
        device.spots().into_iter().for_each(|spot| *spot = moved(spot));
    }
    devices
}

fn of_root(root: &Item<'_>) -> Vec<Device> {
    let Some(data) = root.object(&table::NETWORK_DATA) else {
        return Vec::new();
    };
    if let Some(inner) = data.get("network") {
        return of_root(&inner);
    }
    match data.integer("version", 1..=2) {
        Some(1) => data
            .get("config")
            .map(|config| v1::devices(&config))
            .unwrap_or_default(),
        Some(2) => v2::devices(&data),
        Some(_) => Vec::new(),
        None => {
            if data.get("version").is_none() {
                data.error("version is missing: give 1 or 2");
            }
            Vec::new()
        }
    }
}

/// Reads a value with `read`, and keeps its position.
fn given<T>(item: &Item<'_>, read: impl FnOnce(&Item<'_>) -> Option<T>) -> Option<Given<T>> {
    let spot = item.spot().clone();
    Some(Given {
        value: read(item)?,
        spot,
    })
}

/// Reads a device's name. Anything else is ignored.
fn name(item: &Item<'_>) -> Option<String> {
    item.scalar().map(|scalar| scalar.text.clone())
}

fn mac(item: &Item<'_>) -> Option<MacAddr> {
    item.parsed(|text| text.trim().parse().map_err(|_| "this is not a MAC".to_owned()))
}

fn address(item: &Item<'_>) -> Option<IpAddr> {
    item.parsed(|text| text.trim().parse().map_err(|_| "this is not an address".to_owned()))
}

/// The line for messages about the text as a whole.
const WHOLE: usize = 0;
/// KubeVirt's own limit (cloudInitNetworkMaxLen in its vmi-create-admitter.go).
const MAX_LENGTH: usize = 2048;
/// Maximum number of values, including expanded aliases. Without aliases, the limit on the length would not permit as
/// many.
const MAX_NODES: usize = 4096;

/// The largest MTU of any device, which is the length of the longest IPv4 packet.
const MAX_MTU: i64 = 65_535;

fn mtu(item: &Item<'_>) -> Option<u32> {
    item.integer(1..=MAX_MTU)
}
