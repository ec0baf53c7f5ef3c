//! Tests of a guest on ipvtaps of every mode, and on a VLAN-filtering bridge. They run in a lab VM, because the kernel
//! of the test machine may lack both.
//!
//! Everything happens in one boot. Each NIC of the guest is on its own link, which leads to a namespace `peer` with a
//! host that answers.

use hawser_testkit::guest::{Machine, Nested};
use hawser_testkit::{Result, failure};

const PORT: u16 = 7000;
const EXAMPLE: &str = include_str!("../../docs/examples/ipvlan-static.yaml");
/// Length of each transfer in bytes. It is small, because the guest runs in an emulation within an emulation.
const BYTES: u32 = 300_000;

/// A link with hawser and a NIC of the guest on it. In the link's networks, 10.N.0.0/24 and fd00:N::/64, .1 is the lab
/// VM, .9 the peer and .5 the guest.
struct Card {
    /// Number N of the link's network.
    number: u8,
    /// Mode of the ipvtap.
    mode: &'static str,
    /// Name of the NIC in the guest.
    interface: &'static str,
    /// True if the guest has IPv6 on the NIC.
    ipv6: bool,
}

const CARDS: [Card; 3] = [
    Card {
        number: 1,
        mode: "l2",
        interface: "eth1",
        ipv6: true,
    },
    Card {
        number: 2,
        mode: "l3",
        interface: "eth2",
        ipv6: true,
    },
    Card {
        number: 3,
        mode: "l3s",
        interface: "eth3",
        ipv6: false,
    },
];

impl Card {
    fn ipv4(&self, host: u8) -> String {
        format!("10.{}.0.{host}", self.number)
    }

    fn ipv6(&self, host: u8) -> String {
        format!("fd00:{}::{host}", self.number)
    }

    const fn is_routed(&self) -> bool {
        !matches!(self.mode.as_bytes(), b"l2")
    }

    /// Creates the link and, for a routed link, the peer's route through the lab VM.
    fn lay(&self) -> Vec<String> {
        let (n, guest4, guest6) = (self.number, self.ipv4(5), self.ipv6(5));
        let mut lines = vec![
            format!("ip link add low{n} type veth peer name p{n} netns peer"),
            format!("ip link set low{n} up && ip -n peer link set p{n} up"),
            format!("ip addr add {}/24 dev low{n}", self.ipv4(1)),
            format!("ip -6 addr add {}/64 dev low{n} nodad", self.ipv6(1)),
            format!("ip -n peer addr add {}/24 dev p{n}", self.ipv4(9)),
            format!("ip -n peer -6 addr add {}/64 dev p{n} nodad", self.ipv6(9)),
        ];
        if self.is_routed() {
            lines.push(format!("ip -n peer route add {guest4} via {}", self.ipv4(1)));
            lines.push(format!("ip -n peer -6 route add {guest6} via {}", self.ipv6(1)));
        }
        lines
    }

    fn serve(&self, machine: &Machine) -> Result<()> {
        let Self { number, mode, .. } = self;
        let guests = match self.ipv6 {
            true => format!("{},{}", self.ipv4(5), self.ipv6(5)),
            false => self.ipv4(5),
        };
        let socket = self.socket();
        machine.hawser(
            mode,
            &format!(
                "--mode=bridge --ipvtap=low{number}:{mode} --guest-address={guests} --socket-path={socket} \
                 --runtime-dir=/run/hawser"
            ),
            &[&socket],
        )
    }

    fn socket(&self) -> String {
        format!("/run/{}.sock", self.mode)
    }

    fn configure(&self, guest: &Nested) -> Result<()> {
        let card = self.interface;
        guest.sh(&format!(
            "ip link set {card} up && ip addr add {}/24 dev {card}",
            self.ipv4(5)
        ))?;
        if self.ipv6 {
            guest.sh(&format!("ip -6 addr add {}/64 dev {card} nodad", self.ipv6(5)))?;
        }
        Ok(())
    }
}

fn lay_links(machine: &Machine) -> Result<()> {
    let mut lines = vec!["ip netns add peer".to_owned(), "ip -n peer link set lo up".to_owned()];
    lines.extend(CARDS.iter().flat_map(Card::lay));
    // A pod is on the link of the guest in l3, as if the ipvlan plugin had created it.
    lines.extend(
        [
            "ip netns add pod",
            "ip link add pod0 link low2 netns pod type ipvlan mode l3",
            "ip -n pod addr add 10.2.0.6/24 dev pod0",
            "ip -n pod link set pod0 up",
            // The lower device of the example, with the lab VM as its router.
            "ip link add eth1 type veth peer name p5 netns peer",
            "ip link set eth1 up && ip -n peer link set p5 up",
            "ip addr add 192.168.10.1/24 dev eth1",
            "ip -n peer addr add 192.168.10.9/24 dev p5",
            "ip -n peer route add 192.168.10.10 via 192.168.10.1",
            // A filtering bridge with the peer on a port, in tagged VLAN 100.
            "ip link add br0 type bridge vlan_filtering 1",
            "ip link add pb type veth peer name trunk netns peer",
            "ip link set pb master br0 up && ip link set br0 up && ip addr add 10.9.0.1/24 dev br0",
            "bridge vlan add vid 100 dev pb",
            "ip -n peer link set trunk up",
            "ip -n peer link add link trunk name trunk.100 type vlan id 100",
            "ip -n peer addr add 10.100.0.9/24 dev trunk.100",
            "ip -n peer link set trunk.100 up",
        ]
        .map(str::to_owned),
    );
    machine.sh(&format!("set -e\n{}", lines.join("\n"))).map(drop)
}

fn ping(guest: &Nested, target: &str) -> Result<()> {
    guest.sh(&format!("ping -c 1 -W 5 {target}")).map(drop)
}

/// Transfers in both directions, in which every byte is checked.
fn assert_transfers(guest: &Nested, server: &str) -> Result<()> {
    for command in ["send", "receive"] {
        guest.traffic(&format!("{command} to={server}:{PORT} bytes={BYTES}"))?;
    }
    Ok(())
}

/// Asserts that the host's kernel has the guest's address, but does not answer for the guest.
fn assert_no_answer_for_the_guest(machine: &Machine) -> Result<()> {
    let pings = CARDS.map(|card| format!("! ip netns exec peer ping -c 1 -W 1 {}", card.ipv4(5)));
    machine.sh(&pings.join(" && ")).map(drop)
}

fn assert_pings_and_tcp_cross(machine: &Machine, guest: &Nested) -> Result<()> {
    let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
    for card in CARDS {
        card.configure(guest)?;
        let peer = card.ipv4(9);
        // The full MTU is tried too.
        guest.sh(&format!("ping -c 1 -W 5 -s 1472 {peer}"))?;
        assert_transfers(guest, &peer)?;
        machine.sh(&format!(
            "ip netns exec peer hawser-traffic send to={}:{PORT} bytes={BYTES}",
            card.ipv4(5)
        ))?;
        if card.ipv6 {
            ping(guest, &card.ipv6(9))?;
        }
        if card.is_routed() {
            // The host and its guest, in both directions.
            ping(guest, &card.ipv4(1))?;
            machine.reaches(&card.ipv4(5))?;
            let neighbours = guest.sh(&format!("ip neigh show dev {}", card.interface))?;
            assert!(
                neighbours.contains(&format!("{peer} lladdr 02:00:00:00:00:00")),
                "{neighbours}"
            );
        }
    }
    ping(guest, "10.2.0.6")
}

/// Serves `docs/examples/ipvlan-static.yaml` in l3.
fn assert_the_example_serves(machine: &Machine, guest: &Nested) -> Result<()> {
    guest.sh("net-up 4")?;
    let told = guest.sh("cat /run/dhcp4")?;
    for line in ["ip=192.168.10.10", "mask=24", "hostname=shares-a-mac"] {
        assert!(told.lines().any(|told| told == line), "{line} is not among:\n{told}");
    }
    let mac = |text: String| text.trim().to_owned();
    let link = mac(machine.sh("cat /sys/class/net/eth1/address")?);
    assert_eq!(mac(guest.sh("cat /sys/class/net/eth0/address")?), link);
    ping(guest, "192.168.10.9")?;
    assert_transfers(guest, "192.168.10.9")
}

fn assert_the_bridge_knows_the_guests_vlan(machine: &Machine, guest: &Nested) -> Result<()> {
    guest.sh("ip link set eth4 up && ip addr add 10.100.0.5/24 dev eth4 && ip addr add 10.9.0.5/24 dev eth4")?;
    ping(guest, "10.100.0.9")?;
    assert_transfers(guest, "10.100.0.9")?;
    let members = machine.sh("bridge vlan show")?;
    let port = members.lines().find(|line| line.starts_with("hw"));
    let words: Vec<&str> = port.unwrap_or_default().split_whitespace().skip(1).collect();
    assert_eq!(words, ["100"], "a tagged member of VLAN 100 and of no other: {members}");
    // The guest is not in the default VLAN, where the host is.
    let other = guest.run("ping -c 1 -W 1 10.9.0.1")?;
    assert_ne!(other.status, Some(0), "the guest is in the default VLAN");
    Ok(())
}

fn assert_what_cannot_work_is_refused(machine: &Machine) -> Result<()> {
    let refusals = [
        ("--ipvtap=low2:l3 --vlan=7", "leave --vlan and --vlan-trunk out"),
        ("--ipvtap=low3:l3s --guest-address=fd00:3::7", "choose mode l3"),
        (
            "--ipvtap=low2:l3 --guest-address=10.2.0.6",
            "cannot assign 10.2.0.6 to an ipvtap on low2",
        ),
    ];
    for (options, words) in refusals {
        let output = machine.run(&format!(
            "hawser --mode=bridge {options} --socket-path=/run/refused.sock --runtime-dir=/run/hawser"
        ))?;
        assert_ne!(output.status, Some(0), "{options}");
        assert!(output.err.contains(words), "{options}: {}", output.err);
    }
    Ok(())
}

fn assert_nothing_is_left(machine: &Machine) -> Result<()> {
    let left = machine.sh(
        "kill $(cat /run/*.pid); for n in $(seq 50); do pidof hawser >/dev/null || break; usleep 100000; done; \
         ip -br link; ip route",
    )?;
    if left
        .lines()
        .any(|line| line.starts_with("hw") || line.contains("dev hw"))
    {
        return Err(failure(format!("something is left: {left}")));
    }
    Ok(())
}

#[test]
fn a_guest_on_ipvtaps_of_every_mode_and_on_a_filtering_bridge_pings_and_moves_bytes() -> Result<()> {
    let mut machine = Machine::boot(&[("root/ipvlan-static.yaml", EXAMPLE.as_bytes())])?;
    lay_links(&machine)?;
    machine.serve_in("peer", &format!("0.0.0.0:{PORT}"))?;
    let example = "/run/vm/shared.sock";
    machine.hawser(
        "example",
        "run -f /root/ipvlan-static.yaml --socket-dir=/run/vm --runtime-dir=/run/hawser --store=/run/store.db",
        &[example],
    )?;
    for card in CARDS {
        card.serve(&machine)?;
    }
    let bridged = "/run/vlan.sock";
    machine.hawser(
        "vlan",
        &format!("--mode=bridge --bridge=br0 --vlan=100 --socket-path={bridged} --runtime-dir=/run/hawser"),
        &[bridged],
    )?;
    let [l2, l3, l3s] = CARDS.map(|card| card.socket());
    let guest = machine.start_guest(&[example, &l2, &l3, &l3s, bridged])?;
    // This is checked while the guest boots.
    assert_no_answer_for_the_guest(&machine)?;
    assert_what_cannot_work_is_refused(&machine)?;
    guest.wait_for_boot(&machine)?;
    assert_the_example_serves(&machine, &guest)?;
    assert_pings_and_tcp_cross(&machine, &guest)?;
    assert_the_bridge_knows_the_guests_vlan(&machine, &guest)?;
    assert_nothing_is_left(&machine)
}
