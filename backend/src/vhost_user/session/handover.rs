//! A session that continues in another process, while its front end stays connected.

use super::{NetDevice, Protocol, Session};
use crate::config::handover::{Descriptors, HandoverError, next_of};
use crate::vhost_user::memory::RegionRecord;
use crate::vhost_user::ring::{Ring, RingHost, RingRecord};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// Name of the session in messages.
const WHAT: &str = "the session of the front end";

/// A session without its descriptors, which are one per memory region, those of the rings, and the back channel's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    owned: bool,
    features: Option<u64>,
    protocol: u64,
    regions: Vec<RegionRecord>,
    rings: Vec<RingRecord>,
    has_back_channel: bool,
    /// MTU that the front end has set, if it is smaller than that of the port.
    #[serde(default)]
    mtu: Option<u16>,
}

/// The reason why a session cannot be handed over now. It continues.
#[derive(Debug, thiserror::Error)]
pub enum Busy {
    /// The front end has switched the dirty log on.
    #[error("the guest is being migrated: start the upgrade again when the migration has ended")]
    Migrating,
    /// Two front ends are connected.
    #[error(
        "another front end is about to take the place of the one that is served: start the upgrade again afterwards"
    )]
    TwoFrontEnds,
    /// The system has no descriptor left.
    #[error("cannot duplicate the descriptors of the front end: {0}; raise the limit on open files (RLIMIT_NOFILE)")]
    System(#[from] io::Error),
}

impl<D: NetDevice> Session<D> {
    /// Stops the rings where they are and returns the session. The device keeps memory and features, so that this
    /// process can take the session over again if the other one cannot.
    ///
    /// # Errors
    /// [`Busy`]; nothing has changed in that case.
    pub fn hand_over(&mut self) -> Result<(SessionRecord, Vec<OwnedFd>), Busy> {
        if self.memory.is_logged() || !self.postcopy.is_off() {
            return Err(Busy::Migrating);
        }
        let back_channel = self.back_channel.as_ref().map(OwnedFd::try_clone).transpose()?;
        let (regions, mut descriptors) = self.memory.to_handover()?;
        let rings = self.rings.iter_mut().map(|ring| ring.hand_over(&mut descriptors));
        let record = SessionRecord {
            owned: self.owned,
            features: self.features,
            protocol: self.protocol.bits(),
            regions,
            rings: rings.collect(),
            has_back_channel: back_channel.is_some(),
            mtu: self.device.mtu(),
        };
        descriptors.extend(back_channel);
        self.handed_over = true;
        Ok((record, descriptors))
    }

    /// Continues a session of another process for `device`, with rings run by `hosts`.
    ///
    /// # Errors
    /// [`HandoverError`]: the record does not match this device.
    pub fn take_over(
        device: D,
        hosts: Vec<Box<dyn RingHost>>,
        record: SessionRecord,
        descriptors: &mut Descriptors,
    ) -> Result<Self, HandoverError> {
        let system = |source| HandoverError::System { what: WHAT, source };
        let refused = |why: &dyn std::fmt::Display| system(io::Error::other(why.to_string()));
        let mut session = Self::new(device, hosts).map_err(|e| refused(&e))?;
        if record.rings.len() != session.rings.len() {
            let (ours, theirs) = (session.rings.len(), record.rings.len());
            return Err(refused(&format_args!("it has {theirs} rings and the port {ours}")));
        }
        let files = record
            .regions
            .iter()
            .map(|_| next_of(WHAT, descriptors).map(File::from));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let regions: Vec<_> = record.regions.into_iter().map(Into::into).zip(files).collect();
        if !regions.is_empty() {
            session.memory.replace(regions).map_err(|e| refused(&e))?;
            session.device.update_memory(session.memory.shared()).map_err(system)?;
        }
        if let Some(features) = record.features {
            session.set_features(features).map_err(|e| refused(&e))?;
        }
        if let Some(mtu) = record.mtu {
            session.device.set_mtu(mtu.into());
        }
        session.owned = record.owned;
        session.protocol = Protocol::from_bits_retain(record.protocol);
        let set_up = |(ring, record): (&mut Ring, &RingRecord)| ring.take_over(record, descriptors);
        session.rings.iter_mut().zip(&record.rings).try_for_each(set_up)?;
        if record.has_back_channel {
            session.set_back_channel(next_of(WHAT, descriptors)?).map_err(system)?;
        }
        Ok(session)
    }
}
