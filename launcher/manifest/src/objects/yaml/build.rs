//! Builds a YAML document from the parser's events.
//!
//! `<<` merges as in go-yaml v2 (`mapping` and `merge` in decode.go), which kubectl uses: maps are
//! inserted at its position, so later keys override merged ones, and merged ones override earlier
//! keys; of several maps in a list the first has priority.

use super::budget::{Budget, Exhausted, Size};
use super::indent::{self, Indented, Quoted};
use super::scalar::{self, Meaning, Scalar, SourceLines};
use super::{Entry, MAX_DEPTH, Node, SyntaxError, Value};
use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};
use std::collections::HashMap;
use std::rc::Rc;

pub(super) const TOO_DEEP: &str = "values are nested deeper than in any manifest";

/// The document in a text. `None` if the text is empty.
pub(super) fn document(text: &str, first_line: usize, budget: &mut Budget) -> Result<Option<Node>, SyntaxError> {
    let mut source = Indented::new(text);
    let mut last = None;
    loop {
        let error = match Builder::new(&source, first_line, budget).read()? {
            Ok(root) => return Ok(root),
            Err(error) => error,
        };
        let no_yaml = || {
            let line = first_line + error.marker().line() - 1;
            SyntaxError::at(line, format!("this is not YAML: {}", error.info()))
        };
        let quoted = in_quoted_text(&error).then(|| indent::failing_quote(&source.text));
        let quoted = quoted.flatten().ok_or_else(no_yaml)?;
        let line_of = |byte: usize| first_line + source.text[..byte].matches('\n').count();
        let line = line_of(quoted.start);
        if let Some(message) = unclosed(&error, quoted, line_of) {
            return Err(SyntaxError::at(line, message));
        }
        // Each quoted text is moved once: a second time would not help.
        if last == Some(quoted.start) {
            return Err(no_yaml());
        }
        last = Some(quoted.start);
        source
            .indent(quoted, budget)
            .map_err(|Exhausted| SyntaxError::at(line, TOO_MUCH_QUOTED))?;
    }
}

const TOO_MUCH_QUOTED: &str = "too much quoted text is indented too little: indent it more than its key";

fn in_quoted_text(error: &ScanError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidQuotedScalarIndent
            | ErrorKind::TabInIndentation
            | ErrorKind::UnclosedQuotedScalar
            | ErrorKind::InvalidTrailingSingleQuotedScalar
            | ErrorKind::InvalidTrailingDoubleQuotedScalar
    )
}

/// The error for quotes that are not closed.
fn unclosed(error: &ScanError, quoted: Quoted, line_of: impl Fn(usize) -> usize) -> Option<String> {
    let Some(end) = quoted.end else {
        return Some("the quote that opens here is never closed".into());
    };
    let trailing = matches!(
        error.kind(),
        ErrorKind::InvalidTrailingSingleQuotedScalar | ErrorKind::InvalidTrailingDoubleQuotedScalar
    );
    trailing.then(|| {
        let line = line_of(end - 1);
        format!(
            "the quote that opens here is closed on line {line}, and more text follows there: \
            is a quote missing?"
        )
    })
}

fn options() -> Options {
    let mut options = Options::default();
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    options
}

/// A collection that has not ended yet.
struct Open {
    line: usize,
    anchor: usize,
    size: Size,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map(OpenMap),
}

#[derive(Default)]
struct OpenMap {
    /// Key whose value comes next.
    key: Option<Key>,
    entries: Vec<Entry>,
    /// Index of each key in the map.
    places: HashMap<Rc<str>, Place>,
}

struct Place {
    index: usize,
    /// True if it came from `<<`
    is_merged: bool,
}

/// A key of a map.
enum Key {
    Plain {
        key: Rc<str>,
        written: Option<Rc<str>>,
        line: usize,
    },
    /// The merge key `<<`
    Merge,
}

/// The value to which an anchor refers.
struct Anchor {
    node: Node,
    size: Size,
}

/// A node that has ended.
struct Complete {
    node: Node,
    size: Size,
    anchor: usize,
    is_alias: bool,
    /// True if it is a plain `<<`
    is_merge: bool,
}

struct Builder<'a> {
    source: &'a Indented,
    first_line: usize,
    budget: &'a mut Budget,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Anchor>,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Indented, first_line: usize, budget: &'a mut Budget) -> Self {
        Self {
            source,
            first_line,
            budget,
            open: Vec::new(),
            root: None,
            anchors: HashMap::new(),
        }
    }

    /// Reads the events. The outer error is final. The inner error is the parser's, and another attempt may succeed.
    fn read(mut self) -> Result<Result<Option<Node>, ScanError>, SyntaxError> {
        let mut found = None;
        for event in Parser::new_from_str_with_options(&self.source.text, options()) {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => return Ok(Err(error)),
            };
            if !matches!(event, Event::DocumentEnd) {
                self.take(event, span)?;
                continue;
            }
            let Some(root) = self.root.take().filter(|root| !is_empty(root)) else {
                continue;
            };
            if found.is_some() {
                let message = "kubectl ignores text after `...`: put --- before this document";
                return Err(SyntaxError::at(root.line, message));
            }
            self.anchors.clear();
            found = Some(root);
        }
        Ok(Ok(found))
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let line = self.first_line + span.start.line() - 1;
        match event {
            Event::Scalar(value, style, anchor, tag) => {
                let meaning = meaning(&value, style, tag.as_deref()).map_err(|why| SyntaxError::at(line, why))?;
                let size = Size::of_text(&value);
                self.spend(line, size)?;
                let is_merge = is_merge(&value, style, tag.as_deref());
                let lines = self.source_lines(&value, style, span).map(Box::new);
                let scalar = Scalar {
                    text: value.into_owned(),
                    meaning,
                    lines,
                };
                let value = Value::Scalar(Rc::new(scalar));
                self.complete(Complete {
                    node: Node { line, value },
                    size,
                    anchor,
                    is_alias: false,
                    is_merge,
                })
            }
            Event::SequenceStart(_, anchor, _) => self.begin(line, Content::List(Vec::new()), anchor),
            Event::MappingStart(_, anchor, _) => self.begin(line, Content::Map(OpenMap::default()), anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.complete(open.close()),
                None => Ok(()),
            },
            Event::Alias(anchor) => self.alias(line, anchor),
            _ => Ok(()),
        }
    }

    fn alias(&mut self, line: usize, anchor: usize) -> Result<(), SyntaxError> {
        let Some(Anchor { node, size }) = self.anchors.get(&anchor) else {
            // The parser knows the anchor, but its value is not complete.
            return Err(SyntaxError::at(line, "an alias refers to a value that contains it"));
        };
        let (node, size) = (Node { line, ..node.clone() }, *size);
        if self.open.len() + size.depth > MAX_DEPTH {
            return Err(SyntaxError::at(line, TOO_DEEP));
        }
        self.spend(line, size)?;
        self.complete(Complete {
            node,
            size,
            anchor: 0,
            is_alias: true,
            is_merge: false,
        })
    }

    fn spend(&mut self, line: usize, size: Size) -> Result<(), SyntaxError> {
        self.budget.take(size).map_err(|Exhausted| SyntaxError::too_large(line))
    }

    /// The text as it is in the file, for the styles that permit it.
    fn source_lines(&self, value: &str, style: ScalarStyle, span: Span) -> Option<SourceLines> {
        let text = &self.source.text;
        let source = text.get(span.start.byte_offset()?..span.end.byte_offset()?)?;
        let first = self.first_line + span.start.line() - 1;
        match style {
            ScalarStyle::SingleQuoted => {
                let inside = source.strip_prefix('\'')?.strip_suffix('\'')?;
                let text = self.unindented(inside, span.start.line()).replace("''", "'");
                Some(SourceLines { first, text })
            }
            // The value's lines are those of the file. The first follows the indicator.
            ScalarStyle::Literal => {
                let text = value.to_owned();
                let first = if source.starts_with('|') { first + 1 } else { first };
                Some(SourceLines { first, text })
            }
            _ => None,
        }
    }

    /// The text without the spaces by which its lines were moved.
    fn unindented(&self, text: &str, first: usize) -> String {
        let lines = text.split_inclusive('\n').zip(first..);
        let lines = lines.map(|(content, line)| match self.source.by.get(&line) {
            Some(by) if line > first => content.get(*by..).unwrap_or_default(),
            _ => content,
        });
        lines.collect()
    }

    fn begin(&mut self, line: usize, content: Content, anchor: usize) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(SyntaxError::at(line, TOO_DEEP));
        }
        let size = Size::of_text("");
        self.spend(line, size)?;
        self.open.push(Open {
            line,
            anchor,
            size,
            content,
        });
        Ok(())
    }

    /// Adds a node to its parent.
    fn complete(&mut self, complete: Complete) -> Result<(), SyntaxError> {
        let Complete { node, size, .. } = &complete;
        if complete.anchor != 0 {
            let (node, size) = (node.clone(), *size);
            self.anchors.insert(complete.anchor, Anchor { node, size });
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(complete.node);
            return Ok(());
        };
        parent.size.add(*size);
        match &mut parent.content {
            Content::List(items) => items.push(complete.node),
            Content::Map(map) => match map.key.take() {
                None => map.key = Some(key(&complete)?),
                Some(Key::Merge) => map.merge_all(&complete)?,
                Some(Key::Plain { key, written, line }) => map.put(Entry {
                    key,
                    written,
                    folded: None,
                    line,
                    value: complete.node,
                })?,
            },
        }
        Ok(())
    }
}

impl Open {
    fn close(self) -> Complete {
        let value = match self.content {
            Content::List(items) => Value::List(items.into()),
            Content::Map(map) => Value::Map(map.entries.into()),
        };
        Complete {
            node: Node { line: self.line, value },
            size: self.size,
            anchor: self.anchor,
            is_alias: false,
            is_merge: false,
        }
    }
}

impl OpenMap {
    /// Adds a pair that is written in this map.
    fn put(&mut self, entry: Entry) -> Result<(), SyntaxError> {
        let place = self.places.get_mut(&entry.key);
        match place {
            Some(place) if place.is_merged => {
                place.is_merged = false;
                self.entries[place.index] = entry;
            }
            Some(place) => {
                let first = self.entries[place.index].line;
                let key = entry.written.as_deref().unwrap_or(&entry.key);
                return Err(SyntaxError::twice(key, entry.line, first));
            }
            None => self.append(entry, false),
        }
        Ok(())
    }

    fn append(&mut self, entry: Entry, is_merged: bool) {
        let index = self.entries.len();
        self.places.insert(Rc::clone(&entry.key), Place { index, is_merged });
        self.entries.push(entry);
    }

    /// Merges the value of `<<`, which is a map or a list of maps.
    fn merge_all(&mut self, complete: &Complete) -> Result<(), SyntaxError> {
        let refusal = |line| SyntaxError::at(line, "<< takes a map, or a list of maps written here");
        match &complete.node.value {
            Value::Map(entries) => self.merge(entries),
            Value::List(items) if !complete.is_alias => {
                for item in items.iter().rev() {
                    match &item.value {
                        Value::Map(entries) => self.merge(entries),
                        _ => return Err(refusal(item.line)),
                    }
                }
            }
            _ => return Err(refusal(complete.node.line)),
        }
        Ok(())
    }

    fn merge(&mut self, entries: &[Entry]) {
        for entry in entries {
            match self.places.get(&entry.key) {
                Some(place) => self.entries[place.index] = entry.clone(),
                None => self.append(entry.clone(), true),
            }
        }
    }
}

fn is_empty(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(scalar) if scalar.is_null())
}

/// Prefix of YAML's own tags.
const CORE: &str = "tag:yaml.org,2002:";

fn is_merge(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> bool {
    let tagged = tag.map(|tag| tag.handle() == CORE && tag.suffix() == "merge");
    text == "<<" && tagged.unwrap_or(style == ScalarStyle::Plain)
}

/// The meaning that a scalar has for kubectl (`resolve` in go-yaml v2).
fn meaning(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Meaning, String> {
    let Some(tag) = tag else {
        return Ok(match style {
            ScalarStyle::Plain => scalar::resolve(text),
            _ => Meaning::Text,
        });
    };
    let meaning = scalar::resolve(text);
    let fits = match tag.suffix() {
        _ if tag.handle() != CORE => return Ok(Meaning::Text),
        "int" => matches!(meaning, Meaning::Whole(_)),
        "float" => matches!(meaning, Meaning::Whole(_) | Meaning::Number),
        "bool" => matches!(meaning, Meaning::Bool(_)),
        "null" => meaning == Meaning::Null,
        "binary" => return Err("!!binary is not supported here: write the text itself".into()),
        _ => return Ok(Meaning::Text),
    };
    fits.then_some(meaning)
        .ok_or_else(|| format!("{text:?} is not a !!{}: leave out the tag", tag.suffix()))
}

fn key(complete: &Complete) -> Result<Key, SyntaxError> {
    let Node { line, value } = &complete.node;
    if complete.is_merge {
        return Ok(Key::Merge);
    }
    let Value::Scalar(scalar) = value else {
        return Err(SyntaxError::at(*line, "a key must be text"));
    };
    let Some(key) = scalar.key() else {
        let text = &scalar.text;
        let message = format!("the key {text:?} is null to kubectl, which refuses that: write it in quotes");
        return Err(SyntaxError::at(*line, message));
    };
    let written = (key != scalar.text).then(|| Rc::from(scalar.text.as_str()));
    Ok(Key::Plain {
        key: key.into(),
        written,
        line: *line,
    })
}
