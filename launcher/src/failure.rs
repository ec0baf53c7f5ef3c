//! Failures that end the process: one line on standard error and an exit status.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

/// The reason why the process ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Wrong usage. The exit status is 2.
    Usage(String),
    /// Failure at run time, of the system or the front end. The exit status is 1.
    Runtime(String),
    /// The VMM that hawser started exited with this status and has reported the reason itself.
    Vmm(u8),
    /// The reader of standard output has closed it, and has all that it wanted. The exit status is 0.
    NoReader,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Runtime(message) => f.write_str(message),
            Self::Vmm(status) => write!(f, "the VMM ended with status {status}"),
            Self::NoReader => f.write_str("standard output is closed"),
        }
    }
}

impl Failure {
    /// Creates a failure at run time.
    pub(crate) fn runtime(message: impl ToString) -> Self {
        Self::Runtime(message.to_string())
    }

    /// Creates a failure for wrong usage.
    pub(crate) fn usage(message: impl ToString) -> Self {
        Self::Usage(message.to_string())
    }

    /// Prefixes the message with the name of a NIC, for processes with several.
    pub(crate) fn of(self, nic: &str) -> Self {
        match self {
            Self::Usage(message) => Self::Usage(format!("interface {nic}: {message}")),
            Self::Runtime(message) => Self::Runtime(format!("interface {nic}: {message}")),
            Self::Vmm(_) | Self::NoReader => self,
        }
    }

    /// The same failure with exit status 1, for programs that have no other.
    pub(crate) fn at_run_time(self) -> Self {
        match self {
            Self::Usage(message) => Self::Runtime(message),
            other => other,
        }
    }

    /// Creates the failure that standard output cannot be written.
    #[allow(clippy::needless_pass_by_value, reason = "for map_err")]
    pub(crate) fn standard_output(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::NoReader,
            _ => Self::runtime(format_args!("standard output: {error}")),
        }
    }

    /// Reduces clap's error to one line: the problem and the suggested spelling.
    pub(crate) fn from_clap(error: &clap::Error) -> Self {
        // clap gives the problem as text only: the first paragraph.
        let text = error.render().to_string();
        let first = text.split("\n\n").next().unwrap_or_default();
        let first = first.strip_prefix("error: ").unwrap_or(first);
        let similar = [
            (ContextKind::SuggestedArg, "argument"),
            (ContextKind::SuggestedSubcommand, "command"),
            (ContextKind::SuggestedValue, "value"),
        ];
        let tip = similar.into_iter().find_map(|(kind, what)| {
            let names = match error.get(kind)? {
                ContextValue::String(name) => name.clone(),
                ContextValue::Strings(names) => names.join("', '"),
                _ => return None,
            };
            Some(format!(" (a similar {what} exists: '{names}')"))
        });
        let remedy = match error.kind() {
            ErrorKind::ArgumentConflict if first.ends_with("multiple times") => ": give it once",
            ErrorKind::ArgumentConflict => ": leave one of them out",
            _ => "",
        };
        Self::usage(format_args!(
            "{first}{remedy}{}; see hawser --help",
            tip.unwrap_or_default()
        ))
    }

    /// Writes the line and returns the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        let (message, status) = match self {
            Self::Usage(message) => (message, 2),
            Self::Runtime(message) => (message, 1),
            Self::Vmm(status) => return ExitCode::from(*status),
            Self::NoReader => return ExitCode::SUCCESS,
        };
        let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
        // With a closed standard error, the status still reports the failure.
        let _ = writeln!(std::io::stderr(), "hawser: {line}");
        ExitCode::from(status)
    }
}
