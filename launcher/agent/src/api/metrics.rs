//! `/v1/metrics`: the state of the node for Prometheus, in its text format (OpenMetrics 1.0).
//!
//! All values come from the node's report, so a scrape costs the node's loop nothing. The counters of packets are in the
//! metrics of each VM's process.

use crate::history::EventKind;
use crate::report::NodeReport;
use crate::vm::Phase;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use std::fmt;

/// Media type of the text.
pub(super) const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, u64>> = None;

/// The metrics of a report.
///
/// # Errors
/// A value cannot be written.
pub(super) fn render(report: NodeReport) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("hawser_agent");
    registry.register_collector(Box::new(Sample(report)));
    let mut body = String::new();
    text::encode(&mut body, &registry)?;
    Ok(body)
}

/// A report, as a source of metrics.
#[derive(Debug)]
struct Sample(NodeReport);

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let report = &self.0;
        encoder
            .encode_descriptor("build", "The program that answers", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION")), ("node", &report.node)])?;
        encoder
            .encode_descriptor(
                "ready",
                "Whether the store and the files can be read",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&u64::from(report.problem.is_none()))?;
        let help = "VMs that this node serves, by phase";
        let mut metric = encoder.encode_descriptor("vms", help, None, MetricType::Gauge)?;
        for phase in Phase::ALL {
            let count = report.vms.iter().filter(|vm| vm.phase == phase).count();
            metric
                .encode_family(&[("phase", format!("{phase:?}"))])?
                .encode_gauge(&gauge(count))?;
        }
        encoder
            .encode_descriptor(
                "refused",
                "Descriptions of VMs that cannot be served",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&gauge(report.wrong.len()))?;
        let help = "Ports of a network that spans nodes, on all nodes";
        let mut metric = encoder.encode_descriptor("network_ports", help, None, MetricType::Gauge)?;
        for (network, ports) in &report.networks {
            metric
                .encode_family(&[("network", network.as_str())])?
                .encode_gauge(&gauge(*ports))?;
        }
        let help = "Events of VMs, by kind";
        let mut metric = encoder.encode_descriptor("vm_events", help, None, MetricType::Counter)?;
        for kind in EventKind::ALL {
            let count = report.counts.events.get(&kind).copied().unwrap_or(0);
            metric
                .encode_family(&[("kind", format!("{kind:?}"))])?
                .encode_counter(&count, NO_EXEMPLAR)?;
        }
        encoder
            .encode_descriptor(
                "store_failures",
                "Turns in which the store did not answer",
                None,
                MetricType::Counter,
            )?
            .encode_counter(&report.counts.store_failures, NO_EXEMPLAR)
    }
}

fn gauge(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Counts;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn text() -> String {
        let report = NodeReport {
            node: "n1".into(),
            problem: Some("the store is away".into()),
            vms: Vec::new(),
            wrong: vec!["a".into()],
            networks: [("blue/lan".to_owned(), 7)].into(),
            counts: Counts {
                events: [(EventKind::Ended, 3)].into(),
                store_failures: 2,
            },
        };
        render(report).unwrap()
    }

    #[test]
    fn the_metrics_are_those_of_the_report() {
        let text = text();
        for line in [
            "hawser_agent_ready 0",
            "hawser_agent_vms{phase=\"Running\"} 0",
            "hawser_agent_refused 1",
            "hawser_agent_network_ports{network=\"blue/lan\"} 7",
            "hawser_agent_vm_events_total{kind=\"Ended\"} 3",
            "hawser_agent_store_failures_total 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    /// Names of metrics in an expression of the dashboard.
    fn names(expression: &str) -> impl Iterator<Item = &str> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = expression.split(move |c| !is_name(c));
        words.filter(|word| word.starts_with("hawser_agent_"))
    }

    #[test]
    fn the_dashboard_shows_metrics_that_there_are_and_all_of_them() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/grafana.json");
        let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
        let expressions: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
        let shown: BTreeSet<&str> = expressions.iter().flat_map(|expression| names(expression)).collect();
        let text = text();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let there: BTreeSet<&str> = samples.flat_map(|line| names(line).take(1)).collect();
        assert_eq!(shown, there);
    }
}
