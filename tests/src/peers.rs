//! Servers and clients in a namespace, beside the guest.

use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, artifacts, failure};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest time that a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a server of `hawser-traffic` on `at`, for TCP and UDP.
pub fn serve(namespace: &Namespace, folder: &Path, at: SocketAddr) -> Result<Background> {
    let mut command = namespace.command(artifacts::traffic()?);
    command.arg("serve").arg(format!("at={at}"));
    let log = folder.join(format!("serve-{}.log", at.to_string().replace(['[', ']', ':'], "_")));
    let mut server = Background::start(command, "hawser-traffic serve", log)?;
    server.wait_until("serving", PATIENCE, |log| log.contains("serving"))?;
    Ok(server)
}

/// Runs a client of `hawser-traffic` that must succeed. Returns its report.
pub fn traffic(namespace: &Namespace, arguments: &str) -> Result<Value> {
    let output = namespace
        .command(artifacts::traffic()?)
        .args(arguments.split_whitespace())
        .output()?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !output.status.success() {
        return Err(failure(format!(
            "hawser-traffic {arguments}: {}: {out}{err}",
            output.status
        )));
    }
    Ok(serde_json::from_str(&out)?)
}

/// Starts an iperf3 server that is bound to `address`, so that UDP answers come from that address.
pub fn iperf_server(namespace: &Namespace, folder: &Path, address: &str) -> Result<Background> {
    let mut command = namespace.command("iperf3");
    command.args(["--server", "--forceflush", "--bind", address]);
    let log = folder.join(format!("iperf3-{}.log", address.replace(':', "_")));
    let mut server = Background::start(command, "iperf3 (package iperf3)", log)?;
    server.wait_until("listening", PATIENCE, |log| log.contains("listening"))?;
    Ok(server)
}

/// Result of one run of iperf3.
#[derive(Clone, Copy, Debug)]
pub struct Iperf {
    /// Payload that arrived, in bits per second.
    pub bits_per_second: f64,
    /// Number of lost UDP datagrams, including those that arrived out of order.
    pub lost: u64,
}

impl Iperf {
    /// Reads the JSON of an iperf3 client.
    pub fn parse(json: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(json)?;
        if let Some(error) = value["error"].as_str() {
            return Err(failure(format!("iperf3: {error}")));
        }
        let end = &value["end"];
        // TCP reports the bytes at the receiver. UDP reports one sum, part of which is lost.
        let lost_percent = end["sum"]["lost_percent"].as_f64().unwrap_or(0.0);
        let bits = end["sum_received"]["bits_per_second"]
            .as_f64()
            .filter(|bits| *bits > 0.0);
        let bits = bits.or_else(|| {
            end["sum"]["bits_per_second"]
                .as_f64()
                .map(|bits| bits * (1.0 - lost_percent / 100.0))
        });
        let bits_per_second = bits.ok_or_else(|| failure(format!("iperf3 tells no rate: {json}")))?;
        Ok(Self {
            bits_per_second,
            lost: end["sum"]["lost_packets"].as_u64().unwrap_or(0),
        })
    }
}

/// Starts a small DNS server, which resolves `server.example`.
pub fn dns_server(namespace: &Namespace, folder: &Path, listen: &str) -> Result<Background> {
    use crate::netns::address::{FAR4, FAR6};
    let mut command = namespace.command("dnsmasq");
    command
        .args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--log-facility=-",
            "--user=",
        ])
        .args([
            "--conf-file=/dev/null",
            "--pid-file=",
            "--log-queries",
            "--except-interface=lo",
        ])
        .arg(format!("--listen-address={listen}"))
        .arg(format!("--address=/server.example/{FAR4}"))
        .arg(format!("--address=/server.example/{FAR6}"));
    let name = format!("dnsmasq-{}.log", listen.replace(':', "_"));
    let mut server = Background::start(command, "dnsmasq (package dnsmasq-base)", folder.join(name))?;
    server.wait_until("started", PATIENCE, |log| log.contains("started"))?;
    Ok(server)
}

/// Writes a resolv.conf with this text.
pub fn resolv_conf(folder: &Path, text: &str) -> Result<PathBuf> {
    let path = folder.join("resolv.conf");
    fs::write(&path, text)?;
    Ok(path)
}

/// Starts passt on `socket` in vhost-user mode, for comparison with hawser.
pub fn passt(namespace: &Namespace, socket: &Path, arguments: &[&str]) -> Result<Background> {
    let mut command = namespace.command(artifacts::peer_program("passt")?);
    command
        .args(["--vhost-user", "--foreground", "--socket"])
        .arg(socket)
        .args(arguments);
    let mut process = Background::start(command, "passt", socket.with_extension("log"))?;
    process.wait_for_socket(socket, PATIENCE)?;
    Ok(process)
}
