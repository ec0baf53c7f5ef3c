//! The log on standard error, whose filter can be changed while it is written.

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

/// Starts logging. `filter` has been checked by its option's parser.
pub fn start(filter: &str) {
    set_filter(filter);
    // Somebody has started it before, and is served as well.
    let _ = log::set_logger(&LOGGER);
}

/// Has what `filter` lets through be written from now on.
pub fn set_filter(filter: &str) {
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

/// What is let through.
pub fn filter() -> String {
    LOGGER.with(|current| current.filter.clone()).unwrap_or_default()
}
