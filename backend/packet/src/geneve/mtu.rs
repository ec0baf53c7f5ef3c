//! The largest frame that a tunnel carries without fragments.
//!
//! The outer packet has DF set and is never fragmented (RFC 8926 section 4.4.1). So the MTU of the *route* to an
//! endpoint is what counts: the MTU of a virtual network is the smallest MTU of its routes minus the tunnel headers.

use super::{BASE_LEN, OPTIONS_MAX};
use crate::{EthernetHeader, Ipv4Header, Ipv6Header, UdpHeader};
use std::fmt;
use std::net::IpAddr;

/// Address family of the outer packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 without options.
    Ipv4,
    /// IPv6 without extension headers.
    Ipv6,
}

impl From<IpAddr> for Family {
    fn from(endpoint: IpAddr) -> Self {
        match endpoint {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// The headers that a tunnel puts around a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    /// Family of the outer packets.
    pub family: Family,
    /// Length of the Geneve options in bytes, at most 252.
    pub options_len: usize,
}

/// The MTU of a virtual network does not fit the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "MTU {network} of the network and {overhead} bytes of Geneve over {family} exceed MTU {route} of the route: \
     give the network an MTU of at most {most}, or raise that of the route"
)]
pub struct MtuError {
    /// MTU of the virtual network.
    pub network: usize,
    /// MTU of the underlay route.
    pub route: usize,
    /// Bytes that the tunnel headers take.
    pub overhead: usize,
    /// Family of the outer packets.
    pub family: Family,
    /// Largest MTU that fits.
    pub most: usize,
}

impl Encapsulation {
    /// Bytes of the outer IP packet before the frame: 36 over IPv4, 56 over IPv6, plus the options.
    #[inline]
    pub const fn headers_len(self) -> usize {
        let ip = match self.family {
            Family::Ipv4 => Ipv4Header::LEN,
            Family::Ipv6 => Ipv6Header::LEN,
        };
        debug_assert!(self.options_len <= OPTIONS_MAX);
        ip + UdpHeader::LEN + BASE_LEN + self.options_len
    }

    /// Bytes that the outer IP packet adds to the inner IP packet: 50 over IPv4, 70 over IPv6, plus the options.
    #[inline]
    pub const fn overhead(self) -> usize {
        self.headers_len() + EthernetHeader::LEN
    }

    /// Length of the longest frame on a route with this MTU, including tags and the Ethernet header.
    #[inline]
    pub const fn frame_max(self, route: usize) -> usize {
        route.saturating_sub(self.headers_len())
    }

    /// Length of the longest inner IP packet on a route with this MTU, in a frame without tags.
    #[inline]
    pub const fn inner_mtu(self, route: usize) -> usize {
        route.saturating_sub(self.overhead())
    }

    /// Checks the MTU of a network against that of a route.
    ///
    /// # Errors
    /// [`MtuError`], with both numbers.
    pub fn check(self, network: usize, route: usize) -> Result<(), MtuError> {
        let most = self.inner_mtu(route);
        if network <= most {
            return Ok(());
        }
        Err(MtuError {
            network,
            route,
            overhead: self.overhead(),
            family: self.family,
            most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn over(family: Family, options_len: usize) -> Encapsulation {
        Encapsulation { family, options_len }
    }

    #[test]
    fn the_overhead_is_that_of_ovn_kubernetes_with_its_option() {
        let figures = [
            (Family::Ipv4, 0, 50),
            (Family::Ipv6, 0, 70),
            (Family::Ipv4, 8, 58),
            (Family::Ipv6, 8, 78),
        ];
        for (family, options_len, overhead) in figures {
            assert_eq!(over(family, options_len).overhead(), overhead);
        }
        assert_eq!(over(Family::Ipv4, 0).inner_mtu(1500), 1450);
        assert_eq!(over(Family::Ipv6, 8).inner_mtu(9000), 8922);
        assert_eq!(over(Family::Ipv4, 0).inner_mtu(40), 0);
    }

    #[test]
    fn a_frame_of_the_inner_mtu_fits_and_its_tag_does_not() {
        let tunnel = over(Family::Ipv4, 0);
        let frame = EthernetHeader::LEN + tunnel.inner_mtu(1500);
        assert_eq!(tunnel.frame_max(1500), frame);
        assert_eq!(tunnel.headers_len() + frame, 1500);
    }

    #[test]
    fn a_network_that_does_not_fit_is_refused_with_both_numbers() {
        let tunnel = over(Family::Ipv6, 0);
        assert_eq!(tunnel.check(1430, 1500), Ok(()));
        let error = tunnel.check(1431, 1500).unwrap_err();
        assert_eq!(
            error.to_string(),
            "MTU 1431 of the network and 70 bytes of Geneve over IPv6 exceed MTU 1500 of the route: give the network \
             an MTU of at most 1430, or raise that of the route"
        );
        let address = |text: &str| Family::from(text.parse::<IpAddr>().unwrap());
        assert_eq!((address("192.0.2.1"), address("fd00::1")), (Family::Ipv4, Family::Ipv6));
    }
}
