//! `/v1/announce`: tells the segment of a port that its guest is there.
//!
//! A tool that unplugs the primary of a failover pair itself knows the moment when the guest moves to the standby. The
//! standby notices it only when the guest sends.

use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use super::{Context, Refusal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Path of the request.
pub(crate) const PATH: &str = "/v1/announce";
/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[Route {
    method: Method::Post,
    path: PATH,
    handler: post,
    describe: |generator| {
        Operation::new("Announces the guest's MAC on the segment of a port, as after its primary was unplugged")
            .port()
            .answers::<Announced>(generator)
    },
}];

/// The port whose guest is announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Announced {
    /// Name of the port.
    pub port: String,
}

fn post(context: &Context, request: &Request) -> Result<Answer, Refusal> {
    let nic = context.nic(request)?;
    match nic.announce() {
        true => {
            let port = nic.name().to_owned();
            Ok(super::json(200, &Announced { port }))
        }
        false => Err(super::not_ours(&nic)),
    }
}
