//! The guest's attachment to an L2 segment: from the options to open queues of a device.
//!
//! In two steps, because inherited descriptors are taken before this process opens anything
//! else, and devices only once everything else has been checked.

use crate::cli::{Mode, PortArgs};
use crate::config::Plan;
use crate::failure::Failure;
use crate::serve::inherited;
use hawser_backend::config::{BridgeConfig, ModeConfig};
use hawser_backend::sys::tap::{TapError, TapQueue};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

/// How the segment is reached.
#[derive(Debug)]
pub enum Attachment {
    /// Through the TAP device of this name.
    Tap(String),
    /// Through queues somebody else opened.
    Descriptors(Vec<(RawFd, OwnedFd)>),
}

impl Attachment {
    /// Reads the options, and takes over the descriptors they name. To be called before the
    /// process opens anything.
    ///
    /// # Errors
    /// If there is no such descriptor.
    pub fn from_args(args: &PortArgs) -> Result<Option<Self>, Failure> {
        if args.mode != Mode::Bridge {
            return Ok(None);
        }
        if let Some(name) = &args.tap {
            return Ok(Some(Self::Tap(name.clone())));
        }
        let mut descriptors = Vec::new();
        for &number in &args.tap_fd {
            if descriptors.iter().any(|(known, _)| *known == number) {
                return Err(Failure::usage(format_args!(
                    "--tap-fd={number} was given twice: each queue has a descriptor of its own"
                )));
            }
            descriptors.push((number, inherited("--tap-fd", number)?));
        }
        Ok((!descriptors.is_empty()).then_some(Self::Descriptors(descriptors)))
    }

    /// Opens the queues and completes `plan` with them and with the segment's MTU; `mtu` is
    /// the one that was asked for.
    ///
    /// # Errors
    /// If the device is of no use, or its MTU less than what was asked for.
    pub fn open(self, plan: &mut Plan, mtu: Option<u16>) -> Result<(), Failure> {
        let port = &mut plan.port;
        let queues = self.queues(port.queue_pairs.get().into())?;
        if let Some(device) = queues.first() {
            let name = device.name();
            match (mtu, device.mtu()) {
                (Some(asked), Ok(segment)) if asked > segment => {
                    return Err(Failure::usage(format_args!(
                        "--mtu={asked} is more than the {segment} bytes of {name}: lower it, or raise the device's"
                    )));
                }
                (None, Ok(segment)) => port.mtu = segment,
                (_, Err(error)) => plan.notices.push(format!(
                    "cannot read the MTU of {name}: {error}; the guest gets {}, set another with --mtu",
                    port.mtu
                )),
                (Some(_), Ok(_)) => {}
            }
        }
        port.mode = ModeConfig::Bridge(BridgeConfig {
            queues: queues.into_iter().map(Arc::new).collect(),
        });
        Ok(())
    }

    fn queues(self, pairs: usize) -> Result<Vec<TapQueue>, Failure> {
        match self {
            Self::Tap(name) => TapQueue::open(&name, pairs).map_err(|error| match error {
                TapError::Name(_) => Failure::usage(format_args!("--tap: {error}")),
                error => Failure::runtime(format_args!("--tap: {error}")),
            }),
            Self::Descriptors(descriptors) => {
                let adopt = |(number, fd)| {
                    TapQueue::adopt(fd).map_err(|error| Failure::runtime(format_args!("--tap-fd={number}: {error}")))
                };
                descriptors.into_iter().map(adopt).collect()
            }
        }
    }
}
