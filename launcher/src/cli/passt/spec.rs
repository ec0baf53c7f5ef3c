//! Lowers the options of passt(1) to a NIC and to options of the process.

use super::PasstArgs;
use crate::cli::{Cli, RunArgs};
use clap::Parser as _;
use hawser_config::{EveryPort, Otherwise, Transport};
use hawser_manifest::nic::{Family, MasqueradeSpec, NameSpec, NetworkSpec, NicSpec, SharedAddress, SharedSpec};
use hawser_manifest::{passt_ports, values};
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// The word for an empty list.
const NONE: &str = "none";

/// The reason why hawser cannot serve what passt's options ask for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PasstError {
    /// The VMM would speak another protocol.
    #[error(
        "only vhost-user is served, and --vhost-user is missing: in libvirt's XML write <interface type='vhostuser'> \
         instead of type='user', with <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>; for \
         QEMU's -netdev passt add vhost-user=on"
    )]
    NoVhostUser,
    /// An option whose effect is not served.
    #[error("{0}: not served by hawser: leave it out, or start passt itself")]
    Refused(String),
    /// A value is malformed.
    #[error("{option} {value}: {why}")]
    Value {
        /// Name of the option.
        option: &'static str,
        /// The value that was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// Ports contradict each other.
    #[error("{option}: {why}")]
    Ports {
        /// Name of the option.
        option: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A family has two addresses.
    #[error("{0} was given twice for one family: give it once for IPv4 and once for IPv6")]
    Twice(&'static str),
    /// A value belongs to a family that is off.
    #[error("{0} {1}: the guest has no address of that family: leave -4 or -6 out")]
    FamilyOff(&'static str, IpAddr),
    /// The IPv4 prefix has no address.
    #[error("--netmask without an IPv4 --address: give both")]
    NetmaskAlone,
}

impl PasstArgs {
    /// The NIC that the options describe.
    ///
    /// # Errors
    /// [`PasstError`]
    pub(crate) fn nic(&self, name: String) -> Result<NicSpec, PasstError> {
        if !self.vhost_user {
            return Err(PasstError::NoVhostUser);
        }
        if let Some(option) = self.refused.given().into_iter().next() {
            return Err(PasstError::Refused(option));
        }
        let (mut forwards, mut every) = (Vec::new(), None);
        let transports = [
            (&self.tcp_ports, Transport::Tcp, "--tcp-ports"),
            (&self.udp_ports, Transport::Udp, "--udp-ports"),
        ];
        for (specs, transport, option) in transports {
            passt_ports::collect(specs, transport, &mut forwards, &mut every)
                .map_err(|why| PasstError::Ports { option, why })?;
        }
        let mut loopback = Vec::new();
        for text in self.map_host_loopback.iter().filter(|text| *text != NONE) {
            loopback.push(parsed("--map-host-loopback", text, parse_address)?);
        }
        let mode = MasqueradeSpec {
            network: NetworkSpec::Shared(self.network()?),
            forwards,
            every_port: every.map(|ports| EveryPort {
                ports,
                otherwise: Otherwise::Fail,
            }),
            map_host_loopback: loopback,
        };
        Ok(NicSpec {
            // passt's manual: with 0, no MTU is assigned.
            mtu: self.mtu.filter(|mtu| *mtu != 0),
            names: self.names()?,
            ..NicSpec::behind_nat(name, mode)
        })
    }

    /// The options of the process, with the defaults of hawser's own command line.
    pub(crate) fn process(&self) -> RunArgs {
        let level = match self {
            Self { quiet: true, .. } => "warn",
            Self { trace: true, .. } => "trace",
            Self { debug: true, .. } => "debug",
            _ => "info",
        };
        let words = ["hawser".to_owned(), format!("--log={level}")];
        let mut run = Cli::parse_from(words).run;
        run.one_off = self.one_off || self.fd.is_some();
        run.netns.clone_from(&self.netns);
        run.sandbox.user = self.runas;
        run
    }

    fn network(&self) -> Result<SharedSpec, PasstError> {
        let [mut ipv4, ipv6] = self.addresses()?;
        if let Some(mask) = &self.netmask {
            if ipv4.address.is_none() {
                return Err(PasstError::NetmaskAlone);
            }
            ipv4.prefix_len = Some(parsed("--netmask", mask, prefix_len)?);
        }
        let family = |is_off: bool, given: SharedAddress| {
            let stray = [(given.address, "--address"), (given.gateway, "--gateway")];
            match stray
                .into_iter()
                .find_map(|(address, option)| address.map(|a| (option, a)))
            {
                Some((option, address)) if is_off => Err(PasstError::FamilyOff(option, address)),
                _ if is_off => Ok(Family::Off),
                _ => Ok(Family::On(given)),
            }
        };
        Ok(SharedSpec {
            interface: self.interface.clone(),
            ipv4: family(self.ipv6_only, ipv4)?,
            ipv6: family(self.ipv4_only, ipv6)?,
        })
    }

    /// The given addresses and routers, IPv4 first.
    fn addresses(&self) -> Result<[SharedAddress; 2], PasstError> {
        let mut families = [SharedAddress::default(); 2];
        for text in &self.address {
            let (address, prefix) = match text.split_once('/') {
                Some((address, prefix)) => (address, Some(parsed("--address", prefix, prefix_len)?)),
                None => (text.as_str(), None),
            };
            let address = parsed("--address", address, parse_address)?;
            let family = &mut families[usize::from(address.is_ipv6())];
            if family.address.replace(address).is_some() {
                return Err(PasstError::Twice("--address"));
            }
            family.prefix_len = prefix;
        }
        for gateway in &self.gateway {
            let family = &mut families[usize::from(gateway.is_ipv6())];
            if family.gateway.replace(*gateway).is_some() {
                return Err(PasstError::Twice("--gateway"));
            }
        }
        Ok(families)
    }

    fn names(&self) -> Result<NameSpec, PasstError> {
        let qualified = self.fqdn.as_deref().or(self.hostname.as_deref());
        let (label, domain) = match qualified.and_then(|name| name.split_once('.')) {
            Some((label, domain)) => (Some(label), Some(domain)),
            None => (qualified, None),
        };
        let label = match (&self.hostname, label) {
            (Some(name), _) if !name.contains('.') => Some(name.as_str()),
            (_, label) => label,
        };
        let hostname = label
            .map(|label| parsed("--hostname", label, values::hostname))
            .transpose()?;
        let domain = domain
            .map(|domain| parsed("--fqdn", domain, values::search_domain))
            .transpose()?;
        let mut servers = Vec::new();
        for text in self.dns.iter().filter(|text| *text != NONE) {
            servers.push(parsed("--dns", text, values::name_server)?);
        }
        let mut search = Vec::new();
        for text in self
            .search
            .iter()
            .flat_map(|list| list.split_whitespace())
            .filter(|text| *text != NONE)
        {
            search.push(parsed("--search", text, values::search_domain)?);
        }
        let has_servers = !self.dns.is_empty() || self.no_dhcp_dns;
        let has_search = !self.search.is_empty() || self.no_dhcp_search;
        if self.no_dhcp_dns {
            servers.clear();
        }
        if self.no_dhcp_search {
            search.clear();
        }
        Ok(NameSpec {
            hostname,
            servers: has_servers.then_some(servers),
            search: has_search.then_some(search),
            domain,
            ..NameSpec::default()
        })
    }
}

fn parsed<T>(option: &'static str, text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, PasstError> {
    parse(text).map_err(|why| PasstError::Value {
        option,
        value: text.to_owned(),
        why,
    })
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let address = IpAddr::from_str(text).map_err(|_| "not an IP address".to_owned())?;
    let is_host = !address.is_unspecified() && !address.is_loopback() && !address.is_multicast();
    match is_host {
        true => Ok(address),
        false => Err("not the address of a host".into()),
    }
}

/// A prefix length, as a number or as an IPv4 netmask.
fn prefix_len(text: &str) -> Result<u8, String> {
    if let Ok(len) = text.parse() {
        return Ok(len);
    }
    let mask: Ipv4Addr = text
        .parse()
        .map_err(|_| "give a prefix length such as 24, or a mask such as 255.255.255.0".to_owned())?;
    ipnet::ipv4_mask_to_prefix(mask).map_err(|_| "not a netmask: its ones must come first".into())
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
