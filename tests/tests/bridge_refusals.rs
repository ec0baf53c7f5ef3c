//! Tests of segments that cannot be used. The message names the option or field and the remedy, and the host stays
//! unchanged.

use hawser_testkit::netns::Namespace;
use hawser_testkit::segment::Segment;
use hawser_testkit::{Result, artifacts};
use std::fs;
use std::path::Path;

const MAC: &str = "52:54:00:12:34:56";

/// Options, and words that their messages must contain.
const REFUSALS: &[(&[&str], &[&str])] = &[
    (&["--bridge=br9"], &["--bridge=br9", "no link has this name", "br0"]),
    (&["--bridge=up0"], &["--bridge=up0", "a veth", "--macvtap=up0"]),
    (
        &["--bridge=br0", "--mtu=1501"],
        &["--mtu: 1501", "1500", "br0", "lower it"],
    ),
    (
        &["--bridge=br0", "--hairpin-mode", "--promisc-mode"],
        &["--hairpin-mode", "--promisc-mode", "leave one of them out"],
    ),
    (
        &["--bridge=br0", "--tap=tap0"],
        &["--bridge", "--tap", "leave one of them out"],
    ),
    (&["--bridge=br0", "--vlan=4095"], &["--vlan", "from 1 to 4094"]),
    (
        &["--bridge=br0", "--vlan-trunk=10-20,15"],
        &["--vlan-trunk=10-20,15", "VLAN 15 twice", "one range"],
    ),
    (
        &["--bridge=br0", "--mac-spoof-check"],
        &["--mac-spoof-check", "--mac", "give the guest's MAC"],
    ),
    (
        &["--bridge=br0", "--netns=none"],
        &["--netns=/run/netns/none", "ip netns list"],
    ),
    (
        &["--bridge=br0", "--netns=/etc/passwd"],
        &["--netns=/etc/passwd", "not a network namespace"],
    ),
    (&["--tap=busy0"], &["--tap=busy0", "in use by another process"]),
    (
        &["--tap=tap0", "--queue-pairs=2"],
        &["--tap=tap0", "multi_queue", "one queue pair"],
    ),
    (&["--tap=tun0"], &["--tap=tun0", "a TUN device", "mode tap"]),
    (&["--hairpin-mode", "--tap=tap0"], &["--bridge"]),
    (&["--bridge=a/b"], &["--bridge", "name of a network interface"]),
    (&["--tap=br0"], &["--tap=br0", "a bridge", "--bridge=br0"]),
    (&["--tap=tap0", "--mtu=9000"], &["--mtu: 9000", "tap0"]),
    (
        &["--macvtap=nowhere0"],
        &["--macvtap=nowhere0", "no link has this name"],
    ),
    (&["--macvtap=up0:source"], &["--macvtap", "source", "passthru"]),
    (
        &["--macvtap=tap0"],
        &["--macvtap=tap0", "a port of br0", "--bridge=br0"],
    ),
    (&["--macvtap=down0"], &["down0 is down", "ip link set down0 up"]),
    (&["--macvtap=up0:passthru"], &["--macvtap=up0", "choose another mode"]),
    (
        &["--macvtap=mvt0", "--mac=02:00:00:00:00:01"],
        &["--mac: 02:00:00:00:00:01", "02:00:00:00:00:77"],
    ),
    (&["--macvtap=mvt1"], &["--macvtap=mvt1", "in use by another process"]),
    (&["--pod-interface=up0"], &["--pod-interface=up0", "IPv4 address"]),
    (
        &["--pod-interface=far0"],
        &["--pod-interface=far0", "k6t-far0", "exists already"],
    ),
    (&["--pod-interface=mvt0"], &["--pod-interface=mvt0", "macvtap"]),
];

/// Starts a program without permission to change the network.
const UNPRIVILEGED: &[&str] = &["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];

/// The message of a hawser process that `program` starts and that ends with the status of a refusal.
fn refused(host: &Namespace, program: &[&str], arguments: &[&str]) -> Result<String> {
    let hawser = artifacts::hawser()?;
    // Without a refusal, hawser would serve forever.
    let words = [&["timeout", "10"], program].concat();
    let mut command = host.command(words[0]);
    command.args(&words[1..]).arg(hawser).args(arguments);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {said}");
    Ok(said)
}

#[test]
fn what_cannot_be_attached_to_is_refused_and_nothing_has_changed() -> Result<()> {
    let segment = Segment::beside(1500)?;
    let host = &segment.host;
    segment.add_uplink()?;
    segment.add_tap("tap0", "")?;
    for line in [
        "ip link add down0 type veth peer name down1",
        "ip link add link up0 name mvt0 type macvtap",
        "ip link set mvt0 address 02:00:00:00:00:77 up",
        "ip link add link up0 name mvt1 type macvtap",
        "ip link set mvt1 up",
        "ip link add k6t-far0 type bridge",
        "ip tuntap add dev tun0 mode tun",
    ] {
        host.run(line)?;
    }
    segment.add_tap("busy0", "")?;
    host.run("ip link set busy0 down")?;
    let mut owner = segment.hawser("owner", &["--tap=busy0"])?;
    // This problem is no reason not to start.
    let log = owner.process().log();
    assert!(log.contains("ip link set busy0 up"), "{log}");
    let another = segment.hawser("another", &["--macvtap=mvt1"])?;
    let before = host.settled()?;
    let socket = segment.path("refused.sock");
    let socket_option = format!("--socket-path={}", socket.display());
    let runtime = format!("--runtime-dir={}", segment.path("run").display());
    let said = |program: &[&str], options: &[&str]| -> Result<String> {
        let own = [&socket_option, "--mode=bridge", "--log=error", &runtime];
        let said = refused(host, program, &[&own[..], options].concat())?;
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!socket.exists());
        Ok(said)
    };
    for (options, words) in REFUSALS {
        let said = said(&[], options)?;
        for word in *words {
            assert!(said.contains(word), "{options:?}: no {word} in: {said}");
        }
    }
    for way in ["--bridge=br0", "--tap=new0", "--macvtap=up0", "--pod-interface=far0"] {
        let said = said(UNPRIVILEGED, &[way])?;
        for word in [way, "CAP_NET_ADMIN"] {
            assert!(said.contains(word), "{said}");
        }
    }
    assert_eq!(host.settled()?, before);
    another.stop()?;
    segment.hawser("next", &["--macvtap=mvt1"])?.stop()?;
    owner.stop()
}

/// A VM with one interface on a network with this CNI configuration.
fn manifest(config: &str) -> String {
    format!(
        "apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {{name: vm}}
spec:
  domain:
    devices:
      interfaces:
      - {{name: red, bridge: {{}}, macAddress: \"{MAC}\"}}
  networks:
  - {{name: red, multus: {{networkName: net}}}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {{name: net}}
spec:
  config: '{config}'
"
    )
}

#[test]
fn what_a_manifest_cannot_be_attached_to_is_refused_at_its_field_and_nothing_has_changed() -> Result<()> {
    let segment = Segment::beside(1500)?;
    let host = &segment.host;
    segment.add_uplink()?;
    segment.add_tap("tap0", "")?;
    let before = host.settled()?;
    let (file, store, sockets) = (segment.path("vm.yaml"), segment.path("store"), segment.path("sockets"));
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let options = [
        option("filename", &file),
        option("store", &store),
        option("socket-dir", &sockets),
        option("runtime-dir", &segment.path("run")),
    ];
    let said = |program: &[&str], config: &str, place: &str| -> Result<String> {
        fs::write(&file, manifest(config))?;
        let options = options.iter().map(String::as_str);
        let said = refused(host, program, &[&["run"], &options.collect::<Vec<_>>()[..]].concat())?;
        let place = format!("{}:{place}: ", file.display());
        assert!(said.contains(&place), "{config}: {said}");
        assert!(!store.exists() && !sockets.exists(), "{config}");
        Ok(said)
    };
    for (config, place, words) in [
        (
            r#"{"type": "cnv-bridge", "bridge": "br9"}"#,
            "16: spec.config.bridge",
            "which has br0",
        ),
        (
            r#"{"type": "cnv-bridge", "bridge": "br0", "mtu": 1501}"#,
            "16: spec.config.mtu",
            "1501 exceeds the segment's MTU of 1500 bytes (br0); lower it",
        ),
        (
            r#"{"type": "cnv-bridge", "bridge": "br0", "vlan": 4095}"#,
            "16: spec.config.vlan",
            "to 4094",
        ),
        (
            r#"{"type": "macvlan", "master": "nowhere0"}"#,
            "16: spec.config.master",
            "create it first",
        ),
        (
            r#"{"type": "macvlan", "master": "tap0"}"#,
            "16: spec.config.master",
            "CNI bridge",
        ),
        (
            r#"{"type": "ipvlan", "master": "up0"}"#,
            "8: spec.domain.devices.interfaces[0].macAddress",
            "leave it out",
        ),
    ] {
        let said = said(&[], config, place)?;
        assert!(said.contains(words), "{config}: {said}");
    }
    let config = r#"{"type": "cnv-bridge", "bridge": "br0"}"#;
    let said = said(UNPRIVILEGED, config, "16: spec.config.bridge")?;
    assert!(said.contains("CAP_NET_ADMIN"), "{said}");
    assert_eq!(host.settled()?, before);
    Ok(())
}
