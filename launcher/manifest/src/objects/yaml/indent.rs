//! Handles quoted text that is indented less than YAML 1.2 requires, or with tabs. go-yaml, and therefore kubectl,
//! accepts such text, and most CNI configurations are written this way (`}'` below the `config` to which it belongs).
//! Its lines are moved to the right. This changes neither line numbers nor values, because white space at the start of
//! a line of quoted text is not part of the text.

use super::budget::{Budget, Exhausted};
use granit_parser::{Scanner, StrInput};
use std::collections::HashMap;

/// A text and the distance by which its lines were moved.
pub(super) struct Indented {
    /// The text after lines were moved.
    pub text: String,
    /// Number of spaces inserted in front of a line (counted from 1).
    pub by: HashMap<usize, usize>,
}

/// Position of quoted text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quoted {
    /// Offset of the opening quote.
    pub start: usize,
    /// Offset after the closing quote. `None` if there is none.
    pub end: Option<usize>,
}

/// The quoted text in which, or after which, scanning fails.
pub(super) fn failing_quote(text: &str) -> Option<Quoted> {
    let mut end = 0;
    let mut quoted = None;
    for token in Scanner::new(StrInput::new(text)) {
        match token {
            Ok(token) => end = token.span().end.byte_offset().map_or(end, |byte| byte.max(end)),
            Err(_) => {
                quoted = opening(text, end).map(|start| Quoted {
                    start,
                    end: closing(text, start),
                });
                break;
            }
        }
    }
    quoted
}

/// The first quote after white space, comments, anchors and tags.
fn opening(text: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = &text[at..];
        at += match rest.chars().next()? {
            '\'' | '"' => return Some(at),
            '#' => rest.find('\n')?,
            '&' | '!' => rest.find(char::is_whitespace)?,
            other => other.len_utf8(),
        };
    }
}

fn closing(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let quote = bytes[start];
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if quote == b'"' => at += 2,
            _ if *byte != quote => at += 1,
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            _ => return Some(at + 1),
        }
    }
    None
}

impl Indented {
    /// The unchanged text.
    pub(super) fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            by: HashMap::new(),
        }
    }

    /// Moves the lines of quoted text to the right of its opening quote.
    pub(super) fn indent(&mut self, quoted: Quoted, budget: &mut Budget) -> Result<(), Exhausted> {
        let line_start = self.text[..quoted.start].rfind('\n').map_or(0, |at| at + 1);
        let by = quoted.start - line_start + 1;
        let end = quoted.end.unwrap_or(self.text.len());
        let inside = &self.text[quoted.start..end];
        let breaks = inside.matches('\n').count();
        let first = self.text[..quoted.start].matches('\n').count() + 2;
        budget.repeat(self.text.len() + by * breaks)?;
        let inside = inside.replace('\n', &format!("\n{}", " ".repeat(by)));
        self.text.replace_range(quoted.start..end, &inside);
        for line in first..first + breaks {
            *self.by.entry(line).or_default() += by;
        }
        Ok(())
    }
}
