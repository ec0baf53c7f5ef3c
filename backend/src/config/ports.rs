//! Sets of ports, and which of them the guest has.

use super::Transport;
use std::fmt;
use std::ops::RangeInclusive;

/// Ports of TCP and of UDP.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet {
    /// A bit for each port, first those of TCP.
    words: Box<[u64]>,
}

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
    /// Where the bit of a port is: word and mask.
    fn place(transport: Transport, port: u16) -> (usize, u64) {
        let first = match transport {
            Transport::Tcp => 0,
            Transport::Udp => WORDS_OF_TRANSPORT,
        };
        let port = usize::from(port);
        (first + port / PORTS_OF_WORD, 1 << (port % PORTS_OF_WORD))
    }

    /// Puts ports in.
    pub fn insert(&mut self, transport: Transport, ports: RangeInclusive<u16>) {
        for port in ports {
            let (word, bit) = Self::place(transport, port);
            self.words[word] |= bit;
        }
    }

    /// Takes ports out.
    pub fn remove(&mut self, transport: Transport, ports: RangeInclusive<u16>) {
        for port in ports {
            let (word, bit) = Self::place(transport, port);
            self.words[word] &= !bit;
        }
    }

    /// Takes out what is in `other`.
    pub fn remove_all(&mut self, other: &Self) {
        for (word, gone) in self.words.iter_mut().zip(&other.words) {
            *word &= !gone;
        }
    }

    /// Takes out what is not in `other`.
    pub fn retain(&mut self, other: &Self) {
        for (word, stays) in self.words.iter_mut().zip(&other.words) {
            *word &= stays;
        }
    }

    /// True if a port is in it.
    pub fn contains(&self, transport: Transport, port: u16) -> bool {
        let (word, bit) = Self::place(transport, port);
        self.words[word] & bit != 0
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// 65,536 bits for TCP and as many for UDP, the lowest port in the lowest bit.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The runs of ports in it, those of TCP first.
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

/// Runs of ports as options name them: `tcp:22 tcp:15000-15001 udp:53`.
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

/// Every port that nobody else has is the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EveryPort {
    /// Those the guest has, unless a forward or a program of the pod has them.
    pub ports: PortSet,
    /// What if the system does not let us have them.
    pub otherwise: Otherwise,
}

/// What becomes of a port that cannot be reached as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// It is not served.
    Fail,
    /// It is served, and a warning says what does not reach the guest.
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
