//! UDP segmentation offload in user space: [`merge`] plans which datagrams of a burst travel as
//! one frame, [`split`] cuts such a frame for a receiver that takes only whole datagrams. No I/O,
//! and no knowledge of where frames come from or go to.

pub(crate) mod merge;
pub(crate) mod split;
#[cfg(test)]
mod testing;
