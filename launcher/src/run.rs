//! `hawser run`: a VM's manifests served, one port for each NIC.
//!
//! A NIC of the plan becomes what the options of a NIC on the command line become
//! ([`PortArgs`]), so that both are checked, completed and attached in the same way.

use crate::attachment::{Attachment, DHCP_SERVER, SegmentArgs, Site, Survey};
use crate::cli::{KeptArgs, Mode, PortArgs, RunArgs, RunManifest, Vmm};
use crate::config::{ConfigError, Plan};
use crate::failure::Failure;
use crate::host::Host;
use crate::hotplug::HotplugSetup;
use crate::machine::{Meeting, Nic};
use crate::policy::PolicyArgs;
use crate::sandbox::User;
use crate::serve::Order;
use crate::vmm::running::{Patience, VmmSocket};
use crate::vmm::{Card, Vm};
use crate::{config, leases, serve, startup, validate, vmm};
use hawser_backend::config::{Lease6Config, LeaseConfig, ModeConfig, NameConfig, Otherwise, PortConfig};
use hawser_backend::packet::vlan::VlanId;
use hawser_manifest::forward::{Kept, Ports};
use hawser_manifest::objects::cni::{self, BridgePort, Segment};
use hawser_manifest::objects::interface::LinkState;
use hawser_manifest::objects::ipam::{Ipam, Route, StaticAddress};
use hawser_manifest::plan::{MasqueradePlan, NicMode, NicPlan, VmPlan};
use hawser_manifest::plan_text;
use hawser_manifest::values::{self, Family, Stack};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Runs the subcommand, until all NICs have ended.
///
/// # Errors
/// What keeps any of them from starting, or ended one.
pub fn run(args: &RunManifest) -> Result<(), Failure> {
    let mut checked = validate::check(&args.manifest)?.map_err(validate::tell_rejected)?;
    keep(&args.kept.kept_ports, &mut checked.plan)?;
    startup::start_log(&args.run.log);
    for warning in &checked.warnings {
        log::warn!("{}", warning.without_severity());
    }
    let site = Site::from_args(&args.run)?;
    if args.dry_run || args.print_args.is_some() {
        return only_say(args, checked.plan, &site);
    }
    site.recover();
    let host = Host::probe();
    look(&checked.plan.nics, &site)?;
    leases::settle(&mut checked.plan, &args.store)?;
    let nics = resolve_all(&checked.plan, &host, &site)?;
    let cards = cards(&checked.plan.nics, &nics);
    let started = vmm_socket(args)?;
    let vmm = vmm_words(args, started.as_ref(), cards)?;
    make_folder(&args.manifest.socket_dir, args.run.sandbox.user)?;
    let mut run = RunArgs {
        api_socket: Some(args.api_socket()),
        store: leases::file(&args.store),
        ..args.run.clone()
    };
    if run.plug_mode.is_empty() {
        // Whoever gives the rights for bridge mode to a VM that NICs may be plugged into gives
        // them for those too.
        run.plug_mode = vec![Mode::Masquerade, Mode::Bridge];
    }
    let hotplug = HotplugSetup {
        site: site.clone(),
        socket_dir: args.manifest.socket_dir.clone(),
        options: args.manifest.plan.options(),
        vmm: started,
        patience: Patience::default(),
        store: args.store.clone(),
        kept: args.kept.kept_ports.clone(),
        plan: checked.plan,
    };
    serve::serve(Order {
        nics,
        site: &site,
        run: &run,
        vmm: &vmm,
        hotplug: Some(hotplug),
    })
}

/// `--print-args` and `--dry-run`: all is looked at and checked as when it is served, and nothing is
/// made: no lease, no link, no folder, no socket.
fn only_say(args: &RunManifest, mut plan: VmPlan, site: &Site) -> Result<(), Failure> {
    look(&plan.nics, site)?;
    let preview = leases::preview(&plan, &args.store)?;
    let mut tried = plan.clone();
    preview.apply_all(&mut tried);
    let nics = resolve_all(&tried, &Host::probe(), site)?;
    let cards = cards(&tried.nics, &nics);
    if let Some(vmm) = args.print_args {
        preview.need_macs()?;
        return print_args(vmm, args.memory.as_deref(), &cards);
    }
    let started = vmm_socket(args)?;
    let vmm = vmm_words(args, started.as_ref(), cards)?;
    preview.apply_kept(&mut plan);
    let mut text = plan_text::text(&plan) + "would be done\n";
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<8} {value}");
    };
    for interface in preview.new_holders() {
        line("lease", &format_args!("one for {interface}"));
    }
    if !args.manifest.socket_dir.is_dir() {
        line("folder", &args.manifest.socket_dir.display());
    }
    for socket in plan.nics.iter().map(|nic| &nic.socket).chain([&args.api_socket()]) {
        line("socket", &socket.display());
    }
    if !vmm.is_empty() {
        let words: Vec<_> = vmm.iter().map(|word| word.to_string_lossy()).collect();
        line("start", &words.join(" "));
    }
    crate::print(&text)
}

fn resolve_all(plan: &VmPlan, host: &Host, site: &Site) -> Result<Vec<Nic>, Failure> {
    plan.nics.iter().map(|nic| resolve(nic, host, site)).collect()
}

/// Leaves ports to the pod, of the NIC that has every one.
///
/// # Errors
/// If there are ports, and no such NIC.
pub fn keep(ports: &[Kept], plan: &mut VmPlan) -> Result<(), Failure> {
    let mut every = plan.nics.iter_mut().filter_map(|nic| match &mut nic.mode {
        NicMode::Masquerade(plan) if plan.every_port => Some(plan),
        _ => None,
    });
    match every.next() {
        Some(plan) => plan.kept.extend_from_slice(ports),
        None if ports.is_empty() => {}
        None => {
            return Err(Failure::usage(
                "--keep-port: no interface of the manifest has every port: leave the option out",
            ));
        }
    }
    Ok(())
}

/// The cards of the NICs.
fn cards<'a>(plans: &'a [NicPlan], nics: &'a [Nic]) -> Vec<Card<'a>> {
    let pairs = plans.iter().zip(nics);
    let card = |(plan, nic): (&'a NicPlan, &'a Nic)| card(plan, &nic.plan.port);
    pairs.map(card).collect()
}

/// The card of a NIC.
pub fn card<'a>(plan: &'a NicPlan, port: &'a PortConfig) -> Card<'a> {
    Card {
        socket: &plan.socket,
        vmm_listens: false,
        port,
        device: plan.device.clone(),
        bus: None,
    }
}

/// Memory of a VM where nobody says how much.
const DEFAULT_MEMORY: &str = "1G";

/// Prints the flags for the VMM whose cards these are.
fn print_args(vmm: Vmm, memory: Option<&str>, cards: &[Card<'_>]) -> Result<(), Failure> {
    let memory = memory.unwrap_or(DEFAULT_MEMORY);
    let vm = Vm { memory, cards };
    let flags = match vmm {
        Vmm::Qemu => vmm::qemu_args(&vm),
        Vmm::CloudHypervisor => vmm::cloud_hypervisor_args(&vm),
    };
    crate::print(&flags.map_err(Failure::usage)?)
}

/// A kind of VMM, by the name of its program.
fn kind(program: &OsStr) -> Result<Vmm, Failure> {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    if name.contains("qemu") {
        Ok(Vmm::Qemu)
    } else if name.contains("cloud-hypervisor") {
        Ok(Vmm::CloudHypervisor)
    } else {
        Err(Failure::usage(format_args!(
            "{name} after --: start a VMM whose name has qemu or cloud-hypervisor in it, so that hawser knows its flags"
        )))
    }
}

/// Where the VMM takes orders: as the options say, or where one is told to that is started here.
fn vmm_socket(args: &RunManifest) -> Result<Option<VmmSocket>, Failure> {
    /// Beside those of the NICs.
    const QMP: &str = "qmp.sock";
    const CLOUD_HYPERVISOR: &str = "cloud-hypervisor.sock";
    let folder = &args.manifest.socket_dir;
    if let Some(path) = &args.qmp {
        return Ok(Some(VmmSocket::Qemu(path.clone())));
    }
    if let Some(path) = &args.cloud_hypervisor {
        return Ok(Some(VmmSocket::CloudHypervisor(path.clone())));
    }
    let Some(program) = args.vmm.first() else {
        return Ok(None);
    };
    let own = |name: &str| args.vmm.iter().any(|word| word == name);
    Ok(match kind(program)? {
        Vmm::Qemu => Some(VmmSocket::Qemu(folder.join(QMP))),
        // It has one API, and somebody else has it already.
        Vmm::CloudHypervisor if own(API_FLAG) => None,
        Vmm::CloudHypervisor => Some(VmmSocket::CloudHypervisor(folder.join(CLOUD_HYPERVISOR))),
    })
}

const API_FLAG: &str = "--api-socket";

/// The words of the VMM's command line with those of its memory, its cards and the socket
/// where it takes orders; none if there is no VMM to start.
fn vmm_words(
    args: &RunManifest,
    socket: Option<&VmmSocket>,
    mut cards: Vec<Card<'_>>,
) -> Result<Vec<OsString>, Failure> {
    let [program, arguments @ ..] = &args.vmm[..] else {
        return Ok(Vec::new());
    };
    let own = own_memory(arguments)?;
    let memory = args.memory.as_deref().or(own).unwrap_or(DEFAULT_MEMORY);
    let mut flags = Vec::new();
    match kind(program)? {
        Vmm::Qemu => {
            if has_root_ports(arguments) {
                flags.extend(vmm::qemu_root_ports(cards.len()));
                for (n, card) in cards.iter_mut().enumerate() {
                    card.bus = Some(vmm::root_port(n));
                }
            }
            let cards = &cards;
            flags.extend(vmm::qemu_flags(&Vm { memory, cards }).map_err(Failure::usage)?);
            if let Some(VmmSocket::Qemu(path)) = socket {
                flags.push(vmm::qemu_monitor(path).map_err(Failure::usage)?);
            }
        }
        Vmm::CloudHypervisor => {
            if let Some(VmmSocket::CloudHypervisor(path)) = socket {
                flags.push((API_FLAG, vec![format!("path={}", path.display())]));
            }
            let cards = &cards;
            flags.extend(vmm::cloud_hypervisor_flags(&Vm { memory, cards }).map_err(Failure::usage)?);
        }
    }
    // Said once is enough, and twice would be an error to some.
    flags.retain(|(flag, _)| *flag != QEMU_MEMORY || own.is_none());
    let mut words = args.vmm.clone();
    for (flag, values) in flags {
        words.push(flag.into());
        words.extend(values.into_iter().map(OsString::from));
    }
    Ok(words)
}

/// Whether QEMU's own options name a machine with a PCI Express root.
fn has_root_ports(arguments: &[OsString]) -> bool {
    let is_machine = |pair: &&[OsString]| matches!(pair[0].to_str(), Some("-M" | "-machine" | "--machine"));
    let is_express = |pair: &[OsString]| {
        let words = pair[1].to_str().unwrap_or_default().split(',');
        words
            .map(|word| word.strip_prefix("type=").unwrap_or(word))
            .any(|word| word == "q35" || word.starts_with("pc-q35") || word == "virt" || word.starts_with("virt-"))
    };
    arguments.windows(2).filter(is_machine).any(is_express)
}

const QEMU_MEMORY: &str = "-m";

/// The memory QEMU's own options name.
fn own_memory(arguments: &[OsString]) -> Result<Option<&str>, Failure> {
    let Some(at) = arguments.iter().position(|word| word == QEMU_MEMORY) else {
        return Ok(None);
    };
    let size = arguments.get(at + 1).and_then(|word| word.to_str()).unwrap_or_default();
    match values::memory_size(size) {
        Ok(_) => Ok(Some(size)),
        Err(why) => Err(Failure::usage(format_args!("-m {size:?} after --: {why}"))),
    }
}

/// Makes the folder of the sockets, if its parent is there, for the user who will remove them.
fn make_folder(folder: &Path, user: Option<User>) -> Result<(), Failure> {
    let failed = |error| Failure::runtime(format_args!("--socket-dir={}: {error}", folder.display()));
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(()) => user.map_or(Ok(()), |User { uid, gid }| {
            std::os::unix::fs::lchown(folder, Some(uid), Some(gid)).map_err(failed)
        }),
    }
}

/// Whether the segments of NICs are there, before anything is given to their VM.
fn look(nics: &[NicPlan], site: &Site) -> Result<(), Failure> {
    for nic in nics {
        let args = port_args(nic);
        survey(nic, &args, site)?;
    }
    Ok(())
}

fn survey(nic: &NicPlan, args: &PortArgs, site: &Site) -> Result<Option<Survey>, Failure> {
    let attachment = Attachment::from_args(args)?.map(|attachment| attachment.named_by(&nic.places));
    attachment.map(|attachment| attachment.survey(args, site)).transpose()
}

/// A NIC as it is served on this system.
///
/// # Errors
/// What keeps it from being served here.
pub fn resolve(nic: &NicPlan, host: &Host, site: &Site) -> Result<Nic, Failure> {
    let args = port_args(nic);
    let plan = config::resolve(&args, nic.name.clone(), host).map_err(|error| match error {
        ConfigError::NoAddress => Failure::runtime(
            "this network namespace has no address that reaches beyond its link: give it one, or name the guest's \
             network with vmNetworkCIDR",
        ),
        error => Failure::runtime(error),
    });
    let mut plan = plan.map_err(|failure| failure.of(&nic.name))?;
    let survey = survey(nic, &args, site)?;
    if let Some(survey) = &survey {
        survey.complete(&mut plan, &args, host);
    }
    complete(&mut plan, nic, host).map_err(|failure| failure.of(&nic.name))?;
    Ok(Nic {
        meeting: Meeting::Listen(nic.socket.clone()),
        plan,
        survey,
        link_up: nic.state == LinkState::Up,
    })
}

/// Fills in what no option says.
fn complete(plan: &mut Plan, nic: &NicPlan, host: &Host) -> Result<(), Failure> {
    match (&mut plan.port.mode, &nic.mode) {
        (ModeConfig::Masquerade(config), NicMode::Masquerade(wanted)) => {
            config.names.dhcp_options = wanted.dhcp.encoded();
            // What the guest begins can be served where not every port can.
            if let Some(every) = &mut config.every_port {
                every.otherwise = Otherwise::Warn;
            }
        }
        (ModeConfig::Bridge(config), NicMode::Pod(wanted)) => {
            if let Some(lease) = &mut config.lease {
                lease.names.dhcp_options = wanted.dhcp.encoded();
            }
        }
        (ModeConfig::Bridge(config), NicMode::Bridge(segment)) => {
            let dns = segment.dns.as_ref();
            plan.names = plan.names.clone().with_network(dns);
            let mut names = NameConfig {
                hostname: nic.hostname.clone(),
                domain: dns.and_then(|dns| dns.domain.clone()),
                ..NameConfig::default()
            };
            names.follow(&plan.names.resolve(&host.resolv));
            let client = plan.port.mac;
            let client = || client.ok_or_else(|| Failure::usage("its address needs a macAddress to be given to"));
            if let Some(address) = static_ipv6(&segment.ipam) {
                config.lease6 = Some(Lease6Config {
                    client: client()?,
                    address,
                    names: names.clone(),
                });
            }
            if let Some((address, gateway, routes)) = static_ipv4(&segment.ipam) {
                config.lease = Some(LeaseConfig {
                    client: client()?,
                    address,
                    server: DHCP_SERVER,
                    router: gateway,
                    routes,
                    names,
                });
            }
        }
        _ => {}
    }
    Ok(())
}

/// The addresses a guest is known to have.
fn fixed_addresses(ipam: &Ipam) -> Vec<IpAddr> {
    match ipam {
        Ipam::Static { addresses, .. } => addresses.iter().map(|given| given.address.addr()).collect(),
        _ => Vec::new(),
    }
}

/// What DHCPv6 can tell of fixed addresses: the first of IPv6.
fn static_ipv6(ipam: &Ipam) -> Option<Ipv6Net> {
    let Ipam::Static { addresses, .. } = ipam else {
        return None;
    };
    addresses.iter().find_map(|given| match given.address {
        IpNet::V6(address) => Some(address),
        IpNet::V4(_) => None,
    })
}

type StaticIpv4 = (Ipv4Net, Option<Ipv4Addr>, Vec<(Ipv4Net, Ipv4Addr)>);

/// What DHCPv4 can tell of a fixed address: the first of IPv4, its router, and routes of IPv4, the
/// default one last (RFC 3442 lets a client forget the router option beside routes). Only a default
/// route makes a router of a gateway, as in a pod (`ConfigureIface` of the CNI plugins).
fn static_ipv4(ipam: &Ipam) -> Option<StaticIpv4> {
    let Ipam::Static { addresses, routes } = ipam else {
        return None;
    };
    let ipv4 = |given: &StaticAddress| match (given.address, given.gateway) {
        (IpNet::V4(address), Some(IpAddr::V4(gateway))) => Some((address, Some(gateway))),
        (IpNet::V4(address), _) => Some((address, None)),
        _ => None,
    };
    let (address, gateway) = addresses.iter().find_map(ipv4)?;
    let route = |route: &Route| match (route.destination, route.via) {
        (IpNet::V4(net), Some(IpAddr::V4(via))) => Some((net, via)),
        (IpNet::V4(net), None) => Some((net, gateway.unwrap_or(Ipv4Addr::UNSPECIFIED))),
        _ => None,
    };
    let mut routes: Vec<(Ipv4Net, Ipv4Addr)> = routes.iter().filter_map(route).collect();
    let is_default = |net: &Ipv4Net| net.prefix_len() == 0;
    routes.sort_by_key(|(net, _)| is_default(net));
    let default = routes.iter().find(|(net, _)| is_default(net)).map(|(_, via)| *via);
    Some((address, default.filter(|via| !via.is_unspecified()), routes))
}

/// The ports of a masqueraded NIC as options name them.
fn port_specs(plan: &MasqueradePlan) -> Vec<Ports> {
    let forwards = plan.forwards.iter().cloned().map(Ports::Some);
    forwards.chain(plan.every_port.then_some(Ports::All(None))).collect()
}

/// A NIC as the options of the command line would say it.
fn port_args(nic: &NicPlan) -> PortArgs {
    let unset = PortArgs::unset();
    let args = PortArgs {
        mac: nic.mac,
        queue_pairs: nic.queue_pairs,
        ..unset
    };
    match &nic.mode {
        NicMode::Masquerade(plan) => PortArgs {
            mode: Mode::Masquerade,
            ipv4: plan.network.ipv4.map(Family::On),
            ipv6: plan.network.ipv6.map(Family::On),
            hostname: nic.hostname.clone(),
            ports: port_specs(plan),
            kept: KeptArgs {
                kept_ports: plan.kept.clone(),
            },
            ..args
        },
        NicMode::Bridge(segment) => PortArgs {
            mode: Mode::Bridge,
            mtu: segment.mtu,
            segment: segment_args(segment),
            policy: policy_args(segment),
            ..args
        },
        NicMode::Pod(plan) => PortArgs {
            mode: Mode::Bridge,
            hostname: nic.hostname.clone(),
            segment: SegmentArgs {
                pod_interface: Some(plan.interface.clone()),
                ..SegmentArgs::default()
            },
            ..args
        },
    }
}

fn segment_args(segment: &Segment) -> SegmentArgs {
    let unset = SegmentArgs::default();
    match &segment.attachment {
        cni::Attachment::Bridge(port) => SegmentArgs {
            bridge: Some(port.bridge.clone()),
            hairpin_mode: port.hairpin,
            promisc_mode: port.promiscuous,
            port_isolation: port.isolated,
            ..unset
        },
        cni::Attachment::Macvtap { lower, mode } => SegmentArgs {
            macvtap: Some(Stack {
                lower: lower.clone(),
                mode: Some(*mode),
            }),
            ..unset
        },
        cni::Attachment::Ipvtap { lower, mode } => SegmentArgs {
            ipvtap: Some(Stack {
                lower: lower.clone(),
                mode: Some(*mode),
            }),
            guest_address: fixed_addresses(&segment.ipam),
            ..unset
        },
        // The planner has refused these.
        cni::Attachment::Sriov | cni::Attachment::Overlay => unset,
    }
}

fn policy_args(segment: &Segment) -> PolicyArgs {
    let cni::Attachment::Bridge(port) = &segment.attachment else {
        return PolicyArgs::default();
    };
    let BridgePort { vlan, trunk, .. } = port;
    let range = |first: u16, last: u16| Some(VlanId::new(first)?..=VlanId::new(last)?);
    PolicyArgs {
        vlan: vlan.and_then(VlanId::new),
        vlan_trunk: trunk.iter().filter_map(|r| range(*r.start(), *r.end())).collect(),
        // Without VLANs there is nothing to preserve beside.
        preserve_default_vlan: port.preserve_default_vlan && (vlan.is_some() || !trunk.is_empty()),
        mac_spoof_check: port.mac_spoof_check,
        ..PolicyArgs::default()
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
