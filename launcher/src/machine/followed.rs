//! Follows a file with settings of a port while the port is served: peers of its network, or Services.
//!
//! Each version of the file is read and checked as a whole. A valid version replaces the settings. An invalid one is
//! refused: the log and the event log name the line, and the current settings stay in use.

use crate::failure::Failure;
use crate::memory;
use crate::sandbox::{Sandbox, ThreadKind};
use crate::watcher::Watcher;
use crate::watcher::files::FileWatch;
use hawser_backend::port::Port;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Time that a program gets to finish writing the file in place.
const WRITING: Duration = Duration::from_millis(50);
/// Number of attempts to read a file that keeps changing before the last one is used.
const READINGS: usize = 20;

/// Settings of a port that may come from a file.
pub(super) trait Source: Send + 'static {
    /// Name of the settings in messages, such as "peers". It is also the end of the name of the thread that follows the
    /// file.
    const NOUN: &'static str;

    /// The file, if there is one.
    fn file(&self) -> Option<&Path>;

    /// The text of the file.
    ///
    /// # Errors
    /// The reason why it cannot be read.
    fn text(&self) -> Result<String, String>;

    /// True if this is not the text that was applied or refused last.
    fn is_new(&self, text: &str) -> bool;

    /// Applies a text to the port and returns the number of its entries.
    ///
    /// # Errors
    /// The first fault, with its line. Nothing has changed then.
    fn take(&mut self, text: &str, port: &Port) -> Result<usize, String>;
}

/// A followed file and its state.
#[derive(Debug)]
pub(crate) struct FollowedFile {
    path: PathBuf,
    noun: &'static str,
    state: Mutex<FileState>,
}

/// The state of a followed file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileState {
    /// Number of versions of the file that were applied since the start.
    pub taken: u64,
    /// Number of entries in the version that was applied last; `None` before the first.
    pub entries: Option<usize>,
    /// The reason why the current version of the file is not used.
    pub refused: Option<String>,
}

impl FollowedFile {
    /// The file of `source`, if it has one.
    pub(super) fn of<S: Source>(source: &S) -> Option<Self> {
        source.file().map(|path| Self {
            path: path.to_owned(),
            noun: S::NOUN,
            state: Mutex::default(),
        })
    }

    /// The reason why the current version is not used, as a sentence.
    pub(crate) fn warning(&self) -> Option<String> {
        let refused = self.state().refused;
        refused.map(|why| format!("{why}; the {} stay as they were", self.noun))
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// State of the file.
    pub(crate) fn state(&self) -> FileState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut FileState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Starts a thread that applies each valid version of the file to `port`.
    ///
    /// # Errors
    /// The system has no thread or inotify instance left.
    pub(super) fn follow<S: Source>(
        self: &Arc<Self>,
        source: S,
        port: &Arc<Port>,
        sandbox: &Sandbox,
    ) -> Result<Watcher, Failure> {
        let watch = FileWatch::new(&self.path).map_err(Failure::runtime)?;
        let mut follower = Follower {
            file: Arc::clone(self),
            source,
            port: Arc::clone(port),
            fault: None,
        };
        let name = format!("{}-{}", port.config().name, S::NOUN.to_lowercase());
        Watcher::start(sandbox, ThreadKind::Names, &name, move |end| {
            // The first version was read by the thread that started this one.
            memory::give_back();
            if let Err(error) = watch.follow(end, || follower.look()) {
                log::error!("{} is no longer watched: {error}", follower.file.path.display());
            }
        })
    }
}

/// State of the thread.
struct Follower<S> {
    file: Arc<FollowedFile>,
    source: S,
    port: Arc<Port>,
    /// The reason why the version that was read last is not used.
    fault: Option<String>,
}

impl<S: Source> Follower<S> {
    /// Applies the file if it has changed.
    fn look(&mut self) {
        match self.changed() {
            Ok(None) => self.file.change(|state| state.refused = None),
            Ok(Some(count)) => {
                let (name, path) = (&self.port.config().name, self.file.path.display());
                log::info!("port {name}: {path} has changed and now has {count} {}", S::NOUN);
                self.file.change(|state| {
                    *state = FileState {
                        taken: state.taken + 1,
                        entries: Some(count),
                        refused: None,
                    };
                });
                memory::give_back();
            }
            Err(why) => {
                // The fault is logged only once.
                if self.file.state().refused.as_ref() != Some(&why) {
                    let name = &self.port.config().name;
                    log::warn!("port {name}: {why}; the {} stay as they were", S::NOUN);
                    self.file.change(|state| state.refused = Some(why));
                    memory::give_back();
                }
            }
        }
    }

    /// Applies a new version of the file to the port and returns its number of peers.
    fn changed(&mut self) -> Result<Option<usize>, String> {
        let text = self.settled()?;
        if !self.source.is_new(&text) {
            return self.fault.clone().map_or(Ok(None), Err);
        }
        let taken = self.source.take(&text, &self.port);
        self.fault = taken.as_ref().err().cloned();
        taken.map(Some)
    }

    /// Returns the text of the file once it no longer changes, because a program may still be writing it.
    fn settled(&self) -> Result<String, String> {
        let mut last = self.source.text();
        for _ in 0..READINGS {
            if last.as_ref().is_ok_and(|text| !self.source.is_new(text)) {
                break;
            }
            thread::sleep(WRITING);
            let now = self.source.text();
            if now == last {
                break;
            }
            last = now;
        }
        last
    }
}
