//! Logs to standard error, a file or the system's log, with a filter that can be changed at run time.

use env_logger::{Logger, Target};
use log::{Level, Log, Metadata, Record};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process;
use std::sync::{OnceLock, PoisonError, RwLock};

/// The logger of the process.
struct Switchable(RwLock<Option<Current>>);

struct Current {
    logger: Logger,
    filter: String,
}

static LOGGER: Switchable = Switchable(RwLock::new(None));

impl Log for Switchable {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.with(|current| current.logger.enabled(metadata)).unwrap_or(false)
    }

    fn log(&self, record: &Record<'_>) {
        self.with(|current| match DESTINATION.get() {
            Some(Destination::System(socket)) if current.logger.matches(record) => tell_system(socket.as_ref(), record),
            Some(Destination::System(_)) => {}
            _ => current.logger.log(record),
        });
    }

    fn flush(&self) {
        self.with(|current| current.logger.flush());
    }
}

impl Switchable {
    fn with<T>(&self, act: impl FnOnce(&Current) -> T) -> Option<T> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(act)
    }
}

/// Where the log goes.
#[derive(Debug)]
pub(crate) enum Destination {
    /// Standard error.
    StandardError,
    /// The end of a file.
    File(File),
    /// The system's log; `None` if it has none.
    System(Option<UnixDatagram>),
}

static DESTINATION: OnceLock<Destination> = OnceLock::new();

impl Destination {
    /// The end of a file, which is created if it does not exist.
    ///
    /// # Errors
    /// The error of open(2).
    pub(crate) fn file(path: &Path) -> io::Result<Self> {
        OpenOptions::new().append(true).create(true).open(path).map(Self::File)
    }

    /// The system's log.
    pub(crate) fn system() -> Self {
        /// Socket of the system's log (syslog(3)).
        const SOCKET: &str = "/dev/log";
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(SOCKET)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Self::System(socket.ok())
    }
}

/// Writes a record to the system's log, as syslog(3) does.
fn tell_system(socket: Option<&UnixDatagram>, record: &Record<'_>) {
    /// Facility of daemons, which have no other.
    const DAEMON: u8 = 3 << 3;
    let severity = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let line = format!("<{}>hawser[{}]: {}", DAEMON | severity, process::id(), record.args());
    // A log that is full or gone loses the line.
    let _ = socket.map(|socket| socket.send(line.as_bytes()));
}

/// Starts logging to `destination`. The parser of the option has validated `filter`.
pub(crate) fn start_to(filter: &str, destination: Destination) {
    // A destination that was set earlier stays in place, as the logger does.
    let _ = DESTINATION.set(destination);
    start(filter);
}

/// Starts logging. The parser of the option has validated `filter`.
pub(crate) fn start(filter: &str) {
    set_filter(filter);
    // A logger that was set earlier stays in place, which does no harm.
    let _ = log::set_logger(&LOGGER);
}

/// Replaces the filter.
pub(crate) fn set_filter(filter: &str) {
    let mut builder = env_logger::Builder::new();
    if let Some(Destination::File(file)) = DESTINATION.get()
        && let Ok(file) = file.try_clone()
    {
        builder.target(Target::Pipe(Box::new(file)));
    }
    let logger = builder
        .parse_filters(filter)
        .format_target(false)
        .format_timestamp_millis()
        .build();
    let level = logger.filter();
    *LOGGER.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Current {
        logger,
        filter: filter.to_owned(),
    });
    log::set_max_level(level);
}

/// The current filter, in the form in which it was given.
pub(crate) fn filter() -> String {
    LOGGER.with(|current| current.filter.clone()).unwrap_or_default()
}

/// Parses `--log`: comma-separated levels and `target=level`.
pub(crate) fn parse_filter(text: &str) -> Result<String, String> {
    let is_level = |word: &str| word.parse::<log::LevelFilter>().is_ok();
    let is_target = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':'))
    };
    let directive = |part: &str| match part.split_once('=') {
        Some((target, level)) => is_target(target) && is_level(level),
        None => is_level(part),
    };
    if text.split(',').all(|part| directive(part.trim())) {
        Ok(text.to_owned())
    } else {
        Err("give error, warn, info, debug, trace or off, or a list such as info,hawser_backend::port=debug".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_filters_are_levels_and_targets() {
        for filter in ["info", "OFF", "warn,hawser_backend::port=debug", "hawser=trace, info"] {
            assert_eq!(parse_filter(filter).as_deref(), Ok(filter));
        }
        for filter in ["", "loud", "hawser=loud", "=info", "info,"] {
            let error = parse_filter(filter).expect_err(filter);
            assert!(error.contains("give error, warn"), "{filter}: {error}");
        }
    }
}
