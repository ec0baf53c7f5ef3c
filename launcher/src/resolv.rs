//! Parses /etc/resolv.conf: the name servers and search domains of this system (resolv.conf(5)).

use hawser_manifest::values;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Path of the system's resolv.conf.
pub(crate) const PATH: &str = "/etc/resolv.conf";

/// The parts of resolv.conf that matter to a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// Name servers in order of preference. 0.0.0.0 and :: are replaced by loopback addresses, because a resolver
    /// treats them in this way.
    pub name_servers: Vec<IpAddr>,
    /// Search domains, in order.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The error of open(2) or read(2).
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        Ok(Self::parse(&String::from_utf8_lossy(&std::fs::read(path)?)))
    }

    /// Parses the text of the file. Invalid entries are skipped, as resolvers do. That includes name servers with a
    /// zone (fe80::1%eth0), which a guest cannot use.
    pub(crate) fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|w| w.parse().ok()).map(not_unspecified);
                    conf.name_servers.extend(server);
                }
                // The last of the two keywords wins, with all its values.
                Some("search") => conf.search = words.filter_map(|w| values::search_domain(w).ok()).collect(),
                Some("domain") => {
                    conf.search = words
                        .next()
                        .and_then(|w| values::search_domain(w).ok())
                        .into_iter()
                        .collect();
                }
                _ => {}
            }
        }
        conf
    }
}

fn not_unspecified(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_the_last_search_list_are_read() {
        let conf = ResolvConf::parse(
            "# comment\ndomain old.example\nnameserver 10.96.0.10 # the cluster's\nnameserver 0.0.0.0\n\
             nameserver fe80::1%eth0\nnameserver nonsense\n\tnameserver 2001:db8::53\n\
             search ns.svc.cluster.local svc.cluster.local. . bad..name _srv.example\noptions ndots:5\n",
        );
        let servers: Vec<IpAddr> = ["10.96.0.10", "127.0.0.1", "2001:db8::53"]
            .map(|a| a.parse().unwrap())
            .to_vec();
        assert_eq!(conf.name_servers, servers);
        assert_eq!(
            conf.search,
            ["ns.svc.cluster.local", "svc.cluster.local", "_srv.example"]
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_a_file_says_is_handed_on_unchecked(text in "((nameserver|search|domain)[ \t]+[^\n]{0,40}\n|.{0,20}\n){0,8}") {
            let conf = ResolvConf::parse(&text);
            proptest::prop_assert!(conf.search.iter().all(|d| values::search_domain(d).as_ref() == Ok(d)));
            proptest::prop_assert!(!conf.name_servers.iter().any(IpAddr::is_unspecified));
        }
    }

    #[test]
    fn an_empty_file_gives_nothing() {
        assert_eq!(ResolvConf::parse("\n;\n#\nnameserver\ndomain\n"), ResolvConf::default());
    }
}
