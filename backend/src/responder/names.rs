//! Domain names and name servers for the guest, checked once when a port is created.

use crate::config::NameConfig;
use dhcproto::Name;
use log::warn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum name servers per family. Resolvers use no more than three.
pub(super) const MAX_SERVERS: usize = 8;
/// Maximum bytes of the uncompressed search list. This leaves room for everything else in a packet of 1280 bytes.
const MAX_SEARCH: usize = 512;
/// RFC 1035 2.3.4
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 255;

/// The parts of a [`NameConfig`] that can be handed out. Invalid parts are logged once.
#[derive(Debug)]
pub(super) struct OfferedNames {
    pub hostname: Option<String>,
    pub dns4: Vec<Ipv4Addr>,
    pub dns6: Vec<Ipv6Addr>,
    pub search: SearchList,
    /// Additional DHCPv4 options: code and data.
    pub options: Vec<(u8, Vec<u8>)>,
}

impl OfferedNames {
    pub(super) fn of(names: &NameConfig) -> Self {
        let (dns4, dns6) = servers(&names.dns);
        Self {
            hostname: checked_hostname(names.hostname.as_deref()),
            dns4,
            dns6,
            search: SearchList::of(names),
            options: names.dhcp_options.clone(),
        }
    }
}

impl OfferedNames {
    /// The guest's own name in wire form, empty if there is none. It ends with the root if the domain is known, and is
    /// partial otherwise (RFC 4704 4.2).
    pub(super) fn fqdn(&self) -> Vec<u8> {
        let Some(hostname) = &self.hostname else {
            return Vec::new();
        };
        let full = self.search.own.as_ref().map(|domain| format!("{hostname}.{domain}"));
        let full = full.as_deref().and_then(to_wire);
        full.unwrap_or_else(|| {
            let mut partial = to_wire(hostname).unwrap_or_default();
            partial.pop();
            partial
        })
    }
}

/// Search domains in wire form, and the guest's own domain.
#[derive(Clone, Debug, Default)]
pub(super) struct SearchList {
    /// The domains as text, without a final dot.
    domains: Vec<String>,
    /// The domains in sequence, without compression (RFC 1035 3.1).
    wire: Vec<u8>,
    /// The guest's own domain, if configured.
    own: Option<String>,
}

impl SearchList {
    /// The valid domains of `names`.
    pub(super) fn of(names: &NameConfig) -> Self {
        let own: &[String] = names.domain.as_slice();
        let mut list = Self::new(if names.search.is_empty() { own } else { &names.search });
        list.own = Self::new(own).domains.pop();
        list
    }

    /// The valid domains of `search`, in order; the others are logged.
    pub(super) fn new(search: &[String]) -> Self {
        let mut list = Self::default();
        for domain in search {
            let Some(wire) = to_wire(domain) else {
                warn!("search domain {domain:?} is not a domain name: the guest does not get it");
                continue;
            };
            if list.wire.len() + wire.len() > MAX_SEARCH {
                warn!(
                    "the search list is longer than {MAX_SEARCH} bytes: the guest does not get \
                    {domain:?}"
                );
                continue;
            }
            list.wire.extend(wire);
            list.domains.push(domain.trim_end_matches('.').to_owned());
        }
        list
    }

    /// True if the list has no domain.
    pub(super) const fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// The list without compression, as DHCPv6 (RFC 8415 10) and router advertisements (RFC 8106 5.2) require it.
    pub(super) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The list in the form that the DHCPv4 codec takes.
    pub(super) fn names(&self) -> Vec<Name> {
        self.domains
            .iter()
            .filter_map(|d| Name::from_ascii(format!("{d}.")).ok())
            .collect()
    }

    /// The guest's own domain: the configured one, or else the longest in the list (the first of several).
    pub(super) fn domain(&self) -> Option<&str> {
        if let Some(own) = &self.own {
            return Some(own);
        }
        let longest = self.domains.iter().rev().max_by_key(|d| d.len())?;
        Some(longest)
    }
}

/// A domain name in wire form; `None` if the name is invalid or the root.
fn to_wire(domain: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(domain.len() + 2);
    for label in domain.strip_suffix('.').unwrap_or(domain).split('.') {
        let is_label = (1..=MAX_LABEL).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !is_label {
            return None;
        }
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend(label.bytes());
    }
    wire.push(0);
    (wire.len() <= MAX_NAME).then_some(wire)
}

/// A host name that fits into an option; `None`, with a warning in the log, if it is invalid.
fn checked_hostname(hostname: Option<&str>) -> Option<String> {
    let hostname = hostname?;
    if to_wire(hostname).is_none() {
        warn!("host name {hostname:?} is not a host name: the guest does not get it");
        return None;
    }
    Some(hostname.to_owned())
}

/// The name servers of each family, up to the limit.
fn servers(dns: &[IpAddr]) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
    let (mut v4, mut v6) = super::by_family(dns);
    for (family, len) in [("IPv4", v4.len()), ("IPv6", v6.len())] {
        if len > MAX_SERVERS {
            warn!("{len} {family} name servers: the guest gets the first {MAX_SERVERS}");
        }
    }
    v4.truncate(MAX_SERVERS);
    v6.truncate(MAX_SERVERS);
    (v4, v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(domains: &[&str]) -> SearchList {
        let domains: Vec<_> = domains.iter().map(|d| (*d).to_owned()).collect();
        SearchList::new(&domains)
    }

    #[test]
    fn domains_are_written_label_by_label_without_compression() {
        let wire = list(&["a.bc.", "bc"]);
        assert_eq!(wire.wire(), b"\x01a\x02bc\0\x02bc\0");
    }

    #[test]
    fn what_is_no_domain_is_left_out_and_the_rest_stays() {
        let long_label = "x".repeat(64);
        let long_name = ["abcdefg"; 32].join(".");
        let search = list(&[
            ".",
            "",
            "a..b",
            "a b",
            "ü.de",
            &long_label,
            &long_name,
            "Good_1.example",
        ]);
        assert_eq!(search.wire(), b"\x06Good_1\x07example\0");
        assert_eq!(search.names().len(), 1);
    }

    #[test]
    fn a_list_too_long_keeps_what_fits() {
        let domains: Vec<_> = (0..100).map(|i| format!("domain-{i:02}.example")).collect();
        let search = SearchList::new(&domains);
        assert_eq!(search.wire().len(), 512 / 19 * 19);
        assert_eq!(search.names().len(), 512 / 19);
    }

    #[test]
    fn the_longest_domain_is_the_first_of_equals() {
        assert_eq!(list(&["aa.b", "cc.d", "e"]).domain(), Some("aa.b"));
        assert_eq!(list(&[]).domain(), None);
    }
}
