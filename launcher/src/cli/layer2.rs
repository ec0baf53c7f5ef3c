//! Options of a network that spans nodes.

use clap::Args;
use hawser_backend::packet::geneve::{self, Vni};
use hawser_config::PeerConfig;
use hawser_manifest::nic::{GatewaySpec, UnderlaySpec};
use hawser_manifest::values;
use std::path::PathBuf;

/// Options of the network and its tunnel.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Layer2Args {
    /// Identifier of the network in the tunnel, 0 to 16777215
    #[arg(long, value_name = "N", help_heading = "Network across nodes (--mode=layer2)", value_parser = values::vni)]
    pub vni: Option<Vni>,
    /// Address of this host or pod to which peers send, or the address family of the default route whose source address
    /// is used [default: that of the default route, in the family of the peers, or else in IPv4]
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
    /// Domain of the guests' names in the gateway's DNS, such as blue.example [default: none, names alone]
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Network across nodes (--mode=layer2)",
        value_parser = values::search_domain
    )]
    pub domain: Option<String>,
    /// A guest of the network that another process serves: its MAC, its addresses, and address and port of the process
    /// [default port: 6081]; any instead of the MAC for an endpoint with many MACs; frames if both processes are hawser
    /// and both name each other with it; name=NAME for its name in the gateway's DNS; may be repeated
    #[arg(
        long = "peer",
        value_name = "MAC[,ADDR…]@ADDR[:PORT][,frames][,name=NAME]",
        help_heading = "Network across nodes (--mode=layer2)",
        value_parser = values::peer
    )]
    pub peers: Vec<PeerConfig>,
    /// File of such guests, one per line; # starts a comment; lines with this process's own endpoint are ignored; the
    /// file is read again when it changes
    #[arg(
        long = "peers",
        value_name = "FILE",
        help_heading = "Network across nodes (--mode=layer2)"
    )]
    pub peers_file: Option<PathBuf>,
    /// Manifests of Services with a clusterIP and their EndpointSlices, which the guest reaches through the gateway;
    /// the file is read again when it changes
    #[arg(
        long = "services",
        value_name = "FILE",
        help_heading = "Network across nodes (--mode=layer2)"
    )]
    pub services_file: Option<PathBuf>,
    /// Let the guest send from any MAC, for guests of its own; needs --gateway=off, and the other processes must name
    /// this one with any@
    #[arg(long, help_heading = "Network across nodes (--mode=layer2)")]
    pub any_mac: bool,
}

impl Layer2Args {
    /// The options by name, and whether they were given.
    pub(crate) fn given(&self) -> [(bool, &'static str); 9] {
        [
            (self.vni.is_some(), "--vni"),
            (self.vtep.is_some(), "--vtep"),
            (self.vtep_port != geneve::PORT, "--vtep-port"),
            (self.gateway.is_some(), "--gateway"),
            (self.domain.is_some(), "--domain"),
            (!self.peers.is_empty(), "--peer"),
            (self.peers_file.is_some(), "--peers"),
            (self.services_file.is_some(), "--services"),
            (self.any_mac, "--any-mac"),
        ]
    }
}
