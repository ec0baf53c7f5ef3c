//! Command-line options for networks in manifests that span nodes.
//!
//! A value may name its network, as in `--vni=shop/primary-udn=4711`. It must do so if the VM is on several such
//! networks.

use clap::Args;
use hawser_backend::packet::geneve::Vni;
use hawser_manifest::nic::{SourceSpec, UnderlaySpec};
use hawser_manifest::plan::layer2::{OfNetwork, OtherPorts, TunnelOptions};
use hawser_manifest::values;
use std::path::PathBuf;

/// Tunnel settings that manifests do not contain.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub(crate) struct TunnelArgs {
    /// Address of this host or pod to which the processes of other nodes send, or the address family of the default
    /// route whose source address is used [default: that of the default route, in the family of the peers, or else in
    /// IPv4]
    #[arg(
        long,
        value_name = "ADDR|ipv4|ipv6",
        help_heading = "Networks across nodes",
        value_parser = values::underlay
    )]
    pub vtep: Option<UnderlaySpec>,
    /// UDP port to which they send; each interface in a network namespace needs its own [default:
    /// 6081]
    #[arg(
        long = "vtep-port",
        value_name = "[NETWORK=]PORT",
        help_heading = "Networks across nodes",
        value_parser = port
    )]
    pub vtep_ports: Vec<OfNetwork<u16>>,
    /// Identifier of a network in the tunnel, 0 to 16777215, the same on every node; NETWORK is NAME or NAMESPACE/NAME,
    /// and is optional if the VM is on only one such network
    #[arg(
        long = "vni",
        value_name = "[NETWORK=]N",
        help_heading = "Networks across nodes",
        value_parser = vni
    )]
    pub vnis: Vec<OfNetwork<Vni>>,
    /// File of a network's guests, one per line, as for --peers with --mode=layer2; lines with this process's own
    /// endpoint are ignored; the file is read again when it changes
    #[arg(
        long,
        value_name = "[NETWORK=]FILE",
        help_heading = "Networks across nodes",
        value_parser = file
    )]
    pub peers: Vec<OfNetwork<PathBuf>>,
    /// Source addresses and networks that a guest may use besides those that its network assigns to it; off: any
    #[arg(
        long,
        value_name = "[NETWORK=]ADDR[/LEN],…|off",
        help_heading = "Networks across nodes",
        value_parser = sources
    )]
    pub ip_spoof_check: Vec<OfNetwork<SourceSpec>>,
    /// Manifests of Services with a clusterIP and their EndpointSlices, which guests of a primary network reach through
    /// its gateway, in addition to those in the VM's manifests; the file is read again when it changes
    #[arg(
        long,
        value_name = "[NETWORK=]FILE",
        help_heading = "Networks across nodes",
        value_parser = file
    )]
    pub services: Vec<OfNetwork<PathBuf>>,
    /// Secondary networks on which the guest may send from any MAC, for guests of its own; the other processes must name
    /// this one with any@
    #[arg(
        long,
        value_name = "NETWORK,…",
        help_heading = "Networks across nodes",
        value_delimiter = ','
    )]
    pub any_mac: Vec<String>,
}

impl TunnelArgs {
    /// Converts the options to those of the planner.
    pub(crate) fn options(&self) -> TunnelOptions {
        TunnelOptions {
            address: self.vtep,
            ports: self.vtep_ports.clone(),
            vnis: self.vnis.clone(),
            peers: self.peers.clone(),
            sources: self.ip_spoof_check.clone(),
            services: self.services.clone(),
            any_mac: self.any_mac.clone(),
            other_ports: OtherPorts::Geneve,
        }
    }
}

fn of_network<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<OfNetwork<T>, String> {
    let (network, value) = match text.split_once('=') {
        Some((network, value)) => (Some(network.to_owned()), value),
        None => (None, text),
    };
    Ok(OfNetwork {
        network,
        value: parse(value)?,
    })
}

fn vni(text: &str) -> Result<OfNetwork<Vni>, String> {
    of_network(text, values::vni)
}

fn port(text: &str) -> Result<OfNetwork<u16>, String> {
    let parse = |text: &str| match text.parse() {
        Ok(0) | Err(_) => Err("give a port from 1 to 65535".to_owned()),
        Ok(port) => Ok(port),
    };
    of_network(text, parse)
}

fn sources(text: &str) -> Result<OfNetwork<SourceSpec>, String> {
    of_network(text, values::sources)
}

fn file(text: &str) -> Result<OfNetwork<PathBuf>, String> {
    of_network(text, |text| match text {
        "" => Err("name a file".to_owned()),
        path => Ok(path.into()),
    })
}
