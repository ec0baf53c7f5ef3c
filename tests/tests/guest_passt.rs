//! Tests of hawser in the place of passt: the arguments with which libvirt starts it, and a real guest that has the
//! addresses of its pod.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::lab::{Lab, PORT};
use hawser_testkit::netns::address::{FAR4, FAR6, POD4, POD6, WORLD4, WORLD6};
use hawser_testkit::{Result, artifacts, failure, peers, until};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Output};

/// The user of QEMU under libvirt, as far as rights are concerned: nobody, without any capability.
const NOBODY: &str = "65534";

/// A process that was started as libvirt starts passt. It is ended by its number.
struct Passt {
    pid: i32,
    socket: PathBuf,
    log: PathBuf,
}

impl Drop for Passt {
    fn drop(&mut self) {
        // It may have ended with its VMM.
        let _ = self.signal(libc::SIGKILL);
    }
}

impl Passt {
    /// True if the process existed.
    fn signal(&self, signal: i32) -> bool {
        // SAFETY: kill takes plain numbers. The number is that of a process of this test.
        unsafe { libc::kill(self.pid, signal) == 0 }
    }

    fn is_running(&self) -> bool {
        self.signal(0)
    }
}

/// The command line of hawser under the name of passt, as an unprivileged user in the pod.
fn command(lab: &Lab, descriptors: Option<&str>) -> Result<Command> {
    let name = lab.path("passt");
    if !name.exists() {
        symlink(artifacts::hawser()?, &name)?;
        fs::set_permissions(lab.folder(), fs::Permissions::from_mode(0o777))?;
    }
    let mut command = lab.networks.pod.command("prlimit");
    command.args(descriptors).arg("setpriv");
    command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}")]);
    command.args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(name);
    Ok(command)
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts passt and waits until it exits, as libvirt does.
fn start(lab: &Lab, arguments: &[&str]) -> Result<Passt> {
    start_by(lab, None, arguments)
}

/// Does the same with a limit on descriptors, as prlimit(1) takes it.
fn start_by(lab: &Lab, descriptors: Option<&str>, arguments: &[&str]) -> Result<Passt> {
    let (socket, pid, log) = (lab.path("vm.socket"), lab.path("vm.pid"), lab.path("vm.log"));
    let mut command = command(lab, descriptors)?;
    command.arg("--vhost-user").arg("--one-off");
    for (option, path) in [("--socket", &socket), ("--pid", &pid), ("--log-file", &log)] {
        command.arg(option).arg(path);
    }
    let output = command.args(["--interface", "eth0"]).args(arguments).output()?;
    if !output.status.success() || !output.stderr.is_empty() {
        return Err(failure(format!("{}: {}", output.status, told(&output))));
    }
    // All of this is there when the command returns.
    let pid = fs::read_to_string(&pid)?.trim().parse()?;
    Ok(Passt { pid, socket, log })
}

fn guest(passt: &Passt) -> Result<Guest> {
    let guest = Plan::new(Kind::Uml, &passt.socket).boot()?;
    guest.net_up()?;
    Ok(guest)
}

#[test]
fn a_guest_has_the_addresses_of_its_pod_and_reaches_neighbours_and_router() -> Result<()> {
    let mut lab = Lab::new()?;
    for address in [WORLD4, WORLD6, FAR4, FAR6] {
        lab.serve_world(address)?;
    }
    // A host of the pod's network besides its router.
    let neighbour = "192.0.2.77";
    lab.networks
        .world
        .run(&format!("ip addr add {neighbour}/24 dev pod0"))?;
    lab.serve_world(neighbour)?;
    let passt = start(&lab, &[])?;
    let guest = guest(&passt)?;
    let addresses = guest.sh("ip addr show dev eth0")?;
    for address in [format!("{POD4}/24"), POD6.to_owned()] {
        assert!(addresses.contains(&address), "{address} is not among {addresses}");
    }
    let routes = guest.sh("ip route")?;
    assert!(routes.contains(&format!("default via {WORLD4}")), "{routes}");
    // The router and the neighbour answer themselves, at their own addresses.
    for host in [WORLD4, neighbour, WORLD6, FAR4, FAR6] {
        guest.reaches(host)?;
    }
    for host in [WORLD4, neighbour, FAR4] {
        guest.traffic(&format!("send to={host}:{PORT} bytes=1000000"))?;
        guest.traffic(&format!("udp to={host}:{PORT} sizes=1,1200 count=5"))?;
    }
    for host in [WORLD6, FAR6] {
        guest.traffic(&format!("receive to=[{host}]:{PORT} bytes=1000000"))?;
    }
    Ok(())
}

#[test]
fn clients_reach_the_guest_at_the_address_that_it_has_itself() -> Result<()> {
    let lab = Lab::new()?;
    let passt = start(&lab, &["--tcp-ports", "7000,8443:7001", "--udp-ports", "7000"])?;
    let guest = guest(&passt)?;
    for port in [PORT, PORT + 1] {
        guest.serve(&format!("[::]:{port}"))?;
    }
    for (to, client) in [
        (format!("{POD4}:7000"), format!("::ffff:{WORLD4}")),
        (format!("{POD4}:8443"), format!("::ffff:{WORLD4}")),
        (format!("[{POD6}]:7000"), WORLD6.to_owned()),
    ] {
        let report = peers::traffic(&lab.networks.world, &format!("peer to={to}"))?;
        assert_eq!(report["seen_ip"], client, "{to}: {report}");
    }
    peers::traffic(
        &lab.networks.world,
        &format!("udp to={POD4}:7000 sizes=1,1200,4000 count=5"),
    )?;
    // A program of the pod has the guest's own address. The guest sees it at the router's.
    for (to, seen) in [
        (format!("{POD4}:7000"), format!("::ffff:{WORLD4}")),
        ("127.0.0.1:7000".to_owned(), format!("::ffff:{WORLD4}")),
        (format!("[{POD6}]:7000"), WORLD6.to_owned()),
    ] {
        let report = peers::traffic(&lab.networks.pod, &format!("peer to={to}"))?;
        assert_eq!(report["seen_ip"], seen, "{to}: {report}");
    }
    Ok(())
}

#[test]
fn without_a_right_every_port_has_a_socket_of_its_own_as_far_as_descriptors_last() -> Result<()> {
    /// Limit under which libvirt and a container start a process that needs few descriptors.
    const DESCRIPTORS: &str = "--nofile=4096:4096";
    let lab = Lab::new()?;
    lab.networks.pod.sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
    let kept = lab.networks.pod.inside(|| std::net::TcpListener::bind((POD4, 80)))??;
    let passt = start_by(
        &lab,
        Some(DESCRIPTORS),
        &["--tcp-ports", "~15000", "--udp-ports", "all"],
    )?;
    let log = fs::read_to_string(&passt.log)?;
    // Three quarters of the descriptors are taken, by two sockets a port.
    let told = "each port has a socket of its own, 3072 in total";
    assert!(log.contains(told), "{log}");
    assert!(
        log.contains("tcp:80 tcp:1538-14999 tcp:15001-65535 udp:1-65535 do not reach the guest"),
        "{log}"
    );
    let guest = guest(&passt)?;
    guest.serve("[::]:22")?;
    guest.serve("[::]:1500")?;
    for (to, seen) in [
        (format!("{POD4}:22"), format!("::ffff:{WORLD4}")),
        (format!("[{POD6}]:1500"), WORLD6.to_owned()),
    ] {
        let report = peers::traffic(&lab.networks.world, &format!("peer to={to}"))?;
        assert_eq!(report["seen_ip"], seen, "{to}: {report}");
    }
    peers::traffic(&lab.networks.world, &format!("reset to={POD4}:1501 by=server"))?;
    drop(kept);
    Ok(())
}

#[test]
fn the_process_ends_with_its_vmm_or_by_its_number_and_leaves_no_socket() -> Result<()> {
    let lab = Lab::new()?;
    let passt = start(&lab, &["--hostname", "vm.example.org"])?;
    let guest = guest(&passt)?;
    let lease = guest.sh("cat /run/dhcp4")?;
    let has = |line: &str| lease.lines().any(|known| known == line);
    assert!(has("hostname=vm") && has("domain=example.org"), "{lease}");
    drop(guest);
    until("the process ends with its VMM", || Ok(!passt.is_running()))?;
    assert!(!passt.socket.exists(), "{}", fs::read_to_string(&passt.log)?);
    let passt = start(&lab, &[])?;
    assert!(passt.signal(libc::SIGTERM));
    until("the process ends by SIGTERM", || Ok(!passt.is_running()))?;
    assert!(!passt.socket.exists());
    Ok(())
}

#[test]
fn a_failure_is_one_line_and_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let socket = lab.path("vm.socket");
    let taken = lab
        .networks
        .pod
        .inside(|| std::net::TcpListener::bind((POD4, 8080)))??;
    let cases: [(&[&str], &str); 7] = [
        (&["--vhost-user", "--tcp-ports", "8080"], "port 8080 is in use"),
        (&["--vhost-user", "--tcp-ports", "22,22"], "22"),
        (
            &["--vhost-user", "--tcp-ports", "22"],
            "not allowed to listen on port 22",
        ),
        (
            &["--vhost-user", "--interface", "eth9"],
            "no interface eth9; it has eth0",
        ),
        (&["--vhost-user", "--no-tcp"], "--no-tcp: not served"),
        (&["--vhost-user", "--bogus"], "--bogus"),
        (&["--tcp-ports", "8081"], "type='vhostuser'"),
    ];
    for (arguments, words) in cases {
        let output = command(&lab, None)?
            .args(["-q", "--socket"])
            .arg(&socket)
            .args(arguments)
            .output()?;
        let said = told(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(
            said.contains(words) && said.lines().count() == 1,
            "{arguments:?}: {said}"
        );
        assert!(!socket.exists(), "{arguments:?}");
    }
    drop(taken);
    Ok(())
}
