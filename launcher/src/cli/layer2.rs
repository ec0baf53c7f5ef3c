//! The options of a network that spans nodes.

use clap::Args;
use hawser_backend::packet::geneve::{self, Vni};
use hawser_config::PeerConfig;
use hawser_manifest::nic::{GatewaySpec, UnderlaySpec};
use hawser_manifest::peers::{self, PeersError};
use hawser_manifest::values;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Maximum bytes of a file of peers, enough for about 50,000 guests.
const MAX_FILE: u64 = 4 << 20;

/// The reason why a file of peers cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeersFileError {
    /// It cannot be read.
    #[error("--peers={path}: {1}; give a readable file with one peer a line", path = .0.display())]
    Unreadable(PathBuf, String),
    /// It is too large to be a file of peers.
    #[error("--peers={path} has more than {MAX_FILE} bytes: give a file with one peer a line", path = .0.display())]
    TooLarge(PathBuf),
    /// A line of the file is invalid.
    #[error("{path}:{1}", path = .0.display())]
    Line(PathBuf, PeersError),
}

/// The network and its tunnel.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Layer2Args {
    /// Identifier of the network in the tunnel, 0 to 16777215
    #[arg(long, value_name = "N", help_heading = "Network across nodes (--mode=layer2)", value_parser = values::vni)]
    pub vni: Option<Vni>,
    /// Address of this host or pod to which peers send, or the family of the default route whose
    /// source address that is [default: that of the default route, in the family of the peers, else IPv4]
    #[arg(
        long,
        value_name = "ADDR|ipv4|ipv6",
        help_heading = "Network across nodes (--mode=layer2)",
        value_parser = values::underlay
    )]
    pub vtep: Option<UnderlaySpec>,
    /// UDP port to which peers send; each process in a network namespace needs its own
    #[arg(
        long,
        value_name = "PORT",
        help_heading = "Network across nodes (--mode=layer2)",
        default_value_t = geneve::PORT,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub vtep_port: u16,
    /// Addresses of the network's gateway, one in each subnet; off: the network has no gateway, and
    /// need not have a subnet [default: the first host of each subnet]
    #[arg(
        long,
        value_name = "ADDR,…|off",
        help_heading = "Network across nodes (--mode=layer2)",
        value_parser = values::gateway
    )]
    pub gateway: Option<GatewaySpec>,
    /// A guest of the network that another process serves: its MAC, its addresses, and address and
    /// port of the process [default port: 6081]; any in place of the MAC for an endpoint with many;
    /// frames if both processes are hawser and name each other so; name=NAME for its name in the
    /// gateway's DNS; may be repeated
    #[arg(
        long = "peer",
        value_name = "MAC[,ADDR…]@ADDR[:PORT][,frames][,name=NAME]",
        help_heading = "Network across nodes (--mode=layer2)",
        value_parser = values::peer
    )]
    pub peers: Vec<PeerConfig>,
    /// File of such guests, one a line; # starts a comment; lines of this process's own endpoint do
    /// not count
    #[arg(
        long = "peers",
        value_name = "FILE",
        help_heading = "Network across nodes (--mode=layer2)"
    )]
    pub peers_file: Option<PathBuf>,
}

impl Layer2Args {
    /// The options by name, and whether they were given.
    pub(crate) fn given(&self) -> [(bool, &'static str); 6] {
        [
            (self.vni.is_some(), "--vni"),
            (self.vtep.is_some(), "--vtep"),
            (self.vtep_port != geneve::PORT, "--vtep-port"),
            (self.gateway.is_some(), "--gateway"),
            (!self.peers.is_empty(), "--peer"),
            (self.peers_file.is_some(), "--peers"),
        ]
    }

    /// The guests of `--peer`, and those of the file. The file has those of this process too.
    ///
    /// # Errors
    /// The file cannot be read, or one of its lines is refused.
    pub(crate) fn peers(&self) -> Result<Vec<PeerConfig>, PeersFileError> {
        let mut all = self.peers.clone();
        if let Some(path) = &self.peers_file {
            all.extend(peers::parse(&read(path)?).map_err(|error| PeersFileError::Line(path.clone(), error))?);
        }
        Ok(all)
    }
}

fn read(path: &Path) -> Result<String, PeersFileError> {
    let unreadable = |error: io::Error| PeersFileError::Unreadable(path.to_owned(), error.to_string());
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
    if read as u64 > MAX_FILE {
        return Err(PeersFileError::TooLarge(path.to_owned()));
    }
    Ok(text)
}
