//! Neighbours of this host, as far as it needs them to learn whether a router answers.

use super::netlink::Netlink;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Port to which the datagrams go that make the kernel look for a neighbour (discard, RFC 863).
const DISCARD: u16 = 9;

/// A neighbour in the kernel's table.
struct Neighbour {
    address: IpAddr,
    message: NeighbourMessage,
}

impl Netlink {
    fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let all = self.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        let address = |message: &NeighbourMessage| {
            message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
                _ => None,
            })
        };
        let found = all.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => Some(Neighbour {
                address: address(&message)?,
                message,
            }),
            _ => None,
        });
        Ok(found.collect())
    }

    /// Makes the kernel forget what it knows of all neighbours, so that the next datagram to each is a question.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn forget_neighbours(&mut self) -> io::Result<()> {
        for Neighbour { message, .. } in self.neighbours()? {
            if message.header.state == NeighbourState::Permanent {
                continue;
            }
            match self.request(RouteNetlinkMessage::DelNeighbour(message), 0) {
                // It is gone already.
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// True if a neighbour has answered since all were forgotten, or needs no question.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn has_answered(&mut self, address: IpAddr) -> io::Result<bool> {
        let found = self.neighbours()?;
        Ok(found.iter().any(|neighbour| {
            let state = neighbour.message.header.state;
            let answered = matches!(
                state,
                NeighbourState::Reachable | NeighbourState::Noarp | NeighbourState::Permanent
            );
            neighbour.address == address && answered
        }))
    }
}

/// Sends a datagram to a neighbour, for which the kernel must find its link-layer address. False if there is no route.
pub fn ask(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => [0; 4].into(),
        IpAddr::V6(_) => [0; 16].into(),
    };
    let sent = UdpSocket::bind(SocketAddr::new(any, 0)).and_then(|socket| socket.send_to(&[0], (address, DISCARD)));
    sent.is_ok()
}
