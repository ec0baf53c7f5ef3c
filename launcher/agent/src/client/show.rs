//! Prints objects as tables, YAML, JSON or text.

use crate::cli::Failure;
use crate::cli::verbs::Format;
use crate::cluster::{NodeView, ObjectView, VmView};
use crate::history;
use crate::output::{age, first_line, table, yaml};
use crate::resources::{self, Resource};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The objects in a format; as a table by default.
///
/// # Errors
/// An object cannot be written.
pub(super) fn objects(
    resource: &Resource,
    objects: &[ObjectView],
    format: Option<Format>,
    all_namespaces: bool,
    is_one: bool,
) -> Result<String, Failure> {
    let value = || match objects {
        [object] if is_one => whole(object),
        _ => json!({"apiVersion": "v1", "kind": "List", "items": objects.iter().map(whole).collect::<Vec<_>>()}),
    };
    Ok(match format {
        Some(Format::Yaml) => yaml(&value()),
        Some(Format::Json) => serde_json::to_string_pretty(&value()).map_err(Failure::runtime)? + "\n",
        Some(Format::Name) => {
            let line = |object: &ObjectView| format!("{}/{}\n", object.kind.to_ascii_lowercase(), object.name);
            objects.iter().map(line).collect()
        }
        None | Some(Format::Wide) if objects.is_empty() => String::new(),
        None | Some(Format::Wide) => {
            let is_wide = format == Some(Format::Wide);
            let shows_namespace = all_namespaces && resource.is_namespaced;
            let mut rows = vec![header(resource, is_wide)];
            rows.extend(objects.iter().map(|object| row(object, is_wide)));
            if shows_namespace {
                for (number, row) in rows.iter_mut().enumerate() {
                    let namespace = number.checked_sub(1).and_then(|at| objects[at].namespace.clone());
                    row.insert(0, namespace.unwrap_or_else(|| "NAMESPACE".to_owned()));
                }
            }
            table(&rows)
        }
    })
}

/// The object as it was applied, with its state as `status`.
fn whole(object: &ObjectView) -> Value {
    let mut value = object.manifest.clone();
    let status = match (&object.vm, &object.node) {
        (Some(vm), _) => json!({
            "phase": vm.phase,
            "nodeName": vm.node,
            "power": vm.power,
            "message": vm.message,
            "moving": vm.moving,
            "folder": vm.status.as_ref().map(|status| &status.folder),
            "interfaces": vm.status.as_ref().map_or(&[][..], |status| &status.interfaces),
        }),
        (_, Some(node)) => json!(node),
        _ => return value,
    };
    if let Some(fields) = value.as_object_mut() {
        fields.insert("status".to_owned(), status);
    }
    value
}

fn header(resource: &Resource, is_wide: bool) -> Vec<String> {
    let (columns, wide): (&[&str], &[&str]) = if *resource == resources::VM {
        (
            &["NAME", "NODE", "PHASE", "ADDRESSES", "AGE", "MESSAGE"],
            &["MACS", "FOLDER"],
        )
    } else if *resource == resources::NODE {
        (
            &["NAME", "STATUS", "VMS", "VTEP", "AGE"],
            &["HOST", "VERSION", "LABELS"],
        )
    } else if has_conditions(resource) {
        (&["NAME", "STATUS", "AGE", "MESSAGE"], &[])
    } else {
        (&["NAME", "AGE"], &[])
    };
    let wide = wide.iter().filter(|_| is_wide);
    columns.iter().chain(wide).map(|column| (*column).to_owned()).collect()
}

fn row(object: &ObjectView, is_wide: bool) -> Vec<String> {
    let age = age(history::now().saturating_sub(object.created));
    let mut row = vec![object.name.clone()];
    match (&object.vm, &object.node) {
        (Some(vm), _) => {
            let node = vm.node.clone().unwrap_or_default();
            row.extend([
                node,
                vm.phase.clone(),
                addresses(vm).join(","),
                age,
                first_line(&vm.message),
            ]);
            if is_wide {
                let interfaces = vm.status.iter().flat_map(|status| &status.interfaces);
                let macs: Vec<&str> = interfaces.filter_map(|interface| interface.mac.as_deref()).collect();
                let folder = vm.status.as_ref().map(|status| status.folder.display().to_string());
                row.extend([macs.join(","), folder.unwrap_or_default()]);
            }
        }
        (_, Some(node)) => {
            row.extend([
                state(node).to_owned(),
                node.vms.to_string(),
                node.vtep.clone().unwrap_or_default(),
                age,
            ]);
            if is_wide {
                row.extend([node.host.clone(), node.version.clone(), labels(node)]);
            }
        }
        _ => match condition(object) {
            Some((kind, message)) => row.extend([kind, age, first_line(&message)]),
            None => row.push(age),
        },
    }
    row
}

fn has_conditions(resource: &Resource) -> bool {
    [&resources::LINK_POLICY, &resources::ENACTMENT].contains(&resource)
}

/// Type and message of the condition of an object that holds.
fn condition(object: &ObjectView) -> Option<(String, String)> {
    let conditions = object.manifest["status"]["conditions"].as_array()?;
    let holds = conditions.iter().find(|condition| condition["status"] == "True")?;
    let text = |name: &str| holds[name].as_str().unwrap_or_default().to_owned();
    Some((text("type"), text("message")))
}

const fn state(node: &NodeView) -> &'static str {
    if node.is_ready { "Ready" } else { "NotReady" }
}

fn labels(node: &NodeView) -> String {
    let labels: Vec<String> = node
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.join(",")
}

fn addresses(vm: &VmView) -> Vec<String> {
    let interfaces = vm.status.iter().flat_map(|status| &status.interfaces);
    interfaces.flat_map(|interface| interface.addresses.clone()).collect()
}

/// An object as text for people.
pub(super) fn description(object: &ObjectView) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<14}{value}", format!("{name}:"));
    };
    line("Name", &object.name);
    if let Some(namespace) = &object.namespace {
        line("Namespace", namespace);
    }
    line("Kind", &object.kind);
    line("Age", &age(history::now().saturating_sub(object.created)));
    if let Some(vm) = &object.vm {
        line("Phase", &vm.phase);
        line("Power", &format!("{:?}", vm.power));
        line("Node", vm.node.as_deref().unwrap_or("<none>"));
        if let Some(moving) = &vm.moving {
            let phase = moving.status.as_ref().map_or("Waiting", |status| status.phase.as_str());
            line("Moving to", &format!("{} ({phase} there)", moving.to));
        }
        line("Message", vm.message.replace('\n', "\n              ").trim());
        if let Some(status) = &vm.status {
            line("Folder", &status.folder.display().to_string());
            for interface in &status.interfaces {
                line("Interface", &interface.name);
                line("  Network", &interface.network);
                line("  MAC", interface.mac.as_deref().unwrap_or("<by the VMM>"));
                line("  Addresses", &interface.addresses.join(", "));
                if let Some(vtep) = &interface.vtep {
                    line("  Tunnel", vtep);
                }
            }
        }
    }
    if let Some(node) = &object.node {
        line("Status", state(node));
        line("VMs", &node.vms.to_string());
        line("Host", &node.host);
        line("Version", &node.version);
        line("Tunnel", node.vtep.as_deref().unwrap_or("<no address>"));
        line("Labels", &labels(node));
    }
    let spec = &object.manifest["spec"];
    let events = object
        .vm
        .iter()
        .filter_map(|vm| vm.status.as_ref())
        .flat_map(|status| &status.events);
    for event in events {
        let age = age(history::now().saturating_sub(event.time));
        let times = if event.count > 1 {
            format!(" ({} times)", event.count)
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "Event:        {age} ago: {:?}{times} {}",
            event.kind,
            first_line(&event.message)
        );
    }
    for (title, value) in [("Spec", spec), ("Status", &object.manifest["status"])] {
        if !value.is_null() {
            let lines = yaml(value);
            let lines = lines.lines().map(|line| format!("  {line}\n"));
            let _ = write!(text, "{title}:\n{}", lines.collect::<String>());
        }
    }
    text
}
