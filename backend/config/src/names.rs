//! Host name, domains and name servers for a guest.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Host name, domains and name servers handed out to the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameConfig {
    /// Host name of the guest (option 12), not qualified.
    pub hostname: Option<String>,
    /// Name servers of either family.
    pub dns: Vec<IpAddr>,
    /// Domain of the guest. `None`: the longest search domain.
    pub domain: Option<String>,
    /// Search domains, most specific first. Empty: the guest's own domain.
    pub search: Vec<String>,
    /// Additional DHCPv4 options: code, and up to 255 bytes. They are sent whether or not the guest requests them.
    pub dhcp_options: Vec<(u8, Vec<u8>)>,
}

impl NameConfig {
    /// The servers and domains that may follow the system's resolver configuration.
    pub fn resolvers(&self) -> Resolvers {
        Resolvers {
            dns: self.dns.clone(),
            search: self.search.clone(),
            forward: Vec::new(),
        }
    }

    /// Replaces the servers and domains that follow the system's resolver configuration.
    pub fn follow(&mut self, resolvers: &Resolvers) {
        self.dns.clone_from(&resolvers.dns);
        self.search.clone_from(&resolvers.search);
    }
}

/// A guest's name servers and search domains that follow the system's resolver configuration, and so may change while
/// the port runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolvers {
    /// Name servers of either family (see [`NameConfig::dns`]).
    pub dns: Vec<IpAddr>,
    /// Search domains (see [`NameConfig::search`]).
    pub search: Vec<String>,
    /// Servers behind the gateway ([`MasqueradeConfig::dns_forward`](crate::MasqueradeConfig::dns_forward)). Empty in
    /// other modes.
    pub forward: Vec<IpAddr>,
}
