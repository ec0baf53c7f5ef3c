//! `hawser loglevel`: what a running process logs, shown or changed.

use super::args::LogLevelArgs;
use super::{Client, Target, show};
use crate::api::http::Method;
use crate::api::log::{LogLevel, PATH};
use crate::failure::Failure;

/// Shows what is logged, after changing it if that was asked for.
///
/// # Errors
/// If there is no such process.
pub fn run(args: &LogLevelArgs) -> Result<(), Failure> {
    let (client, target) = (Client::of(&args.ask), Target::new(PATH));
    let level: LogLevel = match &args.filter {
        Some(filter) => client.send(Method::Put, &target, &LogLevel { filter: filter.clone() })?,
        None => client.get(&target)?,
    };
    show(args.json, &level, |level| format!("{}\n", level.filter))
}
