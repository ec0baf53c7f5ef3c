//! Changes to the NICs of a running VM.
//!
//! The manifests define the desired state. They are compared with the NICs being served, and the difference is a list
//! of steps. Each step has an inverse; if a step fails, the steps before it are undone, so a change is made completely
//! or not at all.
//!
//! ```text
//!  plug:    hawser creates the port and its socket ── the VMM adds the NIC and connects
//!  unplug:  the VMM requests the release, the guest releases the NIC ── hawser removes the port
//! ```
//!
//! One thread makes all changes, one command after another. It is not the API's thread: port threads inherit priority
//! from the thread that creates them and must not have the API's. With a known VMM this thread keeps the process's
//! privileges, which it needs to create ports. Without a VMM it has dropped them, and only unplugs NICs and sets links
//! down.
//!
//! The same thread requests the guest's shutdown, because the VMM forwards that request
//! ([`PowerDown`]), and keeps links down that the VMM shows as up ([`links`]).

mod links;
mod power;
mod steps;

use links::DownLinks;
pub(crate) use power::PowerDown;
pub(crate) use steps::Changes;
use steps::{Step, merged, steps};

use crate::attachment::{self, Site};
use crate::failure::Failure;
use crate::host::Host;
use crate::leases;
use crate::leases::args::StoreArgs;
use crate::machine::{Machine, Nic};
use crate::memory;
use crate::service_manager::ServiceManager;
use crate::vf::{self, Keeper};
use crate::vmm::running::{Patience, RunningError, RunningVmm, VmmSocket};
use hawser_manifest::check::{Checked, check_sources};
use hawser_manifest::forward::Kept;
use hawser_manifest::objects::SourceFile;
use hawser_manifest::objects::interface::LinkState;
use hawser_manifest::objects::report::Problem;
use hawser_manifest::plan::options::PlanOptions;
use hawser_manifest::plan::{NicPlan, PlanSetup, VmPlan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Context of all changes.
#[derive(Debug)]
pub(crate) struct HotplugSetup {
    /// Network namespace and settings for new ports.
    pub site: Site,
    /// Directory for the sockets of new ports.
    pub socket_dir: PathBuf,
    /// Control socket of the VMM. `None` if hawser cannot plug and unplug NICs itself.
    pub vmm: Option<VmmSocket>,
    /// Time limits for the guest.
    pub patience: Patience,
    /// Options of the lease store.
    pub store: StoreArgs,
    /// Options for reading manifests.
    pub options: PlanOptions,
    /// Ports that are left to the pod when an interface has every port.
    pub kept: Vec<Kept>,
    /// The process that keeps the VM's virtual functions, if it had any at the start.
    pub keeper: Option<Arc<Keeper>>,
    /// Plan that was served at the start.
    pub plan: VmPlan,
}

/// The desired NICs of a VM.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plug {
    /// Manifests that describe the desired state.
    pub manifests: Vec<SourceFile>,
    /// Name of the only interface to change. `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// True to change nothing. The answer then lists what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// The reason why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HotplugError {
    /// The manifests cannot be served.
    #[error("{0}")]
    Manifests(String),
    /// The manifests describe another VM.
    #[error(
        "the manifests describe {asked}, but this process serves {served}: use the manifests \
        of {served}"
    )]
    OtherVm {
        /// VM that the manifests describe.
        asked: String,
        /// VM that this process serves.
        served: String,
    },
    /// The interface does not exist.
    #[error("there is no interface {0:?}")]
    Unknown(String),
    /// A served interface has changes for which it must be unplugged first.
    #[error("interface {0} differs in more than its state, which cannot change while it is plugged")]
    Changed(String),
    /// A port could not be created.
    #[error("{0}")]
    Port(Failure),
    /// The VMM refused a request or did not answer.
    #[error("{0}")]
    Vmm(#[from] RunningError),
    /// There is no known VMM that can plug NICs.
    #[error(
        "hawser does not know a VMM that could plug NICs: start hawser with --qmp or --cloud-hypervisor, or \
            with the VMM after --"
    )]
    NoVmm,
    /// The process is shutting down.
    #[error("hawser is shutting down")]
    Ending,
}

/// Commands for the thread that makes the changes.
enum Order {
    Plug(Plug),
    Unplug(String),
    Link(String, LinkState),
    ShowLinks,
    PowerDown(PowerDown),
}

/// Outcome of a change.
pub(crate) type Outcome = Result<Changes, HotplugError>;

/// Handle for requesting changes. The thread that makes them exits when the last handle is dropped.
///
/// A requested change proceeds whether or not a caller waits for it.
#[derive(Clone)]
pub(crate) struct Hotplug(Sender<(Order, oneshot::Sender<Outcome>)>);

/// Waits for the outcome of a change.
pub(crate) type Coming = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl Hotplug {
    /// Starts the thread that changes `machine`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(crate) fn start(setup: HotplugSetup, machine: Arc<Machine>, manager: ServiceManager) -> Result<Self, Failure> {
        let (sender, orders) = mpsc::channel();
        let mut operator = Operator {
            setup,
            machine,
            manager,
        };
        operator.adopt_links();
        thread::Builder::new()
            .name("hotplug".into())
            .spawn(move || operator.work(&orders))
            .map_err(|e| Failure::runtime(format_args!("cannot start a thread: {e}")))?;
        Ok(Self(sender))
    }

    /// Brings the NICs, or only the named one, in line with the manifests.
    ///
    /// If it returns an error, nothing has changed.
    pub(crate) fn plug(&self, wanted: Plug) -> Coming {
        self.order(Order::Plug(wanted))
    }

    /// Unplugs a NIC.
    ///
    /// If it returns an error, the NIC is unchanged.
    pub(crate) fn unplug(&self, name: String) -> Coming {
        self.order(Order::Unplug(name))
    }

    /// Sets the link of a NIC up or down.
    ///
    /// If it returns an error, the link is unchanged.
    pub(crate) fn set_link(&self, name: String, up: bool) -> Coming {
        let state = if up { LinkState::Up } else { LinkState::Down };
        self.order(Order::Link(name, state))
    }

    /// Makes a VMM that is starting show links that are down. Returns immediately.
    pub(crate) fn show_links(&self) {
        let (reply, _) = oneshot::channel();
        // This fails only if the thread has ended.
        let _ = self.0.send((Order::ShowLinks, reply));
    }

    /// Requests a shutdown of the guest. Returns immediately.
    pub(crate) fn power_down(&self, request: PowerDown) {
        let (reply, _) = oneshot::channel();
        // This fails only if the thread has ended.
        let _ = self.0.send((Order::PowerDown(request), reply));
    }

    fn order(&self, order: Order) -> Coming {
        let (reply, outcome) = oneshot::channel();
        let sent = self.0.send((order, reply));
        Box::pin(async move {
            sent.map_err(|_| HotplugError::Ending)?;
            outcome.await.map_err(|_| HotplugError::Ending)?
        })
    }
}

/// State of the thread that makes the changes.
struct Operator {
    setup: HotplugSetup,
    machine: Arc<Machine>,
    manager: ServiceManager,
}

impl Operator {
    /// Takes the links that an operator has set while another process served the NICs.
    fn adopt_links(&mut self) {
        for nic in &mut self.setup.plan.nics {
            match self.machine.nic(&nic.name).map(|served| served.is_link_wanted()) {
                Some(true) => nic.state = LinkState::Up,
                Some(false) => nic.state = LinkState::Down,
                None => {}
            }
        }
    }

    fn work(mut self, orders: &Receiver<(Order, oneshot::Sender<Outcome>)>) {
        let mut ending = PowerDown::default();
        let mut links = DownLinks::new();
        while let Some((order, reply)) = self.next(orders, &mut ending, &mut links) {
            let is_trial = matches!(&order, Order::Plug(wanted) if wanted.dry_run);
            let outcome = match order {
                Order::Plug(wanted) => {
                    let outcome = self.plug(&wanted);
                    drop(wanted);
                    memory::give_back();
                    outcome
                }
                Order::Unplug(name) => self.unplug(&name),
                Order::Link(name, state) => self.link(name, state),
                Order::ShowLinks => self.show_links(),
                Order::PowerDown(request) => {
                    ending = request.begin(self.setup.vmm.as_ref(), self.setup.plan.grace);
                    Ok(Changes::default())
                }
            };
            match &outcome {
                Ok(_) if is_trial => {}
                Ok(changes) => {
                    changes.log();
                    if !changes.lines().is_empty() {
                        self.manager.changed(&self.machine);
                    }
                }
                Err(error) => log::warn!("nothing was changed: {error}"),
            }
            // The caller may have disconnected; the change stays.
            let _ = reply.send(outcome);
        }
    }

    /// Takes the next command. `None` after the last handle is dropped. Runs timed work while waiting.
    fn next<T>(&self, orders: &Receiver<T>, ending: &mut PowerDown, links: &mut DownLinks) -> Option<T> {
        let HotplugSetup { vmm, plan, .. } = &self.setup;
        loop {
            let deadlines = [ending.deadline(), links.deadline(vmm.as_ref(), &plan.nics)];
            let Some(deadline) = deadlines.into_iter().flatten().min() else {
                return orders.recv().ok();
            };
            match orders.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(order) => return Some(order),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    ending.expire();
                    links.hold(vmm.as_ref(), &plan.nics, &self.machine);
                }
            }
        }
    }

    fn plug(&mut self, wanted: &Plug) -> Outcome {
        let setup = PlanSetup {
            socket_dir: &self.setup.socket_dir,
            options: &self.setup.options,
            served: Some((&self.setup.plan.namespace, &self.setup.plan.name)),
        };
        let checked = check_sources(&wanted.manifests, &setup);
        let Checked { mut plan, warnings } = checked.map_err(|rejected| {
            let lines: Vec<String> = rejected.errors.iter().map(ToString::to_string).collect();
            HotplugError::Manifests(lines.join("\n"))
        })?;
        let name = |plan: &VmPlan| format!("{}/{}", plan.namespace, plan.name);
        let (asked, served) = (name(&plan), name(&self.setup.plan));
        if asked != served {
            return Err(HotplugError::OtherVm { asked, served });
        }
        // There is nothing to keep if no interface has every port.
        let _ = plan.keep_ports(&self.setup.kept);
        plan.mac_range = plan.mac_range.or(self.setup.plan.mac_range);
        if let Some(name) = &wanted.interface {
            plan.nics = merged(&self.setup.plan.nics, &plan.nics, name)?;
        }
        // A plugged NIC has a MAC already, even if the store was replaced and would return another.
        for nic in plan.nics.iter_mut().filter(|nic| nic.mac.is_none()) {
            nic.mac = self.known(&nic.name).ok().and_then(|served| served.mac);
        }
        let mut changes = if wanted.dry_run {
            self.changes_to(plan)?
        } else {
            self.become_plan(plan).inspect_err(|_| {
                // The leases of NICs that are not served in the end are released.
                let again = leases::settle(&mut self.setup.plan.clone(), &self.setup.store);
                again.unwrap_or_else(|failure| log::warn!("leases: {failure}"));
            })?
        };
        changes.warnings.extend(warnings.iter().map(Problem::without_severity));
        Ok(changes)
    }

    /// The expected result of [`Self::become_plan`], as far as it is known in advance.
    fn changes_to(&self, mut plan: VmPlan) -> Outcome {
        let preview = leases::preview(&plan, &self.setup.store).map_err(HotplugError::Port)?;
        preview.apply_all(&mut plan);
        let keeper = self.setup.keeper.as_deref();
        vf::preview(&mut plan, &self.setup.store, keeper).map_err(HotplugError::Port)?;
        vf::add_ports(&mut plan, keeper).map_err(HotplugError::Port)?;
        let steps = self.steps_to(&plan)?;
        self.prepare(&steps)?;
        let mut changes = Changes::default();
        steps.iter().for_each(|step| changes.note(step));
        Ok(changes)
    }

    fn become_plan(&mut self, mut plan: VmPlan) -> Outcome {
        leases::settle(&mut plan, &self.setup.store).map_err(HotplugError::Port)?;
        let keeper = self.setup.keeper.as_deref();
        vf::settle(&mut plan, &self.setup.store, keeper).map_err(HotplugError::Port)?;
        vf::add_ports(&mut plan, keeper).map_err(HotplugError::Port)?;
        let steps = self.steps_to(&plan)?;
        let changes = self.carry_out(&steps)?;
        self.setup.plan.absent = plan.absent;
        self.setup.plan.grace = plan.grace;
        Ok(changes)
    }

    fn steps_to(&self, plan: &VmPlan) -> Result<Vec<Step>, HotplugError> {
        let steps = steps(&self.setup.plan.nics, &plan.nics)?;
        if self.setup.vmm.is_none() && steps.iter().any(|step| matches!(step, Step::Plug(_))) {
            return Err(HotplugError::NoVmm);
        }
        Ok(steps)
    }

    /// The NICs that the steps plug. Each is surveyed and resolved, so that predictable errors are found before the
    /// first step.
    fn prepare(&self, steps: &[Step]) -> Result<Vec<Option<Nic>>, HotplugError> {
        let prepare = |step: &Step| match step {
            Step::Plug(nic) => self.resolve(nic).map(Some),
            Step::Unplug(_) | Step::Link(..) => Ok(None),
        };
        steps.iter().map(prepare).collect()
    }

    fn unplug(&mut self, name: &str) -> Outcome {
        let nic = self.known(name)?.clone();
        self.carry_out(&[Step::Unplug(nic)])
    }

    fn link(&mut self, name: String, state: LinkState) -> Outcome {
        if self.known(&name)?.state == state {
            return Ok(Changes::default());
        }
        self.carry_out(&[Step::Link(name, state)])
    }

    fn known(&self, name: &str) -> Result<&NicPlan, HotplugError> {
        let mut nics = self.setup.plan.nics.iter();
        nics.find(|nic| nic.name == name)
            .ok_or_else(|| HotplugError::Unknown(name.to_owned()))
    }

    /// Executes all steps or none.
    fn carry_out(&mut self, steps: &[Step]) -> Outcome {
        let mut changes = Changes::default();
        if steps.is_empty() {
            return Ok(changes);
        }
        let prepared = self.prepare(steps)?;
        let mut vmm = self.setup.vmm.as_ref().map(VmmSocket::connect).transpose()?;
        for (done, (step, prepared)) in steps.iter().zip(prepared).enumerate() {
            if let Err(error) = self.take(step, prepared, vmm.as_mut()) {
                for step in steps[..done].iter().rev().map(Step::undoing) {
                    if let Err(error) = self.take(&step, None, vmm.as_mut()) {
                        log::error!("cannot undo a change: {error}");
                    }
                }
                return Err(error);
            }
            changes.note(step);
        }
        if vmm.is_none() && !(changes.plugged.is_empty() && changes.unplugged.is_empty()) {
            let warning = "no VMM is known (--qmp, --cloud-hypervisor): plug and unplug its NICs there";
            changes.warnings.push(warning.into());
        }
        Ok(changes)
    }

    fn take(&mut self, step: &Step, prepared: Option<Nic>, vmm: Option<&mut RunningVmm>) -> Result<(), HotplugError> {
        match step {
            Step::Plug(nic) => {
                let prepared = prepared.map_or_else(|| self.resolve(nic), Ok)?;
                self.take_in(nic, prepared, vmm)
            }
            Step::Unplug(nic) => {
                if let Some(vmm) = vmm {
                    vmm.unplug(&nic.name, &self.setup.patience)?;
                }
                let standby = nic.device.teaming.standby();
                if let Some(standby) = standby.and_then(|name| self.machine.nic(name)) {
                    // The guest uses it from now on, and the segment still has its MAC at the primary's port.
                    standby.announce();
                }
                self.machine.remove(&nic.name);
                self.setup.plan.nics.retain(|other| other.name != nic.name);
                Ok(())
            }
            Step::Link(name, state) => self.set_link(name, *state, vmm),
        }
    }

    fn take_in(&mut self, nic: &NicPlan, prepared: Nic, mut vmm: Option<&mut RunningVmm>) -> Result<(), HotplugError> {
        let served = self.machine.add(prepared).map_err(HotplugError::Port)?;
        let told = match vmm.as_deref_mut().zip(served.card(nic)) {
            Some((vmm, card)) => vmm.plug(&card).and_then(|()| {
                let shown = match nic.state {
                    LinkState::Down => vmm.set_link(&nic.name, false).map(drop),
                    _ => Ok(()),
                };
                shown.inspect_err(|_| {
                    if let Err(error) = vmm.unplug(&nic.name, &self.setup.patience) {
                        log::error!("cannot undo a change: {error}");
                    }
                })
            }),
            None => Ok(()),
        };
        let told = told.and_then(|()| match (vmm, served.passed()) {
            (Some(vmm), Some(passed)) => vmm.plug_passed(&passed),
            _ => Ok(()),
        });
        if let Err(error) = told {
            self.machine.remove(&nic.name);
            return Err(error.into());
        }
        self.setup.plan.nics.push(nic.clone());
        Ok(())
    }

    fn set_link(&mut self, name: &str, state: LinkState, vmm: Option<&mut RunningVmm>) -> Result<(), HotplugError> {
        let up = state == LinkState::Up;
        let served = self.machine.nic(name);
        let served = served.ok_or_else(|| HotplugError::Unknown(name.to_owned()))?;
        if let Some(vmm) = vmm {
            vmm.set_link(name, up)?;
        }
        served.set_link(up);
        let mut nics = self.setup.plan.nics.iter_mut();
        if let Some(nic) = nics.find(|nic| nic.name == name) {
            nic.state = state;
        }
        Ok(())
    }

    /// Sets links down in a VMM that may not accept connections yet.
    fn show_links(&self) -> Outcome {
        /// Time for the VMM to accept connections, and interval of the attempts.
        const STARTING: Duration = Duration::from_secs(10);
        const AGAIN: Duration = Duration::from_millis(50);
        let down = |nic: &&NicPlan| nic.state == LinkState::Down;
        let down: Vec<&NicPlan> = self.setup.plan.nics.iter().filter(down).collect();
        let (Some(socket), false) = (&self.setup.vmm, down.is_empty()) else {
            return Ok(Changes::default());
        };
        let deadline = Instant::now() + STARTING;
        let mut vmm = loop {
            match socket.connect() {
                Err(error) if error.is_unreachable() && Instant::now() < deadline => thread::sleep(AGAIN),
                met => break met?,
            }
        };
        for nic in down {
            vmm.set_link(&nic.name, false)?;
        }
        Ok(Changes::default())
    }

    /// Surveys the host for a NIC and resolves the NIC.
    fn resolve(&self, nic: &NicPlan) -> Result<Nic, HotplugError> {
        let spec = nic.spec();
        let segment = match &spec {
            Some(spec) => attachment::survey(spec, Vec::new(), &self.setup.site),
            None => Ok(None),
        };
        let keeper = self.setup.keeper.as_ref();
        let planned = segment.and_then(|segment| {
            let host = Host::probe_for(spec.iter())?;
            Nic::planned(nic, &host, segment, keeper)
        });
        planned.map_err(HotplugError::Port)
    }
}

#[cfg(test)]
#[path = "hotplug_tests.rs"]
mod tests;
