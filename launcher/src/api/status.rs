//! `/v1/status`: shows every NIC, with the fields of KubeVirt's `VirtualMachineInstanceNetworkInterface`.

use super::Context;
use super::agent::GuestInterface;
use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::peers::Tunnel;
use super::router::Route;
use crate::machine::{Machine, NicStatus, VfStatus};
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

/// The network interfaces of the VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Status {
    /// Version of the running program.
    pub version: String,
    /// NICs of the VM, in the order of options or manifests.
    pub interfaces: Vec<Interface>,
}

/// A NIC of the VM. The fields up to `linkState` are KubeVirt's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Interface {
    /// Name of the port, which is the interface's name in manifests.
    pub name: String,
    /// MAC of the guest's NIC, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The first of `ipAddresses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<IpAddr>,
    /// Addresses of the guest.
    #[serde(default)]
    pub ip_addresses: Vec<IpAddr>,
    /// Name of the interface in the guest, as reported by its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_name: Option<String>,
    /// Sources of this information, separated by commas: `domain` (configured), `dhcp`, `arp` and `nd` (seen in the
    /// guest's frames), `guest-agent`.
    pub info_source: String,
    /// Number of queue pairs offered.
    pub queue_count: u16,
    /// Link state that the guest sees.
    pub link_state: LinkState,
    /// Mode of the NIC.
    pub mode: Mode,
    /// MTU of the guest's NIC.
    pub mtu: u16,
    /// Whether a driver in the guest runs the NIC.
    pub driver: Driver,
    /// Problems that keep the guest from using the NIC as configured, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The tunnel of a port on a network that spans nodes. Its peers are in `/v1/peers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// The virtual function that is passed to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_function: Option<VirtualFunction>,
}

/// A virtual function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VirtualFunction {
    /// Its PCI address.
    pub address: String,
    /// Its number at its physical function.
    pub number: u32,
    /// Name of the physical function.
    pub pf: String,
    /// Driver of the physical function.
    pub pf_driver: String,
    /// VLAN that the card adds and removes; 0: none.
    pub vlan: u16,
    /// Frames to the guest, if the driver counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_packets: Option<u64>,
    /// Bytes to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_bytes: Option<u64>,
    /// Frames from the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_packets: Option<u64>,
    /// Bytes from the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_bytes: Option<u64>,
}

impl VirtualFunction {
    fn of(vf: VfStatus) -> Self {
        let count = |place: usize| vf.traffic.map(|counts| counts[place]);
        Self {
            rx_packets: count(0),
            rx_bytes: count(1),
            tx_packets: count(2),
            tx_bytes: count(3),
            address: vf.address,
            number: vf.number,
            pf: vf.pf,
            pf_driver: vf.driver,
            vlan: vf.vlan,
        }
    }
}

/// State of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LinkState {
    /// Frames pass.
    Up,
    /// No frames pass.
    Down,
}

/// State of the guest's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Driver {
    /// A driver has started the queues.
    Running,
    /// No driver is loaded, or it has not started the queues yet.
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
            interfaces: nics
                .iter()
                .map(|nic| Interface {
                    tunnel: Tunnel::of(nic),
                    ..Interface::of(nic.status(), told)
                })
                .collect(),
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
            tunnel: None,
            warnings: nic.warnings,
            virtual_function: nic.vf.map(VirtualFunction::of),
        }
    }
}

/// Known addresses of a guest with their sources.
#[derive(Debug, Default)]
struct Learned {
    addresses: Vec<IpAddr>,
    name: Option<String>,
    sources: Vec<&'static str>,
}

impl Learned {
    /// Lists leased addresses first, then observed ones, most recent first and link-local last, then those that only
    /// the guest's agent reports.
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
    fn a_nic_is_reported_in_the_words_of_kubevirt() {
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
