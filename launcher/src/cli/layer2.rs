//! The options of a network that spans nodes.

use clap::Args;
use hawser_backend::packet::geneve::{self, Vni};
use hawser_config::PeerConfig;
use hawser_manifest::values;
use std::net::IpAddr;

/// The network and its tunnel.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Layer2Args {
    /// Identifier of the network in the tunnel, 0 to 16777215
    #[arg(long, value_name = "N", help_heading = "Network across nodes (--mode=layer2)", value_parser = values::vni)]
    pub vni: Option<Vni>,
    /// Address of this host or pod that peers send to
    #[arg(long, value_name = "ADDR", help_heading = "Network across nodes (--mode=layer2)")]
    pub vtep: Option<IpAddr>,
    /// UDP port that peers send to; processes of one network namespace need one each
    #[arg(
        long,
        value_name = "PORT",
        help_heading = "Network across nodes (--mode=layer2)",
        default_value_t = geneve::PORT,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub vtep_port: u16,
    /// A guest of the network that another process serves: its MAC, its addresses, and address and
    /// port of the process [default port: 6081]; any in place of the MAC for an endpoint with many;
    /// may be repeated
    #[arg(
        long = "peer",
        value_name = "MAC[,ADDR…]@ADDR[:PORT]",
        help_heading = "Network across nodes (--mode=layer2)",
        value_parser = values::peer
    )]
    pub peers: Vec<PeerConfig>,
}

impl Layer2Args {
    /// The options that were given, by name.
    pub(crate) fn given(&self) -> [(bool, &'static str); 4] {
        [
            (self.vni.is_some(), "--vni"),
            (self.vtep.is_some(), "--vtep"),
            (self.vtep_port != geneve::PORT, "--vtep-port"),
            (!self.peers.is_empty(), "--peer"),
        ]
    }
}
