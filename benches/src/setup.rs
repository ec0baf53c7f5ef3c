//! A guest, its back end, and servers that it can reach: the set-up of one peer.

use crate::metric::Back;
use crate::results::Peer as _;
use crate::surroundings::Surroundings;
use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::netns::Networks;
use hawser_testkit::netns::address::FAR4;
use hawser_testkit::process::Background;
use hawser_testkit::{Result, artifacts, failure, peers};
use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// MTU of the link between pod and world.
const LINK_MTU: u32 = 1500;
/// Port of the traffic server.
pub const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(10);
/// The guest of the TAP back end, which has no DHCP.
const TAP_GUEST_MAC: &str = "52:54:00:68:61:77";
const TAP_GUEST: &str = "10.0.2.2/24";
const TAP_GATEWAY: &str = "10.0.2.1";

/// A peer that is ready to be measured. Fields are dropped in order: guest, back end, servers, networks, files.
#[derive(Debug)]
pub struct Setup {
    /// The peer.
    pub peer: Back,
    /// The guest.
    pub guest: Guest,
    /// The process of the back end.
    pub backend: Background,
    /// Resident memory of the back end before the guest connected, in KiB.
    pub resident_start_kib: u64,
    _servers: [Background; 2],
    _networks: Networks,
    _folder: TempDir,
}

impl Setup {
    /// Starts everything and configures the guest's NIC. All parts are set up in these
    /// `surroundings`.
    pub fn new(peer: Back, surroundings: &Surroundings) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hawser-bench-").tempdir()?;
        let networks = Networks::new(LINK_MTU)?;
        for namespace in [&networks.pod, &networks.world] {
            surroundings.apply_to_namespace(namespace)?;
        }
        let servers = [
            peers::serve(&networks.world, folder.path(), format!("{FAR4}:{PORT}").parse()?)?,
            peers::iperf_server(&networks.world, folder.path(), FAR4)?,
        ];
        let backend = start(peer, &networks, folder.path())?;
        let resident_start_kib = backend.resident_kib()?;
        let mut plan = Plan::new(Kind::Uml, &folder.path().join("vm.sock"));
        surroundings.apply_to_guest(&mut plan, 0);
        // No service here uses IPv6, and a guest that solicits routers would not be idle.
        plan.kernel_arguments.push("ipv6.disable=1".into());
        let guest = plan.boot()?;
        match peer {
            Back::Tap | Back::TapUnmerged => configure_by_hand(&guest)?,
            _ => guest.sh("net-up 4").map(drop)?,
        }
        Ok(Self {
            peer,
            guest,
            backend,
            resident_start_kib,
            _servers: servers,
            _networks: networks,
            _folder: folder,
        })
    }

    /// Context switches of all threads of the back end so far.
    pub fn context_switches(&self) -> Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.backend.id()))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let counts = status.lines().filter(|line| line.contains("ctxt_switches:"));
            let numbers = counts.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            sum += numbers.sum::<u64>();
        }
        Ok(sum)
    }
}

fn start(peer: Back, networks: &Networks, folder: &Path) -> Result<Background> {
    let (socket, log) = (folder.join("vm.sock"), folder.join("backend.log"));
    let path = socket.display();
    let (program, arguments) = match peer {
        Back::Hawser => (artifacts::hawser()?, format!("--socket-path={path} --ipv6=off")),
        Back::Passt => (
            passt()?,
            format!("--vhost-user --foreground --ipv4-only --mtu 1500 --socket {path}"),
        ),
        Back::PasstLargeMtu => (
            passt()?,
            format!("--vhost-user --foreground --ipv4-only --mtu 65520 --socket {path}"),
        ),
        Back::Tap => (own_program("tap")?, format!("{path} tap0 {TAP_GUEST_MAC}")),
        Back::TapUnmerged => (
            own_program("tap")?,
            format!("{path} tap0 {TAP_GUEST_MAC} without-mrg-rxbuf"),
        ),
    };
    let mut command = networks.pod.command(program);
    command.args(arguments.split_whitespace());
    let mut process = Background::start(command, peer.key(), log)?;
    process.wait_for_socket(&socket, PATIENCE)?;
    if matches!(peer, Back::Tap | Back::TapUnmerged) {
        masquerade(networks)?;
    }
    Ok(process)
}

/// Path of passt: the one in `HAWSER_PASST`, or else the one from `hack/guests --peers`.
fn passt() -> Result<std::path::PathBuf> {
    match env::var_os("HAWSER_PASST") {
        Some(path) => Ok(path.into()),
        None => artifacts::peer_program("passt.avx2"),
    }
}

/// Another program of this crate, built together with this one.
fn own_program(name: &str) -> Result<std::path::PathBuf> {
    let path = env::current_exe()?.with_file_name(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(failure(format!(
            "{} is missing: run hack/bench, which builds it",
            path.display()
        )))
    }
}

/// Makes the kernel route and masquerade for the TAP device, as on a node.
fn masquerade(networks: &Networks) -> Result<()> {
    let pod = &networks.pod;
    for line in [
        &format!("ip addr add {TAP_GATEWAY}/24 dev tap0"),
        "ip link set tap0 up",
        "nft add table ip nat",
        "nft add chain ip nat post { type nat hook postrouting priority srcnat ; }",
        "nft add rule ip nat post oifname eth0 masquerade",
    ] {
        pod.run(line)?;
    }
    pod.sysctl("net/ipv4/ip_forward", "1")
}

fn configure_by_hand(guest: &Guest) -> Result<()> {
    guest
        .sh(&format!(
            "ip link set eth0 up && ip addr add {TAP_GUEST} dev eth0 && ip route add default via {TAP_GATEWAY}"
        ))
        .map(drop)
}
