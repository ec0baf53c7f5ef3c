//! Follows the file of a layer2 NIC's peers while the NIC is served.
//!
//! Each version of the file is read and checked as a whole. A valid version becomes the port's next forwarding table.
//! An invalid one is refused: the log and the event log name the line, and the current table stays in use.

use crate::config::{PeerSource, PeersError};
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

/// The peers file of a NIC and its state.
#[derive(Debug)]
pub(crate) struct PeersFile {
    path: PathBuf,
    state: Mutex<PeersState>,
}

/// The state of a peers file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeersState {
    /// Number of versions of the file that were applied since the start.
    pub taken: u64,
    /// Number of peers in the version that was applied last; `None` before the first.
    pub peers: Option<usize>,
    /// The reason why the current version of the file is not used.
    pub refused: Option<String>,
}

impl PeersFile {
    /// The peers file of `source`, if it has one.
    pub(super) fn of(source: &PeerSource) -> Option<Self> {
        source.file().map(|path| Self {
            path: path.to_owned(),
            state: Mutex::default(),
        })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its state.
    pub(crate) fn state(&self) -> PeersState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut PeersState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Starts a thread that applies each valid version of the file to `port`.
    ///
    /// # Errors
    /// The system has no thread or inotify instance left.
    pub(super) fn follow(
        self: &Arc<Self>,
        source: PeerSource,
        port: &Arc<Port>,
        sandbox: &Sandbox,
    ) -> Result<Watcher, Failure> {
        let failed = |error| Failure::runtime(format_args!("cannot watch {}: {error}", self.path.display()));
        let watch = FileWatch::new(&self.path).map_err(failed)?;
        let mut follower = Follower {
            file: Arc::clone(self),
            source,
            port: Arc::clone(port),
            fault: None,
        };
        let name = format!("{}-peers", port.config().name);
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
struct Follower {
    file: Arc<PeersFile>,
    source: PeerSource,
    port: Arc<Port>,
    /// The reason why the version that was read last is not used.
    fault: Option<String>,
}

impl Follower {
    /// Applies the file if it has changed.
    fn look(&mut self) {
        match self.changed() {
            Ok(None) => self.file.change(|state| state.refused = None),
            Ok(Some(count)) => {
                let (name, path) = (&self.port.config().name, self.file.path.display());
                log::info!("port {name}: {path} has changed and now has {count} peers");
                self.file.change(|state| {
                    *state = PeersState {
                        taken: state.taken + 1,
                        peers: Some(count),
                        refused: None,
                    };
                });
                memory::give_back();
            }
            Err(why) => {
                // It is logged only once.
                if self.file.state().refused.as_ref() != Some(&why) {
                    let name = &self.port.config().name;
                    log::warn!("port {name}: {why}; the peers stay as they were");
                    self.file.change(|state| state.refused = Some(why));
                    memory::give_back();
                }
            }
        }
    }

    /// Applies a new version of the file to the port and returns its number of peers.
    fn changed(&mut self) -> Result<Option<usize>, String> {
        let text = self.settled().map_err(|error| error.to_string())?;
        if !self.source.is_new(&text) {
            return self.fault.clone().map_or(Ok(None), Err);
        }
        let taken = self.take(&text);
        self.fault = taken.as_ref().err().cloned();
        taken.map(Some)
    }

    /// Replaces the port's peers with those of a version of the file, and returns their number.
    fn take(&mut self, text: &str) -> Result<usize, String> {
        let (table, count) = self.source.table(text).map_err(|error| error.to_string())?;
        self.port.set_peers(&Arc::new(table));
        Ok(count)
    }

    /// Returns the text of the file once it no longer changes, because a program may still be writing it.
    fn settled(&self) -> Result<String, PeersError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::config;
    use crate::host::Host;
    use clap::Parser as _;
    use hawser_backend::port::PortResources;
    use std::fs;
    use std::net::UdpSocket;
    use std::time::Instant;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn line(number: u8) -> String {
        format!("52:54:00:00:01:{number:02x},10.100.0.{number}@127.0.0.{number}\n")
    }

    /// A port whose peers file has this text.
    fn port(path: &Path) -> (Arc<Port>, PeerSource) {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let options = [
            "hawser",
            "--mode=layer2",
            "--vni=7",
            "--mac=52:54:00:00:01:0b",
            "--ipv4=10.100.0.0/24",
            "--guest-address=10.100.0.11",
            "--vtep=127.0.0.1",
            "--peer=52:54:00:00:01:0c,10.100.0.12@127.0.0.12",
            &format!("--vtep-port={}", free.port()),
            &format!("--peers={}", path.display()),
        ];
        let spec = Cli::try_parse_from(options).unwrap().port.spec("net0".into()).unwrap();
        let found = config::resolve(spec, &Host::default(), None).unwrap();
        let port = Port::new(found.port, PortResources::default()).unwrap();
        (Arc::new(port), found.peers.unwrap())
    }

    #[test]
    fn a_good_file_is_taken_over_and_a_bad_one_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        fs::write(&path, line(13)).unwrap();
        let (port, source) = port(&path);
        let file = Arc::new(PeersFile::of(&source).unwrap());
        let watcher = file.follow(source, &port, &Sandbox::default()).unwrap();
        let until = |what: &str, done: &dyn Fn(&PeersState) -> bool| {
            let started = Instant::now();
            while !done(&file.state()) {
                assert!(started.elapsed() < PATIENCE, "{what}: {:?}", file.state());
                thread::sleep(Duration::from_millis(5));
            }
            file.state()
        };
        assert_eq!(file.state(), PeersState::default(), "the port has these peers already");
        fs::write(&path, line(13) + &line(14)).unwrap();
        let state = until("a line more", &|state| state.taken == 1);
        assert_eq!(
            (state.peers, state.refused),
            (Some(3), None),
            "with the peer of the option"
        );
        for (text, number, word) in [
            (line(13) + &line(13), 2, "already in line 1"),
            (line(13) + "nonsense\n", 2, "give MAC"),
            (
                line(13) + "\n" + &line(12),
                3,
                "two guests have the MAC 52:54:00:00:01:0c",
            ),
            (line(11), 1, "two guests have the MAC 52:54:00:00:01:0b"),
            (
                "52:54:00:00:01:0f,10.200.0.1@127.0.0.9\n".into(),
                1,
                "10.200.0.1 is not in the network",
            ),
            (
                "52:54:00:00:01:0f@10.100.0.9\n".into(),
                1,
                "--ipv4=10.100.0.0/24 covers 10.100.0.9",
            ),
            (
                "52:54:00:00:01:0f@192.0.2.9\n".into(),
                1,
                "cannot be reached from 127.0.0.1",
            ),
        ] {
            // Replace the file by rename, as editors do.
            let new = folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &path).unwrap();
            let place = format!("{}:{number}: ", path.display());
            let is_refused = |state: &PeersState| state.refused.as_ref().is_some_and(|why| why.contains(word));
            let state = until(word, &is_refused);
            assert!(state.refused.unwrap().starts_with(&place), "{place}");
            assert_eq!((state.taken, state.peers), (1, Some(3)), "the old ones stay");
        }
        let says = |words: &'static str| {
            move |state: &PeersState| state.refused.as_ref().is_some_and(|why| why.contains(words))
        };
        fs::remove_file(&path).unwrap();
        until("a file that is gone", &says("give a readable file"));
        // An error of reading disappears with its cause, but an error in the version that was read remains.
        fs::write(&path, "52:54:00:00:01:0f@[::1]\n").unwrap();
        until("the version that was refused", &says("cannot be a peer"));
        fs::write(&path, "# none\n").unwrap();
        let state = until("a file without peers", &|state| state.taken == 2);
        assert_eq!((state.peers, state.refused), (Some(1), None));
        drop(watcher);
    }
}
