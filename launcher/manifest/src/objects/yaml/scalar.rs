//! The meaning that a scalar has for kubectl.
//!
//! kubectl converts YAML to JSON with sigs.k8s.io/yaml, which uses go-yaml v2. That resolves plain scalars by a mixture
//! of YAML 1.1 and Go: `y` and `off` are booleans, `0120` is octal, `1_000`, `0o17` and `1e3` are numbers, and `1:30`
//! and dates are text (`resolve` in resolve.go). These rules alone decide the value of a field.

/// A scalar as it is written, and its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// The text, with escapes and folding resolved.
    pub text: String,
    /// The value that kubectl reads.
    pub meaning: Meaning,
    /// The text with the line breaks of the file, if it has several lines.
    pub lines: Option<Box<SourceLines>>,
}

/// The meaning that a scalar has for kubectl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Null.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Whole(i64),
    /// Any other number.
    Number,
    /// Text.
    Text,
}

/// Text with the line breaks of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLines {
    /// Number of the first line in the file.
    pub first: usize,
    /// The text, which differs from the scalar's text only in white space.
    pub text: String,
}

impl Scalar {
    /// True if kubectl reads null.
    pub fn is_null(&self) -> bool {
        self.meaning == Meaning::Null
    }

    /// True if kubectl reads text.
    pub fn is_text(&self) -> bool {
        self.meaning == Meaning::Text
    }

    /// The value, if it is a boolean.
    pub const fn boolean(&self) -> Option<bool> {
        match self.meaning {
            Meaning::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The value, if it is an integer.
    pub const fn integer(&self) -> Option<i64> {
        match self.meaning {
            Meaning::Whole(value) => Some(value),
            _ => None,
        }
    }

    /// The number that kubectl reads, if the digits suggest a different one: `0120` is 80.
    pub fn octal(&self) -> Option<i64> {
        let read = self.integer()?;
        let digits = self.text.replace('_', "");
        let written: i64 = digits.parse().ok()?;
        (written != read).then_some(read)
    }

    /// The value that kubectl reads, in words for a message.
    pub fn to_kubectl(&self) -> String {
        match self.meaning {
            Meaning::Null => "null".into(),
            Meaning::Bool(value) => value.to_string(),
            Meaning::Whole(value) if value.to_string() != self.text => value.to_string(),
            Meaning::Whole(_) | Meaning::Number => "a number".into(),
            Meaning::Text => format!("{:?}", self.text),
        }
    }

    /// The key that kubectl reads (`convertToJSONableObject` in sigs.k8s.io/yaml); `None` for null.
    pub fn key(&self) -> Option<String> {
        Some(match self.meaning {
            Meaning::Null => return None,
            Meaning::Bool(value) => value.to_string(),
            Meaning::Whole(value) => value.to_string(),
            Meaning::Number | Meaning::Text => self.text.clone(),
        })
    }
}

/// The meaning of a plain scalar without a tag.
pub(super) fn resolve(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Meaning::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Meaning::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Meaning::Number,
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" => Meaning::Number,
        _ => match text.as_bytes()[0] {
            b'.' => decimal(text).unwrap_or(Meaning::Text),
            b'+' | b'-' | b'0'..=b'9' => {
                let digits = text.replace('_', "");
                let number = integer(&digits).or_else(|| decimal(&digits));
                number.unwrap_or(Meaning::Text)
            }
            _ => Meaning::Text,
        },
    }
}

/// Parses a number like Go's `strconv.ParseInt` and `ParseUint` with base 0, which derive the base from the prefix.
fn integer(text: &str) -> Option<Meaning> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let prefixed = |marks: [char; 2], base| {
        let body = body.strip_prefix('0')?.strip_prefix(marks)?;
        Some((body, base))
    };
    let (digits, base) = prefixed(['x', 'X'], 16)
        .or_else(|| prefixed(['b', 'B'], 2))
        .or_else(|| prefixed(['o', 'O'], 8))
        .or_else(|| {
            body.strip_prefix('0')
                .filter(|rest| !rest.is_empty())
                .map(|rest| (rest, 8))
        })
        .unwrap_or((body, 10));
    if !digits.starts_with(|c: char| c.is_digit(base)) {
        return None;
    }
    let size = u64::from_str_radix(digits, base).ok()?;
    let whole = if negative {
        0i64.checked_sub_unsigned(size)
    } else {
        i64::try_from(size).ok()
    };
    match whole {
        Some(whole) => Some(Meaning::Whole(whole)),
        // ParseUint accepts no sign.
        None => (!negative && !text.starts_with('+')).then_some(Meaning::Number),
    }
}

/// Matches `yamlStyleFloat` in resolve.go: `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn decimal(text: &str) -> Option<Meaning> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_digit = |c: char| c.is_ascii_digit();
    let shape = body.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
        && body.strip_prefix('.').unwrap_or(body).starts_with(is_digit);
    let value: f64 = shape.then(|| text.parse().ok())??;
    // If the number is out of Go's range, it is text.
    value.is_finite().then(|| whole(value).unwrap_or(Meaning::Number))
}

/// A number that Go writes into JSON without a fraction or exponent.
pub(super) fn whole(value: f64) -> Option<Meaning> {
    const MOST: f64 = 9_223_372_036_854_775_808.0;
    #[allow(clippy::cast_possible_truncation, reason = "it is whole and in range")]
    (value.fract() == 0.0 && value.abs() < MOST).then_some(Meaning::Whole(value as i64))
}
