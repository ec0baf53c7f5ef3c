//! Tests of the harness itself, with a back end of another project. If they pass, failures of the other tests are
//! hawser's.

use hawser_testkit::guest::{Kind, Plan};
use hawser_testkit::lab::Lab;
use hawser_testkit::netns::address::FAR4;
use hawser_testkit::{Result, peers};

fn traffic_through_passt(kind: Kind) -> Result<()> {
    let mut lab = Lab::new()?;
    let server = lab.serve_world(FAR4)?;
    let socket = lab.path("passt.sock");
    let mut passt = peers::passt(&lab.networks.pod, &socket, &[])?;
    let guest = Plan::new(kind, &socket).boot()?;
    guest.sh("net-up 4")?;
    guest.traffic(&format!("send to={server} bytes=20000000"))?;
    guest.traffic(&format!("receive to={server} bytes=20000000"))?;
    passt.assert_alive()
}

#[test]
fn a_uml_guest_reaches_the_world_through_passt() -> Result<()> {
    traffic_through_passt(Kind::Uml)
}

#[test]
fn a_qemu_guest_reaches_the_world_through_passt() -> Result<()> {
    traffic_through_passt(Kind::Qemu)
}

#[test]
fn a_namespace_is_gone_with_its_test() -> Result<()> {
    let lab = Lab::new()?;
    let path = lab.networks.pod.path();
    assert!(lab.networks.pod.run("ip -brief link")?.contains("eth0"));
    drop(lab);
    assert!(!std::path::Path::new(&path).exists());
    Ok(())
}
