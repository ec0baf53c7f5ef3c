//! Tests of hawser's unit under a real systemd.

use hawser_testkit::guest::{Kind, Plan};
use hawser_testkit::segment::{HOST4, PORT, Segment};
use hawser_testkit::systemd::Systemd;
use hawser_testkit::{Result, until};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// A VM with a masqueraded interface, and with one on the environment's bridge that has this state.
fn vm(state: &str) -> String {
    format!(
        r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {{name: vm1}}
spec:
  domain:
    devices:
      interfaces:
      - {{name: default, masquerade: {{}}, ports: [{{port: 22}}]}}
      - {{name: lan, bridge: {{}}, state: {state}}}
  networks:
  - {{name: default, pod: {{}}}}
  - {{name: lan, multus: {{networkName: lan}}}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {{name: lan}}
spec:
  config: '{{"cniVersion": "1.0.0", "type": "bridge", "bridge": "br0"}}'
"#
    )
}

/// A VM on a macvtap.
const WIRE: &str = r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: wire}
spec:
  domain: {devices: {interfaces: [{name: wire, bridge: {}}]}}
  networks: [{name: wire, multus: {networkName: wire}}]
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: wire}
spec:
  config: '{"cniVersion": "1.0.0", "type": "macvlan", "master": "eth1"}'
"#;

/// A VM to which every port of its pod is forwarded.
const EVERY: &str = r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: every}
spec:
  domain: {devices: {interfaces: [{name: default, masquerade: {}}]}}
  networks: [{name: default, pod: {}}]
"#;

#[test]
fn systemd_starts_the_unit_reloads_it_brings_it_back_and_stops_it() -> Result<()> {
    let mut segment = Segment::new(1500)?;
    segment.serve()?;
    segment.host.run("ip link add eth1 type veth peer name eth1p")?;
    segment.host.run("ip link set eth1 up")?;
    let systemd = Systemd::start(&segment.host)?;
    systemd.describe("vm1", &vm("up"))?;
    systemd.must("start hawser@vm1")?;
    let unit = systemd.unit("vm1")?;
    assert_eq!((&*unit["ActiveState"], &*unit["SubState"]), ("active", "running"));
    assert_eq!(unit["StatusText"], "serving default, lan");

    let sockets = systemd.sockets("vm1");
    let mut plan = Plan::new(Kind::Uml, &sockets.join("default.sock"));
    plan.more_sockets = vec![sockets.join("lan.sock")];
    let guest = plan.boot()?;
    guest.sh("net-up 4")?;
    guest.traffic(&format!("send to={HOST4}:{PORT} bytes=1000000"))?;
    guest.sh("ip link set eth1 up && ip addr add 192.0.2.50/24 dev eth1 && ip link set eth0 down")?;
    guest.traffic(&format!("send to={HOST4}:{PORT} bytes=1000000"))?;

    let before = systemd.unit("vm1")?["MainPID"].clone();
    systemd.describe("vm1", &vm("down"))?;
    systemd.must("reload hawser@vm1")?;
    let after = systemd.unit("vm1")?["MainPID"].clone();
    assert!(
        before != after && after != "0",
        "{before}, then {after}: {}",
        systemd.log()
    );
    until("the guest loses its carrier", || {
        Ok(guest.sh("cat /sys/class/net/eth1/carrier")?.trim() == "0")
    })?;
    assert_eq!(systemd.unit("vm1")?["StatusText"], "serving default, lan (link down)");
    // An invalid manifest changes nothing.
    systemd.describe("vm1", "kind: Nonsense")?;
    assert!(systemd.must("reload hawser@vm1").is_err());
    assert_eq!(systemd.unit("vm1")?["ActiveState"], "active");

    // Other VMs are started beside it: one on a macvtap, for a VMM of another group, and one with every port of the
    // pod.
    systemd.adjust("wire", "--api-socket=/run/hawser/wire/other.sock", "Group=nogroup")?;
    for (name, manifest) in [("wire", WIRE), ("every", EVERY)] {
        systemd.describe(name, manifest)?;
        systemd.must(&format!("start hawser@{name}"))?;
    }
    let socket = fs::metadata(systemd.sockets("wire").join("wire.sock"))?;
    assert_eq!((socket.uid(), socket.gid(), socket.mode() & 0o777), (0, 65534, 0o660));
    assert!(systemd.sockets("wire").join("other.sock").exists());
    systemd.must("stop hawser@wire hawser@every")?;

    // hawser is not restarted with an invalid manifest. A killed process is restarted.
    drop(guest);
    systemd.must("kill --signal=SIGKILL hawser@vm1")?;
    until("systemd gives up", || {
        Ok(systemd.unit("vm1")?["ActiveState"] == "failed")
    })?;
    assert_eq!(systemd.unit("vm1")?["NRestarts"], "1");
    systemd.describe("vm1", &vm("up"))?;
    systemd.must("start hawser@vm1")?;
    systemd.must("stop hawser@vm1")?;

    let unit = systemd.unit("vm1")?;
    assert_eq!((&*unit["ActiveState"], &*unit["Result"]), ("inactive", "success"));
    let left: Vec<String> = fs::read_dir(&sockets)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    assert_eq!(left, ["lock"]);
    assert_eq!(segment.host.run("ip -oneline link show master br0")?, "");
    Ok(())
}
