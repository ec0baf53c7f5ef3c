//! The services of the local station: those of any gateway, and DNS for the names of the network.

use crate::config::{Layer2Config, NetworkRole};
use crate::counters::{Count, Counters};
use crate::forwarding::Table;
use crate::frame::{GuestFrame, GuestSink};
use crate::nat::engine::{Service, Services};
use crate::nat::services::{GatewayServices, deliver};
use crate::packet::MacAddr;
use crate::responder::dns::Dns;
use crate::responder::{Answer, MAX_FRAME, Replies, ServiceConfig, announce};
use crate::time::Instant;
use std::net::IpAddr;
use std::sync::Arc;

/// Maximum addresses that are announced to the guest after one change of the table. The others become reachable when
/// the guest's own entries have expired.
const ANNOUNCEMENTS: usize = 64;

/// The station's services as one worker runs them.
#[derive(Debug)]
pub(super) struct LocalServices {
    /// ARP, neighbour discovery, DHCP, router advertisements, echo.
    pub(super) link: GatewayServices,
    /// Name server of the gateway; `None` without a gateway.
    dns: Option<Dns>,
    replies: Replies,
    counters: Arc<Counters>,
}

impl LocalServices {
    pub(super) fn new(config: ServiceConfig, mode: &Layer2Config, table: &Arc<Table>, counters: Arc<Counters>) -> Self {
        let replies = Replies::of(config.gateway);
        let mut link = GatewayServices::new(config, Arc::clone(&counters));
        link.set_peers(Arc::clone(table) as _);
        Self {
            link,
            dns: dns(mode, table),
            replies,
            counters,
        }
    }

    /// Announces addresses that have another MAC now to the guest, up to a number of frames that the guest can handle.
    pub(super) fn announce(&mut self, moved: impl Iterator<Item = (IpAddr, MacAddr)>, sink: &mut dyn GuestSink) {
        for (address, mac) in moved.take(ANNOUNCEMENTS) {
            announce(address, mac, &mut self.replies);
            self.counters.add(Count::NeighbourAnnouncements, 1);
        }
        deliver(&mut self.replies, &self.counters, sink);
    }

    /// The gateway's name server.
    pub(super) const fn dns(&self) -> Option<&Dns> {
        self.dns.as_ref()
    }

    /// Replaces the peers for which the services answer.
    pub(super) fn set_peers(&mut self, table: &Arc<Table>) {
        self.link.set_peers(Arc::clone(table) as _);
        if let Some(dns) = &mut self.dns {
            dns.set_peers(Arc::clone(table) as _);
        }
    }
}

impl Services for LocalServices {
    fn answer(&mut self, now: Instant, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) -> Service {
        match &self.dns {
            Some(dns) if dns.wants(frame.head, &frame.parsed) && frame.len <= MAX_FRAME => {
                let mut copy = [0; MAX_FRAME];
                let n = frame.copy_to(0, &mut copy);
                if dns.answer(&copy[..n], &frame.parsed, &mut self.replies) == Answer::NotMine {
                    return Service::Pass;
                }
                deliver(&mut self.replies, &self.counters, sink);
                Service::Answered { claimed: None }
            }
            _ => self.link.answer(now, frame, sink),
        }
    }
}

/// Creates the name server of a network; `None` without a gateway.
fn dns(mode: &Layer2Config, table: &Arc<Table>) -> Option<Dns> {
    let NetworkRole::Primary(network) = &mode.role else {
        return None;
    };
    let gateways = [
        network.ipv4.map(|link| IpAddr::from(link.gateway)),
        network.ipv6.map(|link| link.gateway.into()),
    ];
    let addresses = mode.addresses().into_iter().flatten().map(|net| net.addr());
    let own = mode.names.hostname.clone().map(|name| (name, addresses.collect()));
    let domain = mode.names.domain.as_deref();
    Some(Dns::new(
        gateways.into_iter().flatten(),
        domain,
        own,
        Arc::clone(table) as _,
    ))
}
