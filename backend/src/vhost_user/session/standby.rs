//! Two sessions of one device. A front end may connect while another one is served: QEMU and cloud-hypervisor do so when a
//! new process takes the place of an old one on the same host. Both are answered, and one of them has the device. The
//! other one is served up to its rings, which start when those of the first one have stopped.

use super::{NetDevice, Session};
use crate::vhost_user::ring::{Ring, RingHost};
use std::os::fd::OwnedFd;

impl<D: NetDevice> Session<D> {
    /// A session without the device.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn on_standby(device: D, hosts: Vec<Box<dyn RingHost>>) -> Result<Self, virtio_queue::Error> {
        let mut session = Self::new(device, hosts)?;
        session.set_standby(true);
        Ok(session)
    }

    /// True if the front end has started a ring that waits for the device.
    pub fn wants_device(&self) -> bool {
        self.standby && self.rings.iter().any(Ring::is_waiting)
    }

    /// True if no ring runs, so that another session may have the device.
    pub fn can_yield(&self) -> bool {
        self.rings.iter().all(Ring::is_stopped)
    }

    /// Gives the device to another session, or takes it.
    pub fn set_standby(&mut self, standby: bool) {
        self.standby = standby;
        self.device.set_active(!standby);
        if !standby {
            // Without a descriptor for it, the guest learns changes of its link only at the next start.
            if let Some(Ok(channel)) = self.back_channel.as_ref().map(OwnedFd::try_clone) {
                self.device.set_back_channel(channel);
            }
            self.rings.iter().for_each(Ring::repeat_enabled);
        }
        self.bar_rings();
    }
}
