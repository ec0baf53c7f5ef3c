//! Logs to standard error, with a filter that can be changed at run time.

use env_logger::Logger;
use log::{Log, Metadata, Record};
use std::sync::{PoisonError, RwLock};

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
        self.with(|current| current.logger.log(record));
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

/// Starts logging. The parser of the option has validated `filter`.
pub(crate) fn start(filter: &str) {
    set_filter(filter);
    // A logger that was set earlier stays in place, which does no harm.
    let _ = log::set_logger(&LOGGER);
}

/// Replaces the filter.
pub(crate) fn set_filter(filter: &str) {
    let logger = env_logger::Builder::new()
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
