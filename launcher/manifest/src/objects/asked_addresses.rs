//! Addresses that a VM requests for its interfaces: the annotation `network.kubevirt.io/addresses`, as KubeVirt's
//! ipam-extensions reads it.

use super::metadata::Metadata;
use super::reader::Object;
use super::report::Spot;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The annotation: JSON with the addresses of each interface.
const ANNOTATION: &str = "network.kubevirt.io/addresses";

/// Addresses requested for one interface.
#[derive(Clone, Debug)]
pub struct AskedAddresses {
    /// Position of the annotation.
    pub spot: Spot,
    /// Name of the interface.
    pub interface: String,
    /// Requested addresses.
    pub addresses: Vec<IpAddr>,
}

/// Reads the annotation of a VM. Errors go to the report of `object`.
pub fn read(object: &Object<'_>, metadata: &Metadata) -> Vec<AskedAddresses> {
    let Some(text) = metadata.annotations.get(ANNOTATION) else {
        return Vec::new();
    };
    let spot = metadata.spots.get(ANNOTATION).unwrap_or_else(|| object.spot());
    match parse(text) {
        Ok(all) => all
            .into_iter()
            .map(|(interface, addresses)| AskedAddresses {
                spot: spot.clone(),
                interface,
                addresses,
            })
            .collect(),
        Err(why) => {
            object.error_at(
                spot,
                format!("{why}: give the addresses of each interface, such as {{\"default\": [\"192.168.254.10\"]}}"),
            );
            Vec::new()
        }
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Vec<IpAddr>>, String> {
    let all: BTreeMap<String, Vec<String>> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut parsed = BTreeMap::new();
    for (interface, texts) in all {
        let addresses: Result<Vec<IpAddr>, String> = texts.iter().map(|text| address(text)).collect();
        let addresses = addresses?;
        let of = |ipv4: bool| addresses.iter().filter(|address| address.is_ipv4() == ipv4).count();
        if of(true) > 1 || of(false) > 1 {
            return Err(format!("{interface:?} has two addresses of one family"));
        }
        parsed.insert(interface, addresses);
    }
    Ok(parsed)
}

/// Parses an address, with or without a prefix.
fn address(text: &str) -> Result<IpAddr, String> {
    let plain = text.split_once('/').map_or(text, |(address, _)| address);
    plain.parse().map_err(|_| format!("{text:?} is no address"))
}
