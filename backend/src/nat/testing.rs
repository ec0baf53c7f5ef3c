//! The environment of a protocol in tests and fuzz targets: a guest in memory with the default addresses, and a clock
//! that is set by hand.

use crate::config::{GATEWAY_MAC, Ipv4Link, Ipv6Link, MasqueradeConfig};
use crate::counters::Counters;
use crate::frame::testing::TestSink;
use crate::nat::address_map::AddressMap;
use crate::nat::context::Context;
use crate::nat::link::{GuestAddresses, Link};
use crate::packet::MacAddr;
use crate::poller::Poller;
use crate::time::Instant;
use ipnet::{Ipv4Net, Ipv6Net};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The guest's MAC.
pub(crate) const GUEST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// A guest and the environment of a protocol.
pub(crate) struct Surroundings {
    /// Current time of the test.
    pub now: Instant,
    /// The guest's link.
    pub link: Link,
    /// Address map of the guest.
    pub nat: AddressMap,
    /// Poller that watches the sockets.
    pub poller: Poller,
    /// Counters for drops and flows.
    pub counters: Counters,
    /// Frames delivered to the guest.
    pub sink: TestSink,
}

impl Surroundings {
    /// Surroundings with the default addresses of both families, after `change` has been applied.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(crate) fn make(change: impl FnOnce(&mut MasqueradeConfig)) -> io::Result<Self> {
        let v4 = |host| Ipv4Addr::new(10, 0, 2, host);
        let v6 = |host| Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, host);
        let mut config = MasqueradeConfig {
            ipv4: Some(Ipv4Link {
                network: Ipv4Net::new_assert(v4(0), 24),
                gateway: v4(1),
                guest: v4(2),
            }),
            ipv6: Some(Ipv6Link {
                network: Ipv6Net::new_assert(v6(0), 120),
                gateway: v6(1),
                guest: v6(2),
            }),
            ..MasqueradeConfig::default()
        };
        change(&mut config);
        Ok(Self {
            now: Instant::from_nanos(1_000_000_000),
            link: Link {
                gateway_mac: GATEWAY_MAC,
                guest_mac: GUEST_MAC,
                mtu: 1500,
                gateway_ipv4: config.ipv4.map(|link| link.gateway),
                gateway_ipv6: config.ipv6.map(|link| link.gateway),
                guest: GuestAddresses::of_links(config.ipv4, config.ipv6),
            },
            nat: AddressMap {
                ipv4: config.ipv4,
                ipv6: config.ipv6,
                host_loopback: config.map_host_loopback,
                dns_forward: config.dns_forward,
                dns_stream: None,
                balance: None,
                neighbourhood: config.neighbourhood,
            },
            poller: Poller::new()?,
            counters: Counters::default(),
            sink: TestSink::default(),
        })
    }

    /// The context of a call.
    pub(crate) fn context(&mut self) -> Context<'_> {
        Context {
            now: self.now,
            link: &self.link,
            nat: &self.nat,
            poller: &self.poller,
            counters: &self.counters,
            owners: None,
            sink: &mut self.sink,
        }
    }
}
