//! YAML as a tree whose every node knows its line.
//!
//! A deserializer into types stops at the first thing it does not like; a manifest is
//! answered with everything that is wrong with it, each at its line. So the parser's
//! events become a plain tree, and [`super::reader`] asks the tree. Scalars stay text:
//! what a plain `on` or `1_000` means is for the field to say that holds it.
//!
//! Whatever the text, memory stays within [`MAX_NODES`] and recursion within
//! [`MAX_DEPTH`]: aliases that multiply, nesting without end.

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// Values within values; Kubernetes' own objects stay below 20.
const MAX_DEPTH: usize = 64;
/// Nodes of one document, what aliases stand for counted each time.
const MAX_NODES: usize = 100_000;
/// Lines of a file that are moved to where YAML wants them.
const MAX_INDENTED: usize = 256;

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Line of the file, from 1.
    pub line: usize,
    /// The value.
    pub value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text, number, boolean or nothing.
    Scalar(Scalar),
    /// `- item`
    List(Vec<Node>),
    /// `key: value`
    Map(Vec<Entry>),
}

/// A scalar as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// The text, escapes and folding undone.
    pub text: String,
    /// True if nothing (quotes, block, tag) says that this is text, so that it may be
    /// meant as a number, a boolean or null.
    pub plain: bool,
    /// The text with the lines it has in the file, where it has several.
    pub lines: Option<SourceLines>,
}

/// Text whose line breaks are the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLines {
    /// Line of the file the text begins on.
    pub first: usize,
    /// The text; equal to the scalar's but for white space.
    pub text: String,
}

/// One pair of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its line.
    pub line: usize,
    /// What it stands for.
    pub value: Node,
}

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line of the file.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

impl Node {
    /// A pair of a map.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// Changes every line, for a text that stands inside another.
    pub fn move_lines(&mut self, to: &impl Fn(usize) -> usize) {
        self.line = to(self.line);
        match &mut self.value {
            Value::Scalar(_) => {}
            Value::List(items) => items.iter_mut().for_each(|item| item.move_lines(to)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.line = to(entry.line);
                    entry.value.move_lines(to);
                }
            }
        }
    }
}

impl Scalar {
    /// True for what YAML reads as null.
    pub fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// True if a Kubernetes API server takes this for text: not what YAML reads as null,
    /// boolean or number.
    pub fn is_text(&self) -> bool {
        !self.plain || !(self.is_null() || self.boolean().is_some() || looks_like_a_number(&self.text))
    }

    /// The boolean this is, in the spellings YAML 1.1 had too, which Kubernetes reads.
    pub fn boolean(&self) -> Option<bool> {
        match self.text.to_ascii_lowercase().as_str() {
            _ if !self.plain => None,
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    /// The whole number this is.
    pub fn integer(&self) -> Option<i64> {
        self.plain.then(|| self.text.parse().ok()).flatten()
    }
}

fn looks_like_a_number(text: &str) -> bool {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let hex_or_octal = body.len() > 2 && body.starts_with('0') && i64::from_str_radix(&body[2..], 16).is_ok() && {
        let marker = body.as_bytes()[1];
        matches!(marker, b'x' | b'o')
    };
    hex_or_octal || (body.starts_with(|c: char| c.is_ascii_digit() || c == '.') && body.parse::<f64>().is_ok())
}

/// Reads every document of a file. A document that cannot be read is left out and said
/// among the errors; those after it are read.
pub fn parse(text: &str) -> (Vec<Node>, Vec<SyntaxError>) {
    let mut text = Cow::Borrowed(text);
    for _ in 0..MAX_INDENTED {
        match underindented(&text) {
            Some(line) => text = Cow::Owned(indent(&text, line)),
            None => break,
        }
    }
    parse_indented(&text)
}

/// Line of the first piece of quoted text that stands less far to the right than YAML
/// says it must. The parser of kubectl does not mind, and most CNI configurations are
/// written so (`}'` below the `config` they belong to).
fn underindented(text: &str) -> Option<usize> {
    let mut parser = Parser::new_from_str_with_options(text, options());
    loop {
        match parser.next()? {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::InvalidQuotedScalarIndent) => {
                return Some(error.marker().line());
            }
            Err(_) if matches!(parser.proceed_next_document(), Ok(true)) => {}
            Err(_) => return None,
        }
    }
}

/// Moves a line to the right, which changes no line's number, and no value either:
/// white space at the start of a line of quoted text is not part of it.
fn indent(text: &str, line: usize) -> String {
    let lines = text.split_inclusive('\n').zip(1..);
    let moved = lines.map(|(content, n)| match n == line {
        true => " ".repeat(MAX_DEPTH * 2) + content,
        false => content.to_owned(),
    });
    moved.collect()
}

fn options() -> Options {
    let mut options = Options::default();
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    options
}

fn parse_indented(text: &str) -> (Vec<Node>, Vec<SyntaxError>) {
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    let mut parser = Parser::new_from_str_with_options(text, options());
    loop {
        match next_document(text, &mut parser) {
            Ok(Some(node)) => documents.push(node),
            Ok(None) => break,
            Err(error) => {
                errors.push(error);
                if !matches!(parser.proceed_next_document(), Ok(true)) {
                    break;
                }
            }
        }
    }
    (documents, errors)
}

type Source<'a> = Parser<'a, granit_parser::StrInput<'a>>;

/// The next document that is not empty; `None` at the end.
fn next_document(text: &str, parser: &mut Source<'_>) -> Result<Option<Node>, SyntaxError> {
    let mut builder = Builder::new(text);
    for event in parser.by_ref() {
        let (event, span) = event.map_err(|e| scan_error(&e))?;
        if matches!(event, Event::StreamEnd) {
            break;
        }
        if matches!(event, Event::DocumentEnd) {
            match builder.root.take() {
                Some(root) if !is_empty(&root) => return Ok(Some(root)),
                _ => builder = Builder::new(text),
            }
        } else {
            builder.take(event, span)?;
        }
    }
    Ok(None)
}

fn is_empty(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(scalar) if scalar.is_null())
}

fn scan_error(error: &ScanError) -> SyntaxError {
    SyntaxError {
        line: error.marker().line(),
        message: format!("this is no YAML: {}", error.info()),
    }
}

/// A collection that is not closed yet.
struct Open {
    node: Node,
    /// Key that waits for its value, in a map.
    key: Option<(String, usize)>,
    /// Lines of the keys it has, in a map.
    keys: HashMap<String, usize>,
    anchor: usize,
}

/// Builds one document from its events.
struct Builder<'a> {
    text: &'a str,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            open: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            nodes: 0,
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let line = span.start.line();
        match event {
            Event::Scalar(value, style, anchor, tag) => {
                let scalar = self.scalar(value, style, tag.as_deref(), span);
                let value = Value::Scalar(scalar);
                self.complete(Node { line, value }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(line, Value::List(Vec::new()), anchor),
            Event::MappingStart(_, anchor, _) => self.begin(line, Value::Map(Vec::new()), anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { node, anchor, .. }) => self.complete(node, anchor),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    // The parser knows the anchor; what it stands for is not complete.
                    return Err(at(line, "an alias stands for something it is itself part of"));
                };
                let (size, depth) = extent(node);
                self.nodes += size;
                if self.nodes > MAX_NODES || self.open.len() + depth > MAX_DEPTH {
                    return Err(at(line, "aliases make this document larger than any manifest is"));
                }
                let node = node.clone();
                self.complete(Node { line, ..node }, 0)
            }
            _ => Ok(()),
        }
    }

    fn scalar(&self, value: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Scalar {
        Scalar {
            lines: self.source_lines(&value, style, span),
            text: value.into_owned(),
            plain: style == ScalarStyle::Plain && tag.is_none(),
        }
    }

    /// The text as it stands in the file, for the styles from which it can be had.
    fn source_lines(&self, value: &str, style: ScalarStyle, span: Span) -> Option<SourceLines> {
        let source = self.text.get(span.start.byte_offset()?..span.end.byte_offset()?)?;
        let first = span.start.line();
        match style {
            ScalarStyle::SingleQuoted => {
                let inside = source.strip_prefix('\'')?.strip_suffix('\'')?;
                let text = inside.replace("''", "'");
                Some(SourceLines { first, text })
            }
            // The value's lines are the file's; the first follows the indicator's.
            ScalarStyle::Literal => {
                let text = value.to_owned();
                let first = if source.starts_with('|') { first + 1 } else { first };
                Some(SourceLines { first, text })
            }
            _ => None,
        }
    }

    fn begin(&mut self, line: usize, value: Value, anchor: usize) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(at(line, "values are nested deeper than in any manifest"));
        }
        let node = Node { line, value };
        self.open.push(Open {
            node,
            key: None,
            keys: HashMap::new(),
            anchor,
        });
        Ok(())
    }

    /// A node is whole: it goes where it belongs.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(at(node.line, "this document is larger than any manifest is"));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut parent.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match parent.key.take() {
                None => parent.key = Some(key(node)?),
                Some((key, line)) => {
                    if let Some(first) = parent.keys.insert(key.clone(), line) {
                        return Err(at(line, format!("{key:?} is here twice, first on line {first}")));
                    }
                    entries.push(Entry { key, line, value: node });
                }
            },
            Value::Scalar(_) => {}
        }
        Ok(())
    }
}

fn key(node: Node) -> Result<(String, usize), SyntaxError> {
    match node.value {
        Value::Scalar(scalar) => Ok((scalar.text, node.line)),
        _ => Err(at(node.line, "a key must be text")),
    }
}

fn at(line: usize, message: impl Into<String>) -> SyntaxError {
    let message = message.into();
    SyntaxError { line, message }
}

/// Nodes and depth of a tree.
fn extent(node: &Node) -> (usize, usize) {
    let join = |(size, depth): (usize, usize), child: &Node| {
        let (more, deep) = extent(child);
        (size + more, depth.max(deep + 1))
    };
    match &node.value {
        Value::Scalar(_) => (1, 1),
        Value::List(items) => items.iter().fold((1, 1), join),
        Value::Map(entries) => entries.iter().map(|entry| &entry.value).fold((1, 1), join),
    }
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;
