//! The process that sets up virtual functions, keeps the journal of that, and puts them back.

use super::{Answer, Report, Request};
use crate::failure::Failure;
use crate::vf_pools::Pools;
use hawser_host::claim::Claim;
use hawser_host::journal::{self, Journal};
use hawser_host::netlink::Netlink;
use hawser_host::passthrough::{self, PassedVf, PassthroughError};
use hawser_host::pci::{Pci, PciAddress};
use hawser_host::vfio::{self, Access};
use hawser_host::virtual_function::{Attribute, LinkMode};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

/// Name of the hidden subcommand.
pub(crate) const COMMAND: &str = "vf-keeper";

/// Longest wait for the keeper of a killed process, which waits for its VMM before it puts a function back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval at which the claim is tried.
const PAUSE: Duration = Duration::from_millis(20);

/// Serves requests on standard input and output until the other end closes.
///
/// # Errors
/// The system refuses what every request needs.
pub(crate) fn run(runtime_folder: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::runtime(format_args!("{COMMAND}: {error}"));
    // A signal for the whole group must not end this process before the VMM has let go; the socket's end does.
    for signal in [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).map_err(failed)?;
    }
    // Files of sysfs and vfio belong to root; only the PF's attributes need a capability.
    let keep = CapabilitySet::NET_ADMIN;
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    // Without that capability, requests are refused with a reason.
    let _ = set_capabilities(None, sets);
    journal::recover(runtime_folder);
    let mut keeper = Server {
        pci: Pci::default(),
        netlink: Netlink::open().map_err(failed)?,
        folder: runtime_folder.to_owned(),
        passed: BTreeMap::new(),
    };
    for line in BufReader::new(io::stdin()).lines() {
        let Ok(line) = line else { break };
        let answer = match serde_json::from_str(&line) {
            Ok(request) => keeper.answer(request).unwrap_or_else(Answer::Refused),
            Err(error) => Answer::Refused(error.to_string()),
        };
        let mut text = serde_json::to_string(&answer).unwrap_or_default();
        text.push('\n');
        if io::stdout().write_all(text.as_bytes()).is_err() {
            break;
        }
    }
    Ok(())
}

struct Server {
    pci: Pci,
    netlink: Netlink,
    folder: PathBuf,
    /// By the name of the interface.
    passed: BTreeMap<String, Kept>,
}

/// A passed function. The fields are dropped in this order: no other keeper touches a function that is being put back.
struct Kept {
    passed: PassedVf,
    /// Puts the function back when it is dropped.
    _journal: Journal,
    _claim: Claim,
}

/// Claims a function among the keepers of this network namespace.
fn claim(vf: PciAddress) -> Result<Claim, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Claim::on(&vf.to_string()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => thread::sleep(PAUSE),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(format!(
                    "another hawser has {vf} for its VM; end it, or choose another VF"
                ));
            }
            claimed => return claimed.map_err(|error| format!("cannot claim {vf}: {error}")),
        }
    }
}

impl Server {
    fn answer(&mut self, request: Request) -> Result<Answer, String> {
        match request {
            Request::Candidates { resource, pools } => Ok(Answer::Candidates(self.candidates(&resource, &pools)?)),
            Request::Segment { vf } => {
                let segment = passthrough::segment(&self.pci, &mut self.netlink, vf);
                segment.map(Answer::Segment).map_err(|error| error.to_string())
            }
            Request::Check {
                vf,
                attributes,
                is_paired,
            } => {
                let _claim = claim(vf)?;
                let checked = self.check(vf, &attributes, is_paired);
                checked.map(|()| Answer::Done).map_err(|error| error.to_string())
            }
            Request::Pass { name, vf, attributes } => self.pass(name, vf, &attributes),
            Request::GiveBack { name } => {
                self.passed.remove(&name);
                Ok(Answer::Done)
            }
            Request::Report { name } => self.report(&name).map(|report| Answer::Report(Box::new(report))),
        }
    }

    fn candidates(&self, resource: &str, pools: &Path) -> Result<Vec<PciAddress>, String> {
        let pools = Pools::read(pools).map_err(|failure| failure.to_string())?;
        let mut found = Vec::new();
        for function in &pools.functions {
            let members = function.pools.iter().filter(|pool| pool.resource == resource);
            let ranges: Vec<_> = members.map(|pool| pool.first..=pool.last).collect();
            let all = self.pci.virtual_functions(function.pf).unwrap_or_default();
            let in_pool = |number: &u32| ranges.iter().any(|range| range.contains(number));
            found.extend(
                all.into_iter()
                    .filter(|(number, _)| in_pool(number))
                    .map(|(_, address)| address),
            );
        }
        Ok(found)
    }

    fn check(&mut self, vf: PciAddress, attributes: &[Attribute], is_paired: bool) -> Result<(), PassthroughError> {
        passthrough::survey(&self.pci, &mut self.netlink, vf, attributes)?;
        match is_paired {
            true => Ok(()),
            false => passthrough::check_segment(&self.pci, &mut self.netlink, vf, attributes),
        }
    }

    fn pass(&mut self, name: String, vf: PciAddress, attributes: &[Attribute]) -> Result<Answer, String> {
        let claim = claim(vf)?;
        let survey = passthrough::survey(&self.pci, &mut self.netlink, vf, attributes);
        let survey = survey.map_err(|error| error.to_string())?;
        let mut journal = Journal::begin(&self.folder).map_err(|error| error.to_string())?;
        let passed = survey.pass(&self.pci, &mut self.netlink, &mut journal);
        let kept = Kept {
            passed: passed.map_err(|error| error.to_string())?,
            _journal: journal,
            _claim: claim,
        };
        let times = kept.passed.times.to_string();
        self.passed.insert(name, kept);
        Ok(Answer::Passed(times))
    }

    fn report(&mut self, name: &str) -> Result<Report, String> {
        let kept = self.passed.get(name);
        let Kept { passed, .. } = kept.ok_or_else(|| format!("{name} has no VF"))?;
        let text = |error: io::Error| error.to_string();
        let link = self.netlink.link(passed.pf_index).map_err(text)?;
        let link = link.ok_or_else(|| format!("{} is gone", passed.pf_link))?;
        let vf = self.netlink.virtual_function(passed.pf_index, passed.number);
        let vf = vf.map_err(|error| format!("{}: {error}", passed.pf_link))?;
        let mode = vf.current(&Attribute::Link(LinkMode::Auto));
        let vlan = vf.attributes.iter().find_map(|attribute| match attribute {
            Attribute::Vlan { id, .. } => Some(*id),
            _ => None,
        });
        Ok(Report {
            pf: link.name,
            driver: passed.pf_driver.clone(),
            number: passed.number,
            mtu: link.mtu,
            link_up: match mode {
                Some(Attribute::Link(LinkMode::Enable)) => true,
                Some(Attribute::Link(LinkMode::Disable)) => false,
                _ => link.is_up && link.has_carrier,
            },
            vlan: vlan.unwrap_or_default(),
            is_used: matches!(vfio::access(passed.group), Access::Taken),
            traffic: vf.traffic.map(|traffic| {
                [
                    traffic.rx_packets,
                    traffic.rx_bytes,
                    traffic.tx_packets,
                    traffic.tx_bytes,
                ]
            }),
        })
    }
}
