//! A test of migrations that fail: the guest goes on in the source with all of its connections, and its ports answer.

use hawser_testkit::certificates::certify;
use hawser_testkit::guest::{Guest, Incoming};
use hawser_testkit::migrating::{Client, Setting, plan};
use hawser_testkit::nodes::{Nodes, WORLD4};
use hawser_testkit::process::Background;
use hawser_testkit::{Result, failure, until};
use serde_json::json;
use std::net::UdpSocket;
use std::time::Duration;

/// Rate of the stream of a migration that lasts, in bytes per second.
const SLOW: u64 = 1 << 20;
/// Rate of other migrations.
const FAST: u64 = 1 << 30;
/// Number of clients that stay connected.
const CLIENTS: usize = 20;
/// Longest wait for a datagram.
const PATIENCE: Duration = Duration::from_secs(30);

/// A guest with connections, which is about to migrate.
struct Scene {
    setting: Setting,
    guest: Guest,
}

impl Scene {
    /// Begins a migration that takes long.
    fn before_the_stop(&mut self) -> Result<Incoming> {
        let incoming = plan(self.setting.target.socket()).incoming(&self.guest)?;
        self.guest.limit_migration(SLOW)?;
        self.guest.begin_migration(&incoming)?;
        self.guest.monitor()?.wait_for_migration("active")?;
        Ok(incoming)
    }

    /// Opens the channel through the agents of the two nodes.
    fn through_agents(&mut self) -> Result<[Background; 2]> {
        let setting = &self.setting;
        setting.migrate("source", &["abort"])?;
        self.phase_is("ended")?;
        let agents = [
            setting.carry_from_source("node", "departures.sock")?,
            setting.carry_to_target("node")?,
        ];
        let to = format!("--to={}", setting.nodes.path("departures.sock").display());
        assert_eq!(setting.migrate("source", &["prepare", &to])?["phase"], "ready");
        Ok(agents)
    }

    fn stopped(&mut self) -> Result<Incoming> {
        self.guest.limit_migration(FAST)?;
        self.setting.stop(&mut self.guest)
    }

    /// Waits until the guest runs in the source again, after QEMU was told to cancel.
    fn give_up(&mut self) -> Result<()> {
        let monitor = self.guest.monitor()?;
        monitor.execute("migrate_cancel", &json!({}))?;
        until("the migration has ended and the guest runs", || {
            let state = monitor.execute("query-migrate", &json!({}))?["status"].clone();
            let runs = monitor.execute("query-status", &json!({}))?["running"] == true;
            Ok(runs && (state == "cancelled" || state == "failed"))
        })?;
        let pause = json!({ "capability": "pause-before-switchover", "state": false });
        monitor.execute("migrate-set-capabilities", &json!({ "capabilities": [pause] }))?;
        Ok(())
    }

    fn phase_is(&self, wanted: &str) -> Result<()> {
        until(&format!("the channel is {wanted}"), || {
            Ok(self.setting.migrate("source", &["status"])?["phase"] == wanted)
        })
    }
}

/// A way to fail, and what is to be seen of the channel afterwards.
type Way = (&'static str, fn(&mut Scene) -> Result<()>, &'static str);

const WAYS: [Way; 16] = [
    (
        "no process listens at --to",
        |scene| {
            scene.setting.migrate("source", &["abort"])?;
            scene.phase_is("ended")?;
            let to = format!("--to={}", scene.setting.nodes.path("nobody.sock").display());
            let refused = scene.setting.migrate("source", &["prepare", &to]);
            assert!(refused.is_err(), "{refused:?}");
            Ok(())
        },
        "ended",
    ),
    (
        "the channel is closed before the migration",
        |scene| scene.setting.migrate("source", &["abort"]).map(drop),
        "ended",
    ),
    (
        "the target is killed before the migration",
        |scene| {
            scene.setting.target.process().kill();
            Ok(())
        },
        "ended",
    ),
    (
        "QEMU cancels before the stop",
        |scene| {
            let _incoming = scene.before_the_stop()?;
            scene.give_up()
        },
        "ready",
    ),
    (
        "the target is killed before the stop",
        |scene| {
            let _incoming = scene.before_the_stop()?;
            scene.setting.target.process().kill();
            scene.give_up()
        },
        "ended",
    ),
    (
        "QEMU of the target is killed before the stop",
        |scene| {
            let mut incoming = scene.before_the_stop()?;
            incoming.process().kill();
            scene.give_up()
        },
        "ready",
    ),
    (
        "QEMU cancels after the stop",
        |scene| {
            let _incoming = scene.stopped()?;
            scene.give_up()
        },
        "ready",
    ),
    (
        "the target is killed after the stop",
        |scene| {
            let _incoming = scene.stopped()?;
            scene.setting.target.process().kill();
            scene.give_up()
        },
        "ended",
    ),
    (
        "QEMU of the target is killed after the stop",
        |scene| {
            let mut incoming = scene.stopped()?;
            incoming.process().kill();
            scene.give_up()
        },
        "ready",
    ),
    (
        "the source closes the channel after the stop",
        |scene| {
            let _incoming = scene.stopped()?;
            scene.setting.migrate("source", &["abort"])?;
            scene.give_up()
        },
        "ended",
    ),
    (
        "the target closes the channel after the stop",
        |scene| {
            let _incoming = scene.stopped()?;
            scene.setting.migrate("target", &["abort"])?;
            scene.give_up()
        },
        "ended",
    ),
    (
        "the agent of the source is killed before the migration",
        |scene| {
            let [mut near, _far] = scene.through_agents()?;
            near.kill();
            Ok(())
        },
        "ended",
    ),
    (
        "the agent of the target is killed before the migration",
        |scene| {
            let [_near, mut far] = scene.through_agents()?;
            far.kill();
            Ok(())
        },
        "ended",
    ),
    (
        "the agent of the target is killed before the stop",
        |scene| {
            let [_near, mut far] = scene.through_agents()?;
            let _incoming = scene.before_the_stop()?;
            far.kill();
            scene.give_up()
        },
        "ended",
    ),
    (
        "the agent of the source is killed after the stop",
        |scene| {
            let [mut near, _far] = scene.through_agents()?;
            let _incoming = scene.stopped()?;
            near.kill();
            scene.give_up()
        },
        "ended",
    ),
    (
        "the agent of the target is killed after the stop",
        |scene| {
            let [_near, mut far] = scene.through_agents()?;
            let _incoming = scene.stopped()?;
            far.kill();
            scene.give_up()
        },
        "ended",
    ),
];

/// A flow of the guest, which answers what it is asked.
struct Datagrams(UdpSocket);

impl Datagrams {
    /// Receives a datagram of the beat, which comes from the address of the source.
    fn hear(&self) -> Result<()> {
        let (_, from) = self.0.recv_from(&mut [0; 64])?;
        if from.ip().to_string() != Nodes::vtep4(0) {
            return Err(failure(format!("a datagram from {from}")));
        }
        Ok(())
    }
}

#[test]
#[ignore = "long: run by hack/test --long"]
fn a_migration_that_fails_at_any_point_leaves_the_guest_and_its_connections_in_the_source() -> Result<()> {
    const BEAT: u16 = 9000;
    let setting = Setting::new(&[])?;
    certify(setting.nodes.path("").as_path(), "node", &Nodes::vtep4(1))?;
    let socket = setting.nodes.world.inside(|| UdpSocket::bind((WORLD4, BEAT)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    let datagrams = Datagrams(socket);
    let guest = setting.boot()?;
    let mut clients = (0..CLIENTS).map(|_| setting.client()).collect::<Result<Vec<_>>>()?;
    let _beat = guest.start(
        &format!("exec hawser-traffic beat to={WORLD4}:{BEAT} every=50"),
        Duration::from_secs(3600),
    )?;
    let mut scene = Scene { setting, guest };
    for (name, fail, phase) in WAYS {
        let at = |error| failure(format!("{name}: {error}"));
        if scene.setting.migrate("source", &["status"])?["phase"] != "ready" {
            assert_eq!(scene.setting.prepare().map_err(at)?["phase"], "ready", "{name}");
        }
        fail(&mut scene).map_err(at)?;
        scene.phase_is(phase).map_err(at)?;
        for client in &mut clients {
            client.exchange(name).map_err(at)?;
        }
        Client::connect(&scene.setting.nodes)
            .and_then(|mut new| new.exchange(name))
            .map_err(at)?;
        datagrams.hear().map_err(at)?;
        scene.setting.revive_target().map_err(at)?;
    }
    // After all that, it migrates.
    scene.setting.prepare()?;
    scene.guest.limit_migration(FAST)?;
    let incoming = plan(scene.setting.target.socket()).incoming(&scene.guest)?;
    scene.guest.migrate(incoming)?;
    for client in &mut clients {
        client.exchange("there")?;
    }
    datagrams.hear()
}
