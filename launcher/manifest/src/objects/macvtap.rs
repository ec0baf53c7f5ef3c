//! Reads the resources of macvtap-cni's device plugin. A network of type macvtap names a resource, and the plugin's
//! ConfigMap maps it to a device. Without a ConfigMap, or with an empty list, each resource has the name of its device.

use super::cni::{self, Medium};
use super::fields::network as table;
use super::json::Json;
use super::network::NamedNetwork;
use super::reader::{Item, Object};
use super::report::{Report, Spot};
use crate::nic::{AttachmentSpec, MacvtapMode, Stack};

/// Name of the ConfigMap in the plugin's manifests, in any namespace.
pub const NAME: &str = "macvtap-deviceplugin-config";

/// The configuration of the device plugin.
#[derive(Debug)]
pub struct DevicePlugin {
    spot: Spot,
    resources: Vec<Resource>,
    /// Errors of the configuration, which concern the networks of type macvtap.
    problems: Report,
}

#[derive(Debug)]
struct Resource {
    name: String,
    lower: String,
    mode: MacvtapMode,
}

/// Reads the ConfigMap.
pub fn read(object: &Object<'_>) -> Option<DevicePlugin> {
    // The name is already known, but this records that the field was read.
    let _ = object.get("metadata");
    let data = object.need("data", "give DP_MACVTAP_CONF")?;
    let data = data.object(&table::MACVTAP_DATA)?;
    let problems = Report::default();
    let item = data.need("DP_MACVTAP_CONF", "give a list of resources, such as []")?;
    let json = Json::read(&item, &problems);
    let entries = json.as_ref().map(|json| json.item(&problems).items());
    let resources = entries.unwrap_or_default().iter().filter_map(resource).collect();
    Some(DevicePlugin {
        spot: object.spot().clone(),
        resources,
        problems,
    })
}

fn resource(item: &Item<'_>) -> Option<Resource> {
    let object = item.object(&table::MACVTAP_RESOURCE)?;
    let name = object.need("name", "name the resource")?.text()?.to_owned();
    let lower = object
        .need("lowerDevice", "name the device")?
        .parsed(cni::device_name)?;
    let mode = match object.get("mode") {
        Some(mode) => cni::macvtap_mode(&mode)?,
        None => MacvtapMode::Bridge,
    };
    Some(Resource { name, lower, mode })
}

/// Sets the devices of networks that name a resource.
pub fn resolve(networks: &mut [NamedNetwork], plugins: &[DevicePlugin]) {
    for network in networks {
        let (Some(Medium::Segment(segment)), Some(fields)) = (&mut network.medium, &network.fields) else {
            continue;
        };
        let (AttachmentSpec::Macvtap(Stack { lower, mode }), true) = (&mut segment.attachment, fields.is_resource)
        else {
            continue;
        };
        let found = match plugins.first() {
            Some(plugin) => {
                network.problems.adopt(&plugin.problems);
                plugin.find(lower)
            }
            None => of_device(lower),
        };
        match found {
            Ok(found) => (*lower, *mode) = (found.0, Some(found.1)),
            Err(why) => {
                network.problems.error(&fields.link, why);
                network.medium = None;
            }
        }
    }
}

impl DevicePlugin {
    fn find(&self, name: &str) -> Result<(String, MacvtapMode), String> {
        if self.resources.is_empty() {
            return of_device(name);
        }
        // As in the plugin, the last resource with a name counts.
        if let Some(found) = self.resources.iter().rev().find(|resource| resource.name == name) {
            return Ok((found.lower.clone(), found.mode));
        }
        let names: Vec<&str> = self.resources.iter().map(|resource| resource.name.as_str()).collect();
        Err(format!(
            "the device plugin has no resource {name:?} ({}:{}): it has {}",
            self.spot.file,
            self.spot.line,
            names.join(", ")
        ))
    }
}

/// Reads a resource that has the name of its device.
fn of_device(name: &str) -> Result<(String, MacvtapMode), String> {
    let lower = cni::device_name(name);
    lower.map(|lower| (lower, MacvtapMode::Bridge)).map_err(|_| {
        format!(
            "the lower device of {name:?} is not known: name it in the annotation \
             k8s.v1.cni.cncf.io/resourceName: macvtap.network.kubevirt.io/DEVICE, or also give the \
             ConfigMap {NAME} with -f"
        )
    })
}
