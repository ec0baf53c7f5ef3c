//! `hawser run`: serves a VM's manifests, with one port for each NIC.
//!
//! A NIC of the plan lowers to the same spec as the options of a NIC on the command line ([`NicPlan::spec`]), so both
//! are checked, completed and attached in the same way.

use crate::attachment::{self, Site, Survey};
use crate::cli::{FlagReader, RunArgs, RunManifest, TakeoverArgs};
use crate::failure::Failure;
use crate::host::Host;
use crate::hotplug::HotplugSetup;
use crate::inherited::inherited;
use crate::machine::Nic;
use crate::mode::Mode;
use crate::sandbox::User;
use crate::serve::{Order, VmmOrder};
use crate::vf::{self, Cluster, Keeper, PortChange};
use crate::vmm::running::{Patience, VmmSocket};
use crate::vmm::{Card, Flag, Passed, QemuVersion, Vm};
use crate::vmm_process::{OPTION, be_parent};
use crate::{leases, serve, startup, validate, vmm};
use clap::ValueEnum as _;
use hawser_host::system;
use hawser_manifest::plan::{NicPlan, VmPlan};
use hawser_manifest::plan_text;
use hawser_manifest::values;
use rustix::io::{FdFlags, fcntl_setfd};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Runs the subcommand until all NICs have ended.
///
/// # Errors
/// The reason why a NIC could not start, or why it failed.
pub(crate) fn run(args: &RunManifest) -> Result<(), Failure> {
    let starts_vmm = !(args.vmm.is_empty() || args.dry_run || args.run.takeover.takeover);
    let line = match args.vmm_parent {
        Some(line) => {
            let line = inherited(OPTION, line)?;
            fcntl_setfd(&line, FdFlags::CLOEXEC).map_err(Failure::runtime)?;
            Some(line)
        }
        None if starts_vmm => return be_parent(args.run.sandbox),
        None => None,
    };
    let mut checked = validate::check(&args.manifest)?.map_err(validate::tell_rejected)?;
    if !checked.plan.keep_ports(&args.kept.kept_ports) && !args.kept.kept_ports.is_empty() {
        return Err(Failure::usage(
            "--keep-port: no interface of the manifest forwards every port: leave out the option",
        ));
    }
    startup::start_log(&args.run.log);
    for warning in &checked.warnings {
        log::warn!("{}", warning.without_severity());
    }
    let site = args.run.site()?;
    if args.dry_run || args.print_args.is_some() {
        return only_say(args, checked.plan, &site);
    }
    site.recover();
    let host = probe(&checked.plan)?;
    let mut segments = survey(&checked.plan.nics, &site)?;
    let keeper = keeper(&checked.plan, &site, args)?;
    leases::settle(&mut checked.plan, &args.store)?;
    vf::settle(&mut checked.plan, &args.store, keeper.as_deref())?;
    add_ports(&mut checked.plan, &mut segments, &site, keeper.as_deref())?;
    let nics = resolve_all(&checked.plan, &host, segments, keeper.as_ref())?;
    let cards = cards(&nics);
    let started = vmm_socket(args)?;
    let has_vf = !cards.passed.is_empty();
    let vmm = vmm_words(args, started.as_ref(), cards)?;
    if has_vf && !vmm.is_empty() {
        let memory = args.memory.as_deref().or(own_memory(&args.vmm)?);
        check_lockable(memory.unwrap_or(DEFAULT_MEMORY), system::lockable_memory())?;
    }
    make_folder(&args.manifest.socket_dir, args.run.sandbox.user)?;
    let mut run = RunArgs {
        api_socket: Some(args.api_socket()),
        store: leases::file(&args.store),
        takeover: TakeoverArgs {
            socket: args.takeover_socket(),
            ..args.run.takeover.clone()
        },
        ..args.run.clone()
    };
    if run.plug_mode.is_empty() {
        // If NICs may be plugged later and the VM has the privileges for bridge mode, these cover the later NICs too.
        run.plug_mode = Mode::value_variants().to_vec();
    }
    let hotplug = HotplugSetup {
        site: site.clone(),
        socket_dir: args.manifest.socket_dir.clone(),
        options: args.manifest.plan.options(),
        vmm: started,
        patience: Patience::default(),
        store: args.store.clone(),
        kept: args.kept.kept_ports.clone(),
        keeper,
        plan: checked.plan,
    };
    serve::serve(Order {
        nics,
        site: &site,
        run: &run,
        vmm: line.map(|line| VmmOrder { line, words: &vmm }),
        hotplug: Some(hotplug),
        background: None,
    })
}

/// Implements `--print-args` and `--dry-run`. Everything is looked up and checked as for serving, but no lease, link,
/// directory or socket is created.
fn only_say(args: &RunManifest, mut plan: VmPlan, site: &Site) -> Result<(), Failure> {
    let mut segments = survey(&plan.nics, site)?;
    let preview = leases::preview(&plan, &args.store)?;
    let mut tried = plan.clone();
    preview.apply_all(&mut tried);
    let keeper = keeper(&tried, site, args)?;
    vf::preview(&mut tried, &args.store, keeper.as_deref())?;
    add_ports(&mut tried, &mut segments, site, keeper.as_deref())?;
    let nics = resolve_all(&tried, &probe(&tried)?, segments, keeper.as_ref())?;
    let cards = cards(&nics);
    if let Some(reader) = args.print_args {
        preview.need_macs()?;
        return print_args(args, reader, cards);
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
    let ports = tried.nics.iter().filter(|nic| nic.mode.sriov().is_none());
    for socket in ports.map(|nic| &nic.socket).chain([&args.api_socket()]) {
        line("socket", &socket.display());
    }
    if !vmm.is_empty() {
        let words: Vec<_> = vmm.iter().map(|word| word.to_string_lossy()).collect();
        line("start", &words.join(" "));
    }
    crate::output::print(&text)
}

/// The NICs as the VMM needs them.
struct Cards<'a> {
    cards: Vec<Card<'a>>,
    passed: Vec<Passed<'a>>,
}

impl Cards<'_> {
    /// Gives each NIC a root port of its own. Returns QEMU's flags for these and for spare ones.
    fn on_root_ports(&mut self) -> Vec<Flag> {
        let ports = vmm::qemu_root_ports(self.cards.len() + self.passed.len());
        let buses = self.cards.iter_mut().map(|card| &mut card.bus);
        let buses = buses.chain(self.passed.iter_mut().map(|passed| &mut passed.bus));
        for (n, bus) in buses.enumerate() {
            *bus = Some(vmm::root_port(n));
        }
        ports
    }
}

fn cards(nics: &[Nic]) -> Cards<'_> {
    Cards {
        cards: nics.iter().filter_map(Nic::card).collect(),
        passed: nics.iter().filter_map(Nic::passed).collect(),
    }
}

/// The process that keeps the VM's virtual functions, where the plan has any. It runs in the network namespace in which
/// hawser was started, where the physical functions are.
fn keeper(plan: &VmPlan, site: &Site, args: &RunManifest) -> Result<Option<Arc<Keeper>>, Failure> {
    if plan.nics.iter().all(|nic| nic.mode.sriov().is_none()) {
        return Ok(None);
    }
    let cluster = Cluster::new(args.network_info.clone());
    let start = || Keeper::start(&site.runtime_folder, cluster);
    let keeper = site.namespace.outside(start).map_err(Failure::runtime)??;
    Ok(Some(Arc::new(keeper)))
}

/// The facts of this host that the NICs of a plan need.
fn probe(plan: &VmPlan) -> Result<Host, Failure> {
    let specs: Vec<_> = plan.nics.iter().filter_map(NicPlan::spec).collect();
    Host::probe_for(specs.iter())
}

/// The NICs of a plan on this host; `segments` are the surveys of their segments.
fn resolve_all(
    plan: &VmPlan,
    host: &Host,
    segments: Vec<Option<Survey>>,
    keeper: Option<&Arc<Keeper>>,
) -> Result<Vec<Nic>, Failure> {
    let nics = plan.nics.iter().zip(segments);
    nics.map(|(nic, segment)| Nic::planned(nic, host, segment, keeper))
        .collect()
}

/// Memory of a VM without a configured size.
const DEFAULT_MEMORY: &str = "1G";

/// Prints the VMM's flags for these NICs.
fn print_args(args: &RunManifest, reader: FlagReader, mut cards: Cards<'_>) -> Result<(), Failure> {
    // QEMU unplugs a primary, which is possible only behind a root port.
    let is_primary = |passed: &Passed<'_>| passed.device.teaming.standby().is_some();
    let ports = match reader {
        FlagReader::Qemu if cards.passed.iter().any(is_primary) => cards.on_root_ports(),
        _ => Vec::new(),
    };
    let Cards { cards, passed } = &cards;
    let vm = Vm {
        memory: args.memory.as_deref().unwrap_or(DEFAULT_MEMORY),
        cards,
        passed,
        qemu: args.qemu_version.unwrap_or(QemuVersion::CURRENT),
    };
    let flags = match reader {
        FlagReader::Qemu => vmm::qemu_flags(&vm),
        FlagReader::CloudHypervisor => vmm::cloud_hypervisor_flags(&vm),
        FlagReader::Libvirt => return crate::output::print(&vmm::libvirt::xml(&vm).map_err(Failure::usage)?),
    };
    let flags = [ports, flags.map_err(Failure::usage)?].concat();
    crate::output::print(&vmm::line(&flags))
}

/// A VMM that hawser can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vmm {
    Qemu,
    CloudHypervisor,
}

/// The kind of VMM, recognised by the name of its program.
fn kind(program: &OsStr) -> Result<Vmm, Failure> {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    if name.contains("qemu") {
        Ok(Vmm::Qemu)
    } else if name.contains("cloud-hypervisor") {
        Ok(Vmm::CloudHypervisor)
    } else {
        Err(Failure::usage(format_args!(
            "{name} after --: start a VMM whose name contains qemu or cloud-hypervisor, so that \
             hawser knows its flags"
        )))
    }
}

/// Checks that a VMM may lock its guest's memory, as vfio does for the accesses of a VF; `most` bytes are allowed.
fn check_lockable(memory: &str, most: Option<u64>) -> Result<(), Failure> {
    /// What vfio locks beside the guest's memory, at most.
    const BESIDE: u64 = 1 << 30;
    // A number alone has another unit in each VMM.
    let units = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30)];
    let size = units.iter().find_map(|(letter, unit)| {
        let number: u64 = memory.strip_suffix(*letter)?.parse().ok()?;
        number.checked_mul(*unit)
    });
    let needed = size.map(|size| size.saturating_add(BESIDE));
    match (most, needed) {
        (Some(most), Some(needed)) if most < needed => Err(Failure::runtime(format_args!(
            "the VMM may lock {most} bytes of memory, and a VF needs {needed} (the guest's {memory} and 1 GiB): raise the \
             limit (ulimit -l, LimitMEMLOCK=infinity)"
        ))),
        _ => Ok(()),
    }
}

/// The VMM's control socket. It is the socket of the options, or that of a VMM that hawser starts.
fn vmm_socket(args: &RunManifest) -> Result<Option<VmmSocket>, Failure> {
    /// Name of the socket, in the directory of the NICs' sockets.
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
        // cloud-hypervisor has only one API socket, which the operator has already configured.
        Vmm::CloudHypervisor if own(API_FLAG) => None,
        Vmm::CloudHypervisor => Some(VmmSocket::CloudHypervisor(folder.join(CLOUD_HYPERVISOR))),
    })
}

const API_FLAG: &str = "--api-socket";

/// The VMM's command line with the flags for its memory, NICs and control socket. Empty if there is no VMM to start.
fn vmm_words(args: &RunManifest, socket: Option<&VmmSocket>, mut cards: Cards<'_>) -> Result<Vec<OsString>, Failure> {
    let [program, arguments @ ..] = &args.vmm[..] else {
        return Ok(Vec::new());
    };
    let own = own_memory(arguments)?;
    let memory = args.memory.as_deref().or(own).unwrap_or(DEFAULT_MEMORY);
    let mut flags = Vec::new();
    match kind(program)? {
        Vmm::Qemu => {
            if has_root_ports(arguments) {
                flags.extend(cards.on_root_ports());
            }
            // In a takeover QEMU runs already, and nothing reads the flags.
            let ask = || match args.run.takeover.takeover {
                true => None,
                false => QemuVersion::of_program(program),
            };
            let qemu = args.qemu_version.or_else(ask);
            let vm = Vm {
                memory,
                cards: &cards.cards,
                passed: &cards.passed,
                qemu: qemu.unwrap_or(QemuVersion::CURRENT),
            };
            flags.extend(vmm::qemu_flags(&vm).map_err(Failure::usage)?);
            if let Some(VmmSocket::Qemu(path)) = socket {
                flags.push(vmm::qemu_monitor(path).map_err(Failure::usage)?);
            }
        }
        Vmm::CloudHypervisor => {
            if let Some(VmmSocket::CloudHypervisor(path)) = socket {
                flags.push((API_FLAG, vec![format!("path={}", path.display())]));
            }
            let vm = Vm {
                memory,
                cards: &cards.cards,
                passed: &cards.passed,
                qemu: QemuVersion::CURRENT,
            };
            flags.extend(vmm::cloud_hypervisor_flags(&vm).map_err(Failure::usage)?);
        }
    }
    // Some programs reject a flag that appears twice.
    flags.retain(|(flag, _)| *flag != QEMU_MEMORY || own.is_none());
    let mut words = args.vmm.clone();
    for (flag, values) in flags {
        words.push(flag.into());
        words.extend(values.into_iter().map(OsString::from));
    }
    Ok(words)
}

/// True if QEMU's own options select a machine with a PCI Express root.
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

/// The memory size in QEMU's own options.
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

/// Creates the directory of the sockets, if its parent exists, for the user who will remove it.
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

/// Adds the NICs on the segments of physical functions to a plan, and the surveys of these segments.
fn add_ports(
    plan: &mut VmPlan,
    segments: &mut Vec<Option<Survey>>,
    site: &Site,
    keeper: Option<&Keeper>,
) -> Result<(), Failure> {
    for change in vf::add_ports(plan, keeper)? {
        let (at, replaced) = match change {
            PortChange::Added(at) => (at, at..at),
            PortChange::Replaced(at) => (at, at..at + 1),
        };
        let found = survey(&plan.nics[at..=at], site)?;
        segments.splice(replaced, found);
    }
    Ok(())
}

/// Surveys the segments of NICs, before anything is reserved for their VM.
fn survey(nics: &[NicPlan], site: &Site) -> Result<Vec<Option<Survey>>, Failure> {
    nics.iter()
        .map(|nic| match nic.spec() {
            Some(spec) => attachment::survey(&spec, Vec::new(), site),
            None => Ok(None),
        })
        .collect()
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
