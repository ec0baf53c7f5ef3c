//! Segmentation offload in user space. [`merge`] plans which datagrams of a guest's burst are sent as one frame,
//! [`split`] splits a frame that carries several segments, and [`gro`] joins frames that arrived from a wire. The
//! module does no I/O and does not depend on the source or destination of frames.

pub(crate) mod gro;
mod headers;
pub(crate) mod merge;
mod pattern;
pub(crate) mod split;
#[cfg(test)]
pub(crate) mod testing;
