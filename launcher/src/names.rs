//! Name servers and search domains of a guest. They are taken from options and manifests if given, and otherwise from
//! resolv.conf, which may change while the guest runs.

use crate::resolv::ResolvConf;
use hawser_backend::config::Resolvers;
use hawser_manifest::links::Links;
use hawser_manifest::nic::NameSpec;
use std::net::IpAddr;

/// Source of a NIC's names.
#[derive(Clone, Debug)]
pub(crate) struct NameSource {
    /// Name servers from the operator; `None`: those of resolv.conf.
    dns: Option<Vec<IpAddr>>,
    /// Search domains from the operator; `None`: those of resolv.conf.
    search: Option<Vec<String>>,
    /// Domain of the guest.
    domain: Option<String>,
    way: Way,
}

/// How the guest reaches its name servers.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Through hawser's gateway, which forwards queries to servers that the guest cannot reach.
    Gateway(Links),
    /// Through the gateway of a network that has names of its own. The gateway answers queries for those names and
    /// forwards all other queries.
    Network(Links),
    /// Over a segment, from which the pod's loopback cannot be reached.
    Segment,
}

impl NameSource {
    /// The source for a guest in masquerade.
    pub(crate) fn through_gateway(names: &NameSpec, links: Links) -> Self {
        Self::new(names, Way::Gateway(links))
    }

    /// The source for a guest of a network that spans nodes. Name servers from the operator are used as they are.
    pub(crate) fn of_network(names: &NameSpec, links: Links) -> Self {
        let way = match &names.servers {
            Some(_) => Way::Gateway(links),
            None => Way::Network(links),
        };
        Self::new(names, way)
    }

    /// The source for a guest on a segment.
    pub(crate) fn on_segment(names: &NameSpec) -> Self {
        Self::new(names, Way::Segment)
    }

    fn new(names: &NameSpec, way: Way) -> Self {
        Self {
            dns: names.servers.clone(),
            search: names.search.clone(),
            domain: names.domain.clone(),
            way,
        }
    }

    /// True if a change of resolv.conf can affect the guest.
    pub(crate) const fn follows_system(&self) -> bool {
        self.dns.is_none() || self.search.is_none()
    }

    /// The guest's resolvers for a given resolv.conf.
    pub(crate) fn resolve(&self, resolv: &ResolvConf) -> Resolvers {
        let mut resolvers = Resolvers {
            search: self.search.as_ref().unwrap_or(&resolv.search).clone(),
            ..Resolvers::default()
        };
        for &server in self.servers(resolv) {
            let told = match self.way {
                Way::Segment => Some(server).filter(|server| !server.is_loopback()),
                Way::Network(_) => {
                    resolvers.forward.push(server);
                    None
                }
                Way::Gateway(links) if is_reachable(&links, server) => Some(server),
                Way::Gateway(links) => {
                    resolvers.forward.push(server);
                    links.gateway_for(server)
                }
            };
            let known = &resolvers.dns;
            let new = told.filter(|told| !known.contains(told));
            resolvers.dns.extend(new);
        }
        if let Way::Network(links) = self.way {
            resolvers.dns = links.gateways().collect();
            if let Some(domain) = &self.domain {
                resolvers.search.retain(|other| other != domain);
                resolvers.search.insert(0, domain.clone());
            }
        }
        resolvers
    }

    /// Notices for the operator about the name servers, one line each.
    pub(crate) fn notices(&self, resolv: &ResolvConf) -> Vec<String> {
        let mut notices = Vec::new();
        if let Way::Gateway(links) = self.way {
            for &server in self.servers(resolv) {
                let covering = links.covering(server);
                let Some(((option, network), gateway)) = covering.zip(links.gateway_for(server)) else {
                    continue;
                };
                notices.push(format!(
                    "the name server {server} lies in the guest's network {network}, where the guest cannot reach \
                     it: the gateway {gateway} forwards to it; choose another network with {option} for the guest \
                     to ask it directly"
                ));
            }
        }
        if self.resolve(resolv).dns.is_empty() {
            notices.push("the guest gets no name server: /etc/resolv.conf has none that it can use; give --dns".into());
        }
        notices
    }

    fn servers<'a>(&'a self, resolv: &'a ResolvConf) -> &'a [IpAddr] {
        self.dns.as_ref().unwrap_or(&resolv.name_servers)
    }
}

/// True if a guest on `links` can send packets to `server` directly.
fn is_reachable(links: &Links, server: IpAddr) -> bool {
    !server.is_loopback() && links.has_family_of(server) && !links.covers(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn resolve(names: &NameSpec) -> Resolvers {
        let links = Links::new("10.1.0.0/24".parse().ok(), "fd00:1::/64".parse().ok());
        let resolv = ResolvConf {
            name_servers: vec![ip("10.96.0.10"), ip("127.0.0.53")],
            search: vec!["svc.cluster.local".into(), "blue".into()],
        };
        NameSource::of_network(names, links).resolve(&resolv)
    }

    #[test]
    fn a_network_has_its_gateway_as_name_server_which_forwards_to_those_of_the_system() {
        let domain = NameSpec {
            domain: Some("blue".into()),
            ..NameSpec::default()
        };
        let resolvers = resolve(&domain);
        assert_eq!(resolvers.dns, [ip("10.1.0.1"), ip("fd00:1::1")]);
        assert_eq!(resolvers.forward, [ip("10.96.0.10"), ip("127.0.0.53")]);
        assert_eq!(resolvers.search, ["blue", "svc.cluster.local"]);
        assert_eq!(resolve(&NameSpec::default()).search, ["svc.cluster.local", "blue"]);
    }

    #[test]
    fn name_servers_of_the_operator_are_asked_by_the_guest_itself() {
        let names = NameSpec {
            servers: Some(vec![ip("192.0.2.53")]),
            ..NameSpec::default()
        };
        let resolvers = resolve(&names);
        assert_eq!((resolvers.dns, resolvers.forward), (vec![ip("192.0.2.53")], vec![]));
    }
}
