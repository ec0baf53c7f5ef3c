//! Fields of custom resources that are a string of JSON: the configuration of a
//! NetworkAttachmentDefinition, `ipam` of a SriovNetwork.
//!
//! The API server takes any string there, and refuses an object. What stands in the string is
//! read by plugins, and so its problems belong to those that name the network. It is read with
//! the YAML parser, which gives lines and takes JSON as it is; that it is JSON has been seen
//! before by a JSON parser, so that nothing passes here which a plugin would refuse.

use super::reader::Item;
use super::report::{Report, Spot};
use super::yaml::{self, Node};

/// What a string of JSON says.
pub struct Json {
    spot: Spot,
    root: Node,
}

impl Json {
    /// Reads the string that `item` is. What is wrong with the string goes to `problems`.
    pub fn read(item: &Item<'_>, problems: &Report) -> Option<Self> {
        if item.is_map() {
            item.error(
                "found fields; it is a string of JSON, and the API server refuses an object: write '{\"type\": …}'",
            );
            return None;
        }
        item.text()?;
        let scalar = item.scalar()?;
        let mut spot = item.spot().clone();
        let (text, first) = match &scalar.lines {
            Some(lines) => (lines.text.as_str(), Some(lines.first)),
            None => (scalar.text.as_str(), None),
        };
        // Lines of the text as lines of the file: the same where they can be told.
        let line_of = |inner: usize| first.map_or(item.spot().line, |first| first + inner - 1);
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
            spot.line = line_of(error.line().max(1));
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            problems.error(&spot, format!("this is no JSON (column {}): {what}", error.column()));
            return None;
        }
        // A tab in JSON is white space; YAML has other thoughts about it.
        let (mut documents, errors) = yaml::parse(&text.replace('\t', " "));
        if let Some(error) = errors.first() {
            spot.line = line_of(error.line);
            problems.error(&spot, error.message.clone());
            return None;
        }
        let mut root = documents.pop()?;
        root.move_lines(&line_of);
        Some(Self { spot, root })
    }

    /// Its value; problems with that go to `problems`.
    pub fn item<'a>(&'a self, problems: &'a Report) -> Item<'a> {
        Item::root(problems, self.spot.clone(), &self.root)
    }
}
