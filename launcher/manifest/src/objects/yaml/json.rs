//! Reads JSON with a JSON parser, into the same kind of tree as YAML. This is for documents that kubectl treats as
//! JSON, and for JSON strings inside manifests, which are read by plugins written in Go.

use super::budget::{Budget, Exhausted, Size};
use super::scalar::{self, Meaning, Scalar};
use super::{Entry, MAX_DEPTH, Node, SyntaxError, Value};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::rc::Rc;

/// The program that reads a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Kubernetes, for which 1e3 and 1000.0 are integers.
    Kubernetes,
    /// A Go program, for which 1e3 and 1000.0 are not integers (`literalStore` in encoding/json/decode.go), and which
    /// ignores case in field names.
    Go,
}

/// The reason why a text has no value.
#[derive(Debug)]
pub struct JsonError {
    /// Error and its position.
    pub error: SyntaxError,
    /// True if the text is not JSON. Otherwise it is valid JSON that is not accepted.
    pub is_syntax: bool,
}

/// Reads the first value of a text. Returns it with its length in bytes.
pub fn first(
    text: &str,
    line_of: impl Fn(usize) -> usize,
    dialect: Dialect,
    budget: &mut Budget,
) -> Result<(Node, usize), JsonError> {
    let position = Position {
        line: Cell::new(1),
        offset: Cell::new(0),
    };
    let source = Counted {
        rest: text.as_bytes(),
        is_break: false,
        position: &position,
    };
    let state = State {
        position: &position,
        line_of: &line_of,
        dialect,
        budget: RefCell::new(budget),
        refusal: RefCell::new(None),
    };
    let mut parser = serde_json::Deserializer::from_reader(source);
    match (Seed {
        state: &state,
        depth: 1,
    })
    .deserialize(&mut parser)
    {
        Ok(node) => Ok((node, position.offset.get())),
        Err(error) => {
            let refusal = state.refusal.take();
            Err(JsonError {
                is_syntax: refusal.is_none(),
                error: refusal.unwrap_or_else(|| no_json(text, &error, line_of)),
            })
        }
    }
}

/// Reads the only value of a text.
pub fn whole(
    text: &str,
    line_of: impl Fn(usize) -> usize,
    dialect: Dialect,
    budget: &mut Budget,
) -> Result<Node, SyntaxError> {
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        return Err(no_json(text, &error, line_of));
    }
    let (node, _) = first(text, line_of, dialect, budget).map_err(|error| error.error)?;
    Ok(node)
}

/// The error and its position. If a comma is superfluous, this is the position of the comma.
fn no_json(text: &str, error: &serde_json::Error, line_of: impl Fn(usize) -> usize) -> SyntaxError {
    let what = error.to_string();
    let mut what = what.split(" at line ").next().unwrap_or_default();
    let (mut line, mut column) = (error.line().max(1), error.column());
    let place = text.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>() + column.saturating_sub(1);
    if let Some((before, "}" | "]")) = text.get(..place).zip(text.get(place..place + 1))
        && let Some(before) = before.trim_end().strip_suffix(',')
    {
        what = "a comma with nothing after it";
        line = before.matches('\n').count() + 1;
        column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
    }
    SyntaxError::at(line_of(line), format!("this is not JSON (column {column}): {what}"))
}

/// Position of a parser that reads one byte at a time.
struct Position {
    /// Number of the line that contains the last byte.
    line: Cell<usize>,
    offset: Cell<usize>,
}

/// A text that is read one byte at a time, with a line count.
struct Counted<'a> {
    rest: &'a [u8],
    /// True if the last byte was a line break.
    is_break: bool,
    position: &'a Position,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (Some((byte, rest)), Some(first)) = (self.rest.split_first(), into.first_mut()) else {
            return Ok(0);
        };
        let Position { line, offset } = self.position;
        line.set(line.get() + usize::from(self.is_break));
        offset.set(offset.get() + 1);
        self.is_break = *byte == b'\n';
        self.rest = rest;
        *first = *byte;
        Ok(1)
    }
}

struct State<'a, F> {
    position: &'a Position,
    line_of: &'a F,
    dialect: Dialect,
    budget: RefCell<&'a mut Budget>,
    /// The reason why a valid JSON value is not accepted.
    refusal: RefCell<Option<SyntaxError>>,
}

impl<F: Fn(usize) -> usize> State<'_, F> {
    fn line(&self) -> usize {
        (self.line_of)(self.position.line.get())
    }

    fn refuse<E: serde::de::Error>(&self, refusal: SyntaxError) -> E {
        *self.refusal.borrow_mut() = Some(refusal);
        E::custom("refused")
    }

    fn take<E: serde::de::Error>(&self, nodes: usize, bytes: usize) -> Result<(), E> {
        let size = Size { nodes, bytes, depth: 0 };
        let taken = self.budget.borrow_mut().take(size);
        taken.map_err(|Exhausted| self.refuse(SyntaxError::too_large(self.line())))
    }

    fn scalar<E: serde::de::Error>(&self, text: String, meaning: Meaning) -> Result<Node, E> {
        self.take(1, text.len())?;
        let scalar = Scalar {
            text,
            meaning,
            lines: None,
        };
        Ok(Node {
            line: self.line(),
            value: Value::Scalar(Rc::new(scalar)),
        })
    }
}

struct Seed<'a, F> {
    state: &'a State<'a, F>,
    depth: usize,
}

impl<'de, F: Fn(usize) -> usize> DeserializeSeed<'de> for Seed<'_, F> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Node, D::Error> {
        if self.depth > MAX_DEPTH {
            let refusal = SyntaxError::at(self.state.line(), super::build::TOO_DEEP);
            return Err(self.state.refuse(refusal));
        }
        parser.deserialize_any(self)
    }
}

impl<'de, F: Fn(usize) -> usize> Visitor<'de> for Seed<'_, F> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.state.scalar("null".into(), Meaning::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.state.scalar(value.to_string(), Meaning::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Node, E> {
        self.state.scalar(value.to_string(), Meaning::Whole(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        let meaning = i64::try_from(value).map_or(Meaning::Number, Meaning::Whole);
        self.state.scalar(value.to_string(), meaning)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        let meaning = match self.state.dialect {
            Dialect::Kubernetes => scalar::whole(value).unwrap_or(Meaning::Number),
            Dialect::Go => Meaning::Number,
        };
        // The fraction is kept, because a message quotes the value.
        self.state.scalar(format!("{value:?}"), meaning)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Node, E> {
        self.state.scalar(value.to_owned(), Meaning::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let Self { state, depth } = self;
        let line = state.line();
        state.take(1, 0)?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Seed {
            state,
            depth: depth + 1,
        })? {
            items.push(item);
        }
        let value = Value::List(items.into());
        Ok(Node { line, value })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let Self { state, depth } = self;
        let line = state.line();
        state.take(1, 0)?;
        let mut entries = Vec::new();
        let mut lines: HashMap<Rc<str>, usize> = HashMap::new();
        while let Some(key) = map.next_key::<String>()? {
            state.take(0, key.len())?;
            let (key, line): (Rc<str>, _) = (key.into(), state.line());
            let folded: Option<Rc<str>> = (state.dialect == Dialect::Go).then(|| super::fold(&key).into());
            // For Go, Vlan and vlan are the same field, with the last value.
            let compared = folded.as_ref().unwrap_or(&key);
            if let Some(first) = lines.insert(Rc::clone(compared), line) {
                return Err(state.refuse(SyntaxError::twice(&key, line, first)));
            }
            let value = map.next_value_seed(Seed {
                state,
                depth: depth + 1,
            })?;
            entries.push(Entry {
                key,
                written: None,
                folded,
                line,
                value,
            });
        }
        let value = Value::Map(entries.into());
        Ok(Node { line, value })
    }
}
