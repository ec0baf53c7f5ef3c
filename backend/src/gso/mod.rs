//! Segmentation offload in user space. [`merge`] plans which datagrams of a guest's burst travel as
//! one frame, [`split`] cuts a frame that stands for several, and [`gro`] joins frames that came
//! from a wire. No I/O, and no knowledge of where frames come from or go to.

pub(crate) mod gro;
mod headers;
pub(crate) mod merge;
pub(crate) mod split;
#[cfg(test)]
pub(crate) mod testing;
