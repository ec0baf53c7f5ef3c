//! Sets of ports, such as those forwarded to the guest.

use crate::Transport;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;

/// A set of TCP and UDP ports.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<PortRange>", into = "Vec<PortRange>")]
pub struct PortSet {
    /// One bit per port, TCP first.
    words: Box<[u64]>,
}

/// A transport, and the first and last port of a range.
type PortRange = (Transport, u16, u16);

const PORTS_OF_WORD: usize = 64;
const WORDS_OF_TRANSPORT: usize = 65_536 / PORTS_OF_WORD;

impl Default for PortSet {
    fn default() -> Self {
        Self {
            words: vec![0; 2 * WORDS_OF_TRANSPORT].into(),
        }
    }
}

impl PortSet {
    /// Index of the word that contains a port's bit, and the bit's mask.
    #[inline]
    fn place(transport: Transport, port: u16) -> (usize, u64) {
        let first = match transport {
            Transport::Tcp => 0,
            Transport::Udp => WORDS_OF_TRANSPORT,
        };
        let port = usize::from(port);
        (first + port / PORTS_OF_WORD, 1 << (port % PORTS_OF_WORD))
    }

    /// Adds the ports of a range.
    pub fn insert(&mut self, transport: Transport, ports: RangeInclusive<u16>) {
        for port in ports {
            let (word, bit) = Self::place(transport, port);
            self.words[word] |= bit;
        }
    }

    /// Removes the ports of a range.
    pub fn remove(&mut self, transport: Transport, ports: RangeInclusive<u16>) {
        for port in ports {
            let (word, bit) = Self::place(transport, port);
            self.words[word] &= !bit;
        }
    }

    /// Removes the ports that are in `other`.
    pub fn remove_all(&mut self, other: &Self) {
        for (word, gone) in self.words.iter_mut().zip(&other.words) {
            *word &= !gone;
        }
    }

    /// Removes the ports that are not in `other`.
    pub fn retain(&mut self, other: &Self) {
        for (word, stays) in self.words.iter_mut().zip(&other.words) {
            *word &= stays;
        }
    }

    /// True if the set contains the port.
    #[inline]
    pub fn contains(&self, transport: Transport, port: u16) -> bool {
        let (word, bit) = Self::place(transport, port);
        self.words[word] & bit != 0
    }

    /// True if the set is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// 65,536 bits for TCP and the same number for UDP. The lowest port has the lowest bit.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The ranges of ports in the set, TCP first.
    fn ranges(&self) -> impl Iterator<Item = (Transport, RangeInclusive<u16>)> {
        [Transport::Tcp, Transport::Udp].into_iter().flat_map(move |transport| {
            let mut next = Some(0u16);
            std::iter::from_fn(move || {
                let first = (next?..=u16::MAX).find(|port| self.contains(transport, *port));
                let Some(first) = first else {
                    next = None;
                    return None;
                };
                let end = (first..=u16::MAX).find(|port| !self.contains(transport, *port));
                let last = end.map_or(u16::MAX, |end| end - 1);
                next = end;
                Some((transport, first..=last))
            })
        })
    }
}

impl From<PortSet> for Vec<PortRange> {
    fn from(set: PortSet) -> Self {
        let range = |(transport, range): (_, RangeInclusive<u16>)| (transport, *range.start(), *range.end());
        set.ranges().map(range).collect()
    }
}

impl From<Vec<PortRange>> for PortSet {
    fn from(ranges: Vec<PortRange>) -> Self {
        let mut set = Self::default();
        for (transport, first, last) in ranges {
            set.insert(transport, first..=last);
        }
        set
    }
}

/// Writes ranges of ports in the syntax of options: `tcp:22 tcp:15000-15001 udp:53`.
impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (transport, range)) in self.ranges().enumerate() {
            if n > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{transport}:{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

/// Configuration that forwards every port that nothing else uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EveryPort {
    /// Ports to forward, unless another forward or a program of the pod uses them.
    pub ports: PortSet,
    /// What to do if a port cannot be forwarded.
    pub otherwise: Otherwise,
}

/// What to do if ports cannot be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Otherwise {
    /// The NIC is not served.
    Fail,
    /// The NIC is served, and a warning names the ports that do not reach the guest.
    Warn,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_tells_its_runs_and_both_ends_of_the_numbers() {
        let mut set = PortSet::default();
        assert!(set.is_empty() && set.to_string().is_empty());
        set.insert(Transport::Tcp, 22..=22);
        set.insert(Transport::Tcp, 63..=65);
        set.insert(Transport::Udp, 0..=1);
        set.insert(Transport::Udp, u16::MAX..=u16::MAX);
        assert_eq!(set.to_string(), "tcp:22 tcp:63-65 udp:0-1 udp:65535");
        assert!(set.contains(Transport::Tcp, 64) && !set.contains(Transport::Udp, 64));
        let mut gone = PortSet::default();
        gone.insert(Transport::Udp, 0..=u16::MAX);
        set.remove_all(&gone);
        set.remove(Transport::Tcp, 64..=64);
        assert_eq!(set.to_string(), "tcp:22 tcp:63 tcp:65");
    }
}
