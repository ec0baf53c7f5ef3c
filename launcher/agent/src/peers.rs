//! The peers file of a network, in the form that `hawser run --peers` reads and follows.

use hawser_manifest::values::hostname;
use hawser_store::bindings::{Bound, Change, PortId};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// The bound ports of a network.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports(BTreeMap<PortId, Bound>);

impl Ports {
    /// A table of all ports in a list.
    pub(crate) fn listed(bound: Vec<Bound>) -> Self {
        Self(bound.into_iter().map(|bound| (bound.port.clone(), bound)).collect())
    }

    /// Number of bound ports.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Applies a change. False if the table has a newer one, which happens only if the store was restored to an earlier
    /// state.
    pub(crate) fn apply(&mut self, change: Change) -> bool {
        let known = self.0.get(change.port()).map(|bound| bound.epoch);
        match change {
            Change::Bound(bound) if known.is_none_or(|known| known <= bound.epoch) => {
                self.0.insert(bound.port.clone(), bound);
                true
            }
            Change::Unbound { port, epoch } if known.is_none_or(|known| known <= epoch) => {
                self.0.remove(&port);
                true
            }
            _ => false,
        }
    }

    /// The text of the file for the process of a port of `node`. If that port is bound at another node, the process is
    /// silent. If two ports have the same MAC or address, only the first counts. The store does not allow such ports.
    pub(crate) fn text(&self, node: &str, own: &PortId) -> String {
        let mut text =
            String::from("# Written by hawser-agent, which replaces it when a port of the network changes.\n");
        let mut macs = BTreeMap::new();
        for Bound { port, binding, .. } in self.0.values() {
            if macs.insert(binding.mac, ()).is_some() {
                continue;
            }
            // Writing to a string cannot fail.
            let _ = write!(text, "{}", binding.mac);
            for address in &binding.addresses {
                let _ = write!(text, ",{address}");
            }
            let _ = write!(text, "@{},frames", binding.vtep);
            if port == own && binding.process.node != node {
                text.push_str(",moved");
            }
            // Names with dots have no entry in the network's DNS.
            if let Ok(name) = hostname(&port.holder.vm.name) {
                let _ = write!(text, ",name={name}");
            }
            text.push('\n');
        }
        text
    }
}

/// Replaces a file with one that contains this text, so that a reader sees either the old or the new text.
///
/// # Errors
/// The error of the system.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_manifest::peers;
    use hawser_store::Holder;
    use hawser_store::bindings::{Binding, Epoch};
    use hawser_store::liveness::ProcessId;

    fn bound(vm: &str, mac: &str, epoch: u32) -> Bound {
        Bound {
            port: PortId {
                network: "default/blue".into(),
                holder: Holder {
                    vm: format!("default/{vm}").parse().unwrap(),
                    interface: "net".into(),
                },
            },
            epoch: Epoch(epoch),
            binding: Binding {
                process: ProcessId {
                    node: "n1".into(),
                    process: vm.into(),
                },
                mac: mac.parse().unwrap(),
                addresses: vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
                vtep: "[2001:db8::1]:6082".parse().unwrap(),
            },
        }
    }

    #[test]
    fn hawser_reads_the_file_and_finds_the_ports_in_it() {
        let ports = Ports::listed(vec![bound("db", "02:00:00:00:00:05", 1)]);
        let text = ports.text("n1", &bound("web", "02:00:00:00:00:06", 1).port);
        let listed = peers::parse(&text).unwrap();
        let peer = &listed[0].peer;
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (peer.vtep, &peer.macs[..]),
            (
                "[2001:db8::1]:6082".parse().unwrap(),
                &["02:00:00:00:00:05".parse().unwrap()][..]
            )
        );
        assert_eq!(
            (peer.addresses.len(), peer.name.as_deref(), peer.knows_frame_option),
            (2, Some("db"), true)
        );
    }

    #[test]
    fn the_process_of_a_port_that_is_bound_at_another_node_reads_that_its_guest_has_moved() {
        let ports = Ports::listed(vec![
            bound("db", "02:00:00:00:00:05", 2),
            bound("web", "02:00:00:00:00:06", 1),
        ]);
        let moved = |node: &str, own: &str| {
            let own = bound(own, "02:00:00:00:00:05", 1).port;
            let text = ports.text(node, &own).replace("10.1.0.5,fd00::5", "");
            text.lines().filter(|line| line.ends_with("moved")).count()
                + text.lines().filter(|line| line.contains(",moved,")).count()
        };
        assert_eq!([moved("n1", "db"), moved("n2", "db"), moved("n2", "other")], [0, 1, 0]);
    }

    #[test]
    fn an_older_change_does_not_replace_a_newer_one() {
        let mut ports = Ports::listed(vec![bound("db", "02:00:00:00:00:05", 3)]);
        assert!(!ports.apply(Change::Bound(bound("db", "02:00:00:00:00:06", 2))));
        let text = |ports: &Ports| ports.text("n1", &bound("web", "02:00:00:00:00:09", 1).port);
        assert!(text(&ports).contains("02:00:00:00:00:05"));
        assert!(ports.apply(Change::Bound(bound("db", "02:00:00:00:00:06", 4))));
        assert!(text(&ports).contains("02:00:00:00:00:06"));
        let port = bound("db", "02:00:00:00:00:06", 4).port;
        assert!(ports.apply(Change::Unbound { port, epoch: Epoch(4) }));
        assert_eq!(peers::parse(&text(&ports)).unwrap(), []);
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_only_if_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        replace(&path, "one").unwrap();
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        replace(&path, "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        replace(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
