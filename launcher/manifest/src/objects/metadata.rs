//! Reads the name, namespace, labels and annotations of an object.

use super::fields::kubevirt as table;
use super::names;
use super::reader::{Item, Object};
use super::report::Spot;
use std::collections::BTreeMap;

/// Namespace of objects for which neither the manifest nor the reader names one.
pub const DEFAULT_NAMESPACE: &str = "default";

/// `metadata`
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// `name`
    pub name: Option<String>,
    /// True if `generateName` is given.
    pub is_generated: bool,
    /// `namespace`, or the default one.
    pub namespace: String,
    /// `labels`
    pub labels: BTreeMap<String, String>,
    /// `annotations`
    pub annotations: BTreeMap<String, String>,
    /// Positions of the annotations, by key.
    pub spots: BTreeMap<String, Spot>,
}

impl Metadata {
    /// Reads the `metadata` of `object`. `namespace` is the default.
    pub fn read(object: &Object<'_>, namespace: &str) -> Self {
        let Some(metadata) = object.object("metadata", &table::METADATA) else {
            return Self {
                namespace: namespace.to_owned(),
                ..Self::default()
            };
        };
        let parsed = |name, parse: fn(&str) -> Result<String, String>| {
            let item = metadata.get(name)?;
            // An invalid name is kept, so that references to it are found.
            item.parsed(parse).or_else(|| Some(item.scalar()?.text.clone()))
        };
        let labels = metadata.get("labels");
        let annotations = metadata.get("annotations");
        for (key, value) in labels.iter().flat_map(Item::texts) {
            check_key(key, &value);
            if value
                .scalar()
                .is_some_and(|s| s.is_text() && !names::is_label_value(&s.text))
            {
                value.error(names::VALUE_RULE);
            }
        }
        let mut spots = BTreeMap::new();
        for (key, value) in annotations.iter().flat_map(Item::texts) {
            check_key(&key.to_lowercase(), &value);
            spots.insert(key.to_owned(), value.spot().clone());
        }
        Self {
            name: parsed("name", names::dns_subdomain),
            is_generated: metadata.get("generateName").is_some(),
            namespace: parsed("namespace", names::dns_label).unwrap_or_else(|| namespace.to_owned()),
            labels: texts(labels),
            annotations: texts(annotations),
            spots,
        }
    }

    /// The name of the object, which is required. `what` describes the object in the message.
    pub fn need_name(&self, object: &Object<'_>, what: &str) -> String {
        self.name.clone().unwrap_or_else(|| {
            object.error(if self.is_generated {
                format!(
                    "the API server completes generateName with letters that are not known here: \
                     give {what} metadata.name"
                )
            } else {
                format!("metadata.name is missing: give {what} a name")
            });
            String::new()
        })
    }
}

fn check_key(key: &str, value: &Item<'_>) {
    if !names::is_label_key(key) {
        value.error(format!("{key:?} {}", names::KEY_RULE));
    }
}

/// Reads a map of text to text.
pub fn texts(item: Option<Item<'_>>) -> BTreeMap<String, String> {
    let pairs = item.map(|item| item.texts()).unwrap_or_default();
    let texts = pairs
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned())));
    texts.collect()
}
