//! Tests of the units of hawser and its agent under a real systemd.

use hawser_testkit::guest::{Kind, Plan};
use hawser_testkit::segment::{HOST4, PORT, Segment};
use hawser_testkit::systemd::Systemd;
use hawser_testkit::{Result, failure, until};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

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

/// Connects a namespace that the agent has made to the bridge of the environment.
const CONNECT: &str = "#!/bin/sh
set -eu
case $1 in
add)
    ip link add up-own type veth peer name eth0 netns $3
    ip link set up-own master br0 up
    nsenter --net=$3 ip addr add 192.0.2.77/24 dev eth0
    nsenter --net=$3 ip link set eth0 up
    ;;
del) ip link del up-own ;;
esac
";

/// The agent runs a VM as a unit in a namespace that it has made, and removes both. Neither the agent's end nor its start
/// touches the VM, and a process that is killed while no agent runs is found when it is back.
#[test]
fn the_agent_runs_a_vm_as_a_unit_in_a_namespace_of_its_own() -> Result<()> {
    let mut segment = Segment::new(1500)?;
    segment.serve()?;
    let systemd = Systemd::start(&segment.host)?;
    let program = systemd.agent_dir().join("connect");
    fs::write(&program, CONNECT)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    systemd.add_agent("--node=n0 --make-netns --netns-program=/run/hawser-agent/connect")?;
    systemd.must("start hawser-agent")?;
    systemd.describe("vms/own", &EVERY.replace("name: every", "name: own"))?;
    let main = || -> Result<String> {
        let unit = systemd.unit("default.own")?;
        let is_served = unit["ActiveState"] == "active" && unit["StatusText"] == "serving default";
        Ok(if is_served {
            unit["MainPID"].clone()
        } else {
            String::new()
        })
    };
    until("the unit serves the VM", || Ok(!main()?.is_empty()))
        .map_err(|error| failure(format!("{error}: {}", systemd.log())))?;
    let pid = main()?;
    let inodes = systemd.must_run(&format!("stat -L -c %i /proc/{pid}/ns/net /run/netns/default.own"))?;
    let inodes: Vec<&str> = inodes.lines().collect();
    assert_eq!(inodes[0], inodes[1]);

    let folder = systemd.agent_dir().join("vms/default.own");
    let guest = Plan::new(Kind::Uml, &folder.join("default.sock")).boot()?;
    guest.sh("net-up 4")?;
    let traffic = format!("send to={HOST4}:{PORT} bytes=1000000");
    guest.traffic(&traffic)?;
    systemd.must("restart hawser-agent")?;
    assert_eq!(main()?, pid);
    guest.traffic(&traffic)?;
    drop(guest);

    systemd.must("stop hawser-agent")?;
    assert_eq!(main()?, pid);
    systemd.must("kill --signal=SIGKILL hawser@default.own")?;
    let mut again = String::new();
    until("systemd has started it again", || {
        again = main()?;
        Ok(!again.is_empty() && again != pid)
    })?;
    systemd.must("start hawser-agent")?;
    until("the agent has found it", || {
        let report = systemd.must_run("hawser-agent status --json")?;
        Ok(report.contains(&format!("\"pid\": {again},")) && report.contains("\"phase\": \"Running\""))
    })
    .map_err(|error| {
        let report = systemd.run("hawser-agent status --json");
        failure(format!("{error}: {again} {report:?} {}", systemd.log()))
    })?;
    assert_eq!(main()?, again);

    systemd.forget("vms/own")?;
    until("nothing is left of the VM", || Ok(!folder.exists()))?;
    assert_eq!(systemd.unit("default.own")?["ActiveState"], "inactive");
    assert!(!systemd.run("ls /run/netns/default.own")?.0);
    assert!(!systemd.sockets("default.own").exists());
    assert!(!segment.host.run("ip -oneline link")?.contains("up-own"));
    Ok(())
}
