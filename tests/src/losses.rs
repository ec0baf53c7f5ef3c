//! Counts the datagrams lost between a guest and the world, by the place of the loss.

use crate::guest::Shell;
use crate::hawser::Hawser;
use crate::netns::{Namespace, Networks};
use crate::{Result, failure};

const FILES: &str = "cat /proc/self/net/snmp /proc/self/net/snmp6 /proc/self/net/dev";

/// Datagrams lost since boot, by the place that lost them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Datagrams lost in queues of the link between pod and world, and in sockets in the world.
    pub world: u64,
    /// Datagrams lost because hawser's own sockets in the pod were full.
    pub pod: u64,
    /// Datagrams lost in hawser, for lack of room in the guest's rings or in its own sockets.
    pub hawser: u64,
    /// Datagrams lost in the guest's NIC and sockets.
    pub guest: u64,
}

impl Losses {
    /// Reads the losses so far.
    pub fn read(networks: &Networks, hawser: &mut Hawser, guest: &Shell) -> Result<Self> {
        Ok(Self {
            world: lost(&networks.world.run(FILES)?)?,
            pod: lost(&networks.pod.run(FILES)?)?,
            hawser: {
                let counters = hawser.counters()?;
                counters.dropped("no_room") + counters.dropped("udp_send_failed")
            },
            guest: lost(&guest.sh(FILES)?)?,
        })
    }

    /// The losses since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            world: self.world - before.world,
            pod: self.pod - before.pod,
            hawser: self.hawser - before.hawser,
            guest: self.guest - before.guest,
        }
    }

    /// Total number of losses.
    pub fn sum(self) -> u64 {
        self.world + self.pod + self.hawser + self.guest
    }
}

/// Datagrams lost to full sockets in a namespace since its creation.
pub fn at_full_sockets(namespace: &Namespace) -> Result<u64> {
    let files = namespace.run(FILES)?;
    sum(full_sockets(&files), &files)
}

/// Datagrams lost to full sockets, and packets lost to full queues of interfaces.
fn lost(files: &str) -> Result<u64> {
    // The fields for each of received and sent: bytes, packets, errors, dropped and four more.
    let devices = files.lines().filter_map(|line| line.split_once(": "));
    let devices = devices.map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
    let devices = devices.filter(|columns| columns.len() == 16);
    let devices: Vec<_> = devices.flat_map(|columns| [columns[3], columns[11]]).collect();
    if devices.is_empty() {
        return Err(failure(format!("the kernel lists no interface:\n{files}")));
    }
    Ok(sum(full_sockets(files), files)? + sum(devices, files)?)
}

/// The counts of datagrams lost to full sockets, by family.
fn full_sockets(files: &str) -> Vec<&str> {
    let mut udp4 = files.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (udp4.next().unwrap_or_default(), udp4.next().unwrap_or_default());
    let pairs = names.split_whitespace().zip(values.split_whitespace());
    let udp4 = pairs
        .filter(|(name, _)| *name == "RcvbufErrors")
        .map(|(_, value)| value);
    let udp6 = files.lines().filter_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    udp4.chain(udp6).collect()
}

/// The sum of counts. There must be at least two, for both families or both directions.
fn sum(counts: Vec<&str>, files: &str) -> Result<u64> {
    if counts.len() < 2 {
        return Err(failure(format!("the kernel tells of no losses:\n{files}")));
    }
    let mut sum = 0;
    for value in counts {
        sum += value.trim().parse::<u64>()?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_sockets_and_queues_are_found() {
        let files = "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 9 9 9 9 5\n\
                     Udp6RcvbufErrors                \t40\n\
                     Inter-|   Receive  |  Transmit\n face |bytes    packets\n\
                     lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n\
                     eth0: 1091       5    0    300    0     0          0         0     1580      11    0    2000    0     0       0          0\n";
        assert_eq!(lost(files).unwrap(), 2345);
        assert_eq!(sum(full_sockets(files), files).unwrap(), 45);
        assert!(lost("").is_err() && sum(full_sockets(""), "").is_err());
    }
}
