//! The L2 segment of a lease, and which nodes share it.

use crate::holder::VmName;
use hawser_packet::MacRange;
use ipnet::IpNet;
use std::fmt;

/// An L2 segment, on which no MAC or address has two holders.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// A segment of this node, such as `bridge br0`. The same name on another node means a different
    /// segment.
    ThisNode(String),
    /// A segment of another node. Only a store that nodes share returns it.
    OtherNode {
        /// Name of the node.
        node: String,
        /// Name of the segment on that node.
        name: String,
    },
    /// A network that all nodes share, by namespace and name.
    Network(String),
    /// The segment behind a VM's own NAT, on any node. No other VM is on it.
    OfVm(VmName),
}

impl Segment {
    /// The segment as a key, which is unique to the segment. [`from_key`](Self::from_key) parses it.
    pub fn key(&self) -> String {
        match self {
            Self::ThisNode(name) => format!("node:{name}"),
            Self::OtherNode { node, name } => format!("node/{node}:{name}"),
            Self::Network(name) => format!("network:{name}"),
            Self::OfVm(vm) => format!("vm:{vm}"),
        }
    }

    /// Parses a [`key`](Self::key). Node names contain no colon.
    pub fn from_key(key: &str) -> Option<Self> {
        let (kind, name) = key.split_once(':')?;
        match (kind, kind.strip_prefix("node/")) {
            ("node", _) => Some(Self::ThisNode(name.into())),
            ("network", _) => Some(Self::Network(name.into())),
            ("vm", _) => name.parse().ok().map(Self::OfVm),
            (_, Some(node)) => Some(Self::OtherNode {
                node: node.into(),
                name: name.into(),
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThisNode(name) => f.write_str(name),
            Self::OtherNode { node, name } => write!(f, "{name} of node {node}"),
            Self::Network(name) => write!(f, "network {name}"),
            Self::OfVm(vm) => write!(f, "masquerade of {vm}"),
        }
    }
}

/// A range whose numbers are leased in turn. The store keeps a cursor for each range: the number that was leased last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeId {
    /// A range of MACs, for every segment.
    Macs(MacRange),
    /// The addresses of a network on a segment. The id consists of the network and not of the range, so that a range
    /// that grows keeps its cursor.
    Addresses(Segment, IpNet),
}

impl RangeId {
    /// The id as a key.
    pub fn key(&self) -> String {
        match self {
            Self::Macs(range) => format!("MACs {range}"),
            Self::Addresses(segment, network) => format!("addresses {}: {network}", segment.key()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_segment_is_that_segment_again() {
        let vm = VmName {
            namespace: "default".into(),
            name: "vm1".into(),
        };
        let segments = [
            (Segment::ThisNode("bridge br0".into()), "node:bridge br0"),
            (Segment::ThisNode("link a:b".into()), "node:link a:b"),
            (
                Segment::OtherNode {
                    node: "n1".into(),
                    name: "bridge br0".into(),
                },
                "node/n1:bridge br0",
            ),
            (Segment::Network("blue/lan".into()), "network:blue/lan"),
            (Segment::OfVm(vm), "vm:default/vm1"),
        ];
        for (segment, key) in segments {
            assert_eq!(segment.key(), key);
            assert_eq!(Segment::from_key(key), Some(segment));
        }
        for key in ["bridge br0", "vm:", "vm:nowhere", "other:x"] {
            assert_eq!(Segment::from_key(key), None, "{key}");
        }
    }
}
