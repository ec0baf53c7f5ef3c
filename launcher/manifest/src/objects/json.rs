//! Fields of custom resources that are a string of JSON: the configuration of a
//! NetworkAttachmentDefinition, `ipam` of a SriovNetwork.
//!
//! The API server takes any string there, and refuses an object. What stands in the string is
//! read by plugins, and so its problems belong to those that name the network.

use super::reader::Item;
use super::report::{Report, Spot};
use super::yaml::json::{self, Dialect};
use super::yaml::{Budget, Node};
use serde::de::IgnoredAny;

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
        // Folding makes one line of a string that goes over several, which JSON knows nothing of.
        let lines = scalar.lines.as_ref();
        let is_json = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
        let lines = lines.filter(|lines| is_json(&lines.text) || !is_json(&scalar.text));
        let (text, first) = match lines {
            Some(lines) => (lines.text.as_str(), Some(lines.first)),
            None => (scalar.text.as_str(), None),
        };
        // Lines of the text as lines of the file: the same where they can be told.
        let line_of = |inner: usize| first.map_or(item.spot().line, |first| first + inner - 1);
        let mut budget = Budget::default();
        match json::whole(text, line_of, Dialect::Go, &mut budget) {
            Ok(root) => Some(Self { spot, root }),
            Err(error) => {
                spot.line = error.line;
                problems.error(&spot, error.message);
                None
            }
        }
    }

    /// Its value; problems with that go to `problems`.
    pub fn item<'a>(&'a self, problems: &'a Report) -> Item<'a> {
        Item::root(problems, self.spot.clone(), &self.root)
    }
}
