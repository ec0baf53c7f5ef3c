//! Lists the objects of files as they are written, for a store that keeps manifests.
//!
//! A value is what kubectl would send to the API server. Nothing is checked beyond kind, name and namespace, so the
//! files are also checked as a whole ([`crate::check`]).

use super::kinds::{self, Scope};
use super::report::{Problem, Report, Spot};
use super::yaml::{Meaning, Node, Value};
use super::{SourceFile, names};
use serde_json::{Map, Number};

/// An object in a file.
#[derive(Clone, Debug)]
pub struct Written {
    /// Position of the object.
    pub spot: Spot,
    /// `kind`
    pub kind: String,
    /// Namespace of the object. `None` if objects of its kind have none.
    pub namespace: Option<String>,
    /// `metadata.name`
    pub name: String,
    /// The object as JSON, with its namespace.
    pub value: serde_json::Value,
}

/// Reads the objects of all files. Objects without a namespace are in `namespace`.
///
/// # Errors
/// Texts that cannot be read, objects without a name, and kinds that hawser does not read.
pub fn list(files: &[SourceFile], namespace: &str) -> Result<Vec<Written>, Vec<Problem>> {
    let report = Report::default();
    let mut found = Vec::new();
    super::each_document(files, &report, |spot, root| {
        take(root, &spot, namespace, &report, &mut found);
    });
    let (errors, _) = report.into_parts();
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

fn take(node: &Node, spot: &Spot, namespace: &str, report: &Report, found: &mut Vec<Written>) {
    if let Some(items) = node.entry("items") {
        if let Value::List(items) = &items.value.value {
            for item in items.iter() {
                take(item, &spot.on_line(item.line), namespace, report, found);
            }
        }
        return;
    }
    let text = |node: &Node, key: &str| match &node.entry(key)?.value.value {
        Value::Scalar(scalar) if !scalar.is_null() => Some(scalar.text.clone()),
        _ => None,
    };
    let Some(kind) = text(node, "kind") else {
        return report.error(spot, "this is not a Kubernetes object: kind is missing");
    };
    let Some(known) = kinds::find(&kind, text(node, "apiVersion").as_deref()) else {
        return report.error(
            spot,
            format!("kind {kind} is not read by hawser: leave this object out"),
        );
    };
    let metadata = node.entry("metadata").map(|entry| &entry.value);
    let Some(name) = metadata.and_then(|metadata| text(metadata, "name")) else {
        return report.error(spot, "metadata.name is missing: give the object a name");
    };
    let own = metadata.and_then(|metadata| text(metadata, "namespace"));
    let namespace = match known.scope() {
        Scope::Cluster => None,
        Scope::Namespace => Some(own.unwrap_or_else(|| namespace.to_owned())),
    };
    let names_are_valid = names::dns_subdomain(&name).map(drop).and_then(|()| match &namespace {
        Some(namespace) => names::dns_label(namespace).map(drop),
        None => Ok(()),
    });
    if let Err(error) = names_are_valid {
        return report.error(spot, format!("metadata: {error}"));
    }
    let mut value = json(node);
    if let (Some(namespace), Some(metadata)) = (&namespace, value["metadata"].as_object_mut()) {
        metadata.insert("namespace".into(), namespace.as_str().into());
    }
    found.push(Written {
        spot: spot.clone(),
        kind,
        namespace,
        name,
        value,
    });
}

/// The value that kubectl reads.
fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => {
            let pairs = entries.iter().map(|entry| (entry.key.to_string(), json(&entry.value)));
            serde_json::Value::Object(pairs.collect::<Map<_, _>>())
        }
        Value::Scalar(scalar) => match scalar.meaning {
            Meaning::Null => serde_json::Value::Null,
            Meaning::Bool(value) => value.into(),
            Meaning::Whole(value) => value.into(),
            // A number that JSON cannot express is text.
            Meaning::Number => {
                let number = scalar.text.parse().ok().and_then(Number::from_f64);
                number.map_or_else(|| scalar.text.clone().into(), serde_json::Value::Number)
            }
            Meaning::Text => scalar.text.clone().into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Written>, Vec<String>> {
        let file = SourceFile {
            name: "a.yaml".into(),
            text: text.into(),
        };
        list(&[file], "default").map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn objects_have_their_names_and_the_values_that_kubectl_reads() {
        let text = "kind: UserDefinedNetwork\napiVersion: k8s.ovn.org/v1\nmetadata: {name: lan, namespace: blue}\n\
                    spec: {mtu: 0120, on: yes, text: \"yes\", none: ~}\n---\nkind: List\nitems:\n- {kind: Namespace, \
                    apiVersion: v1, metadata: {name: blue}}\n- {kind: VirtualMachine, apiVersion: kubevirt.io/v1, \
                    metadata: {name: web}}\n";
        let objects = read(text).unwrap();
        let names: Vec<_> = objects
            .iter()
            .map(|object| (object.kind.as_str(), object.namespace.as_deref(), object.name.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("UserDefinedNetwork", Some("blue"), "lan"),
                ("Namespace", None, "blue"),
                ("VirtualMachine", Some("default"), "web")
            ]
        );
        let spec = &objects[0].value["spec"];
        assert_eq!(
            *spec,
            serde_json::json!({"mtu": 80, "true": true, "text": "yes", "none": null})
        );
        assert_eq!(objects[2].value["metadata"]["namespace"], "default");
        assert_eq!(objects[2].spot.line, 9);
    }

    #[test]
    fn an_object_that_is_not_kept_is_named_by_its_line() {
        for (text, expected) in [
            ("kind: [", "a.yaml:1: "),
            ("\nmetadata: {name: x}\n", "a.yaml:2: this is not a Kubernetes object"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n",
                "a.yaml:1: kind Pod is not read",
            ),
            ("apiVersion: v1\nkind: Service\n", "a.yaml:1: metadata.name is missing"),
            (
                "apiVersion: v1\nkind: Service\nmetadata: {name: a/b}\n",
                "a.yaml:1: metadata: ",
            ),
        ] {
            let errors = read(text).unwrap_err();
            assert!(errors[0].starts_with(expected), "{text}: {errors:?}");
        }
    }
}
