//! `hawser top`: shows rates, flows and drops per port of a running process, once per interval.
//!
//! Rates are differences of two samples of the metrics. On a terminal each sample replaces the
//! last one with plain ANSI sequences; otherwise samples are printed one after another.

use super::{Client, Target, show};
use crate::api::http::Method;
use crate::cli::client::TopArgs;
use crate::failure::Failure;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::thread;
use std::time::{Duration, Instant};

/// ANSI sequence: cursor home, then clear to the end of the screen.
const REDRAW: &str = "\x1b[H\x1b[J";
/// Maximum number of drop reasons shown per port.
const REASONS: usize = 5;
/// Maximum number of peers shown per port.
const PEERS: usize = 5;
const BITS: f64 = 8.0;

/// Value of each series. The key is its name and labels, as the metrics text writes them.
type Sample = BTreeMap<String, f64>;

/// Rates and flow counts of one port.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Activity {
    port: String,
    in_bits_per_second: f64,
    out_bits_per_second: f64,
    in_frames_per_second: f64,
    out_frames_per_second: f64,
    tcp_flows: u64,
    udp_flows: u64,
    echo_flows: u64,
    stalls_per_second: f64,
    /// Reasons with their drops per second, in descending order.
    drops_per_second: Vec<(String, f64)>,
    /// Peers of a network that spans nodes, busiest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peers: Vec<PeerActivity>,
}

/// Rates of a port's traffic with one peer, in the directions of the guest.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct PeerActivity {
    peer: String,
    in_bits_per_second: f64,
    out_bits_per_second: f64,
    in_datagrams_per_second: f64,
    out_datagrams_per_second: f64,
    drops_per_second: f64,
}

/// Prints rates until interrupted, or once with `--once`.
///
/// # Errors
/// The process does not exist, or ends.
pub(crate) fn run(args: &TopArgs) -> Result<(), Failure> {
    let client = Client::of(&args.ask);
    let interval = Duration::from_secs_f64(args.interval);
    let draws = io::stdout().is_terminal() && !args.json && !args.once;
    let mut before = (Instant::now(), sample(&client)?);
    loop {
        thread::sleep(interval);
        let now = (Instant::now(), sample(&client)?);
        let passed = now.0.duration_since(before.0).as_secs_f64();
        let mut ports = activities(&before.1, &now.1, passed);
        ports.retain(|port| args.ask.port.as_ref().is_none_or(|name| port.port == *name));
        if draws {
            crate::output::print(REDRAW)?;
        }
        show(args.json, &ports, |ports| table(ports))?;
        io::stdout().flush().map_err(Failure::standard_output)?;
        if args.once {
            return Ok(());
        }
        before = now;
    }
}

fn sample(client: &Client) -> Result<Sample, Failure> {
    let text = client.whole(Method::Get, &Target::new("/v1/metrics"), &[])?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

fn parse(text: &str) -> Sample {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// The value of a label in `name{label="value",…}`.
fn label<'a>(series: &'a str, name: &str) -> Option<&'a str> {
    let at = series.find(&format!("{name}=\""))? + name.len() + 2;
    series[at..].split('"').next()
}

fn activities(before: &Sample, now: &Sample, seconds: f64) -> Vec<Activity> {
    const UP: &str = "hawser_port_link_up{";
    let ports = now.keys().filter(|series| series.starts_with(UP));
    let ports = ports.filter_map(|series| label(series, "port"));
    let per_second = |series: &str| {
        let old = before.get(series).copied().unwrap_or_default();
        let new = now.get(series).copied().unwrap_or_default();
        // A port that was unplugged and plugged again starts to count at zero.
        (new - old).max(0.0) / seconds
    };
    ports
        .map(|port| {
            let total = |name: &str| per_second(&format!("hawser_port_{name}_total{{port=\"{port}\"}}"));
            let level = |name: &str| {
                let value = now.get(&format!("hawser_port_{name}{{port=\"{port}\"}}"));
                value.map_or(0, |value| count(*value))
            };
            let drops = format!("hawser_port_drops_total{{port=\"{port}\",");
            let mut reasons: Vec<(String, f64)> = now
                .keys()
                .filter(|series| series.starts_with(&drops))
                .filter_map(|series| Some((label(series, "reason")?.to_owned(), per_second(series))))
                .filter(|(_, rate)| *rate > 0.0)
                .collect();
            reasons.sort_by(|a, b| b.1.total_cmp(&a.1));
            Activity {
                port: port.to_owned(),
                in_bits_per_second: total("rx_bytes") * BITS,
                out_bits_per_second: total("tx_bytes") * BITS,
                in_frames_per_second: total("rx_frames"),
                out_frames_per_second: total("tx_frames"),
                tcp_flows: level("tcp_flows_open"),
                udp_flows: level("udp_flows_open"),
                echo_flows: level("echo_flows_open"),
                stalls_per_second: total("rx_stalls"),
                drops_per_second: reasons,
                peers: peers(now, port, &per_second),
            }
        })
        .collect()
}

/// The peers of a port that have exchanged traffic with the guest.
fn peers(now: &Sample, port: &str, per_second: &dyn Fn(&str) -> f64) -> Vec<PeerActivity> {
    let first = format!("hawser_peer_sent_bytes_total{{port=\"{port}\",");
    let all = now.keys().filter(|series| series.starts_with(&first));
    let mut peers: Vec<PeerActivity> = all
        .filter_map(|series| label(series, "peer"))
        .map(|peer| {
            let rate = |name: &str| per_second(&format!("hawser_peer_{name}_total{{port=\"{port}\",peer=\"{peer}\"}}"));
            PeerActivity {
                peer: peer.to_owned(),
                in_bits_per_second: rate("received_bytes") * BITS,
                out_bits_per_second: rate("sent_bytes") * BITS,
                in_datagrams_per_second: rate("received_datagrams"),
                out_datagrams_per_second: rate("sent_datagrams"),
                drops_per_second: rate("send_drops") + rate("receive_drops"),
            }
        })
        .filter(|peer| peer.weight() > 0.0)
        .collect();
    peers.sort_by(|a, b| b.weight().total_cmp(&a.weight()));
    peers
}

impl PeerActivity {
    fn weight(&self) -> f64 {
        self.in_bits_per_second + self.out_bits_per_second + self.drops_per_second
    }
}

/// Converts a gauge value to an integer.
fn count(value: f64) -> u64 {
    format!("{value:.0}").parse().unwrap_or_default()
}

fn table(ports: &[Activity]) -> String {
    let mut text = format!(
        "{:<16} {:>9} {:>9} {:>9} {:>9} {:>6} {:>6} {:>5} {:>7}  drops/s\n",
        "PORT", "IN bit/s", "OUT bit/s", "IN fr/s", "OUT fr/s", "TCP", "UDP", "ICMP", "STALL/s"
    );
    for port in ports {
        let drops: Vec<String> = port
            .drops_per_second
            .iter()
            .take(REASONS)
            .map(|(reason, rate)| format!("{reason} {}", scaled(*rate)))
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<16} {:>9} {:>9} {:>9} {:>9} {:>6} {:>6} {:>5} {:>7}  {}",
            port.port,
            scaled(port.in_bits_per_second),
            scaled(port.out_bits_per_second),
            scaled(port.in_frames_per_second),
            scaled(port.out_frames_per_second),
            port.tcp_flows,
            port.udp_flows,
            port.echo_flows,
            scaled(port.stalls_per_second),
            if drops.is_empty() {
                "-".to_owned()
            } else {
                drops.join(", ")
            },
        );
        for peer in port.peers.iter().take(PEERS) {
            let _ = writeln!(
                text,
                "  {:<14} {:>9} {:>9} {:>9} {:>9} {:>28} {}",
                peer.peer,
                scaled(peer.in_bits_per_second),
                scaled(peer.out_bits_per_second),
                scaled(peer.in_datagrams_per_second),
                scaled(peer.out_datagrams_per_second),
                "drops",
                scaled(peer.drops_per_second),
            );
        }
    }
    text
}

/// Formats a number as three digits and a letter.
fn scaled(value: f64) -> String {
    let mut value = value;
    for unit in ["", "k", "M"] {
        if value < 1000.0 {
            return if unit.is_empty() || value >= 100.0 {
                format!("{value:.0}{unit}")
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1}G")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
# TYPE hawser_port_tx_bytes counter
hawser_port_tx_bytes_total{port=\"net0\"} 1000
hawser_port_rx_bytes_total{port=\"net0\"} 0
hawser_port_drops_total{port=\"net0\",reason=\"spoofed_mac\"} 3
hawser_port_drops_total{port=\"net0\",reason=\"no_room\"} 3
hawser_port_link_up{port=\"net0\"} 1
# EOF
";

    #[test]
    fn two_samples_make_rates() {
        let now = BEFORE
            .replace(
                "tx_bytes_total{port=\"net0\"} 1000",
                "tx_bytes_total{port=\"net0\"} 251000",
            )
            .replace("spoofed_mac\"} 3", "spoofed_mac\"} 23")
            + "hawser_port_tcp_flows_open{port=\"net0\"} 7\n";
        let ports = activities(&parse(BEFORE), &parse(&now), 2.0);
        assert_eq!(ports.len(), 1);
        let port = &ports[0];
        assert!((port.out_bits_per_second - 1_000_000.0).abs() < 0.1, "{port:?}");
        assert_eq!(port.tcp_flows, 7);
        assert_eq!(port.drops_per_second, [("spoofed_mac".to_owned(), 10.0)]);
        let table = table(&ports);
        let words: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            words,
            ["net0", "0", "1.0M", "0", "0", "7", "0", "0", "0", "spoofed_mac", "10"]
        );
    }

    #[test]
    fn the_peers_between_which_and_the_guest_something_crosses_are_shown_busiest_first() {
        let series = |name: &str, peer: &str, value: u32| {
            format!("hawser_peer_{name}_total{{port=\"net0\",peer=\"192.0.2.{peer}:6081\"}} {value}\n")
        };
        let before = BEFORE.to_owned() + &series("sent_bytes", "3", 1000);
        let now = BEFORE.to_owned()
            + &series("sent_bytes", "1", 0)
            + &series("sent_bytes", "2", 50)
            + &series("sent_bytes", "3", 251_000)
            + &series("receive_drops", "3", 4);
        let ports = activities(&parse(&before), &parse(&now), 2.0);
        let names: Vec<&str> = ports[0].peers.iter().map(|peer| peer.peer.as_str()).collect();
        assert_eq!(names, ["192.0.2.3:6081", "192.0.2.2:6081"]);
        let table = table(&ports);
        let words: Vec<&str> = table.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(words, ["192.0.2.3:6081", "0", "1.0M", "0", "0", "drops", "2"]);
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 999.0, 1500.0, 123_400.0, 9_400_000_000.0].map(scaled);
        assert_eq!(texts, ["0", "999", "1.5k", "123k", "9.4G"]);
    }
}
