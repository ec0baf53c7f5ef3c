//! `/v1/status`: every NIC, in the words of KubeVirt's `VirtualMachineInstanceNetworkInterface`.

use super::Context;
use super::agent::GuestInterface;
use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use crate::machine::{Machine, NicStatus};
use crate::mode::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[Route {
    method: Method::Get,
    path: "/v1/status",
    handler: |context, _: &Request| Ok(get(context)),
    describe: |generator| Operation::new("Every NIC of the VM").answers::<Status>(generator),
}];

/// The VM's network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Status {
    /// Version of the program that answers.
    pub version: String,
    /// The NICs in the order in which they were given.
    pub interfaces: Vec<Interface>,
}

/// A NIC. The fields up to `linkState` are KubeVirt's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Interface {
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
pub(crate) enum LinkState {
    /// Frames cross it.
    Up,
    /// None do.
    Down,
}

/// The guest's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Driver {
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
        let nics = machine.nics();
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            interfaces: nics.iter().map(|nic| Interface::of(nic.status(), told)).collect(),
        }
    }
}

impl Interface {
    fn of(nic: NicStatus, agent: &[GuestInterface]) -> Self {
        let learned = Learned::of(&nic, agent);
        Self {
            name: nic.name,
            mac: nic.mac.map(|mac| mac.to_string()),
            ip_address: learned.addresses.first().copied(),
            ip_addresses: learned.addresses,
            interface_name: learned.name,
            info_source: learned.sources.join(", "),
            queue_count: nic.queue_pairs,
            link_state: if nic.link_up { LinkState::Up } else { LinkState::Down },
            mode: nic.mode,
            mtu: nic.mtu,
            driver: if nic.driver_runs {
                Driver::Running
            } else {
                Driver::Absent
            },
            warnings: nic.warnings,
        }
    }
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
    fn of(nic: &NicStatus, agent: &[GuestInterface]) -> Self {
        let mut learned = Self {
            sources: vec!["domain"],
            ..Self::default()
        };
        for &address in &nic.leased {
            learned.add("dhcp", address);
        }
        let (link_local, routed): (Vec<_>, Vec<_>) = nic.seen.iter().partition(|seen| is_link_local(seen.address));
        for seen in routed.into_iter().chain(link_local) {
            learned.add(seen.source, seen.address);
        }
        if let Some(interface) = agent
            .iter()
            .find(|interface| nic.mac.is_some() && interface.mac == nic.mac)
        {
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

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
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
