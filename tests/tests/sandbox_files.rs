//! Tests of the files to which a confined process continues to write: leases of NICs that are plugged and unplugged,
//! and events.

use hawser_testkit::hawser::Hawser;
use hawser_testkit::netns::Namespace;
use hawser_testkit::{Result, artifacts, failure, until};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use tempfile::TempDir;

/// An ordinary user without any capability.
const NOBODY: u32 = 65534;

const NETWORK: &str = r#"
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: lan}
spec:
  config: '{"type": "bridge", "bridge": "br0", "ipam": {"type": "host-local", "subnet": "10.20.0.0/16"}}'
"#;

/// A QEMU that executes every command immediately.
fn obedient_vmm(path: &Path) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    thread::spawn(move || -> std::io::Result<()> {
        for stream in listener.incoming() {
            let stream = stream?;
            let mut out = stream.try_clone()?;
            writeln!(out, "{}", json!({"QMP": {}}))?;
            for line in BufReader::new(stream).lines() {
                let asked: Value = serde_json::from_str(&line?)?;
                let answer = match asked["execute"].as_str() {
                    Some("query-pci" | "qom-list") => json!([]),
                    _ => json!({}),
                };
                writeln!(out, "{}", json!({"return": answer}))?;
                if asked["execute"] == "device_del" {
                    let device = &asked["arguments"]["id"];
                    writeln!(
                        out,
                        "{}",
                        json!({"event": "DEVICE_DELETED", "data": {"device": device}})
                    )?;
                }
            }
        }
        Ok(())
    });
    Ok(())
}

struct Stage {
    namespace: Namespace,
    folder: TempDir,
}

impl Stage {
    /// A stage with all its files in a directory owned by `owner`.
    fn new(owner: u32) -> Result<Self> {
        let (namespace, folder) = (Namespace::new()?, tempfile::tempdir()?);
        namespace.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
        namespace.run("ip link add br0 type bridge")?;
        namespace.run("ip link set br0 up")?;
        chown(folder.path(), Some(owner), Some(owner))?;
        for name in ["state", "log"] {
            fs::create_dir(folder.path().join(name))?;
            chown(folder.path().join(name), Some(owner), Some(owner))?;
        }
        obedient_vmm(&folder.path().join("qmp"))?;
        Ok(Self { namespace, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A VM with a masqueraded NIC, and one on the bridge.
    fn manifest(&self, with_lan: bool) -> Result<PathBuf> {
        let (interface, network) = if with_lan {
            (", {name: lan, bridge: {}}", ", {name: lan, multus: {networkName: lan}}")
        } else {
            ("", "")
        };
        let text = format!(
            "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: vm}}\nspec:\n  domain: {{devices: \
             {{interfaces: [{{name: default, masquerade: {{}}, ports: [{{port: 22}}]}}{interface}]}}}}\n  networks: \
             [{{name: default, pod: {{vmNetworkCIDR: 10.0.2.0/24}}}}{network}]\n---\n{NETWORK}"
        );
        let path = self.path("vm.yaml");
        fs::write(&path, text)?;
        Ok(path)
    }

    fn run(&self, user: &[&str]) -> Result<Hawser> {
        let (qmp, log) = (self.path("qmp"), self.path("log/events"));
        let mut options = vec![
            format!("--qmp={}", qmp.display()),
            format!("--event-log={}", log.display()),
        ];
        options.extend(user.iter().map(|&option| option.to_owned()));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let (manifest, folder) = (self.manifest(true)?, self.path("state"));
        let nics = ["default", "lan", "api"];
        Hawser::run_with(&self.namespace, &manifest, &folder, &nics, &options)
    }

    /// Returns the output of `hawser` with these arguments.
    fn ask(&self, words: &[&str]) -> Result<String> {
        let output = self.namespace.command(artifacts::hawser()?).args(words).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(failure(text(&output.stderr)))
        }
    }

    /// Sends a command to the running process.
    fn order(&self, words: &[&str]) -> Result<String> {
        let socket = format!("--socket-dir={}", self.path("state").display());
        self.ask(&[words, &[&socket]].concat())
    }

    fn plug(&self, with_lan: bool) -> Result<String> {
        let manifest = self.manifest(with_lan)?;
        self.order(&["plug", "-f", &manifest.to_string_lossy()])
    }

    fn leases(&self) -> Result<String> {
        let store = format!("--store={}", self.path("state/store.db").display());
        self.ask(&["leases", "list", &store])
    }

    /// Waits until the event log contains this event.
    fn wait_for_event(&self, port: &str, event: &str) -> Result<()> {
        let tells = |line: &str| {
            serde_json::from_str::<Value>(line).is_ok_and(|line| line["event"] == event && line["port"] == port)
        };
        // The log does not exist between its rotation and the next event.
        let log = || fs::read_to_string(self.path("log/events")).unwrap_or_default();
        let told = || Ok(log().lines().any(tells));
        until(&format!("event {event}"), told)
    }
}

/// Runs a process from its start until its event log has been rotated twice.
fn events_and_leases_go_on(stage: &Stage, user: &[&str]) -> Result<Hawser> {
    let hawser = stage.run(user)?;
    let log = stage.path("log/events");
    stage.wait_for_event("lan", "port-added")?;
    let leases = stage.leases()?;
    let lease = leases.lines().find(|line| line.contains(" lan ")).unwrap_or_default();
    assert!(lease.contains("10.20.0."), "{leases}");
    // The log is renamed, as logrotate does, and exists again after the next event. A NIC that is removed permanently
    // releases its lease.
    fs::rename(&log, stage.path("log/events.1"))?;
    assert_eq!(stage.plug(false)?, "lan: unplugged\n");
    stage.wait_for_event("lan", "port-removed")?;
    assert_eq!(stage.leases()?.lines().count(), 1);
    assert!(fs::read_to_string(stage.path("log/events.1"))?.contains("port-added"));
    // The log is copied and truncated, as logrotate does with copytruncate.
    File::options().write(true).open(&log)?.set_len(0)?;
    stage.order(&["link", "default", "down"])?;
    stage.wait_for_event("default", "link-changed")?;
    assert!(!fs::read(&log)?.contains(&0), "a hole is before its lines");
    Ok(hawser)
}

#[test]
fn leases_are_written_and_released_and_events_follow_their_file_in_the_sandbox() -> Result<()> {
    let stage = Stage::new(0)?;
    let hawser = events_and_leases_go_on(&stage, &[])?;
    // A plugged NIC gets a lease.
    assert_eq!(stage.plug(true)?, "lan: plugged\ndefault: link up\n");
    stage.wait_for_event("lan", "port-added")?;
    assert_eq!(stage.leases()?.lines().count(), 2);
    hawser.stop()
}

#[test]
fn leases_and_events_go_on_as_another_user() -> Result<()> {
    let stage = Stage::new(NOBODY)?;
    // The store must belong to the user that continues with it.
    let store = format!("--store={}", stage.path("state/store.db").display());
    let manifest = stage.manifest(true)?;
    stage.ask(&["leases", "allocate", "-f", &manifest.to_string_lossy(), &store])?;
    chown(stage.path("state/store.db"), Some(NOBODY), Some(NOBODY))?;
    let hawser = events_and_leases_go_on(&stage, &["--user=65534"])?;
    assert_eq!(fs::metadata(stage.path("log/events"))?.uid(), NOBODY);
    hawser.stop()
}
