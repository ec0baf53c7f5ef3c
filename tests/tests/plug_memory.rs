//! Tests of manifests received over the API. They are read in the process that serves the VM. Reading them needs little
//! memory, which the process releases.

use hawser_testkit::hawser::Hawser;
use hawser_testkit::netns::Namespace;
use hawser_testkit::{Result, artifacts};
use std::fs;

const VM: &str = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: vm}\nspec:\n  domain: \
                  {devices: {interfaces: [{name: default, masquerade: {}, ports: [{port: 22}]}]}}\n  networks: \
                  [{name: default, pod: {vmNetworkCIDR: 10.0.2.0/24}}]\n";

/// A text of 172 bytes that expands to 88,000 nodes by aliases.
const BOMB: &str = "a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                    e: [*d,*d,*d,*d,*d,*d,*d]\n---\n";

/// Maximum memory that a plug may use temporarily: 64 MiB.
const MOST_PEAK: u64 = 64 << 10;
/// Maximum memory that may remain in use: 4 MiB.
const MOST_LEFT: u64 = 4 << 10;

#[test]
fn what_a_plug_is_read_with_is_bounded_and_given_back() -> Result<()> {
    let (namespace, folder) = (Namespace::new()?, tempfile::tempdir()?);
    namespace.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
    let manifest = folder.path().join("vm.yaml");
    fs::write(&manifest, VM)?;
    let state = folder.path().join("state");
    fs::create_dir(&state)?;
    let mut hawser = Hawser::run(&namespace, &manifest, &state, &["default"])?;
    let socket = format!("--socket-dir={}", state.display());
    let plug = |text: &str| -> Result<String> {
        fs::write(&manifest, text)?;
        let mut command = namespace.command(artifacts::hawser()?);
        let output = command.args(["plug", "-f"]).arg(&manifest).arg(&socket).output()?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    plug(VM)?;
    let before = hawser.process().resident_kib()?;
    let bomb = plug(&BOMB.repeat(160))?;
    assert!(bomb.contains("the manifests have more than 400000 values"), "{bomb}");
    // Expanded aliases are shared.
    let peak = hawser.process().peak_kib()?;
    assert!(peak < before + MOST_LEFT, "{before} KiB became {peak} KiB at most");
    // This is the longest possible request, in which each byte is a node.
    let ports = VM.replace("{port: 22}", &"x,".repeat(110_000));
    let wrong = plug(&ports)?;
    assert!(wrong.contains("more errors that are not shown"), "{wrong}");
    let peak = hawser.process().peak_kib()?;
    assert!(peak < before + MOST_PEAK, "{before} KiB became {peak} KiB at most");
    let after = hawser.process().resident_kib()?;
    assert!(after < before + MOST_LEFT, "{before} KiB became {after} KiB");
    assert_eq!(plug(VM)?, "");
    hawser.stop()
}
