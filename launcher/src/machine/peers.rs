//! The peers of a layer2 port, which come from a followed file or from a list that requests change.

use super::followed::{FollowedFile, Source};
use crate::config::{PeerSource, PeersError};
use crate::failure::Failure;
use crate::sandbox::Sandbox;
use crate::watcher::Watcher;
use hawser_backend::port::Port;
use hawser_config::PeerConfig;
use hawser_config::payload::Payload;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

impl Source for PeerSource {
    const NOUN: &'static str = "peers";

    fn file(&self) -> Option<&Path> {
        self.file()
    }

    fn text(&self) -> Result<String, String> {
        self.text().map_err(|error| error.to_string())
    }

    fn is_new(&self, text: &str) -> bool {
        self.is_new(text)
    }

    fn take(&mut self, text: &str, port: &Port) -> Result<usize, String> {
        let (table, count) = self.table(text).map_err(|error| error.to_string())?;
        port.set_peers(&Arc::new(table));
        Ok(count)
    }
}

/// The source of changes of a port's peers.
#[derive(Clone, Debug)]
pub(crate) enum NetworkPeers {
    /// A file that is followed.
    File(Arc<FollowedFile>),
    /// Requests.
    List(Arc<PeerList>),
}

impl NetworkPeers {
    /// Follows the file of `source`, if it has one. Otherwise requests may change the peers.
    pub(super) fn start(
        source: PeerSource,
        port: &Arc<Port>,
        sandbox: &Sandbox,
    ) -> Result<(Self, Option<Watcher>), Failure> {
        match FollowedFile::of(&source).map(Arc::new) {
            Some(file) => {
                let watcher = file.follow(source, port, sandbox)?;
                Ok((Self::File(file), Some(watcher)))
            }
            None => Ok((Self::List(Arc::new(PeerList::new(source))), None)),
        }
    }

    /// The file, if one is followed.
    pub(crate) fn file(&self) -> Option<&FollowedFile> {
        match self {
            Self::File(file) => Some(file),
            Self::List(_) => None,
        }
    }

    /// The list, if requests change it.
    pub(crate) fn list(&self) -> Option<&PeerList> {
        match self {
            Self::File(_) => None,
            Self::List(list) => Some(list),
        }
    }
}

/// Peers that requests change.
#[derive(Debug)]
pub(crate) struct PeerList(Mutex<Listed>);

#[derive(Debug)]
struct Listed {
    source: PeerSource,
    /// Number of the last change that had a number.
    epoch: Option<u64>,
}

/// A list of peers between two processes.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeersRecord {
    peers: Vec<PeerConfig>,
    epoch: Option<u64>,
}

impl Payload for PeersRecord {
    const KIND: &'static str = "peers";
    const VERSION: u32 = 1;
}

/// A change of a list of peers.
#[derive(Clone, Debug)]
pub(crate) enum PeersChange {
    /// Replaces the list.
    Replace(Vec<PeerConfig>),
    /// Adds peers. A peer with a MAC that is in the list replaces that entry.
    Add(Vec<PeerConfig>),
    /// Removes peers: those that have one of the MACs or, for a peer with any MAC, its endpoint.
    Remove(Vec<PeerConfig>),
}

/// The reason why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// A later change has been made.
    #[error("epoch {given} is not later than {last}, that of the last change")]
    Stale {
        /// Epoch of the requested change.
        given: u64,
        /// Epoch of the last change.
        last: u64,
    },
    /// A peer to remove is not in the list.
    #[error("there is no peer {0}")]
    Unknown(String),
    /// The changed list would have a fault.
    #[error(transparent)]
    Peers(#[from] PeersError),
}

impl PeerList {
    const fn new(source: PeerSource) -> Self {
        Self(Mutex::new(Listed { source, epoch: None }))
    }

    /// Number of the last change that had a number.
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).epoch
    }

    /// The list, for another process.
    pub(super) fn save(&self) -> PeersRecord {
        let listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        PeersRecord {
            peers: listed.source.listed().to_vec(),
            epoch: listed.epoch,
        }
    }

    /// Continues with the list of another process.
    ///
    /// # Errors
    /// It does not suit this one's network.
    pub(super) fn load(&self, port: &Port, record: PeersRecord) -> Result<(), ChangeError> {
        self.change(port, PeersChange::Replace(record.peers), record.epoch)
    }

    /// Changes the peers of `port`, completely or not at all.
    ///
    /// # Errors
    /// [`ChangeError`]
    pub(crate) fn change(&self, port: &Port, change: PeersChange, epoch: Option<u64>) -> Result<(), ChangeError> {
        // The lock is held until the port has the table, so that concurrent changes do not interleave.
        let mut listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(given), Some(last)) = (epoch, listed.epoch)
            && given <= last
        {
            return Err(ChangeError::Stale { given, last });
        }
        let peers = changed(listed.source.listed(), change)?;
        let (table, _) = listed.source.replace(peers)?;
        port.set_peers(&Arc::new(table));
        listed.epoch = epoch.or(listed.epoch);
        Ok(())
    }
}

/// True if two entries describe the same peer.
fn is_same(a: &PeerConfig, b: &PeerConfig) -> bool {
    if a.macs.is_empty() && b.macs.is_empty() {
        return a.vtep == b.vtep;
    }
    a.macs.iter().any(|mac| b.macs.contains(mac))
}

fn changed(before: &[PeerConfig], change: PeersChange) -> Result<Vec<PeerConfig>, ChangeError> {
    let without = |gone: &[PeerConfig]| -> Vec<PeerConfig> {
        let others = before
            .iter()
            .filter(|peer| !gone.iter().any(|gone| is_same(peer, gone)));
        others.cloned().collect()
    };
    match change {
        PeersChange::Replace(peers) => Ok(peers),
        PeersChange::Add(peers) => {
            let mut all = without(&peers);
            all.extend(peers);
            Ok(all)
        }
        PeersChange::Remove(peers) => {
            let is_unknown = |peer: &&PeerConfig| !before.iter().any(|known| is_same(known, peer));
            match peers.iter().find(is_unknown) {
                Some(unknown) => Err(ChangeError::Unknown(name_of(unknown))),
                None => Ok(without(&peers)),
            }
        }
    }
}

/// The MACs of a peer, or its endpoint if it has none.
fn name_of(peer: &PeerConfig) -> String {
    if peer.macs.is_empty() {
        return format!("any@{}", peer.vtep);
    }
    let macs: Vec<String> = peer.macs.iter().map(ToString::to_string).collect();
    macs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::config;
    use crate::host::Host;
    use crate::machine::FileState;
    use clap::Parser as _;
    use hawser_backend::port::PortResources;
    use std::fs;
    use std::net::UdpSocket;
    use std::thread;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn line(number: u8) -> String {
        format!("52:54:00:00:01:{number:02x},10.100.0.{number}@127.0.0.{number}\n")
    }

    /// A port with a peers file that contains this text.
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
        let file = Arc::new(FollowedFile::of(&source).unwrap());
        let watcher = file.follow(source, &port, &Sandbox::default()).unwrap();
        let until = |what: &str, done: &dyn Fn(&FileState) -> bool| {
            let started = Instant::now();
            while !done(&file.state()) {
                assert!(started.elapsed() < PATIENCE, "{what}: {:?}", file.state());
                thread::sleep(Duration::from_millis(5));
            }
            file.state()
        };
        assert_eq!(file.state(), FileState::default(), "the port has these peers already");
        fs::write(&path, line(13) + &line(14)).unwrap();
        let state = until("a line more", &|state| state.taken == 1);
        assert_eq!(
            (state.entries, state.refused),
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
            // The file is replaced by a rename, as editors do.
            let new = folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &path).unwrap();
            let place = format!("{}:{number}: ", path.display());
            let is_refused = |state: &FileState| state.refused.as_ref().is_some_and(|why| why.contains(word));
            let state = until(word, &is_refused);
            assert!(state.refused.unwrap().starts_with(&place), "{place}");
            assert_eq!((state.taken, state.entries), (1, Some(3)), "the old ones stay");
        }
        let says = |words: &'static str| {
            move |state: &FileState| state.refused.as_ref().is_some_and(|why| why.contains(words))
        };
        fs::remove_file(&path).unwrap();
        until("a file that is gone", &says("give a readable file"));
        // An error of reading disappears with its cause, but an error in the version that was read remains.
        fs::write(&path, "52:54:00:00:01:0f@[::1]\n").unwrap();
        until("the version that was refused", &says("cannot be a peer"));
        fs::write(&path, "# none\n").unwrap();
        let state = until("a file without peers", &|state| state.taken == 2);
        assert_eq!((state.entries, state.refused), (Some(1), None));
        drop(watcher);
    }
}
