//! Shows the state of the node in the form of the SR-IOV network operator's SriovNetworkNodeState.

use super::survey::{Pf, Vf};
use crate::vf_pools::{PfRecord, Pools};
use hawser_host::virtual_function::{Attribute, VirtualFunction};
use hawser_packet::MacAddr;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// The object that describes a node.
pub(super) fn state(node: &str, pools: &Pools, pfs: &[Pf]) -> Value {
    let spec: Vec<Value> = pools.functions.iter().map(desired).collect();
    let status: Vec<Value> = pfs.iter().map(|pf| found(pf, pools)).collect();
    let synced = pools.functions.iter().all(|record| is_synced(record, pfs));
    json!({
        "apiVersion": "sriovnetwork.openshift.io/v1",
        "kind": "SriovNetworkNodeState",
        "metadata": {"name": node},
        "spec": {"interfaces": spec},
        "status": {
            "interfaces": status,
            "syncStatus": if synced { "Succeeded" } else { "Failed" },
        },
    })
}

fn is_synced(record: &PfRecord, pfs: &[Pf]) -> bool {
    let pf = pfs.iter().find(|pf| pf.function.address == record.pf);
    pf.is_some_and(|pf| match record.externally_managed {
        true => pf.capability.present >= record.num_vfs,
        false => pf.capability.present == record.num_vfs,
    })
}

fn desired(record: &PfRecord) -> Value {
    let group = |pool: &crate::vf_pools::Pool| {
        json!({
            "deviceType": pool.device_type,
            "policyName": pool.policy,
            "resourceName": pool.resource,
            "vfRange": format!("{}-{}", pool.first, pool.last),
        })
    };
    let groups: Vec<Value> = record.pools.iter().map(group).collect();
    let mut interface = json!({
        "name": record.name,
        "numVfs": record.num_vfs,
        "pciAddress": record.pf,
        "vfGroups": groups,
    });
    if let Some(mtu) = record.mtu {
        interface["mtu"] = mtu.into();
    }
    if record.externally_managed {
        interface["externallyManaged"] = true.into();
    }
    interface
}

fn found(pf: &Pf, pools: &Pools) -> Value {
    let record = pools.functions.iter().find(|record| record.pf == pf.function.address);
    let vfs: Vec<Value> = pf.vfs.iter().map(|vf| virtual_function(vf, record)).collect();
    let mut interface = json!({
        "Vfs": vfs,
        "deviceID": pf.function.device,
        "driver": pf.function.driver,
        "eSwitchMode": "legacy",
        "linkAdminState": if pf.link.is_up { "up" } else { "down" },
        "linkType": "ETH",
        "mac": pf.link.mac.map(|mac| mac.to_string()),
        "mtu": pf.link.mtu,
        "name": pf.link.name,
        "numVfs": pf.capability.present,
        "pciAddress": pf.function.address,
        "totalvfs": pf.capability.total,
        "vendor": pf.function.vendor,
    });
    if record.is_some_and(|record| record.externally_managed) {
        interface["externallyManaged"] = true.into();
    }
    interface
}

fn virtual_function(vf: &Vf, record: Option<&PfRecord>) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("deviceID", vf.function.device.clone().into());
    put("driver", vf.function.driver.clone().into());
    put("pciAddress", vf.function.address.to_string().into());
    put("vendor", vf.function.vendor.clone().into());
    put("vfID", vf.number.into());
    put("iommuGroup", vf.function.group.into());
    put("usedBy", vf.user.as_ref().map(ToString::to_string).into());
    let pool = record.and_then(|record| {
        record
            .pools
            .iter()
            .find(|pool| (pool.first..=pool.last).contains(&vf.number))
    });
    put("resourceName", pool.map(|pool| pool.resource.clone()).into());
    if let Some(link) = &vf.link {
        put("name", link.name.clone().into());
        put("mtu", link.mtu.into());
    }
    let attributes = vf
        .attributes
        .iter()
        .flat_map(|VirtualFunction { attributes, .. }| attributes);
    for attribute in attributes {
        match attribute {
            Attribute::Mac(mac) => put("mac", MacAddr(*mac).to_string().into()),
            Attribute::Vlan { id: 0, .. } => None,
            Attribute::Vlan { id, qos, .. } => {
                put("vlanQoS", (*qos).into());
                put("Vlan", (*id).into())
            }
            Attribute::Rate { min, max } => {
                put("minTxRate", (*min).into());
                put("maxTxRate", (*max).into())
            }
            Attribute::SpoofCheck(on) => put("spoofChk", switch(*on)),
            Attribute::Trust(on) => put("trust", switch(*on)),
            Attribute::Link(mode) => put(
                "linkState",
                Attribute::Link(*mode).to_string().replace("link state ", "").into(),
            ),
        };
    }
    fields.retain(|_, value| !value.is_null());
    Value::Object(fields)
}

fn switch(on: bool) -> Value {
    if on { "on" } else { "off" }.into()
}

/// Formats a value as YAML. Strings that YAML would read as another type are quoted.
pub(super) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_yaml(&mut text, value, 0);
    text
}

fn write_yaml(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let is_block = |value: &Value| match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    // Writing to a string cannot fail.
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if is_block(value) {
                    let _ = writeln!(text, "{indent}{name}:");
                    write_yaml(text, value, depth + usize::from(value.is_object()));
                } else {
                    let _ = writeln!(text, "{indent}{name}: {}", scalar(value));
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                write_yaml(&mut inner, item, depth + 1);
                let _ = write!(text, "{indent}- {}", inner.trim_start());
            }
        }
        other => {
            let _ = writeln!(text, "{indent}{}", scalar(other));
        }
    }
}

/// Formats a value in one line. The form is that of JSON, which is also YAML, without unnecessary quotes.
fn scalar(value: &Value) -> String {
    let is_plain = |text: &str| {
        let first = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'/');
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
        let is_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&&*text.to_lowercase());
        first && rest && !is_word
    };
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_says_what_json_says() {
        let value = json!({
            "kind": "SriovNetworkNodeState",
            "spec": {"interfaces": []},
            "status": {"interfaces": [
                {"Vfs": [{"vfID": 0, "trust": "on"}, {"vfID": 1}], "vendor": "8086", "pciAddress": "0000:01:00.0"},
                {"Vfs": []},
            ]},
        });
        let wanted = "\
kind: SriovNetworkNodeState
spec:
  interfaces: []
status:
  interfaces:
  - Vfs:
    - vfID: 0
      trust: \"on\"
    - vfID: 1
    vendor: \"8086\"
    pciAddress: \"0000:01:00.0\"
  - Vfs: []
";
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(|line| line.replace("- ", "  ")).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&yaml(&value)), sorted(wanted), "{}", yaml(&value));
    }
}
