//! Surveys the host before anything is changed. Checks that the named link exists, is of the right kind, and may be
//! used as the spec requires.

use super::device::Device;
use super::pod::Takeover;
use super::{AttachError, Attached, Keeper, Naming, Opened, Site, bridge_port, descriptors, pod, stacked, tap};
use crate::failure::Failure;
use crate::sandbox::Needs;
use hawser_backend::packet::MacAddr;
use hawser_backend::sys::tap::TapQueue;
use hawser_config::Forwarding;
use hawser_host::claim::Claim;
use hawser_host::journal::Journal;
use hawser_host::link::Link;
use hawser_host::netlink::Netlink;
use hawser_manifest::nic::{AttachmentSpec, BridgeSpec, NicSpec};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A segment to which a guest can be attached.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(super) finding: Finding,
    pub(super) naming: Naming,
    pub(super) site: Site,
}

/// Result of the survey.
#[derive(Debug)]
pub(super) struct Finding {
    /// Device that leads to the segment.
    pub device: Box<dyn Device>,
    /// Queues that are already open.
    pub descriptors: Vec<TapQueue>,
    /// MTU of the segment, and the name of the link that has this MTU.
    pub mtu: Option<(u32, String)>,
    /// Name of the link, if it is down.
    pub down: Option<String>,
    /// MAC for a guest whose spec has none.
    pub mac: Option<MacAddr>,
    /// Link that passes only frames for `mac`.
    pub mac_owner: Option<MacOwner>,
    /// How frames find their receiver.
    pub forwarding: Forwarding,
    /// What the guest takes over from the pod.
    pub takeover: Option<Takeover>,
    /// Claim on a link that other processes could use too.
    pub claim: Option<Claim>,
}

/// A link that passes only frames for its own MAC.
#[derive(Debug)]
pub(super) struct MacOwner {
    /// Name of the link.
    pub name: String,
    /// Advice for a spec that has another MAC.
    pub remedy: &'static str,
}

impl Finding {
    /// The result for a device on `link`, which determines the MTU.
    pub(super) fn of(device: impl Device + 'static, link: Option<&Link>) -> Self {
        Self {
            device: Box::new(device),
            descriptors: Vec::new(),
            mtu: link.map(|link| (link.mtu, link.name.clone())),
            down: link.filter(|link| !link.is_up).map(|link| link.name.clone()),
            mac: None,
            mac_owner: None,
            forwarding: Forwarding::Switched,
            takeover: None,
            claim: None,
        }
    }

    fn needs_journal(&self) -> bool {
        self.takeover.is_some() || self.device.needs_journal()
    }
}

impl Survey {
    /// MTU of the segment, if it is known.
    pub(crate) fn mtu(&self) -> Option<u16> {
        let (mtu, _) = self.finding.mtu.as_ref()?;
        Some(u16::try_from(*mtu).unwrap_or(u16::MAX))
    }

    /// MAC that the guest must have in order to be reached.
    pub(crate) const fn mac(&self) -> Option<MacAddr> {
        self.finding.mac
    }

    /// Name of the link to the segment, if it is down.
    pub(crate) fn down(&self) -> Option<&str> {
        self.finding.down.as_deref()
    }

    /// How frames find their receiver on the segment.
    pub(crate) const fn forwarding(&self) -> Forwarding {
        self.finding.forwarding
    }

    /// What the guest takes over from an interface of the pod.
    pub(crate) const fn takeover(&self) -> Option<&Takeover> {
        self.finding.takeover.as_ref()
    }

    /// Takes over the MAC and the addresses of `spec`, which may have been assigned after the survey.
    ///
    /// # Errors
    /// An address cannot be reached on the segment.
    pub(crate) fn settle(&mut self, spec: &NicSpec) -> Result<(), Failure> {
        let Some(bridge) = spec.mode.segment() else {
            return Ok(());
        };
        let settled = self.finding.device.settle(spec.mac, &bridge.guests);
        settled.map_err(|error| self.naming.failure(&error))
    }

    /// Adds the privileges that the process needs to maintain the device and to undo changes.
    pub(crate) fn add_needs(&self, needs: &mut Needs) {
        self.finding.device.add_needs(needs);
    }

    /// Creates the missing devices and opens `count` queues. If that fails, all changes are undone before this returns.
    ///
    /// # Errors
    /// The kernel refused a change.
    pub(crate) fn open(self, count: usize) -> Result<Opened, Failure> {
        let Self { finding, naming, site } = self;
        let failure = |error: &AttachError| naming.failure(error);
        let journal = if finding.needs_journal() {
            let journal = Journal::begin(&site.runtime_folder);
            Some(journal.map_err(|error| failure(&error.into()))?)
        } else {
            None
        };
        make(finding, count, journal).map_err(|error| failure(&error))
    }
}

fn make(finding: Finding, count: usize, mut journal: Option<Journal>) -> Result<Opened, AttachError> {
    let mut netlink = Netlink::open()?;
    if let (Some(takeover), Some(journal)) = (&finding.takeover, &mut journal) {
        takeover.perform(&mut netlink, journal)?;
    }
    let queues = match finding.descriptors {
        none if none.is_empty() => finding.device.open(&mut netlink, journal.as_mut(), count)?,
        open => open,
    };
    let index = match finding.device.name() {
        Some(name) => netlink.link_named(name)?.map(|link| link.index),
        None => None,
    };
    Ok(Opened {
        attached: Attached {
            keeper: Keeper::new(Arc::from(finding.device), index, count),
            journal,
            claim: finding.claim,
        },
        queues,
    })
}

/// Surveys the device that leads to a segment.
pub(super) fn look(
    spec: &NicSpec,
    bridge: &BridgeSpec,
    queues: Vec<OwnedFd>,
    netlink: &mut Netlink,
) -> Result<Finding, AttachError> {
    let mut finding = match &bridge.attachment {
        AttachmentSpec::Bridge(port) => bridge_port::look(netlink, port, spec)?,
        AttachmentSpec::Tap { name } => tap::look(netlink, name.clone(), spec)?,
        AttachmentSpec::Descriptors => descriptors::look(queues)?,
        AttachmentSpec::Macvtap(stack) => stacked::look_at_macvtap(netlink, stack)?,
        AttachmentSpec::Ipvtap(stack) => stacked::look_at_ipvtap(netlink, stack, &bridge.guests, spec)?,
        AttachmentSpec::PodInterface { interface } => pod::look(netlink, interface, spec)?,
    };
    finding.device.settle(spec.mac, &bridge.guests)?;
    check_mtu(&finding, spec)?;
    check_mac(&finding, spec)?;
    Ok(finding)
}

fn check_mtu(finding: &Finding, spec: &NicSpec) -> Result<(), AttachError> {
    match (spec.mtu, &finding.mtu) {
        (Some(asked), Some((segment, name))) if u32::from(asked) > *segment => Err(AttachError::Mtu {
            asked,
            segment: *segment,
            name: name.clone(),
        }),
        _ => Ok(()),
    }
}

fn check_mac(finding: &Finding, spec: &NicSpec) -> Result<(), AttachError> {
    match (&finding.mac_owner, spec.mac, finding.mac) {
        (Some(owner), Some(asked), Some(link)) if asked != link => Err(AttachError::Mac {
            asked,
            name: owner.name.clone(),
            link,
            remedy: owner.remedy,
        }),
        _ => Ok(()),
    }
}

/// Finds a link by name. If it is missing, the message lists the links of the kind `like`.
pub(super) fn find(netlink: &mut Netlink, name: &str, like: &str) -> Result<Link, AttachError> {
    if let Some(link) = netlink.link_named(name)? {
        return Ok(link);
    }
    let links = netlink.links()?;
    let others: Vec<&str> = links
        .iter()
        .filter(|link| (like.is_empty() || link.is(like)) && link.name != "lo")
        .map(|link| link.name.as_str())
        .collect();
    Err(AttachError::NoLink(if others.is_empty() {
        String::new()
    } else {
        format!(" in this network namespace, which has {}", others.join(", "))
    }))
}

pub(super) fn article(kind: &str) -> String {
    match kind {
        "" => "a link of another kind".into(),
        kind if kind.starts_with(['a', 'e', 'i', 'o']) => format!("an {kind}"),
        kind => format!("a {kind}"),
    }
}

pub(super) fn require_privilege(netlink: &mut Netlink, what: &'static str) -> Result<(), AttachError> {
    if netlink.may_change() {
        Ok(())
    } else {
        Err(AttachError::NoPrivilege { what })
    }
}

/// The link on which a macvtap or ipvtap is created. It must be an Ethernet link that is up and not a port of another
/// link.
pub(super) fn check_lower(netlink: &mut Netlink, lower: &Link) -> Result<MacAddr, AttachError> {
    let Some(mac) = lower.mac.filter(|mac| *mac != MacAddr::default()) else {
        return Err(AttachError::Kind {
            name: lower.name.clone(),
            found: article(&lower.kind),
            wanted: "an Ethernet link",
            remedy: "name one with a MAC".into(),
        });
    };
    if let Some(master) = lower.master {
        let master = netlink.link(master)?.map(|link| link.name).unwrap_or_default();
        return Err(AttachError::Port {
            name: lower.name.clone(),
            master,
        });
    }
    if !lower.is_up {
        return Err(AttachError::LinkDown(lower.name.clone()));
    }
    Ok(mac)
}
