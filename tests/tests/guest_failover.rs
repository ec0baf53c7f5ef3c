//! Tests of a failover pair with a real guest: hawser's NIC is the standby, and an emulated PCI Express card is the
//! primary. Both have one MAC and are on one bridge. The guest migrates between two QEMUs, each with its own hawser.

use hawser_testkit::guest::{Guest, Kind, Monitor, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::segment::{BRIDGE, HOST4, Segment};
use hawser_testkit::{Result, artifacts, failure, until};
use libtest_mimic::{Arguments, Trial};
use serde_json::json;
use std::fmt;
use std::net::UdpSocket;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const MAC: &str = "02:00:00:00:16:01";
const GUEST4: &str = "192.0.2.50";
/// Port of both ends of the beat, and the time between two datagrams.
const BEAT: u16 = 7100;
const EVERY: Duration = Duration::from_millis(10);
/// Longest time until the guest has its primary, or is without it.
const PATIENCE: Duration = Duration::from_secs(30);
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
        let primary = [
            "-device",
            "pcie-root-port,id=port-pri,chassis=1,slot=1",
            "-netdev",
            &format!("tap,id=pri,ifname={tap},script=no,downscript=no"),
            "-device",
            &format!("vmxnet3,romfile=,id=primary,netdev=pri,bus=port-pri,mac={MAC},failover_pair_id=hawser-nic-vm"),
            "-qmp",
            &format!("unix:{},server=on,wait=off", monitor.display()),
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
        // The loopback, the pair, its standby and its primary, which has a carrier.
        while self
            .guest
            .sh("cat /sys/class/net/eth*/carrier 2>/dev/null | grep -c 1 || true")?
            .trim()
            != "3"
        {
            if Instant::now() > deadline {
                let links = self.guest.sh("ip link")?;
                return Err(failure(format!("the guest does not have its primary:\n{links}")));
            }
        }
        Ok(())
    }
}

/// What crosses the segment in each direction.
#[derive(Debug, Default)]
struct Crossed {
    round: u64,
    sent: u64,
    /// Longest time between two datagrams that this end sent, which the machine's load determines.
    longest_send: Duration,
    /// First and last number of the guest's datagrams, and how many came.
    out: Option<(u64, u64, u64)>,
    longest_out: Duration,
    last_out: Option<Instant>,
    /// Datagrams that the guest has got, and the longest time between two of them, by its own clock.
    inward: (u64, Duration),
}

/// The end of the beat outside the guest.
struct Beat(Arc<Mutex<Crossed>>);

impl Beat {
    fn start(segment: &Segment) -> Result<Self> {
        let socket = segment.host.inside(|| UdpSocket::bind((HOST4, BEAT)))??;
        let receiver = socket.try_clone()?;
        let crossed = Arc::new(Mutex::new(Crossed::default()));
        let (sent, got) = (Arc::downgrade(&crossed), Arc::clone(&crossed));
        thread::spawn(move || {
            let mut last = Instant::now();
            while let Some(crossed) = sent.upgrade() {
                let mut crossed = crossed.lock().unwrap_or_else(PoisonError::into_inner);
                let numbers = [crossed.round, 0, 0, 0].map(u64::to_be_bytes);
                // Before the guest has an address, nobody takes it.
                let _ = socket.send_to(numbers.as_flattened(), (GUEST4, BEAT));
                crossed.sent += 1;
                crossed.longest_send = crossed.longest_send.max(last.elapsed());
                drop(crossed);
                last = Instant::now();
                thread::sleep(EVERY);
            }
        });
        thread::spawn(move || {
            let mut datagram = [0; 32];
            loop {
                // An error is one of an earlier datagram.
                if receiver.recv(&mut datagram).is_err() {
                    continue;
                }
                got.lock().unwrap_or_else(PoisonError::into_inner).note(&datagram);
            }
        });
        Ok(Self(crossed))
    }

    /// Begins to count anew. Returns what has crossed until now.
    fn begin(&self) -> Crossed {
        let mut crossed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let round = crossed.round + 1;
        std::mem::replace(
            &mut *crossed,
            Crossed {
                round,
                ..Crossed::default()
            },
        )
    }

    fn read<T>(&self, read: impl FnOnce(&Crossed) -> T) -> T {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until frames have crossed in both directions for a while.
    fn wait_for_traffic(&self) -> Result<()> {
        const SOME: u64 = 50;
        let counts = || self.read(|crossed| (crossed.inward.0, crossed.out.map_or(0, |(_, _, count)| count)));
        let before = counts();
        until("frames cross in both directions", || {
            let now = counts();
            Ok(now.0 >= before.0 + SOME && now.1 >= before.1 + SOME)
        })
    }
}

impl Crossed {
    fn note(&mut self, datagram: &[u8; 32]) {
        let (numbers, _) = datagram.as_chunks();
        let [number, round, count, micros] = [0, 1, 2, 3].map(|n: usize| u64::from_be_bytes(numbers[n]));
        let (first, _, seen) = self.out.unwrap_or((number, number, 0));
        self.out = Some((first, number, seen + 1));
        let now = Instant::now();
        if let Some(last) = self.last_out.replace(now) {
            self.longest_out = self.longest_out.max(now - last);
        }
        if round == self.round {
            self.inward = (count, Duration::from_micros(micros));
        }
    }

    /// Datagrams of the guest that did not come.
    fn lost_out(&self) -> u64 {
        self.out
            .map_or(0, |(first, last, count)| (last + 1 - first).saturating_sub(count))
    }
}

impl fmt::Display for Crossed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, longest) = self.inward;
        write!(
            f,
            "in {count} of {}, longest gap {longest:?} by the guest's clock; out {} lost, longest gap {:?}; this end sent \
             with gaps up to {:?}",
            self.sent,
            self.lost_out(),
            self.longest_out,
            self.longest_send
        )
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
    source.wait_for_primary()?;
    let beat = Beat::start(&segment)?;
    source.guest.sh(&format!(
        "setsid hawser-traffic beat to={HOST4}:{BEAT} >/run/beat.log 2>&1 </dev/null &"
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
    let lost = [&unplugged, &moved, &arrived].map(Crossed::lost_out);
    assert_eq!(lost, [0; 3], "nothing of the guest is lost");
    assert!(wire.seen(ANNOUNCEMENT)?.len() > announced, "the MAC is announced");
    source.hawser.assert_alive()?;
    target.hawser.assert_alive()
}
