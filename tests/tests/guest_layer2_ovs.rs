//! Tests with a guest in layer2 mode, and a host behind the Geneve port of Open vSwitch's user-space datapath.

use hawser_testkit::interop::{FAR, Far, GUEST, Interop, VNI, vtep};
use hawser_testkit::netns::Namespace;
use hawser_testkit::nodes::{Nodes, PORT};
use hawser_testkit::ovs::{Ovs, Tunnel};
use hawser_testkit::process::Background;
use hawser_testkit::sniffer::Sniffer;
use hawser_testkit::{Result, peers, until};
use serde_json::Value;

/// A host on the local port of a bridge, and the bridge's Geneve port.
#[derive(Debug)]
struct Switch {
    ovs: Ovs,
    _server: Background,
}

impl Far for Switch {
    fn traffic(&self, node: &Namespace, arguments: &str) -> Result<Value> {
        peers::traffic(node, arguments)
    }

    fn set_checksums(&self, on: bool) -> Result<()> {
        self.ovs
            .vsctl(&format!("set interface tunnel options:csum={on}"))
            .map(drop)
    }

    fn link(&self) -> &'static str {
        "br-int"
    }

    fn set_mtu(&self, node: &Namespace, mtu: u32) -> Result<()> {
        node.run(&format!("ip link set br-int mtu {mtu}")).map(drop)
    }
}

impl Switch {
    /// Creates the bridges on the far node. `key` is the network's identifier, in the form that the Geneve port takes.
    fn lay(nodes: &Nodes, underlay6: bool, key: u32) -> Result<Self> {
        let (node, folder) = (&nodes.nodes[FAR.node], nodes.path("ovs"));
        nodes.complete_frames(FAR.node)?;
        let (own, remote) = (&vtep(FAR.node, underlay6), &vtep(GUEST.node, underlay6));
        let ovs = Ovs::endpoint(node, &folder, &Tunnel { own, remote, key }, "")?;
        ovs.vsctl(&format!("set bridge br-int other-config:hwaddr=\"{}\"", FAR.mac()))?;
        node.run(&format!("ip link set br-int mtu {} up", nodes.inner_mtu(underlay6)))?;
        node.run(&format!("ip addr add {}/24 dev br-int", FAR.address4()))?;
        node.run(&format!("ip -6 addr add {}/64 dev br-int nodad", FAR.address6()))?;
        let server = peers::serve(node, &folder, format!("[::]:{PORT}").parse()?)?;
        Ok(Self { ovs, _server: server })
    }

    /// Adds an option with a value to each packet for the tunnel. The bridge must know the option.
    fn set_option(&self, option: &str) -> Result<()> {
        self.ovs.ofctl(&["del-flows", "br-int"])?;
        // OVS refuses this until its threads have also dropped the flows that used the options.
        until("OVS forgets the options", || {
            Ok(self.ovs.ofctl(&["del-tlv-map", "br-int"]).is_ok())
        })?;
        if option.is_empty() {
            self.ovs.ofctl(&["add-flow", "br-int", "actions=NORMAL"])?;
            return self.forget_cached_flows();
        }
        let (words, fields): (Vec<String>, Vec<String>) = option
            .split(';')
            .enumerate()
            .map(|(n, option)| {
                (
                    format!("{{{option}}}->tun_metadata{n}"),
                    format!("set_field:1->tun_metadata{n}"),
                )
            })
            .unzip();
        self.ovs.ofctl(&["add-tlv-map", "br-int", &words.join(",")])?;
        let outward = format!("in_port=LOCAL,actions={},output:tunnel", fields.join(","));
        self.ovs.ofctl(&["add-flow", "br-int", &outward])?;
        self.ovs
            .ofctl(&["add-flow", "br-int", "in_port=tunnel,actions=LOCAL"])?;
        self.forget_cached_flows()
    }

    /// A packet that came while there was no flow has left one that drops in the cache.
    fn forget_cached_flows(&self) -> Result<()> {
        self.ovs.appctl("revalidator/purge").map(drop)
    }
}

fn interop(underlay6: bool, form: &str) -> Result<Interop<Switch>> {
    Interop::new(underlay6, form, |nodes| Switch::lay(nodes, underlay6, VNI))
}

#[test]
fn a_guest_and_a_host_behind_ovs_exchange_bytes_over_both_underlays() -> Result<()> {
    for underlay6 in [false, true] {
        interop(underlay6, "")?.assert_matrix(20_000_000, 1_000_000)?;
    }
    Ok(())
}

/// Options that OVS sends, by class, type and length. The highest bit of the type marks a critical option.
#[test]
fn options_of_ovs_are_skipped_unless_they_are_critical() -> Result<()> {
    let mut interop = interop(false, "")?;
    let [to, _] = Interop::<Switch>::to(GUEST);
    let exchange = format!("udp to={to} sizes=1,500,1100 count=3");
    for skipped in [
        "class=0x0102,type=0x00,len=4",
        "class=0x0102,type=0x01,len=124;class=0x0102,type=0x02,len=120",
        "class=0xffff,type=0x7f,len=8;class=0x0000,type=0x00,len=4",
    ] {
        interop.far.set_option(skipped)?;
        interop.far_traffic(&exchange)?;
    }
    for critical in [
        "class=0x0102,type=0x80,len=4",
        "class=0x0102,type=0x00,len=4;class=0xffff,type=0xff,len=4",
        // This is hawser's own option, from an endpoint that is not named as one that supports it.
        "class=0xff68,type=0x81,len=8",
    ] {
        interop.far.set_option(critical)?;
        let before = interop.hawser.counters()?;
        assert!(
            interop.far_traffic(&format!("udp to={to} sizes=100 wait=1")).is_err(),
            "{critical}"
        );
        let after = interop.hawser.counters()?;
        assert!(
            after.dropped("tunnel_option") > before.dropped("tunnel_option"),
            "{critical}"
        );
    }
    interop.far.set_option("")?;
    interop.far_traffic(&exchange)?;
    interop.hawser.assert_alive()
}

#[test]
fn ovs_drops_frames_with_the_option_that_only_a_hawser_may_get() -> Result<()> {
    let mut interop = interop(false, ",frames")?;
    // A frame that leaves no work to the receiver, such as a ping, is sent without the option.
    let heard = Sniffer::start(&interop.nodes.nodes[FAR.node], &interop.nodes.path("ovs"), "br-int")?;
    interop.guest.reaches(&FAR.address4())?;
    heard.wait_for(1, "icmp")?;
    let [to, _] = Interop::<Switch>::to(FAR);
    let sent = interop.hawser.counters()?.get("tunnel_sent");
    let exchange = interop
        .guest
        .run(&format!("hawser-traffic udp to={to} sizes=100 wait=1"))?;
    assert_ne!(exchange.status, Some(0), "{exchange:?}");
    assert!(interop.hawser.counters()?.get("tunnel_sent") > sent);
    assert_eq!(heard.seen("udp")?, Vec::<String>::new(), "the host behind OVS heard it");
    Ok(())
}

#[test]
fn every_network_identifier_reaches_ovs_and_no_other_network_is_heard() -> Result<()> {
    for vni in [0, 1, 0xff_ffff] {
        let nodes = Nodes::new(2, 1500)?;
        let switch = Switch::lay(&nodes, false, vni)?;
        let own = format!("--vtep={}", vtep(GUEST.node, false));
        let mut hawser = nodes.hawser(vni, GUEST, &[&own, &FAR.peer(false)])?;
        let guest = nodes.guest(hawser_testkit::guest::Kind::Uml, &hawser)?;
        guest.sh(&format!("ping -c 2 -W 5 {}", FAR.address4()))?;
        switch
            .ovs
            .vsctl(&format!("set interface tunnel options:key={}", vni ^ 1))?;
        let (to, before) = (format!("{}:{PORT}", GUEST.address4()), hawser.counters()?);
        assert!(
            switch
                .traffic(&nodes.nodes[FAR.node], &format!("udp to={to} sizes=1 wait=1"))
                .is_err()
        );
        let after = hawser.counters()?;
        assert!(after.dropped("tunnel_other_network") > before.dropped("tunnel_other_network"));
        assert_eq!(after.get("rx_frames"), before.get("rx_frames"));
    }
    Ok(())
}
