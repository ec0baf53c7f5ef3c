//! `apply`: checks manifests as a whole, then stores their objects.

use super::{ATTEMPTS, Cluster, Refused, contended, key_of, place, refuse_deleted, written};
use crate::desired::plan_options;
use crate::history;
use crate::objects::{self, OtherObject, Power, VmObject};
use crate::placement::Candidate;
use crate::resources;
use hawser_manifest::check::check_objects;
use hawser_manifest::objects::SourceFile;
use hawser_manifest::objects::written::{self as manifests, Written};
use hawser_manifest::plan::PlanSetup;
use hawser_store::VmName;
use hawser_store::records::{Batch, MAX_EDITS, Record, Records as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Kinds that concern VMs of every namespace.
const GLOBAL: &[&str] = &["ConfigMap"];

/// Manifests to apply.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Application {
    /// The files.
    pub files: Vec<SourceFile>,
    /// Namespace of objects that name none.
    pub namespace: String,
    /// True to check the files only.
    #[serde(default)]
    pub dry_run: bool,
}

/// An object of applied manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Applied {
    /// `kind` of the object.
    pub kind: String,
    /// Namespace of the object, if its kind has one.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
    /// created, configured or unchanged.
    pub result: String,
}

impl Applied {
    fn of(object: &Written, result: &str) -> Self {
        Self {
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            result: result.to_owned(),
        }
    }
}

impl Cluster {
    /// Stores the objects of all files, or none if one cannot be used. Returns warnings too.
    pub(crate) fn apply(&mut self, application: &Application) -> Result<(Vec<Applied>, Vec<String>), Refused> {
        let Application { files, namespace, .. } = application;
        let found = manifests::list(files, namespace).map_err(|errors| invalid(&errors))?;
        if found.is_empty() {
            return Err(Refused::Invalid("the files contain no objects".to_owned()));
        }
        refuse_others(&found)?;
        let others = self.store.list(&objects::objects())?;
        let new: BTreeSet<_> = found.iter().map(key_of).collect();
        let kept: Vec<&Record> = others.iter().filter(|record| !new.contains(&record.key)).collect();
        let context = source("objects.json", &kept)?;
        let options = plan_options();
        let setup = PlanSetup::new(Path::new(""), &options);
        let (plans, warnings) =
            check_objects(files, &[context], namespace, &setup).map_err(|rejected| invalid(&rejected.errors))?;
        let warnings = warnings.iter().map(ToString::to_string).collect();
        let selectors: BTreeMap<VmName, BTreeMap<String, String>> = plans
            .into_iter()
            .map(|plan| (hawser_leases::vm_of(&plan), plan.node_selector))
            .collect();
        let mut nodes = self.candidates()?;
        let mut applied = self.apply_others(&found, &others, application.dry_run)?;
        for object in found.iter().filter(|object| is_vm(object)) {
            let vm = VmName {
                namespace: object.namespace.clone().unwrap_or_default(),
                name: object.name.clone(),
            };
            let selector = selectors.get(&vm).cloned().unwrap_or_default();
            let result = self.apply_vm((&vm, object), &selector, &mut nodes, application.dry_run)?;
            applied.push(Applied::of(object, result));
        }
        Ok((applied, warnings))
    }

    /// Stores the objects other than VMs, in as few steps as the store allows.
    fn apply_others(&mut self, found: &[Written], known: &[Record], dry_run: bool) -> Result<Vec<Applied>, Refused> {
        let mut applied = Vec::new();
        let mut batches = vec![Batch::default()];
        let mut edits = 0;
        for object in found.iter().filter(|object| !is_vm(object)) {
            let key = key_of(object);
            let record = known.iter().find(|record| record.key == key);
            let before = record
                .map(objects::value::<OtherObject>)
                .transpose()
                .map_err(Refused::Store)?;
            let result = match &before {
                Some(before) if before.manifest == object.value => "unchanged",
                Some(_) => "configured",
                None => "created",
            };
            applied.push(Applied::of(object, result));
            if result == "unchanged" {
                continue;
            }
            if edits == MAX_EDITS {
                batches.push(Batch::default());
                edits = 0;
            }
            edits += 1;
            let after = OtherObject {
                manifest: object.value.clone(),
                created: before.map_or_else(history::now, |before| before.created),
            };
            let version = record.map(|record| record.version);
            let last = batches.pop().unwrap_or_default();
            batches.push(last.expect(&key, version).put(&key, objects::text(&after)));
        }
        for batch in batches.iter().filter(|_| edits > 0 && !dry_run) {
            if !self.store.change(batch)? {
                let text = "another client has just changed one of these objects: apply them again";
                return Err(Refused::Conflict(text.to_owned()));
            }
        }
        Ok(applied)
    }

    fn apply_vm(
        &mut self,
        (vm, object): (&VmName, &Written),
        selector: &BTreeMap<String, String>,
        nodes: &mut [Candidate],
        dry_run: bool,
    ) -> Result<&'static str, Refused> {
        for _ in 0..ATTEMPTS {
            let known = self.read_vm(vm)?;
            let mut after = match &known {
                Some((_, before)) => {
                    refuse_deleted(vm, before)?;
                    before.clone()
                }
                None => VmObject {
                    manifest: Value::Null,
                    created: history::now(),
                    selector: BTreeMap::new(),
                    node: None,
                    reason: String::new(),
                    power: Power::On,
                    is_deleted: false,
                    fenced: None,
                    moving: None,
                },
            };
            after.manifest = object.value.clone();
            after.selector.clone_from(selector);
            after.power = power(&object.value).unwrap_or(after.power);
            if known.as_ref().is_some_and(|(_, before)| *before == after) {
                return Ok("unchanged");
            }
            if after.node.is_none() {
                place(nodes, &mut after);
            }
            let before = known.as_ref().map(|(version, before)| (*version, before));
            if dry_run || self.store.change(&written(vm, before, &after))? {
                return Ok(if known.is_some() { "configured" } else { "created" });
            }
        }
        Err(contended(vm))
    }
}

/// Whether a manifest says that the VM is to run (`runStrategy`, `running`).
fn power(manifest: &Value) -> Option<Power> {
    let spec = &manifest["spec"];
    let is_on = match (&spec["runStrategy"], &spec["running"]) {
        (Value::String(strategy), _) => strategy != "Halted",
        (_, Value::Bool(running)) => *running,
        _ => return None,
    };
    Some(if is_on { Power::On } else { Power::Off })
}

fn is_vm(object: &Written) -> bool {
    resources::of_manifest(&object.kind) == Some(&resources::VM)
}

fn invalid(errors: &[impl ToString]) -> Refused {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Refused::Invalid(lines.join("\n"))
}

/// Refuses kinds that the store does not keep, and objects that are in the files twice.
fn refuse_others(found: &[Written]) -> Result<(), Refused> {
    let mut seen = BTreeMap::new();
    let mut errors = Vec::new();
    for object in found {
        let Some(resource) = resources::of_manifest(&object.kind) else {
            errors.push(format!(
                "{}: kind {} is not kept by hawser-agent: leave it out",
                object.spot, object.kind
            ));
            continue;
        };
        let name = (resource.kind, object.namespace.clone(), object.name.clone());
        if let Some(first) = seen.insert(name, object.spot.clone()) {
            errors.push(format!(
                "{}: {} {} is already at {first}: leave one out",
                object.spot, object.kind, object.name
            ));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(invalid(&errors))
    }
}

/// A file with these objects.
fn source(name: &str, records: &[&Record]) -> Result<SourceFile, Refused> {
    let mut items = Vec::new();
    for record in records {
        let object: OtherObject = objects::value(record).map_err(Refused::Store)?;
        items.push(object.manifest);
    }
    Ok(file(name, &json!({"apiVersion": "v1", "kind": "List", "items": items})))
}

fn file(name: &str, value: &Value) -> SourceFile {
    SourceFile {
        name: name.to_owned(),
        // This fails only for maps with keys other than text, and there are none.
        text: serde_json::to_string_pretty(value).unwrap_or_default(),
    }
}

/// The files of a VM in the store: its manifest, and the objects that may concern it. Those are the objects of its
/// namespace and of the cluster, and of namespaces that it names.
pub(crate) fn sources_for(vm: &VmName, manifest: &Value, others: &[Record]) -> Result<Vec<SourceFile>, String> {
    let text = manifest.to_string();
    let in_scope = |record: &&Record| match objects::namespace_of(&record.key) {
        None => true,
        Some(namespace) => {
            let kind = record.key.parts().get(1).map_or("", String::as_str);
            namespace == vm.namespace || GLOBAL.contains(&kind) || text.contains(&format!("\"{namespace}/"))
        }
    };
    let concerns = |record: &&Record| match record.key.parts().get(1).map(String::as_str) {
        Some(kind) if kind == resources::LINK_POLICY.kind => false,
        _ => in_scope(record),
    };
    let concerning: Vec<&Record> = others.iter().filter(concerns).collect();
    let own = file(&format!("{}.{}.json", vm.namespace, vm.name), manifest);
    let others = source("objects.json", &concerning).map_err(|error| error.to_string())?;
    Ok(vec![own, others])
}
