//! `/v1/metrics`: metrics for Prometheus, in its text format (OpenMetrics 1.0).
//!
//! Names and help texts come from the counters ([`hawser_backend::counters`]), so a counter that is added there also
//! appears here, as `hawser_port_NAME_total`.

use super::http::{Answer, Document, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use super::{Context, Refusal};
use crate::machine::{NicMetrics, ServedNic};
use hawser_backend::counters::{Count, DropReason, Gauge, PeerCount, PeerLevel};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use serde_json::json;
use std::fmt;

/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[Route {
    method: Method::Get,
    path: "/v1/metrics",
    handler: get,
    describe: |_| Operation::new("Counters of every port, for Prometheus").whole(KIND, json!({"type": "string"})),
}];
const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn get(context: &Context, _request: &Request) -> Result<Answer, Refusal> {
    let failed = |error: fmt::Error| Refusal::internal(error, "report this as a bug");
    Ok(Answer::Whole(Document {
        status: 200,
        kind: KIND,
        body: render(&context.machine.nics()).map_err(failed)?.into_bytes(),
    }))
}

fn render(nics: &[ServedNic]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("hawser");
    registry.register_collector(Box::new(Samples(nics.iter().map(Sample::of).collect())));
    let mut body = String::new();
    text::encode(&mut body, &registry)?;
    Ok(body)
}

/// The counters of all NICs at roughly the same moment.
#[derive(Debug)]
struct Samples(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    port: String,
    nic: NicMetrics,
}

impl Sample {
    fn of(nic: &ServedNic) -> Self {
        Self {
            port: nic.name().to_owned(),
            nic: nic.metrics(),
        }
    }
}

/// A condition that may hold for a NIC.
type Holds = fn(&Sample) -> bool;

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, u64>> = None;

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encoder
            .encode_descriptor("build", "The program that answers", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        for &count in Count::ALL {
            let name = format!("port_{count}");
            let mut metric = encoder.encode_descriptor(&name, count.help(), None, MetricType::Counter)?;
            for sample in &self.0 {
                metric
                    .encode_family(&[("port", sample.port.as_str())])?
                    .encode_counter(&sample.nic.counters.count(count), NO_EXEMPLAR)?;
            }
        }
        let help = "Dropped frames, or messages in them, by reason";
        let mut metric = encoder.encode_descriptor("port_drops", help, None, MetricType::Counter)?;
        for sample in &self.0 {
            for &reason in DropReason::ALL {
                metric
                    .encode_family(&[("port", sample.port.as_str()), ("reason", reason.name())])?
                    .encode_counter(&sample.nic.counters.dropped(reason), NO_EXEMPLAR)?;
            }
        }
        for &gauge in Gauge::ALL {
            let name = format!("port_{gauge}");
            let mut metric = encoder.encode_descriptor(&name, gauge.help(), None, MetricType::Gauge)?;
            for sample in &self.0 {
                metric
                    .encode_family(&[("port", sample.port.as_str())])?
                    .encode_gauge(&sample.nic.counters.level(gauge))?;
            }
        }
        self.encode_peers(&mut encoder)?;
        let states: [(&str, &str, Holds); 2] = [
            ("port_link_up", "Whether the guest sees its link as up", |sample| {
                sample.nic.link_up
            }),
            (
                "port_failed",
                "Whether the port has failed and is no longer served",
                |sample| sample.nic.failure.is_some(),
            ),
        ];
        for (name, help, holds) in states {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for sample in &self.0 {
                metric
                    .encode_family(&[("port", sample.port.as_str())])?
                    .encode_gauge(&u64::from(holds(sample)))?;
            }
        }
        Ok(())
    }
}

impl Samples {
    /// Writes the traffic of the tunnels, by peer. Writes nothing if there is no tunnel.
    fn encode_peers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let peers = || {
            let of_nic = |sample: &'_ Sample| {
                sample
                    .nic
                    .peers
                    .iter()
                    .map(|(at, _)| at.to_string())
                    .collect::<Vec<_>>()
            };
            self.0.iter().map(move |sample| (sample, of_nic(sample)))
        };
        if self.0.iter().all(|sample| sample.nic.peers.is_empty()) {
            return Ok(());
        }
        for &count in PeerCount::ALL {
            let name = format!("peer_{count}");
            let mut metric = encoder.encode_descriptor(&name, count.help(), None, MetricType::Counter)?;
            for (sample, names) in peers() {
                for ((_, counters), peer) in sample.nic.peers.iter().zip(&names) {
                    metric
                        .encode_family(&[("port", sample.port.as_str()), ("peer", peer)])?
                        .encode_counter(&counters.count(count), NO_EXEMPLAR)?;
                }
            }
        }
        for &level in PeerLevel::ALL {
            let name = format!("peer_{level}");
            let mut metric = encoder.encode_descriptor(&name, level.help(), None, MetricType::Gauge)?;
            for (sample, names) in peers() {
                for ((_, counters), peer) in sample.nic.peers.iter().zip(&names) {
                    metric
                        .encode_family(&[("port", sample.port.as_str()), ("peer", peer)])?
                        .encode_gauge(&counters.level(level))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ask, context};
    use super::*;

    #[test]
    fn every_counter_and_reason_of_every_port_is_there_once() {
        let answer = ask(&context(&["net0", "net1"]), "GET", "/v1/metrics", "");
        assert_eq!(answer.status, 200);
        let text = answer.text();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let per_port = Count::ALL.len() + DropReason::ALL.len() + Gauge::ALL.len() + 2;
        assert_eq!(samples.len(), 2 * per_port + 1, "{text}");
        for expected in [
            "hawser_port_tx_bytes_total{port=\"net0\"} 0",
            "hawser_port_drops_total{port=\"net1\",reason=\"spoofed_mac\"} 0",
            "hawser_port_tcp_flows_open{port=\"net0\"} 0",
            "hawser_port_link_up{port=\"net1\"} 1",
            "hawser_port_failed{port=\"net1\"} 0",
        ] {
            assert_eq!(
                samples.iter().filter(|line| **line == expected).count(),
                1,
                "{expected}\n{text}"
            );
        }
        assert!(
            text.contains("# HELP hawser_port_tx_frames Frames from the guest.\n"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }
}
