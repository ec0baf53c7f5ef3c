//! The traffic of the VMs of this node, for the page: each VM's process is asked for its metrics over its socket.
//!
//! Clients may be many, so all share one sample per second, and a sample takes a bounded time. Rates are those between the
//! last two samples.

use super::NodeState;
use crate::exchange::{Message, exchange};
use crate::report::VmReport;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shortest time between two samples.
const BETWEEN: Duration = Duration::from_secs(1);
/// Longest wait for one process, and for all of them.
const ONE: Duration = Duration::from_millis(200);
const ALL: Duration = Duration::from_secs(2);
/// Counters of flows that were created.
const CREATED: [&str; 4] = [
    "hawser_port_tcp_connections_out_total",
    "hawser_port_tcp_connections_in_total",
    "hawser_port_udp_flows_total",
    "hawser_port_service_flows_total",
];
/// Gauges of flows that there are.
const OPEN: [&str; 3] = [
    "hawser_port_tcp_flows_open",
    "hawser_port_udp_flows_open",
    "hawser_port_echo_flows_open",
];
const DROPS: &str = "hawser_port_drops_total";
/// Begins the names of metrics of a peer of the tunnel.
const PEER: &str = "hawser_peer_";

/// Traffic of a VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VmTraffic {
    namespace: String,
    name: String,
    /// False if its process has not answered. All other fields are then empty.
    is_known: bool,
    /// Flows created since the start of the process.
    flows: u64,
    /// Flows created per second; `None` before the second sample.
    flows_per_second: Option<f64>,
    /// Flows that there are.
    open_flows: u64,
    /// Other ends of the tunnels of its NICs.
    tunnels: usize,
    /// Dropped frames by reason, without reasons that have not occurred.
    drops: BTreeMap<String, u64>,
}

/// The last sample, which clients share.
#[derive(Debug, Default)]
pub(super) struct Traffic(Mutex<Option<(Instant, Vec<VmTraffic>)>>);

impl Traffic {
    /// The traffic of the VMs of a node.
    pub(super) fn get(&self, node: &NodeState) -> Vec<VmTraffic> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((_, known)) = last.as_ref().filter(|(at, _)| now.duration_since(*at) < BETWEEN) {
            return known.clone();
        }
        let vms = node.get().map(|report| report.vms).unwrap_or_default();
        let mut sample: Vec<VmTraffic> = vms.iter().map(|vm| ask(vm, now + ALL)).collect();
        if let Some((at, before)) = last.as_ref() {
            let passed = now.duration_since(*at).as_secs_f64();
            sample.iter_mut().for_each(|vm| vm.rate(before, passed));
        }
        *last = Some((now, sample.clone()));
        sample
    }
}

fn ask(vm: &VmReport, deadline: Instant) -> VmTraffic {
    let patience = deadline.saturating_duration_since(Instant::now()).min(ONE);
    let unknown = VmTraffic {
        namespace: vm.namespace.clone(),
        name: vm.name.clone(),
        ..VmTraffic::default()
    };
    if patience.is_zero() {
        return unknown;
    }
    match exchange(&vm.api, Message::get("/v1/metrics"), patience) {
        Ok((200, body)) => read(&String::from_utf8_lossy(&body), unknown),
        _ => unknown,
    }
}

/// Adds up the metrics of a VM's ports.
fn read(text: &str, mut vm: VmTraffic) -> VmTraffic {
    let mut peers = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((metric, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
        let label = |wanted: &str| {
            let (_, rest) = labels.split_once(&format!("{wanted}=\""))?;
            rest.split_once('"').map(|(value, _)| value.to_owned())
        };
        let value: u64 = value.parse().unwrap_or(0);
        if CREATED.contains(&name) {
            vm.flows += value;
        } else if OPEN.contains(&name) {
            vm.open_flows += value;
        } else if name == DROPS && value > 0 {
            *vm.drops.entry(label("reason").unwrap_or_default()).or_default() += value;
        } else if name.starts_with(PEER) {
            peers.insert((label("port"), label("peer")));
        }
    }
    vm.tunnels = peers.len();
    vm.is_known = true;
    vm
}

impl VmTraffic {
    /// Computes the rate since a sample that was taken `passed` seconds ago.
    fn rate(&mut self, before: &[Self], passed: f64) {
        let is_same = |vm: &&Self| (&vm.namespace, &vm.name) == (&self.namespace, &self.name) && vm.is_known;
        let Some(before) = before.iter().find(is_same).filter(|_| self.is_known) else {
            return;
        };
        // A process that was started again counts from zero.
        let created = self.flows.checked_sub(before.flows).unwrap_or(self.flows);
        self.flows_per_second = Some(f64::from(u32::try_from(created).unwrap_or(u32::MAX)) / passed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP hawser_port_drops Dropped frames\n\
        hawser_port_tcp_connections_out_total{port=\"a\"} 5\nhawser_port_udp_flows_total{port=\"b\"} 2\n\
        hawser_port_tcp_flows_open{port=\"a\"} 3\nhawser_port_drops_total{port=\"a\",reason=\"spoofed_mac\"} 4\n\
        hawser_port_drops_total{port=\"b\",reason=\"spoofed_mac\"} 1\nhawser_port_drops_total{port=\"a\",reason=\"x\"} 0\n\
        hawser_peer_sent_bytes_total{port=\"a\",peer=\"192.0.2.1:6081\"} 9\n\
        hawser_peer_received_bytes_total{port=\"a\",peer=\"192.0.2.1:6081\"} 9\n# EOF\n";

    #[test]
    fn the_metrics_of_all_ports_are_added_up_and_rates_are_those_between_two_samples() {
        let before = read(METRICS, VmTraffic::default());
        assert_eq!((before.flows, before.open_flows, before.tunnels), (7, 3, 1));
        assert_eq!(before.drops, [("spoofed_mac".to_owned(), 5)].into());
        let text = METRICS.replace(
            "connections_out_total{port=\"a\"} 5",
            "connections_out_total{port=\"a\"} 15",
        );
        let mut after = read(&text, VmTraffic::default());
        after.rate(std::slice::from_ref(&before), 2.0);
        assert_eq!(after.flows_per_second, Some(5.0));
        let mut again = read("hawser_port_udp_flows_total{port=\"b\"} 2\n", VmTraffic::default());
        again.rate(&[before], 2.0);
        assert_eq!(again.flows_per_second, Some(1.0), "the process was started again");
    }
}
