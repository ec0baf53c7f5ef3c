//! A look at the system before anything on it is changed: what is named is there, is what it
//! should be, and may be used in the way that was asked for.

use super::pod::Takeover;
use super::segment::{BridgePort, Stacked, port_mac, random_mac, random_name};
use super::{AttachError, Attached, Keeper, Naming, Opened, Segment, Site};
use crate::failure::Failure;
use crate::sandbox::Needs;
use hawser_backend::packet::MacAddr;
use hawser_backend::sys::tap::TapQueue;
use hawser_config::{Forwarding, LeaseConfig, NameConfig, VlanConfig};
use hawser_host::bridge_vlan::PortVlans;
use hawser_host::claim::Claim;
use hawser_host::journal::Journal;
use hawser_host::link::{Link, NewKind, PortManner};
use hawser_host::netlink::Netlink;
use hawser_manifest::nic::{AttachmentSpec, BridgePortSpec, BridgeSpec, IpvtapMode, MacvtapMode, NicSpec, Stack};
use netlink_packet_route::link::{IpVtapMode, MacVtapMode};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// Kinds of links that share the MAC or the frames of a link below them, so that nothing can
/// be put between them and their segment.
const STACKED: [&str; 4] = ["macvlan", "macvtap", "ipvlan", "ipvtap"];

/// A segment that can be attached to.
#[derive(Debug)]
pub struct Survey {
    pub(super) finding: Finding,
    pub(super) naming: Naming,
    pub(super) site: Site,
}

/// What a look at the system found.
#[derive(Debug)]
pub(super) struct Finding {
    segment: Segment,
    /// Queues that are open already.
    descriptors: Vec<TapQueue>,
    /// MTU of the segment, and the link that says so.
    mtu: Option<(u32, String)>,
    /// The link, if it is switched off.
    down: Option<String>,
    /// The MAC the guest must have to be reached.
    mac: Option<MacAddr>,
    forwarding: Forwarding,
    takeover: Option<Takeover>,
    claim: Option<Claim>,
}

impl Finding {
    fn of(segment: Segment, link: Option<&Link>) -> Self {
        Self {
            segment,
            descriptors: Vec::new(),
            mtu: link.map(|link| (link.mtu, link.name.clone())),
            down: link.filter(|link| !link.is_up).map(|link| link.name.clone()),
            mac: None,
            forwarding: Forwarding::Switched,
            takeover: None,
            claim: None,
        }
    }

    /// Whether something has to be noted before it is made: TAP devices go with their queues.
    const fn needs_journal(&self) -> bool {
        match &self.segment {
            Segment::BridgePort(port) => port.promiscuous || self.takeover.is_some(),
            Segment::Stacked(_) => true,
            Segment::Tap { .. } | Segment::Adopted { .. } | Segment::Descriptors => false,
        }
    }
}

impl Survey {
    /// MTU of the segment.
    pub fn mtu(&self) -> Option<u16> {
        let (mtu, _) = self.finding.mtu.as_ref()?;
        Some(u16::try_from(*mtu).unwrap_or(u16::MAX))
    }

    /// The MAC that the guest must have to be reached.
    pub const fn mac(&self) -> Option<MacAddr> {
        self.finding.mac
    }

    /// The link to the segment, if it is down.
    pub fn down(&self) -> Option<&str> {
        self.finding.down.as_deref()
    }

    /// How frames find their receiver on the segment.
    pub const fn forwarding(&self) -> Forwarding {
        self.finding.forwarding
    }

    /// What DHCP gives a guest that takes over an interface of the pod; `None` for any other.
    pub fn takeover(&self, names: impl FnOnce() -> NameConfig) -> Option<LeaseConfig> {
        self.finding.takeover.as_ref()?.lease(names())
    }

    /// Adds what it takes to look after the device while it is used, and to put things back.
    pub fn add_needs(&self, needs: &mut Needs) {
        match &self.finding.segment {
            Segment::BridgePort(_) | Segment::Tap { .. } => needs.links = true,
            Segment::Stacked(_) => (needs.links, needs.devices) = (true, true),
            Segment::Adopted { .. } => needs.devices = true,
            Segment::Descriptors => {}
        }
    }

    /// Makes what is to be made, and opens `count` queues. If that fails, everything is as it
    /// was when this returns.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn open(self, count: usize) -> Result<Opened, Failure> {
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
    let queues = match &finding.segment {
        Segment::Descriptors => finding.descriptors,
        segment => segment.open(&mut netlink, journal.as_mut(), count)?,
    };
    let device = finding.segment.device(&queues);
    let index = match &device {
        Some(name) => netlink.link_named(name)?.map(|link| link.index),
        None => None,
    };
    Ok(Opened {
        attached: Attached {
            keeper: Keeper::new(finding.segment, index, count),
            journal,
            claim: finding.claim,
        },
        queues,
    })
}

/// Looks at the way to a segment.
pub(super) fn look(
    spec: &NicSpec,
    bridge: &BridgeSpec,
    queues: Vec<OwnedFd>,
    netlink: &mut Netlink,
) -> Result<Finding, AttachError> {
    let finding = match &bridge.attachment {
        AttachmentSpec::Bridge(port) => look_at_bridge(netlink, port, spec)?,
        AttachmentSpec::Tap { name } => look_at_tap(netlink, name.clone(), spec)?,
        AttachmentSpec::Descriptors => look_at_queues(queues)?,
        AttachmentSpec::Macvtap(stack) => look_at_macvtap(netlink, stack, spec)?,
        AttachmentSpec::Ipvtap(stack) => look_at_ipvtap(netlink, stack, &bridge.guests, spec)?,
        AttachmentSpec::PodInterface { interface } => look_at_pod_interface(netlink, interface, spec)?,
    };
    check_mtu(&finding, spec)?;
    check_mac(&finding, spec)?;
    Ok(finding)
}

fn look_at_bridge(netlink: &mut Netlink, port: &BridgePortSpec, spec: &NicSpec) -> Result<Finding, AttachError> {
    let bridge = find_bridge(netlink, &port.bridge)?;
    require_privilege(netlink, "making a TAP device a port of a bridge")?;
    let port = BridgePort {
        tap: random_name("hw")?,
        mac: port_mac()?,
        mtu: bridge.mtu,
        manner: PortManner {
            hairpin: port.hairpin,
            isolated: port.isolated,
            no_learning: false,
        },
        promiscuous: port.promiscuous,
        bridge: port.bridge.clone(),
        vlans: PortVlans::of(&spec.policy.vlan),
    };
    Ok(Finding::of(Segment::BridgePort(port), Some(&bridge)))
}

fn look_at_queues(queues: Vec<OwnedFd>) -> Result<Finding, AttachError> {
    let descriptors: Vec<TapQueue> = queues.into_iter().map(TapQueue::adopt).collect::<Result<_, _>>()?;
    let mtu = descriptors
        .first()
        .map(|queue| Ok::<_, io::Error>((queue.mtu()?.into(), queue.name())));
    Ok(Finding {
        mtu: mtu.transpose()?,
        descriptors,
        ..Finding::of(Segment::Descriptors, None)
    })
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
    let (name, remedy) = match &finding.segment {
        Segment::Adopted { name, .. } => (
            name,
            "leave it out, or give the link that MAC (ip link set … address …)",
        ),
        Segment::Stacked(stacked) => (
            &stacked.lower,
            "leave it out, or attach the guest by macvtap (--macvtap, CNI macvlan)",
        ),
        _ => return Ok(()),
    };
    match (spec.mac, finding.mac) {
        (Some(asked), Some(link)) if asked != link => Err(AttachError::Mac {
            asked,
            name: name.clone(),
            link,
            remedy,
        }),
        _ => Ok(()),
    }
}

fn find_bridge(netlink: &mut Netlink, name: &str) -> Result<Link, AttachError> {
    let bridge = find(netlink, name, "bridge")?;
    if bridge.is("bridge") {
        return Ok(bridge);
    }
    Err(AttachError::Kind {
        found: article(&bridge.kind),
        wanted: "a bridge",
        remedy: format!("name a bridge, or attach the guest above the link (--macvtap={name}, CNI macvlan)"),
        name: bridge.name,
    })
}

/// The link of that name. If there is none, the message names those of kind `like`.
fn find(netlink: &mut Netlink, name: &str, like: &str) -> Result<Link, AttachError> {
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

fn article(kind: &str) -> String {
    match kind {
        "" => "a link of another kind".into(),
        kind if kind.starts_with(['a', 'e', 'i', 'o']) => format!("an {kind}"),
        kind => format!("a {kind}"),
    }
}

fn require_privilege(netlink: &mut Netlink, what: &'static str) -> Result<(), AttachError> {
    if netlink.may_change() {
        Ok(())
    } else {
        Err(AttachError::NoPrivilege { what })
    }
}

fn look_at_tap(netlink: &mut Netlink, name: String, spec: &NicSpec) -> Result<Finding, AttachError> {
    let Some(link) = netlink.link_named(&name)? else {
        require_privilege(netlink, "making a TAP device")?;
        let mtu = spec.mtu.map(u32::from);
        return Ok(Finding::of(Segment::Tap { name, mtu }, None));
    };
    if link.is("tun") {
        // With Ethernet, it has a MAC.
        if link.mac.is_none() {
            return Err(AttachError::Kind {
                found: "a TUN device, which carries no Ethernet".into(),
                wanted: "a TAP device",
                remedy: "make it anew (ip tuntap add NAME mode tap vnet_hdr), or name another".into(),
                name,
            });
        }
        return Ok(Finding::of(Segment::Tap { name, mtu: None }, Some(&link)));
    }
    let remedy = match link.kind.as_str() {
        "macvtap" => format!("give --macvtap={name} instead"),
        "ipvtap" => format!("give --ipvtap={name} instead"),
        "bridge" => format!("give --bridge={name} instead"),
        _ => "name a TAP device, or one that is not there yet".into(),
    };
    Err(AttachError::Kind {
        found: article(&link.kind),
        wanted: "a TAP device",
        remedy,
        name,
    })
}

/// The link a macvtap or ipvtap is made on: Ethernet, up, and nobody's port.
fn check_lower(netlink: &mut Netlink, lower: &Link) -> Result<MacAddr, AttachError> {
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

fn adopted(link: Link) -> Result<Finding, AttachError> {
    let claim = Claim::on(&link.name).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => AttachError::InUse(link.name.clone()),
        _ => error.into(),
    })?;
    let segment = Segment::Adopted {
        name: link.name.clone(),
        kind: link.kind.clone(),
    };
    Ok(Finding {
        mac: link.mac,
        claim: Some(claim),
        ..Finding::of(segment, Some(&link))
    })
}

fn mode_of_adopted(link: &Link) -> AttachError {
    AttachError::Kind {
        name: link.name.clone(),
        found: format!("{} that has its mode", article(&link.kind)),
        wanted: "a link to make one on",
        remedy: "leave the mode out".into(),
    }
}

/// The kernel's word for a mode of macvtap.
const fn macvtap_mode(mode: MacvtapMode) -> MacVtapMode {
    match mode {
        MacvtapMode::Bridge => MacVtapMode::Bridge,
        MacvtapMode::Private => MacVtapMode::Private,
        MacvtapMode::Vepa => MacVtapMode::Vepa,
        MacvtapMode::Passthru => MacVtapMode::Passthrough,
    }
}

/// The kernel's word for a mode of ipvtap.
const fn ipvtap_mode(mode: IpvtapMode) -> IpVtapMode {
    match mode {
        IpvtapMode::L2 => IpVtapMode::L2,
        IpvtapMode::L3 => IpVtapMode::L3,
        IpvtapMode::L3s => IpVtapMode::L3S,
    }
}

fn look_at_macvtap(netlink: &mut Netlink, stack: &Stack<MacvtapMode>, spec: &NicSpec) -> Result<Finding, AttachError> {
    let lower = find(netlink, &stack.lower, "")?;
    if lower.is("macvtap") {
        return match stack.mode {
            Some(_) => Err(mode_of_adopted(&lower)),
            None => adopted(lower),
        };
    }
    let lower_mac = check_lower(netlink, &lower)?;
    require_privilege(netlink, "making a macvtap")?;
    let mode = stack.mode.map_or(MacVtapMode::Bridge, macvtap_mode);
    // Only a passthru may have the MAC of the link below, and without being told, has it.
    let mac = match (spec.mac, mode) {
        (Some(mac), _) => mac,
        (None, MacVtapMode::Passthrough) => lower_mac,
        (None, _) => random_mac()?,
    };
    let segment = Segment::Stacked(Stacked {
        name: random_name("hwm")?,
        kind: NewKind::Macvtap(mode),
        mac: Some(mac),
        lower: stack.lower.clone(),
        guests: Vec::new(),
    });
    Ok(Finding {
        mac: Some(mac),
        ..Finding::of(segment, Some(&lower))
    })
}

fn look_at_ipvtap(
    netlink: &mut Netlink,
    stack: &Stack<IpvtapMode>,
    guests: &[IpAddr],
    spec: &NicSpec,
) -> Result<Finding, AttachError> {
    let lower = find(netlink, &stack.lower, "")?;
    if lower.is("ipvtap") {
        if stack.mode.is_some() {
            return Err(mode_of_adopted(&lower));
        }
        if !guests.is_empty() {
            return Err(AttachError::GuestsOfAdopted(lower.name));
        }
        let forwarding = forwarding(lower.ipvtap_mode, lower.mac, &lower.name, spec)?;
        return Ok(Finding {
            forwarding,
            ..adopted(lower)?
        });
    }
    let mac = check_lower(netlink, &lower)?;
    require_privilege(netlink, "making an ipvtap")?;
    let mode = stack.mode.map_or(IpVtapMode::L2, ipvtap_mode);
    let forwarding = forwarding(Some(mode), Some(mac), &lower.name, spec)?;
    if let (IpVtapMode::L3S, Some(guest)) = (mode, guests.iter().find(|guest| guest.is_ipv6())) {
        return Err(AttachError::Ipv6InL3s(*guest));
    }
    let segment = Segment::Stacked(Stacked {
        name: random_name("hwi")?,
        kind: NewKind::Ipvtap(mode),
        mac: None,
        lower: stack.lower.clone(),
        guests: guests.to_vec(),
    });
    Ok(Finding {
        mac: Some(mac),
        forwarding,
        ..Finding::of(segment, Some(&lower))
    })
}

/// How frames find their receiver on an ipvtap of that mode and MAC.
fn forwarding(
    mode: Option<IpVtapMode>,
    mac: Option<MacAddr>,
    name: &str,
    spec: &NicSpec,
) -> Result<Forwarding, AttachError> {
    let (Some(IpVtapMode::L3 | IpVtapMode::L3S), Some(device)) = (mode, mac) else {
        return Ok(Forwarding::Switched);
    };
    if spec.policy.vlan != VlanConfig::Transparent {
        return Err(AttachError::Untaggable(name.to_owned()));
    }
    Ok(Forwarding::Routed { device })
}

fn look_at_pod_interface(netlink: &mut Netlink, name: &str, spec: &NicSpec) -> Result<Finding, AttachError> {
    let link = find(netlink, name, "")?;
    if STACKED.contains(&link.kind.as_str()) {
        return Err(AttachError::Kind {
            found: format!("{}, which passes on only frames of its own MAC", article(&link.kind)),
            wanted: "a link that can be a port of a bridge",
            remedy: "attach the guest to the link below it (--macvtap, CNI macvlan)".into(),
            name: link.name,
        });
    }
    check_lower(netlink, &link)?;
    require_privilege(netlink, "taking over a pod's interface")?;
    let takeover = Takeover::survey(netlink, &link, spec.mac)?;
    let port = BridgePort {
        bridge: takeover.bridge().to_owned(),
        tap: random_name("hw")?,
        mac: port_mac()?,
        mtu: link.mtu,
        manner: PortManner::default(),
        promiscuous: false,
        vlans: None,
    };
    Ok(Finding {
        mac: Some(takeover.guest_mac()),
        takeover: Some(takeover),
        ..Finding::of(Segment::BridgePort(port), Some(&link))
    })
}
