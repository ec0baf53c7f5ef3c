//! `/v1/migration`: opens, shows and closes the channel to the process that a guest migrates to.

use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use super::{Context, Refusal};
use crate::migration::{EndReport, PrepareError};
use hawser_backend::migration::{Part, Phase};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Path of the requests.
pub(crate) const PATH: &str = "/v1/migration";
/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[
    Route {
        method: Method::Get,
        path: PATH,
        handler: |context, _| Ok(super::json(200, &channels(context))),
        describe: |generator| Operation::new("Shows the channels of migrations").answers::<Channels>(generator),
    },
    Route {
        method: Method::Post,
        path: PATH,
        handler: prepare,
        describe: |generator| {
            Operation::new("Opens the channels to the process that the guest will migrate to")
                .any_port()
                .takes::<Prepare>(generator)
                .answers::<Channels>(generator)
        },
    },
    Route {
        method: Method::Delete,
        path: PATH,
        handler: |context, request| {
            let nics = context.nics(request)?;
            nics.iter().for_each(|nic| context.migrations.abort(nic));
            Ok(super::json(200, &channels(context)))
        },
        describe: |generator| {
            Operation::new("Closes the channels; connections that they carry are reset")
                .any_port()
                .answers::<Channels>(generator)
        },
    },
];

/// The migration to prepare.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prepare {
    /// Socket of the other process (its --migration-socket).
    pub to: PathBuf,
    /// Seconds for which connections are carried once the guest has left.
    pub drain: u64,
}

/// The channels of a process.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Channels {
    /// Channels that are open, and the last one of each port that has ended.
    pub channels: Vec<Channel>,
}

/// A channel between two processes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Channel {
    /// Name of the port.
    pub port: String,
    /// The end that this process is: `source` or `target`.
    pub end: String,
    /// How far the migration is: `greeting`, `ready`, `stopped`, `anchored` or `ended`.
    pub phase: String,
    /// Connections that have moved with the guest.
    pub moved: usize,
    /// Connections that the channel carries now.
    pub carried: usize,
    /// Connections that were reset although they had moved, or that could not move.
    pub reset: usize,
    /// The reason why the channel ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl From<EndReport> for Channel {
    fn from(EndReport { port, part, report }: EndReport) -> Self {
        let end = match part {
            Part::Source { .. } => "source",
            Part::Target => "target",
        };
        let phase = match report.phase {
            Phase::Greeting => "greeting",
            Phase::Ready => "ready",
            Phase::Stopped => "stopped",
            Phase::Anchored => "anchored",
            Phase::Ended => "ended",
        };
        Self {
            port,
            end: end.to_owned(),
            phase: phase.to_owned(),
            moved: report.moved,
            carried: report.carried,
            reset: report.reset,
            why: report.why,
        }
    }
}

fn channels(context: &Context) -> Channels {
    let channels = context.migrations.reports().into_iter().map(Into::into);
    Channels {
        channels: channels.collect(),
    }
}

fn prepare(context: &Context, request: &Request) -> Result<Answer, Refusal> {
    let nics = context.nics(request)?;
    let Prepare { to, drain } = super::body(request)?;
    let prepared = context.migrations.prepare(nics, &to, Duration::from_secs(drain));
    prepared.map_err(|error| match error {
        PrepareError::Connect { .. } => Refusal::conflict(error, "start hawser there with --migration-socket"),
        PrepareError::Stranger(_) => Refusal::conflict(error, "run both processes as the same user"),
        PrepareError::Busy(_) => Refusal::conflict(error, "hawser migrate abort closes its channel"),
        PrepareError::PassedThrough(_) => Refusal::conflict(error, "unplug it before the migration"),
        PrepareError::Start(_) => Refusal::internal(error, "nothing was changed"),
    })?;
    Ok(super::json(200, &channels(context)))
}
