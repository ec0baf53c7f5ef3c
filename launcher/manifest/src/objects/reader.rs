//! Reads a tree field by field. Every requested field is in a table ([`ObjectType`]), which also states how fields that
//! are not requested are treated. Every invalid value is an error with a position.

use super::report::{Report, Spot};
use super::yaml::{Entry, Node, Scalar, Value};
use std::ops::RangeInclusive;

/// How hawser treats a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is read, with the same meaning as in the cluster (otherwise the note states the difference).
    Honoured,
    /// It is read and refused, because it needs a mode that does not exist yet.
    Later,
    /// It is an error.
    Refused,
    /// It causes a warning.
    Ignored,
    /// It concerns the VMM or the cluster, and causes no message.
    PassedOver,
}

/// A field of a manifest's object.
#[derive(Debug)]
pub struct Field {
    /// Name of the field.
    pub name: &'static str,
    /// How the field is treated.
    pub treatment: Treatment,
    /// What the field means here, or the reason why it is not supported. Messages about the field contain this text.
    pub note: &'static str,
}

/// How fields that are in no table are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They are errors. The API has no such field either, so it is probably misspelt.
    Refused,
    /// They cause a warning.
    Ignored,
    /// They cause no message, because most of this object does not concern the network. A field that looks like a
    /// misspelt network field is an error.
    PassedOver,
}

/// A kind of object and its fields.
#[derive(Debug)]
pub struct ObjectType {
    /// Name of the kind in the documentation.
    pub name: &'static str,
    /// Known fields of the kind.
    pub fields: &'static [Field],
    /// How unknown fields are treated.
    pub unknown: Unknown,
}

const fn field(name: &'static str, treatment: Treatment, note: &'static str) -> Field {
    Field { name, treatment, note }
}

/// A table row of a field that is honoured ([`Treatment::Honoured`]).
pub const fn honoured(name: &'static str, note: &'static str) -> Field {
    field(name, Treatment::Honoured, note)
}

/// A table row of a field for later ([`Treatment::Later`]).
pub const fn later(name: &'static str, note: &'static str) -> Field {
    field(name, Treatment::Later, note)
}

/// A table row of a field that is refused ([`Treatment::Refused`]).
pub const fn refused(name: &'static str, note: &'static str) -> Field {
    field(name, Treatment::Refused, note)
}

/// A table row of a field that is ignored ([`Treatment::Ignored`]).
pub const fn ignored(name: &'static str, note: &'static str) -> Field {
    field(name, Treatment::Ignored, note)
}

/// A table row of a field that is passed over ([`Treatment::PassedOver`]).
pub const fn passed_over(name: &'static str, note: &'static str) -> Field {
    field(name, Treatment::PassedOver, note)
}

impl ObjectType {
    /// The honoured field that the unknown field `key` resembles.
    fn misspelt(&self, key: &str) -> Option<&'static str> {
        /// From this length on, two letters may differ, otherwise one, because shorter names are too similar.
        const LONG: usize = 9;
        const SHORT: usize = 4;
        let is_near = |name: &str| {
            let errors = match name.len() {
                LONG.. => 2,
                SHORT.. => 1,
                _ => 0,
            };
            name.eq_ignore_ascii_case(key) || strsim::osa_distance(name, key) <= errors
        };
        let honoured = self.fields.iter().filter(|row| row.treatment == Treatment::Honoured);
        honoured.map(|row| row.name).find(|name| is_near(name))
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    fn row_of(&self, entry: &Entry) -> Option<&'static Field> {
        self.fields.iter().find(|field| entry.is(field.name))
    }

    /// True if a field of the table is read.
    pub fn reads(&self, name: &str) -> bool {
        self.field(name)
            .is_some_and(|row| matches!(row.treatment, Treatment::Honoured | Treatment::Later))
    }

    fn names(&self) -> String {
        let known = self
            .fields
            .iter()
            .filter(|f| matches!(f.treatment, Treatment::Honoured | Treatment::Later));
        known.map(|f| f.name).collect::<Vec<_>>().join(", ")
    }
}

/// Records which rows of which tables were read, so that a test can check that every honoured field is read by some
/// reader.
#[cfg(test)]
pub mod trace {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static ASKED: RefCell<BTreeSet<(&'static str, String)>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// Records that a field was read.
    pub fn asked(object: &'static str, field: &str) {
        ASKED.with_borrow_mut(|asked| asked.insert((object, field.to_owned())));
    }

    /// The fields that this thread has read.
    pub fn all() -> BTreeSet<(&'static str, String)> {
        ASKED.with_borrow(Clone::clone)
    }
}

/// A map in the manifest that is read by the rules of its table.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    report: &'a Report,
    kind: &'static ObjectType,
    spot: Spot,
    entries: &'a [Entry],
}

impl<'a> Object<'a> {
    fn new(report: &'a Report, kind: &'static ObjectType, spot: Spot, entries: &'a [Entry]) -> Self {
        let object = Self {
            report,
            kind,
            spot,
            entries,
        };
        for entry in entries.iter().filter(|e| !is_null(&e.value)) {
            object.judge(entry);
        }
        object
    }

    /// Reports a field according to its treatment, regardless of its value.
    fn judge(&self, entry: &Entry) {
        let spot = self.spot.field(&entry.key, entry.line);
        match (self.kind.row_of(entry), self.kind.unknown) {
            (Some(row), _) => match row.treatment {
                Treatment::Honoured | Treatment::Later | Treatment::PassedOver => {}
                Treatment::Refused => self.report.error(&spot, format!("not served: {}", row.note)),
                Treatment::Ignored => self.report.warn(&spot, format!("ignored: {}", row.note)),
            },
            (None, Unknown::PassedOver) => {
                if let Some(meant) = self.kind.misspelt(&entry.key) {
                    let message = format!(
                        "there is no such field in {}: write {meant} if you mean that",
                        self.kind.name
                    );
                    self.report.error(&spot, message);
                }
            }
            (None, Unknown::Ignored) => self
                .report
                .warn(&spot, format!("ignored: not a known field of {}", self.kind.name)),
            (None, Unknown::Refused) => {
                let names = self.kind.names();
                let message = format!("there is no such field in {}; its fields are {names}", self.kind.name);
                self.report.error(&spot, message);
            }
        }
    }

    /// The fields that need a mode that does not exist yet: position and note of each.
    pub fn unserved(&self) -> Vec<(Spot, &'static str)> {
        let later = self.kind.fields.iter().filter(|row| row.treatment == Treatment::Later);
        later
            .filter_map(|row| Some((self.get(row.name)?.spot, row.note)))
            .collect()
    }

    /// Position of the map.
    pub const fn spot(&self) -> &Spot {
        &self.spot
    }

    /// True if a field that the table refuses is given. The message about the field states the alternative.
    pub fn has_refused(&self) -> bool {
        let refused = |entry: &&Entry| {
            let row = self.kind.row_of(entry);
            row.is_some_and(|row| row.treatment == Treatment::Refused) && !is_null(&entry.value)
        };
        self.entries.iter().any(|entry| refused(&entry))
    }

    /// The field with this name, if it is given and not null. Its table row must be honoured.
    pub fn get(&self, name: &str) -> Option<Item<'a>> {
        debug_assert!(
            self.kind.reads(name),
            "{}.{name} is read, but its table does not say so",
            self.kind.name
        );
        #[cfg(test)]
        trace::asked(self.kind.name, name);
        let entry = self.entries.iter().find(|e| e.is(name) && !is_null(&e.value))?;
        Some(Item {
            report: self.report,
            spot: self.spot.field(name, entry.line),
            node: &entry.value,
        })
    }

    /// A required field.
    pub fn need(&self, name: &str, what: &str) -> Option<Item<'a>> {
        let item = self.get(name);
        if item.is_none() {
            self.error(format!("{name} is missing: {what}"));
        }
        item
    }

    /// The object in this field, if the field is given.
    pub fn object(&self, name: &str, kind: &'static ObjectType) -> Option<Object<'a>> {
        self.get(name)?.object(kind)
    }

    /// The items of the list in this field. There are none if the field is not given.
    pub fn list(&self, name: &str) -> Vec<Item<'a>> {
        self.get(name).map(|item| item.items()).unwrap_or_default()
    }

    /// The text in this field, if the field is given.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.text()
    }

    /// The boolean in this field, if the field is given.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.get(name)?.boolean()
    }

    /// The integer in this field, if the field is given. It must be within `range`.
    pub fn integer<T: TryFrom<i64>>(&self, name: &str, range: RangeInclusive<i64>) -> Option<T> {
        self.get(name)?.integer(range)
    }

    /// Creates a report for errors that matter only if another object names this one.
    pub fn apart(&self) -> Report {
        self.report.apart()
    }

    /// Reports an error of the whole object.
    pub fn error(&self, message: impl Into<String>) {
        self.error_at(&self.spot, message);
    }

    /// Warns about a part of this object that was read earlier.
    pub fn warn_at(&self, spot: &Spot, message: impl Into<String>) {
        self.report.warn(spot, message);
    }

    /// Reports an error in a part of this object that was read earlier.
    pub fn error_at(&self, spot: &Spot, message: impl Into<String>) {
        self.report.error(spot, message);
    }
}

fn is_null(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(scalar) if scalar.is_null())
}

/// A value in the manifest that has not been interpreted yet.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    report: &'a Report,
    spot: Spot,
    node: &'a Node,
}

impl<'a> Item<'a> {
    /// Creates the root of a document.
    pub const fn root(report: &'a Report, spot: Spot, node: &'a Node) -> Self {
        Self { report, spot, node }
    }

    /// The report for errors of the value.
    pub const fn report(&self) -> &'a Report {
        self.report
    }

    /// The same value with another report for its errors.
    pub fn told_to<'b>(&self, report: &'b Report) -> Item<'b>
    where
        'a: 'b,
    {
        Item {
            report,
            spot: self.spot.clone(),
            node: self.node,
        }
    }

    /// Position of the value.
    pub const fn spot(&self) -> &Spot {
        &self.spot
    }

    /// Reports an error of this value.
    pub fn error(&self, message: impl Into<String>) {
        self.report.error(&self.spot, message);
    }

    /// Warns about this value.
    pub fn warn(&self, message: impl Into<String>) {
        self.report.warn(&self.spot, message);
    }

    /// Warns about a part of this value.
    pub fn warn_at(&self, spot: &Spot, message: impl Into<String>) {
        self.report.warn(spot, message);
    }

    /// The value as a map, read with the table of `kind`.
    pub fn object(&self, kind: &'static ObjectType) -> Option<Object<'a>> {
        match &self.node.value {
            Value::Map(entries) => Some(Object::new(self.report, kind, self.spot.clone(), entries)),
            _ => self.wrong("fields of its own (key: value)"),
        }
    }

    /// The text of a field that selects the table for this map.
    pub fn field_text(&self, name: &str) -> Option<&'a str> {
        match &self.node.entry(name)?.value.value {
            Value::Scalar(scalar) if scalar.is_text() => Some(&scalar.text),
            _ => None,
        }
    }

    /// The field that decides whether this map is read at all.
    pub fn inner(&self, name: &str) -> Option<Item<'a>> {
        let entry = self.node.entry(name)?;
        Some(Item {
            report: self.report,
            spot: self.spot.field(name, entry.line),
            node: &entry.value,
        })
    }

    /// True if this is a map.
    pub const fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// True if this is a map that has the field.
    pub fn has_field(&self, name: &str) -> bool {
        self.node.entry(name).is_some()
    }

    /// The value as a list.
    pub fn items(&self) -> Vec<Item<'a>> {
        let Value::List(nodes) = &self.node.value else {
            return self.wrong("a list (- item)").unwrap_or_default();
        };
        let item = |(n, node): (usize, &'a Node)| Item {
            report: self.report,
            spot: self.spot.item(n, node.line),
            node,
        };
        nodes.iter().enumerate().map(item).collect()
    }

    /// The value as a map of texts, such as labels.
    pub fn texts(&self) -> Vec<(&'a str, Item<'a>)> {
        let Value::Map(entries) = &self.node.value else {
            return self.wrong("fields of its own (key: value)").unwrap_or_default();
        };
        let pair = |entry: &'a Entry| {
            let value = Item {
                report: self.report,
                spot: self.spot.field(&entry.key, entry.line),
                node: &entry.value,
            };
            if let Some(written) = &entry.written {
                value.error(format!(
                    "the key {written} is {} to kubectl: write it in quotes",
                    entry.key
                ));
            }
            (&*entry.key, value)
        };
        entries.iter().map(pair).collect()
    }

    /// The value as it is written.
    pub fn scalar(&self) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The value as text.
    pub fn text(&self) -> Option<&'a str> {
        match self.scalar() {
            Some(scalar) if scalar.is_text() => Some(&scalar.text),
            Some(scalar) if !scalar.is_null() => {
                let (text, read) = (&scalar.text, scalar.to_kubectl());
                self.error(format!("{text} is {read} to kubectl; write it in quotes: \"{text}\""));
                None
            }
            _ => self.wrong("text"),
        }
    }

    /// The value as text, parsed by `parse`.
    pub fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text()?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.error(format!("{text:?}: {why}"));
                None
            }
        }
    }

    /// The value as one of several words.
    pub fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        self.parsed(|text| {
            let chosen = choices.iter().find(|(word, _)| *word == text);
            chosen.map(|(_, value)| value.clone()).ok_or_else(|| {
                let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
                format!("choose one of {}", words.join(", "))
            })
        })
    }

    /// The value as a boolean.
    pub fn boolean(&self) -> Option<bool> {
        self.scalar()
            .and_then(Scalar::boolean)
            .or_else(|| self.wrong("true or false, without quotes"))
    }

    /// The value as an integer within `range`.
    pub fn integer<T: TryFrom<i64>>(&self, range: RangeInclusive<i64>) -> Option<T> {
        let what = || {
            format!(
                "a whole number from {} to {}, without quotes",
                range.start(),
                range.end()
            )
        };
        if let Some(read) = self.scalar().and_then(Scalar::octal) {
            let text = self.scalar().map_or("", |scalar| &scalar.text);
            let digits = text.trim_start_matches('0');
            self.error(format!(
                "{text} is octal to kubectl, which reads {read}: write {read} or {digits}"
            ));
            return None;
        }
        let number = self.scalar().and_then(Scalar::integer).filter(|n| range.contains(n));
        let number = number.and_then(|n| T::try_from(n).ok());
        number.or_else(|| self.wrong(&what()))
    }

    fn wrong<T>(&self, wanted: &str) -> Option<T> {
        let found = match &self.node.value {
            Value::Scalar(scalar) if scalar.is_null() => "nothing".into(),
            Value::Scalar(scalar) => format!("{:?}", scalar.text),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "fields".into(),
        };
        self.error(format!("found {found}; it must be {wanted}"));
        None
    }
}
