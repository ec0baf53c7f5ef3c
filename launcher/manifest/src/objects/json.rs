//! Fields of custom resources that are a JSON string: the configuration of a NetworkAttachmentDefinition, `ipam` of a
//! SriovNetwork.
//!
//! The API server accepts any string there, and refuses an object. Plugins read the content, so its errors concern only
//! VMs that name the network.

use super::reader::Item;
use super::report::{Report, Spot};
use super::yaml::json::{self, Dialect};
use super::yaml::{Budget, Node};
use serde::de::IgnoredAny;

/// The content of a JSON string.
#[derive(Debug)]
pub struct Json {
    spot: Spot,
    root: Node,
}

impl Json {
    /// Reads the string in `item`. Errors in its content go to `problems`.
    pub fn read(item: &Item<'_>, problems: &Report) -> Option<Self> {
        if item.is_map() {
            item.error(
                "found fields; it must be a JSON string, and the API server refuses an object: \
                 write '{\"type\": …}'",
            );
            return None;
        }
        item.text()?;
        let scalar = item.scalar()?;
        let mut spot = item.spot().clone();
        // YAML folding joins the lines of a string, so JSON's own line numbers are not those of the file.
        let lines = scalar.lines.as_ref();
        let is_json = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
        let lines = lines.filter(|lines| is_json(&lines.text) || !is_json(&scalar.text));
        let (text, first) = match lines {
            Some(lines) => (lines.text.as_str(), Some(lines.first)),
            None => (scalar.text.as_str(), None),
        };
        // Maps lines of the text to lines of the file. It is the identity if the mapping is unknown.
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

    /// The value in the string. Errors in it go to `problems`.
    pub fn item<'a>(&'a self, problems: &'a Report) -> Item<'a> {
        Item::root(problems, self.spot.clone(), &self.root)
    }
}
