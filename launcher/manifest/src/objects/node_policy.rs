//! Reads `kind: SriovNetworkNodePolicy`: the virtual functions that physical functions of a node get, and the pools
//! that contain them. The rules are those of the SR-IOV network operator.

use super::fields::sriov as table;
use super::metadata::Metadata;
use super::reader::{Item, Object};
use super::report::Spot;
use std::ops::RangeInclusive;

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub struct NodePolicy {
    /// Position in the manifest.
    pub spot: Spot,
    /// `metadata.name`
    pub name: String,
    /// `resourceName`: the pool of its virtual functions.
    pub resource: String,
    /// `priority`: if two policies cover the same functions of a PF, the policy with the lower number applies.
    pub priority: u8,
    /// `mtu`
    pub mtu: Option<u16>,
    /// `numVfs`
    pub num_vfs: u32,
    /// `nicSelector`
    pub selector: NicSelector,
    /// `deviceType`
    pub device_type: DeviceType,
    /// `externallyManaged`: the functions already exist, and their number does not change.
    pub externally_managed: bool,
}

/// The physical functions of a policy. Every given field must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicSelector {
    /// `vendor`
    pub vendor: Option<String>,
    /// `deviceID`
    pub device: Option<String>,
    /// `pfNames`
    pub names: Vec<Part>,
    /// `rootDevices`
    pub roots: Vec<Part>,
}

/// A physical function, or a part of its virtual functions: `eth0`, `eth0#2-5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name or PCI address of the physical function.
    pub of: String,
    /// Numbers of the virtual functions; `None`: all of them.
    pub range: Option<RangeInclusive<u32>>,
}

/// `deviceType`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceType {
    /// A network device of the host's kernel.
    #[default]
    NetDevice,
    /// Bound to vfio-pci, for guests.
    VfioPci,
}

impl DeviceType {
    /// Name of the type in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetDevice => "netdevice",
            Self::VfioPci => "vfio-pci",
        }
    }
}

/// Lowest priority, which is also the default.
const LAST_PRIORITY: u8 = 99;
/// Longest resource name: a label's name has 63 characters, to which the operator adds a prefix.
const MAX_RESOURCE: usize = 63;

/// Reads a policy. `None` if it has an error.
pub fn read(object: &Object<'_>, namespace: &str) -> Option<NodePolicy> {
    let name = Metadata::read(object, namespace).need_name(object, "the policy");
    let spec = object.need("spec", "give resourceName, nicSelector and numVfs")?;
    let spec = spec.object(&table::NODE_POLICY_SPEC)?;
    refuse_unserved(&spec);
    let resource = spec.need("resourceName", "name the pool of virtual functions");
    let resource = resource.and_then(|item| item.parsed(resource_name));
    let priority: Option<u8> = spec.integer("priority", 0..=i64::from(LAST_PRIORITY));
    let mtu: Option<u16> = spec.integer("mtu", 1..=i64::from(u16::MAX));
    let num_vfs = spec.need("numVfs", "give the number of virtual functions");
    let num_vfs: Option<u32> = num_vfs.and_then(|item| item.integer(0..=i64::from(u16::MAX)));
    let device_type = spec.get("deviceType").map_or(Some(DeviceType::default()), |item| {
        item.choice(&[("netdevice", DeviceType::NetDevice), ("vfio-pci", DeviceType::VfioPci)])
    });
    let selector = spec.need(
        "nicSelector",
        "select physical functions by vendor, deviceID, pfNames or rootDevices",
    );
    let selector = selector.and_then(|item| nic_selector(&item, num_vfs.unwrap_or(u32::MAX)));
    Some(NodePolicy {
        spot: object.spot().clone(),
        name,
        resource: resource?,
        priority: priority.unwrap_or(LAST_PRIORITY),
        mtu,
        num_vfs: num_vfs?,
        selector: selector?,
        device_type: device_type?,
        externally_managed: spec.boolean("externallyManaged") == Some(true),
    })
}

/// Checks fields whose values require anything other than Ethernet functions and the card's own switch.
fn refuse_unserved(spec: &Object<'_>) {
    let refuse = |name: &str, value: &str, why: &str| {
        if let Some(item) = spec.get(name)
            && item
                .scalar()
                .is_some_and(|scalar| scalar.text.eq_ignore_ascii_case(value))
        {
            item.error(format!("{name}: {value} is not served: {why}"));
        }
    };
    refuse("isRdma", "true", "guests get Ethernet functions; leave it out");
    refuse("linkType", "ib", "guests get Ethernet functions; give eth");
    refuse(
        "eSwitchMode",
        "switchdev",
        "the VLAN of a function would be the business of a bridge; give legacy",
    );
    let choose = |name, words: &[(&str, ())]| spec.get(name).and_then(|item| item.choice(words));
    choose("linkType", &[("eth", ()), ("ETH", ()), ("ib", ()), ("IB", ())]);
    choose("eSwitchMode", &[("legacy", ()), ("switchdev", ())]);
    spec.boolean("isRdma");
}

/// The name of a pool.
///
/// # Errors
/// A description of the error.
pub fn resource_name(text: &str) -> Result<String, String> {
    let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    match letters && (1..=MAX_RESOURCE).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "give letters, digits, '_', '-' and '.', at most {MAX_RESOURCE}"
        )),
    }
}

fn nic_selector(item: &Item<'_>, num_vfs: u32) -> Option<NicSelector> {
    let object = item.object(&table::NIC_SELECTOR)?;
    let id = |name| object.get(name).map(|item| item.parsed(hexadecimal));
    let parts = |name| {
        let items = object.list(name);
        items
            .iter()
            .map(|item| item.parsed(|text| part(text, num_vfs)))
            .collect::<Option<Vec<Part>>>()
    };
    let (vendor, device) = (id("vendor"), id("deviceID"));
    let (names, roots) = (parts("pfNames")?, parts("rootDevices")?);
    if vendor.is_none() && device.is_none() && names.is_empty() && roots.is_empty() {
        item.error("at least one of vendor, deviceID, pfNames and rootDevices has to be given");
        return None;
    }
    Some(NicSelector {
        vendor: vendor.map_or(Some(None), |id| id.map(Some))?,
        device: device.map_or(Some(None), |id| id.map(Some))?,
        names,
        roots,
    })
}

fn hexadecimal(text: &str) -> Result<String, String> {
    let valid = text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match valid {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("give four hexadecimal digits, in quotes, such as \"8086\"".to_owned()),
    }
}

fn part(text: &str, num_vfs: u32) -> Result<Part, String> {
    let Some((of, range)) = text.split_once('#') else {
        return Ok(Part {
            of: text.to_owned(),
            range: None,
        });
    };
    let numbers = range
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    let Some((first, last)) = numbers else {
        return Err("give the numbers of virtual functions as NAME#FIRST-LAST".to_owned());
    };
    match first <= last && last < num_vfs {
        true => Ok(Part {
            of: of.to_owned(),
            range: Some(first..=last),
        }),
        false => Err(format!(
            "the range {range} is not in order, or does not lie below numVfs ({num_vfs})"
        )),
    }
}
