//! Name servers and search domains of a guest. They come from options and manifests if given, else from resolv.conf,
//! which may change while the guest runs.

use crate::resolv::ResolvConf;
use hawser_backend::config::Resolvers;
use hawser_manifest::links::Links;
use hawser_manifest::nic::NameSpec;
use std::net::IpAddr;

/// Source of the names of one NIC.
#[derive(Clone, Debug)]
pub(crate) struct NameSource {
    /// Name servers from the operator; `None`: those of resolv.conf.
    dns: Option<Vec<IpAddr>>,
    /// Search domains from the operator; `None`: those of resolv.conf.
    search: Option<Vec<String>>,
    way: Way,
}

/// How the guest reaches name servers.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Through hawser's gateway, which forwards queries to servers that the guest cannot reach.
    Gateway(Links),
    /// On a segment, from which the pod's loopback is unreachable.
    Segment,
}

impl NameSource {
    /// For a guest in masquerade.
    pub(crate) fn through_gateway(names: &NameSpec, links: Links) -> Self {
        Self::new(names, Way::Gateway(links))
    }

    /// For a guest on a segment.
    pub(crate) fn on_segment(names: &NameSpec) -> Self {
        Self::new(names, Way::Segment)
    }

    fn new(names: &NameSpec, way: Way) -> Self {
        Self {
            dns: names.servers.clone(),
            search: names.search.clone(),
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
