//! Bodies of requests that are more than plain values, and their descriptors.

use super::Refused;
use crate::vhost_user::message::{Malformed, Message};
use std::fs::File;
use vhost::vhost_user::message::{VhostUserConfig, VhostUserMemory, VhostUserMemoryRegion};
use vm_memory::ByteValued;

pub(super) fn config_body(request: &Message) -> Result<(VhostUserConfig, &[u8]), Refused> {
    let (config, bytes): (VhostUserConfig, _) = request.body_and_rest()?;
    if bytes.len() as u64 != u64::from(config.size) {
        return Err(Malformed::Body(request.header().code).into());
    }
    Ok((config, bytes))
}

/// The regions of a memory table.
pub(super) fn regions(request: &mut Message) -> Result<Vec<(VhostUserMemoryRegion, File)>, Malformed> {
    let code = request.header().code;
    let (head, regions): (VhostUserMemory, _) = request.body_and_rest()?;
    let (regions, rest) = regions.as_chunks::<{ size_of::<VhostUserMemoryRegion>() }>();
    if !rest.is_empty() || u32::try_from(regions.len()) != Ok(head.num_regions) {
        return Err(Malformed::Body(code));
    }
    let regions: Vec<_> = regions.iter().map(|bytes| plain(bytes)).collect();
    if regions.len() != request.files.len() {
        return Err(Malformed::MissingFiles(code));
    }
    let files = request.files.drain(..).map(File::from);
    Ok(regions.into_iter().zip(files).collect())
}

/// Reads a body whose values are checked where they are used.
pub(super) fn plain<T: ByteValued + Default>(bytes: &[u8]) -> T {
    let mut body = T::default();
    body.as_mut_slice().copy_from_slice(bytes);
    body
}

/// The only descriptor of a request.
pub(super) fn only_file(request: &mut Message) -> Result<File, Malformed> {
    let code = request.header().code;
    match (request.files.pop(), request.files.is_empty()) {
        (Some(file), true) => Ok(file.into()),
        _ => Err(Malformed::MissingFiles(code)),
    }
}
