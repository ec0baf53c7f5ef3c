//! Keys of the records, below `/hawser/CLUSTER/`.
//!
//! | key | value | read by |
//! |---|---|---|
//! | `schema` | number of the layout | every transaction |
//! | `vm/NAMESPACE/VM` | leases of the VM's interfaces | its claims |
//! | `mac/MAC/SEGMENT` | holder | searches for a free MAC, on any segment |
//! | `ip/SEGMENT/ADDRESS` | holder | searches for a free address on a segment |
//! | `any/ADDRESS/SEGMENT` | holder | searches for an address that is free on every segment |
//! | `cursor/RANGE` | number that was leased last | searches, as a hint |
//! | `net/NETWORK` | identifier and subnets of a network | claims on it |
//! | `vni/NUMBER` | name of the network | the check that no other network has it |
//! | `port/NETWORK/NAMESPACE/VM/INTERFACE` | binding, or the last epoch | processes on that network |
//! | `floor` | lowest epoch of a port without a record | the first binding of a port |
//! | `proc/NODE/PROCESS` | empty | the list of processes |
//! | `rec/PART/PART…` | text of a record ([`crate::records`]) | agents |
//! | `alive/NODE/PROCESS` | empty; under a time lease | the list of processes that still run |
//!
//! MACs have their usual form, and addresses are hexadecimal numbers of equal length (IPv4 mapped to IPv6), so the keys
//! are in the order of the numbers.

use crate::bindings::PortId;
use crate::escape::{escaped, plain};
use crate::holder::{Holder, VmName};
use crate::liveness::ProcessId;
use crate::range::{self, Number, Span};
use crate::records::RecordKey;
use crate::segment::{RangeId, Segment};
use hawser_packet::geneve::Vni;

/// Creates the keys of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

/// A range of keys, from `first` up to but not including `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub first: String,
    pub end: String,
}

impl KeyRange {
    /// All keys that begin with `prefix`, which must end with a slash.
    fn below(prefix: String) -> Self {
        // This is the byte after the slash.
        let end = format!("{}0", prefix.strip_suffix('/').unwrap_or(&prefix));
        Self { first: prefix, end }
    }

    /// The keys of this range after `key`.
    pub(super) fn after(&self, key: &str) -> Self {
        Self {
            first: format!("{key}\0"),
            end: self.end.clone(),
        }
    }
}

impl Keys {
    pub(super) fn new(cluster: &str) -> Self {
        Self {
            prefix: format!("/hawser/{}/", escaped(cluster)),
        }
    }

    fn key(&self, kind: &str, parts: &[&str]) -> String {
        let mut key = format!("{}{kind}", self.prefix);
        for part in parts {
            key.push('/');
            key.push_str(&escaped(part));
        }
        key
    }

    fn below(&self, kind: &str, parts: &[&str]) -> KeyRange {
        KeyRange::below(self.key(kind, parts) + "/")
    }

    pub(super) fn schema(&self) -> String {
        self.key("schema", &[])
    }

    pub(super) fn vm(&self, vm: &VmName) -> String {
        self.key("vm", &[&vm.namespace, &vm.name])
    }

    pub(super) fn vms(&self) -> KeyRange {
        self.below("vm", &[])
    }

    /// The VM in a key of [`vms`](Self::vms).
    pub(super) fn vm_of(&self, key: &str) -> Option<VmName> {
        let (namespace, name) = key.strip_prefix(&self.prefix)?.strip_prefix("vm/")?.split_once('/')?;
        Some(VmName {
            namespace: plain(namespace)?,
            name: plain(name)?,
        })
    }

    pub(super) fn mac(&self, mac: Number, segment: &Segment) -> String {
        self.key("mac", &[&range::mac(mac).to_string(), &segment.key()])
    }

    pub(super) fn macs(&self, span: Span) -> KeyRange {
        let below = |number| self.below("mac", &[&range::mac(number).to_string()]);
        KeyRange {
            first: below(span.first).first,
            end: below(span.last).end,
        }
    }

    pub(super) fn address(&self, segment: &Segment, address: Number) -> String {
        self.key("ip", &[&segment.key(), &hexadecimal(address)])
    }

    pub(super) fn address_anywhere(&self, address: Number, segment: &Segment) -> String {
        self.key("any", &[&hexadecimal(address), &segment.key()])
    }

    /// Keys of addresses within `span`, on one segment or on any.
    pub(super) fn addresses(&self, segment: Option<&Segment>, span: Span) -> KeyRange {
        match segment {
            Some(segment) => KeyRange {
                first: self.address(segment, span.first),
                end: self.address(segment, span.last) + "\0",
            },
            None => {
                let below = |number| self.below("any", &[&hexadecimal(number)]);
                KeyRange {
                    first: below(span.first).first,
                    end: below(span.last).end,
                }
            }
        }
    }

    pub(super) fn cursor(&self, range: &RangeId) -> String {
        self.key("cursor", &[&range.key()])
    }

    pub(super) fn network(&self, name: &str) -> String {
        self.key("net", &[name])
    }

    pub(super) fn networks(&self) -> KeyRange {
        self.below("net", &[])
    }

    pub(super) fn vni(&self, vni: Vni) -> String {
        self.key("vni", &[&vni.to_string()])
    }

    pub(super) fn port(&self, port: &PortId) -> String {
        let PortId { network, holder } = port;
        let Holder { vm, interface } = holder;
        self.key("port", &[network, &vm.namespace, &vm.name, interface])
    }

    /// Keys of the ports of one network, or of all networks.
    pub(super) fn ports(&self, network: Option<&str>) -> KeyRange {
        match network {
            Some(network) => self.below("port", &[network]),
            None => self.below("port", &[]),
        }
    }

    /// The port in a key. `None` if it is not the key of a port.
    pub(super) fn port_of(&self, key: &str) -> Option<PortId> {
        let rest = key.strip_prefix(&self.prefix)?.strip_prefix("port/")?;
        let parts: Vec<String> = rest.split('/').map(plain).collect::<Option<_>>()?;
        let [network, namespace, name, interface] = <[String; 4]>::try_from(parts).ok()?;
        let vm = VmName { namespace, name };
        Some(PortId {
            network,
            holder: Holder { vm, interface },
        })
    }

    pub(super) fn floor(&self) -> String {
        self.key("floor", &[])
    }

    pub(super) fn process(&self, process: &ProcessId) -> String {
        self.key("proc", &[&process.node, &process.process])
    }

    pub(super) fn processes(&self) -> KeyRange {
        self.below("proc", &[])
    }

    pub(super) fn alive(&self, process: &ProcessId) -> String {
        self.key("alive", &[&process.node, &process.process])
    }

    pub(super) fn all_alive(&self) -> KeyRange {
        self.below("alive", &[])
    }

    /// The process in a key of [`processes`](Self::processes) or [`all_alive`](Self::all_alive).
    pub(super) fn process_of(&self, key: &str) -> Option<ProcessId> {
        let mut parts = key.strip_prefix(&self.prefix)?.split('/').skip(1);
        let (node, process) = (plain(parts.next()?)?, plain(parts.next()?)?);
        Some(ProcessId { node, process })
    }

    pub(super) fn record(&self, key: &RecordKey) -> String {
        format!("{}rec/{}", self.prefix, key.path())
    }

    /// Keys of the records in a folder.
    pub(super) fn records(&self, folder: &RecordKey) -> KeyRange {
        KeyRange::below(self.record(folder) + "/")
    }

    /// The record of a key of [`records`](Self::records).
    pub(super) fn record_of(&self, key: &str) -> Option<RecordKey> {
        RecordKey::of_path(key.strip_prefix(&self.prefix)?.strip_prefix("rec/")?)
    }

    /// The number in a key of [`macs`](Self::macs) or [`addresses`](Self::addresses).
    pub(super) fn number_of(&self, key: &str) -> Option<Number> {
        let mut parts = key.strip_prefix(&self.prefix)?.split('/');
        match parts.next()? {
            "mac" => parts.next()?.parse().ok().map(range::mac_number),
            "ip" => Number::from_str_radix(parts.nth(1)?, 16).ok(),
            "any" => Number::from_str_radix(parts.next()?, 16).ok(),
            _ => None,
        }
    }
}

fn hexadecimal(number: Number) -> String {
    format!("{number:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::{mac_number, number};

    fn holder(interface: &str) -> Holder {
        Holder {
            vm: VmName {
                namespace: "default".into(),
                name: "vm1".into(),
            },
            interface: interface.into(),
        }
    }

    #[test]
    fn keys_are_what_other_programs_may_rely_on() {
        let keys = Keys::new("blue");
        let port = PortId {
            network: "default/lan".into(),
            holder: holder("net 1"),
        };
        assert_eq!(keys.port(&port), "/hawser/blue/port/default%2flan/default/vm1/net%201");
        assert_eq!(keys.port_of(&keys.port(&port)), Some(port));
        assert_eq!(keys.vm(&holder("x").vm), "/hawser/blue/vm/default/vm1");
        let segment = Segment::OtherNode {
            node: "n1".into(),
            name: "bridge br0".into(),
        };
        let mac = mac_number("02:00:00:00:00:ff".parse().unwrap());
        assert_eq!(
            keys.mac(mac, &segment),
            "/hawser/blue/mac/02:00:00:00:00:ff/node%2fn1:bridge%20br0"
        );
    }

    #[test]
    fn a_range_holds_the_keys_of_its_numbers_and_no_others() {
        let keys = Keys::new("blue");
        let segments = [Segment::Network("a/b".into()), Segment::Network("a/b/c".into())];
        let at = |text: &str| number(text.parse().unwrap());
        let span = Span {
            first: at("10.0.0.2"),
            last: at("10.0.0.9"),
        };
        for (address, is_in) in [
            ("10.0.0.1", false),
            ("10.0.0.2", true),
            ("10.0.0.9", true),
            ("10.0.0.10", false),
        ] {
            let key = keys.address(&segments[0], at(address));
            let within = |range: &KeyRange, key: &str| *range.first <= *key && *key < *range.end;
            assert_eq!(
                within(&keys.addresses(Some(&segments[0]), span), &key),
                is_in,
                "{address}"
            );
            assert!(!within(&keys.addresses(Some(&segments[1]), span), &key));
            assert_eq!(keys.number_of(&key), Some(at(address)));
            let anywhere = keys.address_anywhere(at(address), &segments[1]);
            assert_eq!(within(&keys.addresses(None, span), &anywhere), is_in, "{address}");
            assert_eq!(keys.number_of(&anywhere), Some(at(address)));
        }
    }
}
