//! `/v1/status`: every NIC, in the words of KubeVirt's `VirtualMachineInstanceNetworkInterface`.

use super::Context;
use super::agent::GuestInterface;
use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use crate::machine::Machine;
use hawser_backend::config::ModeConfig;
use hawser_backend::counters::Gauge;
use hawser_backend::packet::MacAddr;
use hawser_backend::policy::SnoopSource;
use hawser_backend::port::Port;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// The routes of this group.
pub const ROUTES: &[Route] = &[Route {
    method: Method::Get,
    path: "/v1/status",
    handler: |context, _: &Request| Ok(get(context)),
    describe: |generator| Operation::new("Every NIC of the VM").answers::<Status>(generator),
}];

/// The VM's network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of the program that answers.
    pub version: String,
    /// The NICs in the order in which they were given.
    pub interfaces: Vec<Interface>,
}

/// A NIC. The fields up to `linkState` are KubeVirt's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Name of the port: in manifests, the interface's.
    pub name: String,
    /// MAC of the guest's card, if it is known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The first of `ipAddresses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<IpAddr>,
    /// Addresses of the guest.
    #[serde(default)]
    pub ip_addresses: Vec<IpAddr>,
    /// What the guest calls the interface, where its agent tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_name: Option<String>,
    /// Where this is known from, several with commas: `domain` (what it was configured to be),
    /// `dhcp`, `arp` and `nd` (what the guest was seen to use), `guest-agent`.
    pub info_source: String,
    /// Queue pairs offered.
    pub queue_count: u16,
    /// The link as the guest is shown it.
    pub link_state: LinkState,
    /// What stands between the guest and the world.
    pub mode: Mode,
    /// MTU of the guest's card.
    pub mtu: u16,
    /// Whether a driver in the guest runs it.
    pub driver: Driver,
    /// What keeps the guest from using it as it was configured, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Frames cross it.
    Up,
    /// None do.
    Down,
}

/// A mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// NAT on host sockets.
    Masquerade,
    /// The L2 segment itself.
    Bridge,
}

impl Mode {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Masquerade => "masquerade",
            Self::Bridge => "bridge",
        }
    }
}

/// The guest's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// It has started the queues.
    Running,
    /// There is none, or not yet.
    Absent,
}

fn get(context: &Context) -> Answer {
    let (machine, agent) = (Arc::clone(&context.machine), context.agent.clone());
    Answer::Later(Box::pin(async move {
        let told = match &agent {
            Some(agent) => agent.interfaces().await,
            None => Vec::new(),
        };
        super::document(200, &Status::of(&machine, &told))
    }))
}

impl Status {
    fn of(machine: &Machine, told: &[GuestInterface]) -> Self {
        let ports = machine.ports();
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            interfaces: ports.iter().map(|port| Interface::of(port, told)).collect(),
        }
    }
}

impl Interface {
    fn of(port: &Port, agent: &[GuestInterface]) -> Self {
        let config = port.config();
        let learned = Learned::of(port, agent);
        let mac = mac_of(port);
        Self {
            name: config.name.clone(),
            mac: mac.map(|mac| mac.to_string()),
            ip_address: learned.addresses.first().copied(),
            ip_addresses: learned.addresses,
            interface_name: learned.name,
            info_source: learned.sources.join(", "),
            queue_count: config.queue_pairs.get(),
            link_state: if port.link().is_up() {
                LinkState::Up
            } else {
                LinkState::Down
            },
            mode: match config.mode {
                ModeConfig::Masquerade(_) => Mode::Masquerade,
                ModeConfig::Bridge(_) => Mode::Bridge,
            },
            mtu: config.mtu,
            driver: match port.counters().level(Gauge::QueuePairs) {
                0 => Driver::Absent,
                _ => Driver::Running,
            },
            warnings: warnings(port),
        }
    }
}

fn warnings(port: &Port) -> Vec<String> {
    let stranger = port.held_leases().stranger();
    let of_lease = stranger
        .zip(lease_client(&port.config().mode))
        .map(|(stranger, client)| {
            format!("the guest requests its address with the MAC {stranger}, but the lease is for {client}")
        });
    let failed = port.health().failure();
    let of_failure = failed.map(|why| format!("it has failed and is no longer served: {why}"));
    of_failure.into_iter().chain(of_lease).collect()
}

/// The only MAC that the mode's DHCP servers answer.
fn lease_client(mode: &ModeConfig) -> Option<MacAddr> {
    let ModeConfig::Bridge(mode) = mode else { return None };
    let lease6 = || mode.lease6.as_ref().map(|lease| lease.client);
    mode.lease.as_ref().map(|lease| lease.client).or_else(lease6)
}

/// The MAC the guest's card has; where nobody said, the one it was last seen to use.
fn mac_of(port: &Port) -> Option<MacAddr> {
    let seen = || port.snooped().first().map(|(sighting, _)| sighting.mac);
    port.nic_state().mac().or(port.config().mac).or_else(seen)
}

/// What is known of a guest's addresses, and where from.
#[derive(Debug, Default)]
struct Learned {
    addresses: Vec<IpAddr>,
    name: Option<String>,
    sources: Vec<&'static str>,
}

impl Learned {
    /// What was leased first, then what was seen, latest first, link-local last; then what the
    /// guest's agent adds.
    fn of(port: &Port, agent: &[GuestInterface]) -> Self {
        let mut learned = Self {
            sources: vec!["domain"],
            ..Self::default()
        };
        for address in leased(port) {
            learned.add("dhcp", address);
        }
        let mut sightings = port.snooped();
        sightings.sort_by_key(|(sighting, _)| is_link_local(sighting.address));
        for (sighting, _) in sightings {
            let source = match sighting.source {
                SnoopSource::Arp => "arp",
                SnoopSource::NeighbourDiscovery => "nd",
                SnoopSource::Dhcp => "dhcp",
            };
            learned.add(source, sighting.address);
        }
        let mac = mac_of(port);
        if let Some(interface) = agent.iter().find(|interface| mac.is_some() && interface.mac == mac) {
            learned.name = Some(interface.name.clone());
            learned.add_source("guest-agent");
            for &address in &interface.addresses {
                learned.add("guest-agent", address);
            }
        }
        learned
    }

    fn add(&mut self, source: &'static str, address: IpAddr) {
        self.add_source(source);
        if !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
    }

    fn add_source(&mut self, source: &'static str) {
        if !self.sources.contains(&source) {
            self.sources.push(source);
        }
    }
}

/// The addresses of our own DHCP servers that the guest holds.
fn leased(port: &Port) -> Vec<IpAddr> {
    let held = port.held_leases();
    let [v4, v6] = leases_of(&port.config().mode);
    let held = [v4.filter(|_| held.has_v4()), v6.filter(|_| held.has_v6())];
    held.into_iter().flatten().collect()
}

/// The addresses that a mode's DHCPv4 and DHCPv6 servers give, where it has them.
fn leases_of(mode: &ModeConfig) -> [Option<IpAddr>; 2] {
    let (v4, v6) = match mode {
        ModeConfig::Masquerade(mode) => (mode.ipv4.map(|link| link.guest), mode.ipv6.map(|link| link.guest)),
        ModeConfig::Bridge(mode) => (
            mode.lease.as_ref().map(|lease| lease.address.addr()),
            mode.lease6.as_ref().map(|lease| lease.address.addr()),
        ),
    };
    [v4.map(IpAddr::from), v6.map(IpAddr::from)]
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ask, context};
    use super::leases_of;
    use hawser_backend::config::{BridgeConfig, Lease6Config, ModeConfig, NameConfig};
    use hawser_backend::packet::MacAddr;

    #[test]
    fn the_dhcpv6_lease_of_a_bridged_guest_is_one_of_its_leases() {
        let mode = ModeConfig::Bridge(BridgeConfig {
            lease6: Some(Lease6Config {
                client: MacAddr([2, 0, 0, 0, 0, 9]),
                address: "2001:db8::5/64".parse().unwrap(),
                names: NameConfig::default(),
            }),
            ..BridgeConfig::default()
        });
        assert_eq!(leases_of(&mode), [None, Some("2001:db8::5".parse().unwrap())]);
    }

    #[test]
    fn a_nic_is_told_in_the_words_of_kubevirt() {
        let answer = ask(&context(&["net0"]), "GET", "/v1/status", "");
        assert_eq!(answer.status, 200);
        let nic = &answer.json()["interfaces"][0];
        assert_eq!(nic["name"], "net0");
        assert_eq!(nic["mac"], "02:00:00:00:00:09");
        assert_eq!(nic["queueCount"], 1);
        assert_eq!(nic["linkState"], "up");
        assert_eq!(nic["infoSource"], "domain");
        assert_eq!(nic["driver"], "absent");
    }
}
