//! Tests of a failover pair with a real guest: hawser's NIC is the standby, and an emulated PCI Express card is the
//! primary. Both have one MAC and are on one bridge. The guest migrates between two QEMUs, each with its own hawser.

use beat::{BEAT, Beat, Crossed, FAR_MAC, FAR4, WITNESS_MAC, WITNESS4};
use hawser_testkit::guest::{Guest, Kind, Monitor, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::segment::{BRIDGE, HOST4, Segment};
use hawser_testkit::{Result, artifacts, failure};
use libtest_mimic::{Arguments, Trial};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

#[path = "guest_failover/beat.rs"]
mod beat;
#[path = "guest_failover/links.rs"]
mod links;

const MAC: &str = "02:00:00:00:16:01";
/// Longest time until the guest has its primary, or is without it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest time for which the guest may get nothing although it could.
const GAP: Duration = Duration::from_millis(50);
/// Drivers of emulated cards, which continue the initramfs.
const CARDS: &str = "qemu/cards.cpio";
/// RARP of the guest's MAC.
const ANNOUNCEMENT: &str = "ether src 02:00:00:00:16:01 and ether proto 0x8035";

/// A QEMU with a failover pair, and the hawser of its standby.
struct Side {
    guest: Guest,
    qmp: Monitor,
    hawser: Hawser,
}

impl Side {
    /// Starts both. `more` are further arguments of QEMU.
    fn start(segment: &Segment, name: &str, more: &[&str]) -> Result<Self> {
        let (bridge, mac) = (format!("--bridge={BRIDGE}"), format!("--mac={MAC}"));
        let options = [bridge.as_str(), mac.as_str(), "--standby"];
        let hawser = segment.hawser(name, &options)?;
        let mut printer = segment.host.command(artifacts::hawser()?);
        printer
            .args(["qemu-args", "--memory=256M", "--mode=bridge"])
            .args(options);
        printer.arg(format!("--socket-path={}", hawser.socket().display()));
        let flags = printer.output()?;
        let flags = String::from_utf8(flags.stdout)?;
        assert!(flags.contains(",failover=on"), "{flags}");
        let tap = format!("{name}-pri");
        segment.add_tap(&tap, "")?;
        let monitor = segment.path(name).with_extension("qmp");
        let mut plan = Plan::new(Kind::Qemu, hawser.socket());
        plan.memory_mib = 256;
        plan.archives = vec![CARDS];
        plan.arguments = flags.split_whitespace().map(str::to_owned).collect();
        let (near, far) = (beat::near(segment, name), beat::far(segment));
        let witness = format!(
            "dgram,id=witness,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            near.display(),
            far.display()
        );
        let primary = [
            "-device",
            "pcie-root-port,id=port-pri,chassis=1,slot=1",
            "-netdev",
            &format!("tap,id=pri,ifname={tap},script=no,downscript=no"),
            "-device",
            &format!("vmxnet3,romfile=,id=primary,netdev=pri,bus=port-pri,mac={MAC},failover_pair_id=hawser-nic-vm"),
            "-qmp",
            &format!("unix:{},server=on,wait=off", monitor.display()),
            "-netdev",
            &witness,
            "-device",
            // Behind the NICs of the pair, so that the guest calls it eth1.
            &format!("virtio-net-pci,netdev=witness,romfile=,mac={WITNESS_MAC},addr=0x18"),
        ];
        plan.arguments
            .extend(primary.iter().chain(more).map(|word| (*word).to_owned()));
        // QEMU opens the primary's TAP device by name.
        let mut guest = plan.start_by(segment.host.command("env"))?;
        guest.process().wait_for_socket(&monitor, PATIENCE)?;
        let qmp = Monitor::connect(&monitor);
        let qmp = qmp.map_err(|error| guest.process().failed(&format!("has no monitor: {error}")))?;
        Ok(Self { guest, qmp, hawser })
    }

    /// Starts a side that waits for a migration.
    fn waiting(segment: &Segment, name: &str, at: &Path) -> Result<Self> {
        let at = format!("unix:{}", at.display());
        Self::start(segment, name, &["-incoming", &at])
    }

    /// Waits until frames have crossed the segment in both directions for a while.
    fn wait_for_traffic(&mut self, beat: &Beat, segment: &Segment) -> Result<()> {
        beat.wait_for_traffic().map_err(|error| {
            let guest = self
                .guest
                .sh("ip -s link; ip neigh; cat /run/beat.log; dmesg | tail -n 20");
            let host = segment.host.run("bridge fdb; ip -s link; ip neigh");
            let said = [guest, host].map(|said| said.unwrap_or_else(|error| error.to_string()));
            let [guest, host] = said;
            failure(format!(
                "{error}: {}\nin the guest:\n{guest}\non its host:\n{host}\nhawser: {:?}",
                beat.read(ToString::to_string),
                self.hawser.counters()
            ))
        })
    }

    /// Waits until the guest has both NICs of the pair.
    fn wait_for_primary(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // The pair, its standby and its primary, and the witness have a carrier.
        while self
            .guest
            .sh("cat /sys/class/net/eth*/carrier 2>/dev/null | grep -c 1 || true")?
            .trim()
            != "4"
        {
            if Instant::now() > deadline {
                let links = self.guest.sh("ip link")?;
                return Err(failure(format!("the guest does not have its primary:\n{links}")));
            }
        }
        Ok(())
    }
}

/// A moment at which a migration fails.
#[derive(Clone, Copy, Debug)]
enum Failing {
    CancelledWhileThePrimaryLeaves,
    CancelledWhileMemoryIsCopied,
    TargetDiesWhileMemoryIsCopied,
    CancelledBeforeTheSwitch,
    TargetDiesBeforeTheSwitch,
}

const FAILING: [Failing; 5] = [
    Failing::CancelledWhileThePrimaryLeaves,
    Failing::CancelledWhileMemoryIsCopied,
    Failing::TargetDiesWhileMemoryIsCopied,
    Failing::CancelledBeforeTheSwitch,
    Failing::TargetDiesBeforeTheSwitch,
];

impl Failing {
    /// Fails a migration of `source` to `target`.
    fn perform(self, source: &mut Side, target: &mut Side) -> Result<()> {
        let cancel = |source: &mut Side| source.qmp.execute("migrate_cancel", &json!({})).map(drop);
        match self {
            Self::CancelledWhileThePrimaryLeaves => {
                wait_for_state(&mut source.qmp, &["wait-unplug"])?;
                cancel(source)?;
            }
            Self::CancelledWhileMemoryIsCopied => {
                wait_for_state(&mut source.qmp, &["active"])?;
                cancel(source)?;
            }
            Self::TargetDiesWhileMemoryIsCopied => {
                wait_for_state(&mut source.qmp, &["active"])?;
                target.guest.kill_machine();
            }
            Self::CancelledBeforeTheSwitch => {
                wait_for_state(&mut source.qmp, &["pre-switchover"])?;
                cancel(source)?;
            }
            Self::TargetDiesBeforeTheSwitch => {
                wait_for_state(&mut source.qmp, &["pre-switchover"])?;
                target.guest.kill_machine();
                source
                    .qmp
                    .execute("migrate-continue", &json!({"state": "pre-switchover"}))?;
            }
        }
        wait_for_state(&mut source.qmp, &["cancelled", "failed"])
    }
}

/// Waits until the outgoing migration has one of these states.
fn wait_for_state(qmp: &mut Monitor, states: &[&str]) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = qmp.execute("query-migrate", &json!({}))?;
        if states.iter().any(|state| answer["status"] == **state) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(failure(format!("the migration does not become {states:?}: {answer}")));
        }
        thread::sleep(LOOK);
    }
}

fn migrate_to(qmp: &mut Monitor, at: &Path, bytes_per_second: u64, pauses: bool) -> Result<()> {
    let capabilities = [("events", true), ("pause-before-switchover", pauses)];
    let capabilities = capabilities.map(|(name, on)| json!({"capability": name, "state": on}));
    qmp.execute("migrate-set-capabilities", &json!({"capabilities": capabilities}))?;
    qmp.execute("migrate-set-parameters", &json!({"max-bandwidth": bytes_per_second}))?;
    qmp.execute("migrate", &json!({"uri": format!("unix:{}", at.display())}))
        .map(drop)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let lacking = artifacts::guest_file(CARDS).err();
    if let Some(reason) = &lacking {
        eprintln!("skipped, because the guests have no driver of an emulated card: {reason}");
    }
    let trial = Trial::test(
        "a_failover_pair_migrates_and_its_primary_comes_back_if_that_fails",
        || Ok(a_failover_pair_migrates_and_its_primary_comes_back_if_that_fails()?),
    );
    libtest_mimic::run(&arguments, vec![trial.with_ignored_flag(lacking.is_some())]).exit_code()
}

fn a_failover_pair_migrates_and_its_primary_comes_back_if_that_fails() -> Result<()> {
    let segment = Segment::new(1500)?;
    let wire = segment.listen("ear")?;
    let mut source = Side::start(&segment, "src", &[])?;
    source.guest.wait_for_boot()?;
    source.guest.sh(
        "set -e\nwhile read -r module; do insmod $module; done </etc/card-modules\nip link set eth0 up\nip addr add 192.0.2.50/24 dev eth0",
    )?;
    source.guest.sh(&format!(
        "set -e\nwitness=$(grep -l {WITNESS_MAC} /sys/class/net/*/address | cut -d / -f 5)\nip link set $witness up\n\
         ip addr add {WITNESS4}/24 dev $witness\nip neigh add {FAR4} lladdr {FAR_MAC} dev $witness"
    ))?;
    source.wait_for_primary()?;
    links::watch(&source.guest)?;
    let beat = Beat::start(&segment, &["src", "dst"])?;
    source.guest.sh(&format!(
        "setsid hawser-traffic beat to={HOST4}:{BEAT} witness={FAR4}:{BEAT} >/run/beat.log 2>&1 </dev/null &"
    ))?;
    beat.begin();
    source.wait_for_traffic(&beat, &segment)?;

    for (n, failing) in FAILING.into_iter().enumerate() {
        let at = segment.path(&format!("to{n}"));
        let mut target = Side::waiting(&segment, &format!("t{n}"), &at)?;
        let taken = source.hawser.counters()?.get("standby_taken");
        migrate_to(&mut source.qmp, &at, 16 << 20, true)?;
        failing
            .perform(&mut source, &mut target)
            .map_err(|error| failure(format!("{failing:?}: {error}")))?;
        drop(target);
        source
            .wait_for_primary()
            .map_err(|error| failure(format!("{failing:?}: {error}")))?;
        source
            .wait_for_traffic(&beat, &segment)
            .map_err(|error| failure(format!("{failing:?}: {error}")))?;
        source
            .hawser
            .wait_for_counters("the standby was used", |counters| counters.get("standby_taken") > taken)?;
        println!("{failing:?}: the primary is back at the source");
    }

    let at = segment.path("to");
    let announced = wire.seen(ANNOUNCEMENT)?.len();
    let mut target = Side::waiting(&segment, "dst", &at)?;
    // Nobody announces a VF. QEMU would announce a card of its own several times, before the guest uses it.
    target
        .qmp
        .execute("migrate-set-parameters", &json!({"announce-rounds": 0}))?;
    beat.begin();
    source.wait_for_traffic(&beat, &segment)?;
    migrate_to(&mut source.qmp, &at, 1 << 30, false)?;
    source.qmp.wait_for("UNPLUG_PRIMARY")?;
    wait_for_state(&mut source.qmp, &["active", "completed"])?;
    let unplugged = beat.begin();
    wait_for_state(&mut source.qmp, &["completed"])?;
    target.qmp.wait_for("RESUME")?;
    let moved = beat.begin();
    target.wait_for_primary()?;
    target.wait_for_traffic(&beat, &segment)?;
    let arrived = beat.begin();
    for (phase, crossed) in [
        ("the primary leaves", &unplugged),
        ("the guest moves", &moved),
        ("the primary comes", &arrived),
    ] {
        println!("{phase}: {crossed}");
    }
    let removal = links::last_removal(&target.guest)?;
    println!("the guest has removed its primary within {removal:?}");
    for (crossed, guest) in [
        (&unplugged, removal),
        (&moved, Duration::ZERO),
        (&arrived, Duration::ZERO),
    ] {
        assert!(crossed.beyond() <= GAP + guest, "{crossed}");
    }
    let lost = [&unplugged, &moved, &arrived].map(Crossed::lost_out);
    assert_eq!(lost, [0; 3], "nothing of the guest is lost");
    assert!(wire.seen(ANNOUNCEMENT)?.len() > announced, "the MAC is announced");
    source.hawser.assert_alive()?;
    target.hawser.assert_alive()
}
