//! Reads `dns` of a CNI configuration: settings for the guest's resolver.

use super::fields::cni as table;
use super::reader::Object;
use crate::values;
use serde::Serialize;
use std::net::IpAddr;

/// Names and servers of a network. Missing parts are taken from the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// `nameservers`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
    /// `domain`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// `search`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

/// Reads the field of a configuration or of its `ipam`. `None` if it is empty.
pub fn read(object: &Object<'_>) -> Option<Dns> {
    let dns = object.object("dns", &table::NAMES)?;
    let servers = dns.list("nameservers");
    let server = |text: &str| text.parse().map_err(|_| "give an IPv4 or IPv6 address".to_owned());
    let search = dns.list("search");
    let dns = Dns {
        nameservers: servers.iter().filter_map(|item| item.parsed(server)).collect(),
        domain: dns.get("domain").and_then(|item| item.parsed(values::search_domain)),
        search: search
            .iter()
            .filter_map(|item| item.parsed(values::search_domain))
            .collect(),
    };
    (dns != Dns::default()).then_some(dns)
}
