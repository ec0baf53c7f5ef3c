//! Tests of migrations in which the guest's memory comes after the guest.

use hawser_testkit::hawser::get;
use hawser_testkit::lab::PORT;
use hawser_testkit::migrating::{Setting, plan};
use hawser_testkit::nodes::{Nodes, WORLD4};
use hawser_testkit::pings::Pings;
use hawser_testkit::{Result, peers, until};
use std::time::Duration;

/// Longest time of a command in the guest.
const LONGEST: Duration = Duration::from_secs(120);
/// Bandwidth with which the memory would take about a minute.
const SLOW: u64 = 4 << 20;
/// Bandwidth with which it would take hours.
const CRAWLING: u64 = 32 << 10;

#[test]
fn a_guest_whose_memory_comes_later_keeps_its_connections_and_its_memory() -> Result<()> {
    let setting = Setting::new(&[])?;
    let mut guest = setting.boot()?;
    guest.sh("mkdir -p /tmp/m && mount -t tmpfs none /tmp/m && dd if=/dev/urandom of=/tmp/m/pattern bs=1M count=64")?;
    let sum = guest.sh("md5sum /tmp/m/pattern")?;
    let keep = format!("hawser-traffic keep to={} connections=20 millis=20000", setting.world);
    let keep = guest.start(&keep, LONGEST)?;
    let pings = Pings::start(&guest, WORLD4)?;
    let to = setting.nodes.path("target-arrivals.sock");
    setting.migrate("source", &["prepare", &format!("--to={}", to.display())])?;

    let mut incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.allow_postcopy(&mut incoming)?;
    guest.limit_migration(SLOW)?;
    guest.begin_migration(&incoming)?;
    guest.start_postcopy()?;
    let stopped = guest.finish_migration(incoming)?;
    println!("stopped {stopped:?}, longest gap {:?}", pings.longest_gap(&guest)?);
    assert_eq!(guest.sh("md5sum /tmp/m/pattern")?, sum);
    let output = keep.wait(LONGEST)?;
    assert_eq!(output.status, Some(0), "{output:?}");
    // New connections, with bytes into memory that came last.
    guest.traffic(&format!("receive to={WORLD4}:{PORT} bytes=20000000"))?;
    guest.traffic(&format!("send to={WORLD4}:{PORT} bytes=20000000"))?;
    setting.source.stop()?;
    setting.target.stop()
}

#[test]
fn while_the_source_hangs_and_memory_is_missing_the_target_answers_and_ends() -> Result<()> {
    let mut setting = Setting::new(&[])?;
    let mut guest = setting.boot()?;
    let mut incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.allow_postcopy(&mut incoming)?;
    guest.limit_migration(SLOW)?;
    guest.limit_postcopy(CRAWLING)?;
    guest.begin_migration(&incoming)?;
    guest.start_postcopy()?;
    let status = || get(&setting.nodes.path("target-api.sock"), "/v1/status");
    until("the rings run in the target", || {
        Ok(!status()?.contains(r#""driver": "absent""#))
    })?;
    guest.process().signal(libc::SIGSTOP)?;
    // Frames for the guest need pages that do not come.
    let _ = peers::traffic(&setting.nodes.world, &format!("connect to={}:8080", Nodes::vtep4(1)));
    for _ in 0..3 {
        status()?;
    }
    setting.target.assert_alive()?;
    setting.target.stop()?;
    drop(incoming);
    setting.source.stop()
}
