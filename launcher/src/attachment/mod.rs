//! The guest's attachment to an L2 segment: from a NIC's spec to open queues of a device.
//!
//! [`survey`](fn@survey) inspects the host without changing anything, and reports every problem. [`Survey::open`] then
//! creates devices. A device that does not disappear with its queues is entered in the [`Journal`] before it is
//! created, so that it is removed after a failure, at the end of the process or, after a kill, at the next start.

mod bridge_port;
mod descriptors;
mod device;
mod pod;
mod stacked;
mod survey;
mod tap;
pub(crate) mod watch;

pub(crate) use pod::DHCP_SERVER;
pub(crate) use survey::Survey;
pub(crate) use watch::{Keeper, KeeperRecord};

use crate::failure::Failure;
use hawser_backend::packet::MacAddr;
use hawser_backend::sys::tap::{TapError, TapQueue};
use hawser_config::handover::{Descriptors, Handover, HandoverError};
use hawser_config::payload::{Payload, Sealed};
use hawser_host::claim::{Claim, ClaimRecord};
use hawser_host::journal::{self, Journal, JournalError, JournalRecord};
use hawser_host::namespace::{Namespace, NamespaceError};
use hawser_host::netlink::Netlink;
use hawser_host::tap_node::NodeError;
use hawser_manifest::nic::{AttachmentSpec, NicSpec, Way};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The options or manifest fields that messages name.
#[derive(Clone, Debug)]
struct Naming {
    /// Option or field that names the link, with its value.
    segment: String,
    mtu: String,
    mac: String,
}

impl Naming {
    fn of(spec: &NicSpec, attachment: &AttachmentSpec) -> Self {
        let Way { option, link, .. } = attachment.way();
        match &spec.places {
            Some(places) => Self {
                segment: format!("{}: {link}", places.segment),
                mtu: places.mtu.clone(),
                mac: places.mac.clone(),
            },
            None => Self {
                segment: match attachment {
                    AttachmentSpec::Descriptors => option.to_owned(),
                    _ => format!("{option}={link}"),
                },
                mtu: "--mtu".into(),
                mac: "--mac".into(),
            },
        }
    }

    /// Converts `error` to a failure.
    fn failure(&self, error: &AttachError) -> Failure {
        let place = match error {
            AttachError::Mtu { .. } => &self.mtu,
            AttachError::Mac { .. } => &self.mac,
            _ => &self.segment,
        };
        let message = format!("{place}: {error}");
        if error.is_usage() {
            Failure::usage(message)
        } else {
            Failure::runtime(message)
        }
    }
}

/// Where an attachment is made.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Network namespace of the devices.
    pub namespace: Namespace,
    /// Directory of the journal.
    pub runtime_folder: PathBuf,
}

impl Site {
    /// Undoes changes that dead processes left in this namespace. Call this before the survey.
    pub(crate) fn recover(&self) {
        journal::recover(&self.runtime_folder);
    }
}

/// The reason why the guest cannot be attached to its segment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// No link has this name.
    #[error("no link has this name{0}; create it first, or name another")]
    NoLink(String),
    /// The link is of another kind.
    #[error("{name} is {found}, not {wanted}; {remedy}")]
    Kind {
        /// Name of the link.
        name: String,
        /// Kind of the link, with an article.
        found: String,
        /// Expected kind, with an article.
        wanted: &'static str,
        /// The next step.
        remedy: String,
    },
    /// The link is a port of another link.
    #[error("{name} is a port of {master}; attach the guest to that instead (--bridge={master}, CNI bridge)")]
    Port {
        /// Name of the link.
        name: String,
        /// Name of the link of which it is a port.
        master: String,
    },
    /// Another process reads the frames of the link.
    #[error("{0} is in use by another process: end that process, or name another link")]
    InUse(String),
    /// The link is switched off.
    #[error("{0} is down; set it up first (ip link set {0} up)")]
    LinkDown(String),
    /// The process may not create or change links.
    #[error(
        "{what} needs CAP_NET_ADMIN in the network namespace; start hawser with it (AmbientCapabilities=, \
            setcap), or create a TAP device for its user (ip tuntap add NAME mode tap user USER vnet_hdr) and \
            give --tap=NAME"
    )]
    NoPrivilege {
        /// The operation that needs the right.
        what: &'static str,
    },
    /// The MTU is larger than the segment's.
    #[error("{asked} exceeds the segment's MTU of {segment} bytes ({name}); lower it, or raise the link's MTU")]
    Mtu {
        /// Requested MTU.
        asked: u16,
        /// MTU of the segment.
        segment: u32,
        /// Name of the link with that MTU.
        name: String,
    },
    /// The link does not deliver frames for the guest's MAC.
    #[error("{asked} is not the MAC of {name}, which passes only frames for {link}; {remedy}")]
    Mac {
        /// Requested MAC.
        asked: MacAddr,
        /// Name of the link.
        name: String,
        /// MAC of the link.
        link: MacAddr,
        /// The next step.
        remedy: &'static str,
    },
    /// Another link has a name that hawser needs.
    #[error("a link named {0} exists already; remove or rename it")]
    Taken(String),
    /// The pod's interface lacks an address or MAC for the guest to take over.
    #[error("{0} has no {1} that a guest could take over; attach the guest with --bridge, --macvtap or --tap instead")]
    Nothing(String, &'static str),
    /// The link was removed during the survey.
    #[error("{0} was removed in the meantime; try again")]
    Vanished(String),
    /// A link cannot be created on top of another.
    #[error("cannot create {kind} on {lower}: {source}; {remedy}")]
    Make {
        /// Kind of the link, with an article.
        kind: &'static str,
        /// Name of the lower link.
        lower: String,
        /// The kernel's error.
        source: io::Error,
        /// The next step.
        remedy: &'static str,
    },
    /// The guest's address cannot be assigned to its ipvtap.
    #[error("cannot assign {guest} to an ipvtap on {lower}: {source}; check that no other link on {lower} has it")]
    GuestAddress {
        /// Address of the guest.
        guest: IpAddr,
        /// Name of the lower link.
        lower: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The mode cannot deliver packets for the address.
    #[error(
        "the guest's address {0} cannot be reached through an ipvtap in l3s, which forwards only IPv4; leave it \
            out, or choose mode l3"
    )]
    Ipv6InL3s(IpAddr),
    /// Addresses were given for an ipvtap that hawser does not create.
    #[error("{0} is an existing ipvtap, whose creator assigns the guest's addresses; leave --guest-address out")]
    GuestsOfAdopted(String),
    /// VLANs were given for a segment that carries no Ethernet frames.
    #[error("{0} carries no VLAN tags in this mode; leave --vlan and --vlan-trunk out, or choose mode l2")]
    Untaggable(String),
    /// The TAP device cannot be opened.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The device file of a macvtap or ipvtap cannot be opened.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The network namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The kernel refused a change.
    #[error("the kernel refused a change of the network: {0}")]
    Netlink(#[from] io::Error),
}

impl AttachError {
    /// True for errors in the options that no change of the host can resolve.
    const fn is_usage(&self) -> bool {
        matches!(self, Self::Tap(TapError::Name(_)) | Self::Mtu { .. } | Self::Mac { .. })
    }
}

/// Surveys the segment of a NIC in bridge mode, without changing anything. `queues` are those of
/// [`AttachmentSpec::Descriptors`].
///
/// # Errors
/// The reason why the guest cannot be attached to the segment.
pub(crate) fn survey(spec: &NicSpec, queues: Vec<OwnedFd>, site: &Site) -> Result<Option<Survey>, Failure> {
    let Some(bridge) = spec.mode.segment() else {
        return Ok(None);
    };
    let naming = Naming::of(spec, &bridge.attachment);
    let looked = Netlink::open()
        .map_err(AttachError::from)
        .and_then(|mut netlink| survey::look(spec, bridge, queues, &mut netlink));
    match looked {
        Ok(finding) => Ok(Some(Survey {
            finding,
            naming,
            site: site.clone(),
        })),
        Err(error) => Err(naming.failure(&error)),
    }
}

/// Default directory of the journal: the one that systemd created (RuntimeDirectory=), else a directory of root's or of
/// the user's.
pub(crate) fn default_runtime_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("RUNTIME_DIRECTORY") {
        return folder.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !rustix::process::geteuid().is_root() => PathBuf::from(folder).join("hawser"),
        _ => "/run/hawser".into(),
    }
}

/// A guest's attachment to its segment. Dropping it undoes all changes to the host.
#[derive(Debug)]
pub(crate) struct Attached {
    keeper: Keeper,
    /// Journal of the changes. They are undone on drop.
    journal: Option<Journal>,
    /// Claim on a link that other processes could use too.
    claim: Option<Claim>,
}

/// Record of an attachment that is handed over, without descriptors. The queues of the device are
/// handed over separately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttachedRecord {
    keeper: KeeperRecord,
    journal: Option<Sealed<JournalRecord>>,
    claim: Option<Sealed<ClaimRecord>>,
}

impl Payload for AttachedRecord {
    const KIND: &'static str = "attachment";
    const VERSION: u32 = 1;
}

impl Handover for Attached {
    type Record = Sealed<AttachedRecord>;

    fn into_handover(self) -> (Self::Record, Vec<OwnedFd>) {
        let (journal, mut descriptors) = self.journal.into_handover();
        let (claim, of_claim) = self.claim.into_handover();
        descriptors.extend(of_claim);
        let record = AttachedRecord {
            keeper: self.keeper.into_record(),
            journal,
            claim,
        };
        (Sealed(record), descriptors)
    }

    fn take_over(Sealed(record): Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        let what = "the device to the segment";
        let keeper = Keeper::from_record(record.keeper);
        Ok(Self {
            journal: Option::take_over(record.journal, descriptors)?,
            claim: Option::take_over(record.claim, descriptors)?,
            keeper: keeper.map_err(|source| HandoverError::System { what, source })?,
        })
    }
}

impl Attached {
    /// The device, for [`watch`].
    pub(crate) fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }
}

/// Queues of the device to the segment, and the attachment that must outlive them.
pub(crate) struct Opened {
    /// Queues, one for each queue pair.
    pub queues: Vec<TapQueue>,
    /// Attachment to which the queues belong.
    pub attached: Attached,
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
