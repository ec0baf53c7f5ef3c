//! `/v1/loglevel`: shows and changes the log filter at run time.

use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use super::{Context, Refusal};
use crate::logging;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[
    Route {
        method: Method::Get,
        path: PATH,
        handler: |_, _| {
            Ok(super::json(
                200,
                &LogLevel {
                    filter: logging::filter(),
                },
            ))
        },
        describe: |generator| Operation::new("What is logged").answers::<LogLevel>(generator),
    },
    Route {
        method: Method::Put,
        path: PATH,
        handler: put,
        describe: |generator| {
            Operation::new("Sets what is logged")
                .takes::<LogLevel>(generator)
                .answers::<LogLevel>(generator)
        },
    },
];
/// Path of the requests.
pub(crate) const PATH: &str = "/v1/loglevel";

/// The log filter of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogLevel {
    /// The filter in the syntax of `--log`: a level, or a filter such as `info,hawser_backend::vhost_user=debug`.
    pub filter: String,
}

fn put(_context: &Context, request: &Request) -> Result<Answer, Refusal> {
    let wanted: LogLevel = super::body(request)?;
    let bad = |remedy| Refusal::bad_request(format!("filter: {:?} is not a filter", wanted.filter), remedy);
    let filter = logging::parse_filter(&wanted.filter).map_err(bad)?;
    logging::set_filter(&filter);
    log::info!("the log filter is now {filter}");
    Ok(super::json(200, &LogLevel { filter }))
}
