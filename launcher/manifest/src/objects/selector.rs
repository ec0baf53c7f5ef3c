//! Label selectors for pods and namespaces.

use super::fields::policy as table;
use super::metadata::texts;
use super::names;
use super::reader::{Item, Object};
use std::collections::BTreeMap;

/// `matchLabels` and `matchExpressions`, all of which must match. An empty selector selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

/// A condition of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

/// The known labels of an object.
#[derive(Clone, Debug, Default)]
pub struct KnownLabels {
    /// Known keys and values.
    pub labels: BTreeMap<String, String>,
    /// True if there are no other labels except `unknown`.
    pub complete: bool,
    /// Keys that the cluster itself adds, or may add, with unknown values.
    pub unknown: &'static [&'static str],
}

impl Selector {
    /// Reads a selector. `None` if it has an error.
    pub fn read(item: &Item<'_>) -> Option<Self> {
        let selector = item.object(&table::SELECTOR)?;
        let labels = texts(selector.get("matchLabels"));
        let mut requirements: Vec<Requirement> = labels
            .into_iter()
            .map(|(key, value)| Requirement {
                key,
                operator: Operator::In(vec![value]),
            })
            .collect();
        for item in selector.list("matchExpressions") {
            requirements.push(requirement(&item.object(&table::REQUIREMENT)?)?);
        }
        Some(Self(requirements))
    }

    /// True if the labels match. `None` if that depends on unknown labels.
    pub fn selects(&self, known: &KnownLabels) -> Option<bool> {
        let mut all_known = true;
        for Requirement { key, operator } in &self.0 {
            let value = known.labels.get(key);
            if known.unknown.contains(&key.as_str()) || (value.is_none() && !known.complete) {
                all_known = false;
                continue;
            }
            let holds = match (value, operator) {
                (value, Operator::In(values)) => value.is_some_and(|value| values.contains(value)),
                (value, Operator::NotIn(values)) => value.is_none_or(|value| !values.contains(value)),
                (value, Operator::Exists) => value.is_some(),
                (value, Operator::DoesNotExist) => value.is_none(),
            };
            if !holds {
                return Some(false);
            }
        }
        all_known.then_some(true)
    }
}

fn requirement(object: &Object<'_>) -> Option<Requirement> {
    let key = object.need("key", "name a label")?.parsed(|text| {
        let valid = names::is_label_key(text).then(|| text.to_owned());
        valid.ok_or_else(|| names::KEY_RULE.to_owned())
    })?;
    let values = object.list("values");
    let values: Vec<String> = values
        .iter()
        .filter_map(|item| item.text().map(str::to_owned))
        .collect();
    let operator = object.need("operator", "give In, NotIn, Exists or DoesNotExist")?;
    let operator = operator.choice(&[
        ("In", Operator::In(values.clone())),
        ("NotIn", Operator::NotIn(values.clone())),
        ("Exists", Operator::Exists),
        ("DoesNotExist", Operator::DoesNotExist),
    ])?;
    let takes_values = matches!(operator, Operator::In(_) | Operator::NotIn(_));
    if takes_values == values.is_empty() {
        object.error("values are for In and NotIn, which need at least one");
        return None;
    }
    Some(Requirement { key, operator })
}
