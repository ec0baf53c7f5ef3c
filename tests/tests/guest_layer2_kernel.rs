//! Tests with a guest in layer2 mode and a Linux machine with the kernel's Geneve. The machine is a lab VM on the
//! underlay, because the kernel of the test machine may lack the module.

use hawser_testkit::Result;
use hawser_testkit::guest::{Guest, Kind, Plan, Running};
use hawser_testkit::interop::{FAR, Far, GUEST, Interop, UNDERLAY_MTU, VNI, vtep};
use hawser_testkit::netns::Namespace;
use hawser_testkit::nodes::{Nodes, PORT};
use serde_json::Value;

/// MAC of the lab VM's NIC on the underlay.
const UNDERLAY_MAC: &str = "52:54:00:00:02:02";

/// The lab VM. It is the far node's endpoint and the host behind it.
#[derive(Debug)]
struct Kernel {
    _server: Running,
    machine: Guest,
    underlay6: bool,
    mtu: u32,
}

impl Far for Kernel {
    fn traffic(&self, _: &Namespace, arguments: &str) -> Result<Value> {
        self.machine.traffic(arguments)
    }

    fn set_checksums(&self, on: bool) -> Result<()> {
        let words = match (self.underlay6, on) {
            (false, true) => "udpcsum",
            (false, false) => "noudpcsum",
            (true, true) => "noudp6zerocsumtx",
            (true, false) => "udp6zerocsumtx",
        };
        // The kernel cannot change the checksum setting of an existing link.
        self.machine.sh("ip link del gnv0")?;
        self.add_link(&format!("{} {words}", self.tunnel(VNI)))
    }

    fn link(&self) -> &'static str {
        "gnv0"
    }

    fn set_mtu(&self, _: &Namespace, mtu: u32) -> Result<()> {
        self.machine.sh(&format!("ip link set gnv0 mtu {mtu}")).map(drop)
    }
}

impl Kernel {
    /// Boots the VM on the far node's link, with the node's address.
    fn boot(nodes: &Nodes, underlay6: bool) -> Result<Self> {
        let node = &nodes.nodes[FAR.node];
        for line in [
            format!("ip link add br-vm mtu {UNDERLAY_MTU} type bridge"),
            "ip addr flush dev eth0 scope global".to_owned(),
            "ip tuntap add dev tap0 mode tap vnet_hdr".to_owned(),
            format!("ip link set tap0 mtu {UNDERLAY_MTU} master br-vm up"),
            "ip link set eth0 master br-vm".to_owned(),
            "ip link set br-vm up".to_owned(),
        ] {
            node.run(&line)?;
        }
        let card = format!("virtio-net-pci,netdev=underlay,romfile=,mac={UNDERLAY_MAC}");
        let tap = "tap,id=underlay,ifname=tap0,script=no,downscript=no";
        let plan = Plan {
            arguments: ["-netdev", tap, "-device", &card].map(str::to_owned).into(),
            archives: vec!["qemu/lab.cpio"],
            ..Plan::new(Kind::Qemu, "".as_ref())
        };
        let mut machine = plan.start_by(node.command("env"))?;
        machine.wait_for_boot()?;
        let mtu = nodes.inner_mtu(underlay6);
        machine.sh(&format!(
            "set -e\nwhile read -r module; do insmod \"$module\"; done </etc/lab-modules\n\
             ip addr add {}/24 dev eth0\nip -6 addr add {}/64 dev eth0 nodad\nip link set eth0 up",
            Nodes::vtep4(FAR.node),
            Nodes::vtep6(FAR.node)
        ))?;
        let kernel = Self {
            _server: machine.serve(&format!("[::]:{PORT}"))?,
            machine,
            underlay6,
            mtu,
        };
        kernel.add_link(&format!("{} udpcsum", kernel.tunnel(VNI)))?;
        Ok(kernel)
    }

    /// Type, network identifier and far end of the link, as arguments of ip(8).
    fn tunnel(&self, vni: u32) -> String {
        format!(
            "geneve id {vni} remote {} dstport 6081",
            vtep(GUEST.node, self.underlay6)
        )
    }

    fn add_link(&self, kind: &str) -> Result<()> {
        self.machine
            .sh(&format!(
                "set -e\nip link add gnv0 address {} type {kind}\nip link set gnv0 mtu {} up\n\
                 ip addr add {}/24 dev gnv0\nip -6 addr add {}/64 dev gnv0 nodad",
                FAR.mac(),
                self.mtu,
                FAR.address4(),
                FAR.address6()
            ))
            .map(drop)
    }

    /// Replaces the link with one of another network.
    fn move_to(&self, vni: u32) -> Result<()> {
        self.machine.sh("ip link del gnv0")?;
        self.add_link(&format!("{} udpcsum", self.tunnel(vni)))
    }

    /// Replaces the link with one that takes the tunnel's fields from the route, with these options.
    fn send_options(&self, options: &str) -> Result<()> {
        self.machine.sh("ip link del gnv0")?;
        self.add_link("geneve external dstport 6081")?;
        let (guest, mac, remote) = (GUEST.address4(), GUEST.mac(), vtep(GUEST.node, false));
        self.machine
            .sh(&format!(
                "set -e\nip neigh replace {guest} lladdr {mac} dev gnv0\n\
                 ip route replace {guest}/32 encap ip id {VNI} dst {remote} ttl 64 csum {options} dev gnv0"
            ))
            .map(drop)
    }
}

fn interop(underlay6: bool, form: &str) -> Result<Interop<Kernel>> {
    Interop::new(underlay6, form, |nodes| Kernel::boot(nodes, underlay6))
}

#[test]
fn a_guest_and_a_machine_with_kernel_geneve_exchange_bytes_over_both_underlays() -> Result<()> {
    for underlay6 in [false, true] {
        interop(underlay6, "")?.assert_matrix(5_000_000, 500_000)?;
    }
    Ok(())
}

/// Options that the kernel sends: class, type and data.
#[test]
fn options_of_the_kernel_are_skipped() -> Result<()> {
    let mut interop = interop(false, "")?;
    let [to, _] = Interop::<Kernel>::to(GUEST);
    let (data124, data120) = ("0a".repeat(124), "0b".repeat(120));
    for skipped in [
        String::new(),
        "geneve_opts 0102:01:00000001".to_owned(),
        format!("geneve_opts 0102:01:{data124},0102:02:{data120}"),
        // The option has a critical type. A route does not set the header's C bit, and without this bit a receiver need
        // not examine the options (RFC 8926 3.4).
        "geneve_opts 0102:80:00000001".to_owned(),
    ] {
        interop.far.send_options(&skipped)?;
        interop.far_traffic(&format!("udp to={to} sizes=1,500,1100 count=3"))?;
    }
    interop.hawser.assert_alive()
}

#[test]
fn the_kernel_drops_frames_with_the_option_that_only_a_hawser_may_get() -> Result<()> {
    let mut interop = interop(false, ",frames")?;
    // A frame that leaves no work to the receiver, such as a ping, is sent without the option.
    interop.guest.reaches(&FAR.address4())?;
    let [to, _] = Interop::<Kernel>::to(FAR);
    let sent = interop.hawser.counters()?.get("tunnel_sent");
    let exchange = interop
        .guest
        .run(&format!("hawser-traffic udp to={to} sizes=100 wait=1"))?;
    assert_ne!(exchange.status, Some(0), "{exchange:?}");
    assert!(interop.hawser.counters()?.get("tunnel_sent") > sent);
    interop.guest.reaches(&FAR.address4())?;
    Ok(())
}

#[test]
fn every_network_identifier_reaches_the_kernel_and_no_other_network_is_heard() -> Result<()> {
    let nodes = Nodes::new(2, UNDERLAY_MTU)?;
    let kernel = Kernel::boot(&nodes, false)?;
    for vni in [0, 1, 0xff_ffff] {
        kernel.move_to(vni)?;
        let own = format!("--vtep={}", vtep(GUEST.node, false));
        let mut hawser = nodes.hawser(vni, GUEST, &[&own, &FAR.peer(false)])?;
        let guest = nodes.guest(Kind::Uml, &hawser)?;
        guest.sh(&format!("ping -c 2 -W 5 {}", FAR.address4()))?;
        kernel.move_to(vni ^ 1)?;
        let before = hawser.counters()?;
        let ping = kernel.machine.run(&format!("ping -c 1 -W 1 {}", GUEST.address4()))?;
        assert_ne!(ping.status, Some(0), "{ping:?}");
        let after = hawser.wait_for_counters("frames of another network", |counters| {
            counters.dropped("tunnel_other_network") > before.dropped("tunnel_other_network")
        })?;
        assert_eq!(after.get("rx_frames"), before.get("rx_frames"));
    }
    Ok(())
}
