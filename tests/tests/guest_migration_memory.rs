//! A test of guest memory: what hawser writes into it while the guest migrates arrives in the target.

use hawser_testkit::migrating::{Setting, plan};
use hawser_testkit::{Result, failure, until};

/// Number of migrations.
const MIGRATIONS: usize = 50;
/// Rate of their streams, in bytes per second.
const FAST: u64 = 1 << 30;

#[test]
#[ignore = "long: run by hack/test --long"]
fn what_a_guest_receives_and_its_memory_are_whole_after_each_of_fifty_migrations() -> Result<()> {
    let setting = Setting::new(&[])?;
    let mut guest = setting.boot()?;
    let pattern = guest.traffic_lasting("pattern mib=16")?;
    let (mut here, mut there) = ("source", "target");
    for number in 1..=MIGRATIONS {
        let at = |error| failure(format!("migration {number}: {error}"));
        let stream = guest
            .traffic_lasting(&format!("receive to={}", setting.world))
            .map_err(at)?;
        setting.prepare_from(here, there).map_err(at)?;
        guest.limit_migration(FAST)?;
        let incoming = plan(setting.socket(there)).incoming(&guest)?;
        guest.migrate(incoming).map_err(at)?;
        // Every byte of the stream is compared, and so is every page.
        stream.end(&guest).map_err(at)?;
        pattern.assert_lasts().map_err(at)?;
        until("the channel has ended", || {
            Ok(setting.migrate(here, &["status"])?["phase"] == "ended")
        })
        .map_err(at)?;
        (here, there) = (there, here);
    }
    pattern.end(&guest)
}
