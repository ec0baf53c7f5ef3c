//! Routes of the API. One table serves both to dispatch requests and to generate the OpenAPI
//! description ([`super::openapi`]), so the two always agree.

use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::refusal::Refusal;
use super::{Context, announce, capture, forwards, log, metrics, migration, openapi, peers, plug, rate, status};

/// One operation of the API.
pub(crate) struct Route {
    /// HTTP method.
    pub method: Method,
    /// Path of the request.
    pub path: &'static str,
    /// Function that answers the request.
    pub handler: fn(&Context, &Request) -> Result<Answer, Refusal>,
    /// Function that describes the operation for OpenAPI.
    pub describe: fn(&mut schemars::SchemaGenerator) -> Operation,
}

/// All operations, group by group.
pub(crate) fn routes() -> impl Iterator<Item = &'static Route> {
    [
        status::ROUTES,
        peers::ROUTES,
        plug::ROUTES,
        announce::ROUTES,
        metrics::ROUTES,
        rate::ROUTES,
        forwards::ROUTES,
        migration::ROUTES,
        log::ROUTES,
        capture::ROUTES,
        openapi::ROUTES,
    ]
    .into_iter()
    .flatten()
}

/// Answers a request.
pub(crate) fn answer(context: &Context, request: &Request) -> Answer {
    let here = || routes().filter(|route| route.path == request.path);
    let found = here().find(|route| route.method == request.method);
    let outcome = match found {
        Some(route) => (route.handler)(context, request),
        None if here().next().is_some() => {
            let allowed: Vec<&str> = here().map(|route| route.method.name()).collect();
            let (method, allowed) = (request.method.name(), allowed.join(" or "));
            Err(Refusal::wrong_method(method, &request.path, &allowed))
        }
        None => {
            let mut paths: Vec<&str> = routes().map(|route| route.path).collect();
            paths.dedup();
            let remedy = format!("there are {}", paths.join(", "));
            Err(Refusal::not_found(format!("there is no {}", request.path), remedy))
        }
    };
    outcome.unwrap_or_else(Answer::from)
}
