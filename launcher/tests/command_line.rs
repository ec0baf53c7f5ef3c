//! Tests of the real program's command line: its output and exit status.

use std::collections::BTreeSet;
use std::process::{Command, Output};

/// A socket that cannot be served, in case wrong usage is not refused.
const NOWHERE: &str = "--socket-path=/nonexistent/vm.sock";

fn hawser(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hawser"))
        .args(args)
        .output()
        .expect("hawser starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Asserts that there is one line on standard error with these words, nothing on standard output, and this status.
fn fails(args: &[&str], status: i32, words: &str) {
    let output = hawser(args);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    assert_eq!(error.lines().count(), 1, "{args:?}: {error}");
    assert!(error.starts_with("hawser: "), "{args:?}: {error}");
    assert!(error.contains(words), "{args:?}: {error}");
}

#[test]
fn the_status_has_the_failure_if_standard_error_has_no_reader() {
    let (unread, stderr) = std::io::pipe().expect("a pipe");
    drop(unread);
    let status = Command::new(env!("CARGO_BIN_EXE_hawser"))
        .arg("--mtu=1")
        .stderr(stderr)
        .status()
        .expect("hawser starts");
    assert_eq!(status.code(), Some(2));
}

#[test]
fn wrong_usage_is_one_line_that_names_the_option_and_status_2() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "--socket-path=PATH or --fd=N"),
        (&["--socket-path="], "--socket-path"),
        (&["--socket-path=/tmp/s", "--fd=3"], "--fd"),
        (&["--fd=3", "--connect"], "--connect"),
        (&["--connect"], "--socket-path"),
        (&["--fd=2"], "'--fd <N>': give the number of an inherited descriptor"),
        (
            &[NOWHERE, "--mac=ff:ff:ff:ff:ff:ff"],
            "'--mac <MAC>': this is a multicast address",
        ),
        (
            &[NOWHERE, "--mac=02:00:00:00:00:00"],
            "'--mac <MAC>': this is the MAC of the gateway",
        ),
        (&[NOWHERE, "--mtu=67"], "'--mtu <BYTES>': give 68 to 65535"),
        (
            &[NOWHERE, "--mtu=1000", "--ipv6=fd00::/64"],
            "--mtu=1000 is less than the 1280 bytes of IPv6",
        ),
        (&[NOWHERE, "--queue-pairs=0"], "--queue-pairs"),
        (
            &[NOWHERE, "--ipv4=10.0.0.0/31"],
            "'--ipv4 <CIDR|off>': gateway and guest need",
        ),
        (
            &[NOWHERE, "--ipv6=fd00::/127"],
            "'--ipv6 <CIDR|off>': gateway and guest need",
        ),
        (&[NOWHERE, "--ipv4=off", "--ipv6=off"], "--ipv4=off and --ipv6=off"),
        (
            &[NOWHERE, "--ipv4=10.0.2.0/24", "--map-host-loopback=10.9.9.9"],
            "--map-host-loopback=10.9.9.9",
        ),
        (&[NOWHERE, "--map-host-loopback=nowhere"], "--map-host-loopback"),
        (&[NOWHERE, "--hostname=a.b"], "--hostname"),
        (&[NOWHERE, "--dns=example.com"], "--dns"),
        (&[NOWHERE, "--search=a..b"], "--search"),
        (&[NOWHERE, "--port=0"], "port 0 is not between 1 and 65535"),
        (
            &[NOWHERE, "--ipv4=10.0.2.0/24", "--port=80,80:81"],
            "--port=tcp:80 and --port=tcp:80:81",
        ),
        (&[NOWHERE, "--log=loud"], "--log"),
        (&[NOWHERE, "--nonsense"], "--nonsense"),
        (&["--socket-pth=/tmp/s"], "a similar argument exists: '--socket-path'"),
        (&["nonsense"], "nonsense"),
        (&["qemu-args"], "--socket-path"),
        (&["qemu-args", "--socket-path=/s", "--memory=lots"], "--memory"),
        (
            &[
                "cloud-hypervisor-args",
                "--socket-path=/s",
                "--ipv4=10.0.2.0/24",
                "--ipv6=off",
                "--mtu=1000",
            ],
            "--mtu=1000",
        ),
    ];
    for (args, words) in cases {
        fails(args, 2, words);
    }
}

#[test]
fn a_file_of_peers_is_refused_at_the_line_that_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("peers");
    let option = format!("--peers={}", file.display());
    let args = [
        "--mode=layer2",
        "--socket-path=/nonexistent/s",
        "--mac=52:54:00:00:01:0b",
        "--ipv4=10.100.0.0/24",
        "--vni=7",
        "--vtep=192.0.2.1",
        &option,
    ];
    fails(&args, 2, &format!("{option}: "));
    let own = "52:54:00:00:01:0b@192.0.2.1\n";
    let other = "52:54:00:00:01:0c@192.0.2.2\n";
    std::fs::write(&file, [own, other, other].concat()).expect("a file");
    let words = format!("{}:3: MAC 52:54:00:00:01:0c is already in line 2", file.display());
    fails(&args, 2, &words);
    let nowhere = "10.200.0.1";
    std::fs::write(&file, format!("{own}52:54:00:00:01:0c,{nowhere}@192.0.2.2\n")).expect("a file");
    fails(&args, 2, nowhere);
}

#[test]
fn the_capabilities_are_a_net_device_whatever_else_is_given() {
    for args in [
        &["--print-capabilities"][..],
        &["--nonsense", "--print-capabilities", "--mtu=1"][..],
    ] {
        let output = hawser(args);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stderr), "");
        assert_eq!(text(&output.stdout), "{\n  \"type\": \"net\"\n}\n");
    }
}

/// Checks the output against QEMU's schema: only the known fields `description`, `type` and `binary`, an absolute path
/// in `binary`, and the type that the program itself reports.
#[test]
fn the_description_file_agrees_with_the_program() {
    let file: serde_json::Value = serde_json::from_str(include_str!("../share/50-hawser.json")).expect("JSON");
    let capabilities: serde_json::Value =
        serde_json::from_slice(&hawser(&["--print-capabilities"]).stdout).expect("JSON");
    let keys: Vec<&String> = file.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["binary", "description", "type"]);
    assert_eq!(file["type"], capabilities["type"]);
    let binary = std::path::Path::new(file["binary"].as_str().expect("a string"));
    assert!(binary.is_absolute());
    assert_eq!(
        binary.file_name(),
        std::path::Path::new(env!("CARGO_BIN_EXE_hawser")).file_name()
    );
}

#[test]
fn help_and_version_are_answers_and_not_errors() {
    for args in [&["--help"][..], &["-h"][..], &["qemu-args", "--help"][..]] {
        let output = hawser(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(text(&output.stdout).contains("Usage: hawser"), "{args:?}");
    }
    let version = hawser(&["--version"]);
    assert_eq!(
        text(&version.stdout),
        concat!("hawser ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn the_same_options_print_a_vmms_flags() {
    let options = [
        "--socket-path=/s",
        "--ipv4=10.0.2.0/24",
        "--ipv6=off",
        "--mtu=1500",
        "--port=2222:22",
        "--one-off",
    ];
    let qemu = hawser(&[&["qemu-args"], &options[..]].concat());
    assert_eq!(qemu.status.code(), Some(0), "{}", text(&qemu.stderr));
    assert!(
        text(&qemu.stdout)
            .ends_with("-device virtio-net-pci,id=hawser-nic-vm,netdev=hawser-vm,host_mtu=1500,romfile=\n")
    );
    let ch = hawser(&[&["cloud-hypervisor-args"], &options[..]].concat());
    assert_eq!(
        text(&ch.stdout),
        "--memory size=1G,shared=on --net id=hawser-vm,vhost_user=true,socket=/s,num_queues=2,mtu=1500\n"
    );
}

/// The command is written as in the help: the shell restores the intended arguments, including blanks, commas and
/// quotes.
#[test]
fn printed_flags_go_through_the_shell_whole() {
    let script = r#"eval "printf '%s\n' vmm $("$0" qemu-args "$@")""#;
    let options = [
        "--socket-path=/a  b'c\"$(d);e",
        "--ipv4=10.0.2.0/24",
        "--ipv6=off",
        "--mtu=1500",
    ];
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_hawser")])
        .args(options)
        .output()
        .expect("sh starts");
    let expected = "\
vmm
-m
1G
-object
memory-backend-memfd,id=hawser-mem,size=1G,share=on
-machine
memory-backend=hawser-mem
-chardev
socket,id=hawser-chr-vm,path=/a  b'c\"$(d);e,reconnect-ms=10
-netdev
vhost-user,id=hawser-vm,chardev=hawser-chr-vm
-device
virtio-net-pci,id=hawser-nic-vm,netdev=hawser-vm,host_mtu=1500,romfile=
";
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
}

/// The long options that occur in a text.
fn options(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
    words.filter(|word| word.starts_with("--") && word.len() > 2).collect()
}

#[test]
fn the_options_page_has_every_option_and_no_other() {
    let page = include_str!("../../docs/options.md");
    let table: Vec<&str> = page.lines().filter(|line| line.starts_with("| `-")).collect();
    let commands = page.lines().filter_map(|line| line.strip_prefix("## hawser"));
    let helps: Vec<Output> = commands
        .map(|command| hawser(&command.split_whitespace().chain(["--help"]).collect::<Vec<_>>()))
        .collect();
    assert!(helps.len() > 20, "{} subcommands", helps.len());
    let mut known: BTreeSet<&str> = helps.iter().flat_map(|help| options(text(&help.stdout))).collect();
    for option in ["--help", "--version"] {
        known.remove(option);
    }
    assert_eq!(options(&table.join("\n")), known);
}

/// Runs `hawser validate` on a manifest given on standard input.
fn validate(manifest: &str, options: &[&str]) -> Output {
    let (input, mut writer) = std::io::pipe().expect("a pipe");
    std::io::Write::write_all(&mut writer, manifest.as_bytes()).expect("a short manifest");
    drop(writer);
    Command::new(env!("CARGO_BIN_EXE_hawser"))
        .args(["validate", "-f", "-"])
        .args(options)
        .stdin(input)
        .output()
        .expect("hawser starts")
}

const MANIFEST: &str = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: vm}\nspec:\n  domain: {devices: \
     {interfaces: [{name: default, masquerade: {}, ports: [{port: 22}]}]}}\n  networks: [{name: default, pod: {}}]\n";

#[test]
fn validate_prints_what_would_be_served() {
    let output = validate(MANIFEST, &["--socket-dir=/run/vm"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert!(text(&output.stdout).contains("socket   /run/vm/default.sock\n"));
    let json = validate(MANIFEST, &["--json"]);
    assert_eq!(json.status.code(), Some(0));
    assert!(text(&json.stdout).contains("\"tcp:22\""));
}

#[test]
fn run_prints_the_flags_of_each_card_for_a_vmm() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/dual-stack.yaml");
    let print = |vmm: &str| {
        let vmm = format!("--print-args={vmm}");
        hawser(&[
            "run",
            "-f",
            path,
            "--socket-dir=/run/vm",
            &vmm,
            "--memory=2G",
            "--store=off",
            "--log=off",
        ])
    };
    let output = print("qemu");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let flags = text(&output.stdout);
    assert!(
        flags.starts_with("-m 2G ") && flags.contains("path=/run/vm/default.sock,"),
        "{flags}"
    );
    assert!(
        flags.contains("-device virtio-net-pci,id=hawser-nic-default,netdev=hawser-default,mac=02:00:00:00:00:10,"),
        "{flags}"
    );
    let output = print("cloud-hypervisor");
    assert!(text(&output.stdout).contains("socket=/run/vm/default.sock,mac=02:00:00:00:00:10,"));
    let broken = hawser(&["run", "-f", "/nonexistent.yaml"]);
    assert_eq!(broken.status.code(), Some(2));
}

#[test]
fn what_is_only_printed_makes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let manifest = MANIFEST
        .replace("ports: [", "macAddress: MAC, ports: [")
        .replace("pod: {}", "pod: {vmNetworkCIDR: 10.0.2.0/24}");
    let run = |mac: &str, options: &[&str]| {
        let file = place("vm.yaml");
        std::fs::write(&file, manifest.replace("macAddress: MAC, ", mac)).expect("a file");
        let places = [
            format!("--filename={}", file.display()),
            format!("--socket-dir={}", place("sockets").display()),
            format!("--store={}", place("store.db").display()),
            format!("--runtime-dir={}", place("runtime").display()),
        ];
        let places = places.iter().map(String::as_str);
        let words: Vec<&str> = ["run", "--log=off"]
            .into_iter()
            .chain(places)
            .chain(options.iter().copied())
            .collect();
        hawser(&words)
    };
    let left = || {
        let entries = std::fs::read_dir(folder.path()).expect("the folder");
        entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect::<Vec<_>>()
    };
    let output = run("", &["--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    for expected in [
        "MAC      one of the pool, kept for the VM\n",
        "would be done\n  lease    one for default\n  folder   ",
        "/sockets/default.sock\n",
        "/sockets/api.sock\n",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let output = run(
        "macAddress: 02:00:00:00:00:07, ",
        &["--dry-run", "--", "/nonexistent/qemu", "-m", "1G"],
    );
    let said = text(&output.stdout);
    assert!(
        said.contains("MAC      02:00:00:00:00:07\n") && said.contains("  lease    one for default\n"),
        "{said}"
    );
    assert!(said.contains("  start    /nonexistent/qemu -m 1G "), "{said}");
    // A MAC that is not stored would differ from the VM's MAC when the VM is served.
    let output = run("", &["--print-args=qemu"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
    assert!(
        text(&output.stderr).contains("default: no MAC is reserved for it yet, and --print-args does not reserve one")
    );
    let output = run("macAddress: 02:00:00:00:00:07, ", &["--print-args=qemu"]);
    assert!(
        text(&output.stdout).contains("mac=02:00:00:00:00:07"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(left(), ["vm.yaml"]);
    // A stored MAC is the same.
    let file = place("vm.yaml");
    std::fs::write(&file, manifest.replace("macAddress: MAC, ", "")).expect("a file");
    let store = format!("--store={}", place("store.db").display());
    let allocated = hawser(&["leases", "allocate", &format!("--filename={}", file.display()), &store]);
    let mac = text(&allocated.stdout)
        .split_whitespace()
        .nth(3)
        .expect("a MAC")
        .to_owned();
    let before = std::fs::read(place("store.db")).expect("the store");
    for option in ["--print-args=qemu", "--dry-run"] {
        let output = run("", &[option]);
        assert!(
            text(&output.stdout).contains(&mac),
            "{option}: {}",
            text(&output.stderr)
        );
        assert!(!text(&output.stdout).contains("lease "), "{}", text(&output.stdout));
    }
    assert_eq!(std::fs::read(place("store.db")).expect("the store"), before);
    let both = run("", &["--dry-run", "--print-args=qemu"]);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn validate_prints_every_problem_with_file_line_and_field_and_status_2() {
    let broken = MANIFEST.replace("port: 22", "port: 0").replace("pod: {}", "pot: {}");
    let output = validate(&broken, &[]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
    let lines: Vec<&str> = text(&output.stderr).lines().collect();
    assert!(lines[0].starts_with("standard input:5: spec.domain.devices.interfaces[0].ports[0].port: "));
    assert!(lines[1].starts_with("standard input:6: spec.networks[0].pot: there is no such field"));
    assert_eq!(
        lines.last(),
        Some(&"hawser: 3 problems with the manifests, nothing is served")
    );
    let json = validate(&broken, &["--json"]);
    assert_eq!(json.status.code(), Some(2));
    assert!(text(&json.stdout).contains("\"plan\": null") && text(&json.stdout).contains("\"line\": 6"));
    let unreadable = hawser(&["validate", "-f", "/nonexistent.yaml"]);
    assert_eq!(unreadable.status.code(), Some(2));
    assert!(text(&unreadable.stderr).starts_with("hawser: -f /nonexistent.yaml: "));
}
