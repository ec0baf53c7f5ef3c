//! Access to vfio: whether a function can be opened, which process has opened it, and what it offers a guest.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioOps};

/// Properties of a function that vfio could open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Number of interrupt vectors of the kind with the most.
    pub interrupts: u32,
    /// True if its driver can save and load its state, for live migration.
    pub migrates: bool,
}

/// Opens a function through its group, as a VMM will do, reads what it offers, resets it and closes it. `device` is its
/// directory in sysfs.
///
/// # Errors
/// The step that failed.
pub fn check(device: &Path) -> Result<Facts, VfioError> {
    let container: Arc<dyn VfioOps> = Arc::new(VfioContainer::new(None)?);
    let device = VfioDevice::new(device, container, false)?;
    device.reset();
    Ok(Facts {
        interrupts: device.max_interrupts(),
        migrates: device.query_migration_support().ok().flatten().is_some(),
    })
}

/// Whether a group can be opened.
#[derive(Debug)]
pub enum Access {
    /// It can be opened, or no function of it is bound to vfio.
    Free,
    /// Another process has opened it. Only one process can.
    Taken,
    /// The file cannot be opened.
    Denied(io::Error),
}

/// Opens and closes a group.
pub fn access(group: u32) -> Access {
    let file = Path::new("/dev/vfio").join(group.to_string());
    match OpenOptions::new().read(true).write(true).open(file) {
        Ok(_) => Access::Free,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Access::Free,
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Access::Taken,
        Err(error) => Access::Denied(error),
    }
}
