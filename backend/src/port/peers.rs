//! The peers of a port's network, in layer2 mode.

use super::Port;
use crate::balance::ServiceTable;
use crate::capture::Capture;
use crate::counters::PeerCounters;
use crate::forwarding::Table;
use crate::mode::ModeCommand;
use crate::overlay::TunnelView;
use crate::packet::MacAddr;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// An endpoint of the network, and the traffic with it.
#[derive(Debug)]
pub struct PeerReport {
    /// Address and port at which the endpoint receives.
    pub endpoint: SocketAddr,
    /// True if the endpoint supports hawser's Geneve option.
    pub knows_frame_option: bool,
    /// True if any MAC may be behind the endpoint.
    pub has_other_macs: bool,
    /// MACs that are bound to the endpoint, with their addresses.
    pub guests: BTreeMap<MacAddr, Vec<IpAddr>>,
    /// Counters of the endpoint, summed over all workers.
    pub counters: PeerCounters,
}

impl Port {
    /// Replaces the ports of the network. When this returns, all workers use them.
    pub fn set_peers(&self, table: &Arc<Table>) {
        self.command_all(|| ModeCommand::Peers(Arc::clone(table)));
    }

    /// Replaces the Services that the guest reaches. When this returns, all workers use them.
    pub fn set_services(&self, table: &Arc<ServiceTable>) {
        self.command_all(|| ModeCommand::Services(Arc::clone(table)));
    }

    fn command_all(&self, command: impl Fn() -> ModeCommand) {
        for worker in &self.workers {
            // The mode of the port supports it, and a worker that has ended needs nothing.
            let _ = worker.command_mode_and_wait(command());
        }
    }

    /// Capture of the tunnel's outer packets; `None` without a tunnel.
    pub fn outer_capture(&self) -> Option<&Arc<Capture>> {
        (!self.tunnel.is_empty()).then_some(&self.outer)
    }

    /// Number of the network's endpoints.
    pub fn peer_count(&self) -> usize {
        let count = |view: &Arc<TunnelView>| view.peers().table().endpoints().len();
        self.tunnel.first().map_or(0, count)
    }

    /// The endpoints of the network, and their counters summed over all workers.
    pub fn peer_counters(&self) -> Vec<(SocketAddr, PeerCounters)> {
        let workers: Vec<_> = self.tunnel.iter().map(|view| view.peers()).collect();
        let Some(first) = workers.first() else {
            return Vec::new();
        };
        let sum = |(endpoint, _)| {
            let total = PeerCounters::default();
            // A worker may still have a different table for a moment.
            for counters in workers.iter().filter_map(|peers| peers.of(endpoint)) {
                total.merge(counters);
            }
            (endpoint, total)
        };
        first.all().map(sum).collect()
    }

    /// The endpoints of the network, in the order of their addresses.
    pub fn peers(&self) -> Vec<PeerReport> {
        let Some(first) = self.tunnel.first().map(|view| view.peers()) else {
            return Vec::new();
        };
        let table = first.table();
        let mut guests: HashMap<SocketAddr, BTreeMap<MacAddr, Vec<IpAddr>>> = HashMap::new();
        for (endpoint, mac, addresses) in table.bindings() {
            guests.entry(endpoint).or_default().insert(mac, addresses);
        }
        let report = |(endpoint, counters)| {
            let index = table.position_of(endpoint)?;
            Some(PeerReport {
                endpoint,
                knows_frame_option: table.knows_frame_option(index),
                has_other_macs: table.has_other_macs(index),
                guests: guests.remove(&endpoint).unwrap_or_default(),
                counters,
            })
        };
        self.peer_counters().into_iter().filter_map(report).collect()
    }
}
