//! `--print-capabilities`, as QEMU's convention for back-end programs requires (docs/interop/vhost-user.json,
//! `VHostUserBackendCapabilities`).
//!
//! The schema's union has a branch with features for some device types but not for `net`, so the output contains only
//! the type.

use serde::Serialize;

#[derive(Serialize)]
struct Capabilities {
    r#type: &'static str,
}

/// Name of the option. It is checked before all others, which are then ignored.
pub(crate) const OPTION: &str = "--print-capabilities";

/// Returns the JSON object to print.
///
/// # Errors
/// Cannot occur, because the object is simple.
pub(crate) fn json() -> serde_json::Result<String> {
    serde_json::to_string_pretty(&Capabilities { r#type: "net" })
}
