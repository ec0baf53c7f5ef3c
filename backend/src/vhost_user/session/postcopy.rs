//! A guest whose memory comes after it (post-copy): the front end provides each page when it is first touched.
//!
//! ```text
//!  POSTCOPY_ADVISE ── a userfaultfd, for the front end
//!  POSTCOPY_LISTEN
//!  memory regions ── answered with their addresses here, so that the front end finds the page of a fault
//!  … the guest runs; a worker that touches a missing page sleeps …
//!  POSTCOPY_END
//! ```
//!
//! The front end serves faults by threads of its own, so it does so even while it waits for an answer. If it dies, the
//! kernel lets workers go on once the last descriptor is closed, so the session gives up its own first.

use super::bodies::{only_file, regions};
use super::{DONE, NetDevice, Outcome, Refused, Session};
use crate::sys::userfault::Userfault;
use crate::vhost_user::message::Message;
use vhost::vhost_user::message::{
    FrontendReq as Req, VhostUserMemory, VhostUserMemoryRegion, VhostUserSingleMemoryRegion,
};
use vm_memory::ByteValued as _;

/// How far a post-copy is.
#[derive(Debug, Default)]
pub(super) enum Postcopy {
    /// All memory is there.
    #[default]
    Off,
    /// It may begin.
    Advised(Userfault),
    /// Memory that is added has missing pages.
    Listening(Userfault),
}

impl Postcopy {
    pub(super) const fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }

    pub(super) const fn is_listening(&self) -> bool {
        matches!(self, Self::Listening(_))
    }
}

impl<D: NetDevice> Session<D> {
    /// POSTCOPY_ADVISE, POSTCOPY_LISTEN and POSTCOPY_END.
    pub(super) fn change_postcopy(&mut self, kind: Req, request: &Message) -> Result<Outcome, Refused> {
        let [] = request.body_array()?;
        let unusable = |error: std::io::Error| Refused::Memory(format!("post-copy: {error}"));
        match (kind, std::mem::take(&mut self.postcopy)) {
            (Req::POSTCOPY_ADVISE, _) => {
                let userfault = Userfault::new().map_err(unusable)?;
                let shared = userfault.share().map_err(unusable)?;
                self.postcopy = Postcopy::Advised(userfault);
                Ok(Outcome::File(shared))
            }
            (Req::POSTCOPY_LISTEN, Postcopy::Advised(userfault)) => {
                self.postcopy = Postcopy::Listening(userfault);
                Ok(DONE)
            }
            (Req::POSTCOPY_END, _) => Ok(DONE),
            _ => Ok(Outcome::Done(false)),
        }
    }

    /// Changes the memory of a guest whose pages come later.
    pub(super) fn change_missing_memory(&mut self, kind: Req, request: &mut Message) -> Result<Outcome, Refused> {
        // The front end says that it knows the addresses, and expects no answer, whatever the message's flags are.
        if request.body().len() == size_of::<u64>() {
            return match request.body_u64()? {
                0 => Ok(Outcome::Nothing),
                error => Err(Refused::Memory(format!("post-copy: the front end failed with {error}"))),
            };
        }
        let answer = match kind {
            Req::SET_MEM_TABLE => {
                let regions = regions(request)?;
                let mut answer = VhostUserMemory::new(regions.len().try_into().unwrap_or(u32::MAX))
                    .as_slice()
                    .to_vec();
                let known: Vec<_> = regions.iter().map(|(region, _)| *region).collect();
                self.memory.replace(regions)?;
                for region in known {
                    answer.extend_from_slice(self.await_pages(region)?.as_slice());
                }
                answer
            }
            Req::ADD_MEM_REG => {
                let region: VhostUserSingleMemoryRegion = request.body_as()?;
                self.memory.add(&region, only_file(request)?)?;
                let here = self.await_pages(*region)?;
                let answer = VhostUserSingleMemoryRegion::new(
                    here.guest_phys_addr,
                    here.memory_size,
                    here.user_addr,
                    here.mmap_offset,
                );
                answer.as_slice().to_vec()
            }
            _ => return self.change_memory(kind, request),
        };
        let told = self.device.update_memory(self.memory.shared());
        told.map_err(|e| Refused::Memory(e.to_string()))?;
        Ok(Outcome::Answer(answer))
    }

    /// Makes threads wait for missing pages of a region. Returns the region with its address in this process.
    fn await_pages(&self, region: VhostUserMemoryRegion) -> Result<VhostUserMemoryRegion, Refused> {
        let Postcopy::Listening(userfault) = &self.postcopy else {
            return Ok(region);
        };
        let user_addr = self.memory.await_pages(region.guest_phys_addr, userfault)?;
        Ok(VhostUserMemoryRegion { user_addr, ..region })
    }
}
