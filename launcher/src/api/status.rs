//! `/v1/status`: every NIC, in the words of KubeVirt's `VirtualMachineInstanceNetworkInterface`.

use super::Context;
use super::http::{Method, Request};
use super::openapi::Operation;
use super::router::Route;
use hawser_backend::config::ModeConfig;
use hawser_backend::counters::Gauge;
use hawser_backend::port::Port;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The routes of this group.
pub const ROUTES: &[Route] = &[Route {
    method: Method::Get,
    path: "/v1/status",
    handler: |context, _: &Request| Ok(super::json(200, &Status::of(context))),
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
    /// Where this is known from, several with commas: `domain` (what it was configured to be).
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

impl Status {
    fn of(context: &Context) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            interfaces: context.machine.ports().iter().map(|port| Interface::of(port)).collect(),
        }
    }
}

impl Interface {
    fn of(port: &Port) -> Self {
        let config = port.config();
        let mac = port.card().mac().or(config.mac);
        Self {
            name: config.name.clone(),
            mac: mac.map(|mac| mac.to_string()),
            ip_address: None,
            ip_addresses: Vec::new(),
            interface_name: None,
            info_source: "domain".into(),
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ask, context};

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
