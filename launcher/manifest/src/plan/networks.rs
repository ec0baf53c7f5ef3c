//! Resolves the networks that interfaces name, as seen from the VM's namespace, and selects the mode.

use super::{Planner, SriovPlan};
use crate::nic::{Places, Shortage};
use crate::objects::cni::{Medium, Segment, UnservedMode};
use crate::objects::interface::{Binding, Interface, LinkState};
use crate::objects::metadata::DEFAULT_NAMESPACE;
use crate::objects::network::NamedNetwork;
use crate::objects::report::Spot;
use crate::objects::sriov::{SriovNetwork, VfLinkState, VlanProtocol};
use crate::objects::vm::NetworkSource;

impl Planner<'_> {
    /// The network that takes the place of the pod network in the VM's namespace, and whether that is certain. It is
    /// uncertain if it depends on unknown labels of the namespace.
    pub(super) fn primary(&self) -> Option<(&NamedNetwork, bool)> {
        let namespace = self.vm.namespace.as_str();
        let primaries = || self.manifests.networks.iter().filter(|n| n.primary && !n.is_made);
        let made = || self.manifests.networks.iter().filter(|n| n.primary && n.is_made);
        let all = || primaries().chain(made());
        let certain = all().find(|n| self.is_in(n, namespace) == Some(true));
        let possible = || all().find(|n| self.is_in(n, namespace).is_none());
        certain
            .map(|network| (network, true))
            .or_else(|| Some((possible()?, false)))
    }

    /// In the namespace of a primary user-defined network, `pod` refers to that network, which an interface reaches by
    /// another binding.
    pub(super) fn check_primary(&self, interface: &Interface) -> Option<()> {
        let Some((primary, certain)) = self.primary() else {
            return Some(());
        };
        self.report.adopt(&primary.problems);
        let (may, more) = if certain {
            ("is", String::new())
        } else {
            let more = format!(
                "; labels of the namespace {} decide, which are not known: give its Namespace with -f",
                self.vm.namespace
            );
            ("may be", more)
        };
        let message = format!(
            "the pod network of this namespace {may} {:?} ({}:{}), to which binding: {{name: l2bridge}} leads: write \
             that{more}",
            primary.name, primary.spot.file, primary.spot.line
        );
        self.report.error(&interface.spot, message);
        None
    }

    /// Reports a second network that takes the place of the pod network in the VM's namespace.
    pub(super) fn check_one_primary(&self) {
        let namespace = self.vm.namespace.as_str();
        let is_here = |n: &&NamedNetwork| n.primary && !n.is_made && self.is_in(n, namespace) == Some(true);
        let identity = |network: &NamedNetwork| network.layer2().map(|layer2| layer2.network.clone());
        let mut here = self.manifests.networks.iter().filter(is_here);
        let Some(first) = here.next() else { return };
        for other in here.filter(|other| identity(other).is_none() || identity(other) != identity(first)) {
            let message = format!(
                "primary network already exist in namespace {namespace}: it is at {}:{}, leave one out",
                first.spot.file, first.spot.line
            );
            self.report.error(&other.spot, message);
        }
    }

    /// True if a network can be named in a namespace. `None` if that depends on unknown labels of the namespace.
    fn is_in(&self, network: &NamedNetwork, namespace: &str) -> Option<bool> {
        match (&network.namespaces, &network.namespace) {
            (Some(selector), _) => selector.selects(&self.manifests.labels_of_namespace(namespace)),
            (None, Some(own)) => Some(own == namespace),
            (None, None) => Some(true),
        }
    }

    /// The networks with this name that an interface can use.
    fn named(&self, namespace: Option<&str>, name: &str) -> Vec<&NamedNetwork> {
        let namespace = namespace.unwrap_or(&self.vm.namespace);
        let fits = |n: &&NamedNetwork| n.name == name && self.is_in(n, namespace) != Some(false);
        let (made, written): (Vec<_>, Vec<_>) = self.manifests.networks.iter().filter(fits).partition(|n| n.is_made);
        // An object that OVN-Kubernetes generated from a network of the files adds nothing new.
        if written.is_empty() { made } else { written }
    }

    /// The network that an interface names. Adds the network's problems to those of the plan.
    pub(super) fn find(&self, spot: &Spot, namespace: Option<&str>, name: &str) -> Option<&NamedNetwork> {
        let namespace = namespace.unwrap_or(&self.vm.namespace);
        let others = namespace != self.vm.namespace && namespace != DEFAULT_NAMESPACE;
        if others && self.options.namespace_isolation {
            let message = format!(
                "namespace {namespace} is neither the VM's ({}) nor {DEFAULT_NAMESPACE}: with --namespace-isolation \
                 networks of others cannot be named",
                self.vm.namespace
            );
            self.report.error(spot, message);
            return None;
        }
        let mut found = self.named(Some(namespace), name).into_iter();
        let Some(network) = found.next() else {
            let message =
                format!("the files contain no NetworkAttachmentDefinition {namespace}/{name}: give it with -f too");
            self.report.error(spot, message);
            return None;
        };
        for other in found {
            let message = format!(
                "a network of this name is already at {}:{}: leave one out",
                network.spot.file, network.spot.line
            );
            self.report.error(&other.spot, message);
        }
        self.report.adopt(&network.problems);
        Some(network)
    }

    /// The segment of a network, if there is a mode for it.
    pub(super) fn served(&self, interface: &Interface, network: &NamedNetwork) -> Option<Segment> {
        let UnservedMode(mode) = match network.medium.as_ref()? {
            Medium::Segment(segment) => return Some(Segment::clone(segment)),
            Medium::Unserved(mode) => mode,
            // Such a network has a mode of its own.
            Medium::Layer2(_) => return None,
            Medium::Sriov(_) => {
                let message = format!(
                    "its network {:?} consists of VFs: give sriov: {{}} in place of the binding",
                    network.name
                );
                self.report.error(&interface.spot, message);
                return None;
            }
        };
        let message = format!(
            "its network {:?} needs the mode {mode}, which hawser does not have yet",
            network.name
        );
        self.report.error(&interface.spot, message);
        None
    }

    /// The virtual function of an interface, on a network of those.
    pub(super) fn virtual_function(&self, interface: &Interface, network: &NamedNetwork) -> Option<SriovPlan> {
        let error = |message: String| self.report.error(&interface.spot, message);
        let Medium::Sriov(found) = network.medium.as_ref()? else {
            error(format!(
                "its network {:?} has no VFs: give bridge: {{}} in place of sriov: {{}}, or name a SriovNetwork",
                network.name
            ));
            return None;
        };
        self.no_dhcp_options(interface);
        if interface.state == LinkState::Down {
            error("state: down is not for sriov: give linkState: disable in its SriovNetwork".to_owned());
            return None;
        }
        let tags_otherwise = found.vlan_proto == Some(VlanProtocol::Service);
        if tags_otherwise && interface.device.teaming.standby().is_some() {
            error("failover: the standby tags with 802.1q only, and the network has another vlanProto".to_owned());
            return None;
        }
        if interface.shortage == Shortage::Macvtap {
            if interface.device.teaming.standby().is_some() {
                error("failover and fallback are both given: keep one of them".to_owned());
                return None;
            }
            if let Some(field) = only_of_functions(found) {
                error(format!(
                    "fallback: a macvtap has no {field}, which its network {:?} gives: leave out one of the two",
                    network.name
                ));
                return None;
            }
        }
        Some(SriovPlan {
            network: SriovNetwork::clone(found),
            device: found.device.clone(),
            shortage: interface.shortage,
        })
    }

    /// Positions in the manifests of the values that the survey of the host may reject.
    pub(super) fn places(&self, interface: &Interface, source: &NetworkSource) -> Places {
        let network = match source {
            NetworkSource::Pod(_) if interface.binding.is_some_and(Binding::is_for_primary) => {
                self.primary().map(|(network, _)| network)
            }
            NetworkSource::Pod(_) => None,
            NetworkSource::Multus { namespace, name, .. } => self.named(namespace.as_deref(), name).first().copied(),
        };
        let here = &interface.spot;
        let fields = network.and_then(|network| network.fields.as_ref());
        Places {
            interface: here.to_string(),
            ipam: fields.map_or(here, |fields| &fields.ipam).to_string(),
            segment: fields.map_or(here, |fields| &fields.link).to_string(),
            mtu: fields.map_or(here, |fields| &fields.mtu).to_string(),
            mac: match fields.and_then(|fields| fields.mac.as_ref()) {
                Some(spot) if interface.mac.is_none() => spot.to_string(),
                _ => here.field("macAddress", here.line).to_string(),
            },
            added: self.vm.default_interface,
        }
    }
}

/// The first setting of a network that a virtual function has and a macvtap does not.
fn only_of_functions(network: &SriovNetwork) -> Option<&'static str> {
    let is_rate = |rate: Option<u32>| rate.is_some_and(|rate| rate != 0);
    [
        ("vlanQoS", network.vlan_qos.is_some_and(|qos| qos != 0)),
        ("vlanProto 802.1ad", network.vlan_proto == Some(VlanProtocol::Service)),
        ("minTxRate", is_rate(network.min_tx_rate)),
        ("maxTxRate", is_rate(network.max_tx_rate)),
        (
            "linkState",
            network.link_state.is_some_and(|state| state != VfLinkState::Auto),
        ),
    ]
    .into_iter()
    .find_map(|(field, is_given)| is_given.then_some(field))
}
