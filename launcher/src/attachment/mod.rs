//! The guest's attachment to an L2 segment: from a NIC's spec to open queues of a device.
//!
//! [`survey`](fn@survey) looks at the host, changes nothing and reports whatever is wrong.
//! [`Survey::open`] then creates devices. Whatever does not vanish with its queues is in the
//! [`Journal`] before it is created, so that a failure, the end of the process or, after a kill, the
//! next start removes it.

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
use hawser_config::handover::{Descriptors, Handover, HandoverError, Version};
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

/// What messages call what may be wrong: options, or fields of a manifest.
#[derive(Clone, Debug)]
struct Naming {
    /// The option or field that names the link, with its value.
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

    /// The failure that `error` is.
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
    /// The network namespace.
    pub namespace: Namespace,
    /// Where changes are noted.
    pub runtime_folder: PathBuf,
}

impl Site {
    /// Puts back what processes changed here that died. To be called before anything is looked at.
    pub(crate) fn recover(&self) {
        journal::recover(&self.runtime_folder);
    }
}

/// What keeps a guest from its segment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// There is no such link.
    #[error("no link has this name{0}; create it first, or name another")]
    NoLink(String),
    /// It is a link of another kind.
    #[error("{name} is {found}, not {wanted}; {remedy}")]
    Kind {
        /// The link.
        name: String,
        /// What it is, with its article.
        found: String,
        /// What it should be, with its article.
        wanted: &'static str,
        /// What to do.
        remedy: String,
    },
    /// The link belongs to another.
    #[error("{name} is a port of {master}; attach the guest to that instead (--bridge={master}, CNI bridge)")]
    Port {
        /// The link.
        name: String,
        /// What it is a port of.
        master: String,
    },
    /// Another process reads the frames of the link.
    #[error("{0} is in use by another process: end that process, or name another link")]
    InUse(String),
    /// The link is switched off.
    #[error("{0} is down; set it up first (ip link set {0} up)")]
    LinkDown(String),
    /// No right to make or change links.
    #[error(
        "{what} takes CAP_NET_ADMIN in the network namespace; start hawser with it (AmbientCapabilities=, setcap), or \
         have a TAP device made for its user (ip tuntap add NAME mode tap user USER vnet_hdr) and give --tap=NAME"
    )]
    NoPrivilege {
        /// What it was to be used for.
        what: &'static str,
    },
    /// More than the segment carries.
    #[error("{asked} exceeds the segment's MTU of {segment} bytes ({name}); lower it, or raise the link's MTU")]
    Mtu {
        /// What was asked for.
        asked: u16,
        /// What the segment carries.
        segment: u32,
        /// The link that says so.
        name: String,
    },
    /// The guest would not be reached under the MAC it was to have.
    #[error("{asked} is not the MAC of {name}, which passes only frames for {link}; {remedy}")]
    Mac {
        /// What was asked for.
        asked: MacAddr,
        /// The link.
        name: String,
        /// Its MAC.
        link: MacAddr,
        /// What to do.
        remedy: &'static str,
    },
    /// A name that is needed is taken.
    #[error("a link named {0} exists already; remove or rename it")]
    Taken(String),
    /// A pod interface without what the guest is to take over.
    #[error("{0} has no {1} that a guest could take over; attach the guest with --bridge, --macvtap or --tap instead")]
    Nothing(String, &'static str),
    /// Something was there a moment ago.
    #[error("{0} was removed meanwhile; try again")]
    Vanished(String),
    /// A link above another cannot be made.
    #[error("cannot create {kind} on {lower}: {source}; {remedy}")]
    Make {
        /// Its kind, with its article.
        kind: &'static str,
        /// The link below.
        lower: String,
        /// What the kernel says.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The guest's address cannot be put on its ipvtap.
    #[error("cannot assign {guest} to an ipvtap on {lower}: {source}; check that no other link on {lower} has it")]
    GuestAddress {
        /// The address.
        guest: IpAddr,
        /// The link below.
        lower: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// An address that cannot be reached in that mode.
    #[error(
        "the guest's address {0} cannot be reached through an ipvtap in l3s, which passes IPv4 on and no IPv6; leave it \
         out, or choose mode l3"
    )]
    Ipv6InL3s(IpAddr),
    /// Addresses for an ipvtap that somebody else made.
    #[error("{0} is an existing ipvtap, whose creator assigns the guest's addresses; leave --guest-address out")]
    GuestsOfAdopted(String),
    /// Tags on a segment without frames.
    #[error("{0} carries no VLAN tags in this mode; leave --vlan and --vlan-trunk out, or choose mode l2")]
    Untaggable(String),
    /// The device cannot be opened.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The device's file cannot be opened.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// What is changed cannot be noted.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The kernel refuses a change.
    #[error("the kernel refused a change of the network: {0}")]
    Netlink(#[from] io::Error),
}

impl AttachError {
    /// True for what is wrong with the options whatever the system is like.
    const fn is_usage(&self) -> bool {
        matches!(self, Self::Tap(TapError::Name(_)) | Self::Mtu { .. } | Self::Mac { .. })
    }
}

/// Surveys the way to the segment of a NIC in bridge mode, without changing anything. `queues` are
/// those of [`AttachmentSpec::Descriptors`].
///
/// # Errors
/// Whatever keeps the guest from the segment.
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

/// Where the journal is kept unless an option says otherwise: what systemd made for us
/// (RuntimeDirectory=), else a folder of root's, else one of the user's.
pub(crate) fn default_runtime_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("RUNTIME_DIRECTORY") {
        return folder.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !rustix::process::geteuid().is_root() => PathBuf::from(folder).join("hawser"),
        _ => "/run/hawser".into(),
    }
}

/// A guest's attachment while it lasts: dropping it puts back what was changed.
#[derive(Debug)]
pub(crate) struct Attached {
    keeper: Keeper,
    /// Undone on drop.
    journal: Option<Journal>,
    /// On a link that is not ours alone by itself.
    claim: Option<Claim>,
}

/// What an attachment is beside its descriptors. The queues of the device are handed over on their
/// own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttachedRecord {
    version: Version<1>,
    keeper: KeeperRecord,
    journal: Option<JournalRecord>,
    claim: Option<ClaimRecord>,
}

impl Handover for Attached {
    type Record = AttachedRecord;

    fn into_handover(self) -> (AttachedRecord, Vec<OwnedFd>) {
        let (journal, mut descriptors) = self.journal.into_handover();
        let (claim, of_claim) = self.claim.into_handover();
        descriptors.extend(of_claim);
        let record = AttachedRecord {
            version: Version,
            keeper: self.keeper.into_record(),
            journal,
            claim,
        };
        (record, descriptors)
    }

    fn take_over(record: AttachedRecord, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
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
    /// What [`watch`] needs to know of it.
    pub(crate) fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }
}

/// Queues of the device to the segment, and what has to stay with them.
pub(crate) struct Opened {
    /// One for each queue pair.
    pub queues: Vec<TapQueue>,
    /// The attachment.
    pub attached: Attached,
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
