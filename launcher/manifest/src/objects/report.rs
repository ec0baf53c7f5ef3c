//! Errors of manifests, with their positions and the correct form.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// Position of a value in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Name of the file, as it was given.
    pub file: Rc<str>,
    /// Number of the line, starting at 1. 0 for the file as a whole.
    pub line: usize,
    /// Path of fields from the document's root: `spec.networks[0].name`. Empty at the root.
    pub path: String,
}

impl Spot {
    /// The position of a whole file.
    pub fn file(name: &str) -> Self {
        Self {
            file: name.into(),
            line: 0,
            path: String::new(),
        }
    }

    /// The position of a field below this one.
    pub fn field(&self, name: &str, line: usize) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        // The key of an annotation, for example, contains dots and slashes.
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let path = if plain {
            format!("{}{dot}{name}", self.path)
        } else {
            format!("{}[{name:?}]", self.path)
        };
        self.with(path, line)
    }

    /// The same position, but on another line.
    pub fn on_line(&self, line: usize) -> Self {
        self.with(self.path.clone(), line)
    }

    /// The position of a list item below this one.
    pub fn item(&self, index: usize, line: usize) -> Self {
        self.with(format!("{}[{index}]", self.path), line)
    }

    /// Writes `file:line: path`, with `between` in front of the path.
    fn write(&self, f: &mut fmt::Formatter<'_>, between: &str) -> fmt::Result {
        let Self { file, line, path } = self;
        write!(f, "{file}")?;
        if *line > 0 {
            write!(f, ":{line}")?;
        }
        f.write_str(between)?;
        if path.is_empty() { Ok(()) } else { write!(f, ": {path}") }
    }

    fn with(&self, path: String, line: usize) -> Self {
        Self {
            file: Rc::clone(&self.file),
            line,
            path,
        }
    }
}

/// `file:line: path.to.field`
impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "")
    }
}

/// Whether a problem keeps the manifest from being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The problem is an error: the manifest cannot be served.
    Error,
    /// The problem is a warning: something differs from the manifest.
    Warning,
}

/// A message about a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the problem is an error.
    pub severity: Severity,
    /// Position of the value.
    pub spot: Spot,
    /// Description of the problem, and the allowed values.
    pub message: String,
}

impl Problem {
    /// `file:line: path.to.field: what is wrong`, for use beside the severity.
    pub fn without_severity(&self) -> String {
        let Self { spot, message, .. } = self;
        format!("{spot}: {message}")
    }
}

/// `file:line: path.to.field: what is wrong, what is allowed`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let warning = match self.severity {
            Severity::Warning => ": warning",
            Severity::Error => "",
        };
        self.spot.write(f, warning)?;
        write!(f, ": {}", self.message)
    }
}

/// The problems found so far. The first ones are kept as a whole, and the others are only counted.
///
/// Problems of one object may be kept separately ([`Report::apart`]) until it is known whether the object matters. All
/// reports together keep [`MAX_KEPT`] problems.
#[derive(Clone, Debug)]
pub struct Report {
    found: RefCell<Found>,
    room: Rc<Cell<usize>>,
    /// Identifies the report.
    id: Rc<()>,
}

#[derive(Clone, Debug, Default)]
struct Found {
    problems: Vec<Problem>,
    /// Number of further errors and warnings.
    more: (usize, usize),
    /// Reports that were adopted.
    adopted: BTreeMap<*const (), Rc<()>>,
}

/// Maximum number of problems that are reported. The number of errors in a file has no limit.
pub const MAX_PROBLEMS: usize = 500;
/// Maximum number of problems kept for all objects, whether or not these matter.
const MAX_KEPT: usize = 10 * MAX_PROBLEMS;
/// Maximum length of a message, in characters. Messages quote the manifest, which may be long.
const MAX_MESSAGE: usize = 1000;

impl Default for Report {
    fn default() -> Self {
        Self {
            found: RefCell::default(),
            room: Rc::new(Cell::new(MAX_KEPT)),
            id: Rc::default(),
        }
    }
}

impl Report {
    /// Creates a report for one object. It may be adopted later.
    pub fn apart(&self) -> Self {
        Self {
            found: RefCell::default(),
            room: Rc::clone(&self.room),
            id: Rc::default(),
        }
    }

    /// Adds an error, which keeps the manifest from being served.
    pub fn error(&self, spot: &Spot, message: impl Into<String>) {
        self.add(Severity::Error, spot, message.into());
    }

    /// Adds a warning about a difference from the manifest.
    pub fn warn(&self, spot: &Spot, message: impl Into<String>) {
        self.add(Severity::Warning, spot, message.into());
    }

    /// Adopts a separate report, such as that of a network that an interface names. A report is
    /// adopted only once.
    pub fn adopt(&self, other: &Self) {
        if !self.is_first(other) {
            return;
        }
        let other = other.found.borrow();
        other.problems.iter().cloned().for_each(|problem| self.put(problem));
        let mut found = self.found.borrow_mut();
        found.more.0 += other.more.0;
        found.more.1 += other.more.1;
    }

    /// Adopts a report as warnings, because an option waives its errors.
    pub fn adopt_waived(&self, other: &Self) {
        if !self.is_first(other) {
            return;
        }
        let other = other.found.borrow();
        for problem in &other.problems {
            self.put(Problem {
                severity: Severity::Warning,
                ..problem.clone()
            });
        }
        self.found.borrow_mut().more.1 += other.more.0 + other.more.1;
    }

    /// Marks a report as adopted. False if it was adopted before.
    fn is_first(&self, other: &Self) -> bool {
        let mut found = self.found.borrow_mut();
        let id = Rc::clone(&other.id);
        found.adopted.insert(Rc::as_ptr(&id), id).is_none()
    }

    fn add(&self, severity: Severity, spot: &Spot, message: String) {
        let message = match message.char_indices().nth(MAX_MESSAGE) {
            Some((end, _)) => format!("{} …", &message[..end]),
            None => message,
        };
        self.put(Problem {
            severity,
            spot: spot.clone(),
            message,
        });
    }

    fn put(&self, problem: Problem) {
        let mut found = self.found.borrow_mut();
        let Found { problems, more, .. } = &mut *found;
        // An error is kept even beyond the limit, because it decides whether the manifest can be served.
        let decides = problem.severity == Severity::Error && !has_error(problems);
        let room = self.room.get();
        if !decides && (problems.len() >= MAX_PROBLEMS || room == 0) {
            match problem.severity {
                Severity::Error => more.0 += 1,
                Severity::Warning => more.1 += 1,
            }
        } else if !problems.contains(&problem) {
            self.room.set(room.saturating_sub(1));
            problems.push(problem);
        }
    }

    /// True if the manifest cannot be served.
    pub fn has_errors(&self) -> bool {
        has_error(&self.found.borrow().problems)
    }

    /// The errors and the warnings, each in the order of files and lines.
    pub fn into_parts(self) -> (Vec<Problem>, Vec<Problem>) {
        let mut files: Vec<Rc<str>> = Vec::new();
        let Found { mut problems, more, .. } = self.found.into_inner();
        for problem in &problems {
            if !files.contains(&problem.spot.file) {
                files.push(Rc::clone(&problem.spot.file));
            }
        }
        problems.sort_by_key(|p| (files.iter().position(|f| *f == p.spot.file), p.spot.line));
        let (mut errors, mut warnings): (Vec<_>, Vec<_>) =
            problems.into_iter().partition(|p| p.severity == Severity::Error);
        let rest = |severity, count, what| {
            (count > 0).then(|| Problem {
                severity,
                spot: Spot::file("the manifests"),
                message: format!("{count} more {what} that are not shown"),
            })
        };
        errors.extend(rest(Severity::Error, more.0, "errors"));
        warnings.extend(rest(Severity::Warning, more.1, "warnings"));
        (errors, warnings)
    }
}

fn has_error(problems: &[Problem]) -> bool {
    problems.iter().any(|p| p.severity == Severity::Error)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
