//! Facts of the system that serve as defaults of options, read once at the start. All other code takes a [`Host`] and
//! can be tested without a system.

use crate::failure::Failure;
use crate::resolv::{self, ResolvConf};
use hawser_host::interfaces::{self, Interface};
use hawser_host::system::{self, DefaultRoute};
use hawser_manifest::nic::NicSpec;
use hawser_manifest::values;
use std::net::IpAddr;
use std::path::Path;

/// Facts of a system that serve as defaults of options.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    /// Addresses of this network namespace that are valid beyond their link.
    pub addresses: Vec<IpAddr>,
    /// MTU of the default route. If there are two, that of IPv4.
    pub mtu: Option<u16>,
    /// The default routes of IPv4 and of IPv6.
    pub default_routes: [Option<DefaultRoute>; 2],
    /// First label of the system's host name.
    pub hostname: Option<String>,
    /// Name servers and search domains of resolv.conf.
    pub resolv: ResolvConf,
    /// The interfaces, for a guest that shares the addresses of one. Empty otherwise.
    pub interfaces: Vec<Interface>,
}

impl Host {
    /// The default route in the family of `like`.
    pub(crate) const fn default_route(&self, like: IpAddr) -> Option<&DefaultRoute> {
        let [v4, v6] = &self.default_routes;
        match like {
            IpAddr::V4(_) => v4.as_ref(),
            IpAddr::V6(_) => v6.as_ref(),
        }
    }

    /// Reads the facts from the system.
    pub(crate) fn probe() -> Self {
        let default_routes = system::default_routes();
        let mtu = default_routes.iter().flatten().next().map(|route| guest_mtu(route.mtu));
        Self {
            addresses: system::global_addresses(),
            mtu,
            default_routes,
            hostname: first_label(&system::node_name()),
            resolv: ResolvConf::read(Path::new(resolv::PATH)).unwrap_or_default(),
            interfaces: Vec::new(),
        }
    }

    /// Reads the facts that these NICs need.
    ///
    /// # Errors
    /// The interfaces cannot be listed.
    pub(crate) fn probe_for<'a>(mut nics: impl Iterator<Item = &'a NicSpec>) -> Result<Self, Failure> {
        let mut host = Self::probe();
        if nics.any(|nic| nic.mode.shares_addresses()) {
            host.interfaces = interfaces::interfaces()
                .map_err(|e| Failure::runtime(format_args!("cannot list this network namespace's interfaces: {e}")))?;
        }
        Ok(host)
    }
}

/// The MTU that a guest can have on a route.
pub(crate) fn guest_mtu(route: u32) -> u16 {
    u16::try_from(route).unwrap_or(u16::MAX).max(values::MIN_MTU)
}

fn first_label(name: &str) -> Option<String> {
    let label = name.split('.').next()?;
    values::hostname(label).ok().filter(|label| label != "localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_cut_at_its_first_dot_and_must_mean_something() {
        assert_eq!(first_label("node-1.example.com").as_deref(), Some("node-1"));
        for name in ["", "localhost", "localhost.localdomain", "(none)", "under_score"] {
            assert_eq!(first_label(name), None, "{name}");
        }
    }
}
