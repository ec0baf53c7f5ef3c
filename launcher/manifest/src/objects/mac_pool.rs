//! Reads KubeMacPool's ConfigMap: the MACs for interfaces without one.

use super::fields::network as table;
use super::reader::Object;
use super::report::Spot;
use hawser_packet::MacAddr;
use hawser_packet::MacRange;

/// Name of the ConfigMap in KubeMacPool's manifests, in any namespace.
pub const NAME: &str = "kubemacpool-mac-range-config";

/// The MAC range of the cluster's pool.
#[derive(Clone, Debug)]
pub struct MacPool {
    /// Position in the manifest.
    pub spot: Spot,
    /// MACs that may be assigned.
    pub range: MacRange,
}

/// Reads the ConfigMap. As in KubeMacPool, the end is above the start, and neither is a multicast address.
pub fn read(object: &Object<'_>) -> Option<MacPool> {
    // The name is already known, but this records that the field was read.
    let _ = object.get("metadata");
    let data = object.need("data", "give RANGE_START and RANGE_END")?;
    let data = data.object(&table::MAC_POOL_DATA)?;
    let end = |name| {
        let item = data.need(name, "give a MAC, such as 02:00:00:00:00:00");
        Some((item.as_ref()?.parsed(mac)?, item?))
    };
    let (first, last) = (end("RANGE_START"), end("RANGE_END"));
    let ((first, _), (last, item)) = (first?, last?);
    match MacRange::new(first, last) {
        Ok(_) if first == last => item.error("it is RANGE_START: give a higher MAC"),
        Err(why) => item.error(why.to_string()),
        Ok(range) => {
            let spot = object.spot().clone();
            return Some(MacPool { spot, range });
        }
    }
    None
}

fn mac(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text.parse().map_err(|e| format!("{e}"))?;
    if mac.is_multicast() {
        return Err("this is a multicast address; the first byte of a NIC's MAC is even".into());
    }
    Ok(mac)
}
