//! `--print-capabilities`: what QEMU's convention for back-end programs asks for
//! (docs/interop/vhost-user.json, `VHostUserBackendCapabilities`).
//!
//! The schema's union has a branch with features for some device types, and none for
//! `net`: the type is all there is to say.

use serde::Serialize;

#[derive(Serialize)]
struct Capabilities {
    r#type: &'static str,
}

/// The option's name, looked for before anything else is read: all others are ignored.
pub(crate) const OPTION: &str = "--print-capabilities";

/// One JSON object.
///
/// # Errors
/// None that can happen: the object is plain.
pub(crate) fn json() -> serde_json::Result<String> {
    serde_json::to_string_pretty(&Capabilities { r#type: "net" })
}
