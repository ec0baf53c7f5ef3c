//! Tests with NICs that are plugged into and unplugged from a running QEMU.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::losses;
use hawser_testkit::peers::{self, Iperf};
use hawser_testkit::segment::{HOST4, Segment};
use hawser_testkit::{Result, artifacts, failure, until};
use std::fs;
use std::time::{Duration, Instant};

/// How long an emulated guest may take to find or lose a NIC.
const PATIENCE: Duration = Duration::from_secs(20);
/// MAC of the permanent NIC.
const MAC: &str = "02:00:00:00:0a:00";
/// Longest time of a round.
const ROUND: Duration = Duration::from_secs(7);
/// Additional NICs: name, bridge, MAC, and the addresses of the guest and the host.
const CARDS: [Card; 2] = [
    Card {
        name: "trunk",
        bridge: "br1",
        mac: "02:00:00:00:0a:01",
        guest: "10.1.0.2",
        host: "10.1.0.1",
    },
    Card {
        name: "storage",
        bridge: "br2",
        mac: "02:00:00:00:0a:02",
        guest: "10.2.0.2",
        host: "10.2.0.1",
    },
];

struct Card {
    name: &'static str,
    bridge: &'static str,
    mac: &'static str,
    guest: &'static str,
    host: &'static str,
}

/// A VM with a masqueraded NIC and the NICs of `cards`, each with a state.
fn manifest(cards: &[(&Card, &str)]) -> String {
    let mut interfaces =
        format!("      - {{name: default, masquerade: {{}}, ports: [{{port: 22}}], macAddress: \"{MAC}\"}}\n");
    let mut networks = "  - {name: default, pod: {}}\n".to_owned();
    let mut attachments = String::new();
    for (Card { name, bridge, mac, .. }, state) in cards {
        interfaces += &format!("      - {{name: {name}, bridge: {{}}, macAddress: \"{mac}\", state: {state}}}\n");
        networks += &format!("  - {{name: {name}, multus: {{networkName: {name}}}}}\n");
        attachments += &format!(
            "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: {name}}}\n\
             spec:\n  config: '{{\"cniVersion\": \"1.0.0\", \"type\": \"bridge\", \"bridge\": \"{bridge}\"}}'\n"
        );
    }
    format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: vm}}\nspec:\n  \
         domain:\n    devices:\n      interfaces:\n{interfaces}  networks:\n{networks}{attachments}"
    )
}

/// hawser with one NIC, QEMU with room for more, and iperf3 over that NIC.
struct Stage {
    segment: Segment,
    hawser: Hawser,
    guest: Guest,
}

impl Stage {
    fn new() -> Result<Self> {
        let segment = Segment::alone(1500)?;
        for card in &CARDS {
            let bridge = card.bridge;
            segment.host.run(&format!("ip link add {bridge} type bridge"))?;
            segment.host.run(&format!("ip link set {bridge} up"))?;
            segment
                .host
                .run(&format!("ip addr add {}/24 dev {bridge}", card.host))?;
        }
        let hawser = Self::serve(&segment, &manifest(&[]), &["default"])?;
        let monitor = segment.path("qmp.sock");
        let mut plan = Plan::new(Kind::Qemu, hawser.socket());
        plan.mac = Some(MAC.into());
        plan.arguments = vec!["-qmp".into(), format!("unix:{},server=on,wait=off", monitor.display())];
        for slot in 1..=CARDS.len() {
            let port = format!("pcie-root-port,id=port{slot},chassis=1,slot={slot}");
            plan.arguments.extend(["-device".into(), port]);
        }
        let guest = plan.boot()?;
        guest.sh("net-up 4")?;
        Ok(Self { segment, hawser, guest })
    }

    /// Output of `hawser plug` for the VM with these NICs.
    fn plug(&self, cards: &[(&Card, &str)]) -> Result<String> {
        let file = self.segment.path("vm.yaml");
        fs::write(&file, manifest(cards))?;
        self.ask(&["plug", "-f", &file.to_string_lossy()])
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let mut command = self.segment.host.command(artifacts::hawser()?);
        let output = command
            .args(words)
            .arg(format!("--socket-dir={}", self.segment.folder().display()))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err(failure(format!(
                "{words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            )))
        }
    }

    /// The guest's name of the NIC with this MAC. `None` if the guest does not have the NIC.
    fn link(&self, card: &Card) -> Result<Option<String>> {
        let found = self
            .guest
            .run(&format!("grep -l {} /sys/class/net/*/address", card.mac))?;
        Ok(found.out.trim().split('/').nth(4).map(str::to_owned))
    }

    /// Waits until the guest has the NIC, and sends traffic over it.
    fn use_card(&self, card: &Card) -> Result<()> {
        until("the guest finds its card", || Ok(self.link(card)?.is_some()))?;
        let link = self.link(card)?.unwrap_or_default();
        let Card { guest, host, .. } = card;
        self.guest
            .sh(&format!("ip link set {link} up && ip addr add {guest}/24 dev {link}"))?;
        self.guest.sh(&format!("ping -q -c 2 -W 5 {host}"))?;
        Ok(())
    }

    /// Kills hawser, and serves the VM again with a link that must be down. The VMM does not know that when it
    /// reconnects, but must then show the link as down.
    fn restart_with_a_link_down(&mut self) -> Result<()> {
        let [card, _] = &CARDS;
        self.plug(&[(card, "up")])?;
        self.use_card(card)?;
        let link = self.link(card)?.unwrap_or_default();
        self.hawser.process().kill();
        self.hawser = Self::serve(&self.segment, &manifest(&[(card, "down")]), &["default", card.name])?;
        // QEMU sets the link down when the socket closes, and up when it reconnects.
        let told = |log: &str| log.contains("trunk: set its link down in the VMM");
        self.hawser
            .process()
            .wait_until("the link is taken down again", PATIENCE, told)?;
        until("the guest loses its carrier", || {
            Ok(self.guest.sh(&format!("cat /sys/class/net/{link}/carrier"))?.trim() == "0")
        })
    }

    /// hawser with these NICs, and with QEMU's monitor.
    fn serve(segment: &Segment, manifest: &str, nics: &[&str]) -> Result<Hawser> {
        let file = segment.path("vm.yaml");
        fs::write(&file, manifest)?;
        let qmp = format!("--qmp={}", segment.path("qmp.sock").display());
        Hawser::run_with(&segment.host, &file, segment.folder(), nics, &[&qmp])
    }

    /// Plugs, uses and unplugs both NICs `rounds` times, while iperf3 counts datagrams on the
    /// permanent NIC.
    fn rounds(&mut self, rounds: u32) -> Result<()> {
        let _server = peers::iperf_server(&self.segment.host, self.segment.folder(), HOST4)?;
        let full_before = losses::at_full_sockets(&self.segment.host)?;
        let time = ROUND * rounds;
        let traffic = format!("iperf3 -c {HOST4} -u -b 4M -l 1200 -t {} --json", time.as_secs());
        let running = self.guest.start(&traffic, time + PATIENCE)?;
        let began = Instant::now();
        for _ in 0..rounds {
            let all: Vec<(&Card, &str)> = CARDS.iter().map(|card| (card, "up")).collect();
            assert_eq!(self.plug(&all)?, "trunk: plugged\nstorage: plugged\n");
            for card in &CARDS {
                self.use_card(card)?;
            }
            let resident = self.hawser.process().resident_kib()?;
            println!("resident memory with three NICs: {resident} KiB");
            // The later NIC leaves first, as the primary of a failover pair must.
            assert_eq!(self.plug(&[])?, "storage: unplugged\ntrunk: unplugged\n");
            for card in &CARDS {
                assert_eq!(self.link(card)?, None, "{} is still there", card.name);
                assert!(!self.segment.path(&format!("{}.sock", card.name)).exists());
            }
        }
        println!("{rounds} rounds of two cards took {:?}", began.elapsed());
        if let Some(ended) = running.poll() {
            return Err(failure(format!("the traffic ended before the rounds: {ended:?}")));
        }
        let measured = Iperf::parse(&running.wait(time + PATIENCE)?.out)?;
        println!("{measured:?}");
        assert!(measured.bits_per_second > 3e6, "{measured:?}");
        // A busy machine may give the server too little time to empty its socket, which the kernel counts. No datagram
        // is lost elsewhere.
        let full = losses::at_full_sockets(&self.segment.host)? - full_before;
        assert!(measured.lost <= full, "{measured:?}, of which {full} met a full socket");
        Ok(())
    }
}

#[test]
fn nics_come_and_go_while_another_loses_nothing() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.rounds(2)?;
    stage.restart_with_a_link_down()?;
    stage.hawser.assert_alive()
}

#[test]
#[ignore = "longer than the suite has time for"]
fn nics_come_and_go_ten_times_while_another_loses_nothing() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.rounds(10)?;
    stage.hawser.assert_alive()
}
