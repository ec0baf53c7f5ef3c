//! Splits a file into documents like kubectl (`YAMLOrJSONDecoder` in k8s.io/apimachinery, pkg/util/yaml/decoder.go). A
//! line that begins with `---` ends a document, whatever the text before it. A file that begins with `{` may contain
//! several JSON objects.

use super::budget::Budget;
use super::json::{self, Dialect};
use super::{Node, SyntaxError, build};

/// Reads the non-empty documents of a file. A document that cannot be read is represented by an error. Later documents
/// are still read.
pub fn documents<'a>(text: &'a str, budget: &'a mut Budget) -> Documents<'a> {
    Documents {
        rest: Part { text, line: 1 },
        chunk: None,
        values: 0,
        is_first: true,
        budget,
    }
}

/// Iterator of [`documents`].
#[derive(Debug)]
pub struct Documents<'a> {
    rest: Part<'a>,
    /// The rest of the current part.
    chunk: Option<Part<'a>>,
    /// Number of JSON values read from the part.
    values: usize,
    is_first: bool,
    budget: &'a mut Budget,
}

/// A part of a file between separators.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    text: &'a str,
    /// Number of its first line.
    line: usize,
}

const SEPARATOR: &str = "---";
const BYTE_ORDER_MARK: char = '\u{feff}';

impl Iterator for Documents<'_> {
    type Item = Result<Node, SyntaxError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.budget.is_exhausted() {
                return None;
            }
            let Some(chunk) = self.chunk.take() else {
                match self.next_chunk()? {
                    Ok(chunk) => self.chunk = Some(chunk),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            };
            if chunk.text.trim_start().starts_with('{')
                && let Some(outcome) = self.json(chunk)
            {
                return Some(outcome);
            }
            if let Some(outcome) = build::document(chunk.text, chunk.line, self.budget).transpose() {
                return Some(outcome);
            }
        }
    }
}

impl<'a> Documents<'a> {
    /// Reads a JSON value. `None` if the text may be YAML.
    fn json(&mut self, chunk: Part<'a>) -> Option<Result<Node, SyntaxError>> {
        match json::first(
            chunk.text,
            |line| chunk.line + line - 1,
            Dialect::Kubernetes,
            self.budget,
        ) {
            Ok((node, length)) => {
                let rest = chunk.after(length);
                let is_last = rest.text.trim().is_empty();
                // Later in a stream the text is YAML, of which kubectl reads only one document.
                if !self.is_first && !is_last {
                    return None;
                }
                self.values += 1;
                self.chunk = (!is_last).then_some(rest);
                Some(Ok(node))
            }
            // Up to the first value the text may be YAML. From the second value on, it cannot be.
            Err(error) if !error.is_syntax || self.values > 1 => Some(Err(error.error)),
            Err(_) => None,
        }
    }

    /// The text up to the next separator.
    fn next_chunk(&mut self) -> Option<Result<Part<'a>, SyntaxError>> {
        (self.values, self.is_first) = (0, self.rest.line == 1);
        loop {
            let text = self.rest.text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(self.rest.text);
            self.rest.text = text;
            if text.is_empty() {
                return None;
            }
            let Some(behind) = text.strip_prefix(SEPARATOR) else {
                break;
            };
            let line = self.rest.line;
            let length = behind.find('\n').map_or(behind.len(), |at| at + 1);
            self.rest = self.rest.after(SEPARATOR.len() + length);
            self.is_first = false;
            let behind = behind[..length].trim();
            if !(behind.is_empty() || behind.starts_with('#')) {
                let message = "kubectl accepts nothing after ---: begin the document on the next line";
                return Some(Err(SyntaxError::at(line, message)));
            }
        }
        let text = self.rest.text;
        let mut separators = text.match_indices(SEPARATOR).map(|(at, _)| at);
        let end = separators.find(|at| text[..*at].ends_with('\n'));
        let end = end.unwrap_or(text.len());
        let chunk = Part {
            text: &text[..end],
            ..self.rest
        };
        self.rest = self.rest.after(end);
        Some(Ok(chunk))
    }
}

impl<'a> Part<'a> {
    fn after(self, length: usize) -> Self {
        let (before, text) = self.text.split_at(length);
        let line = self.line + before.bytes().filter(|b| *b == b'\n').count();
        Part { text, line }
    }
}
