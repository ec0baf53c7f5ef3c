//! `hawser loglevel`: shows or changes the log filter of a running process.

use super::{Client, Target, show};
use crate::api::http::Method;
use crate::api::log::{LogLevel, PATH};
use crate::cli::client::LogLevelArgs;
use crate::failure::Failure;

/// Changes the log filter if one is given, then prints it.
///
/// # Errors
/// The process does not exist.
pub(crate) fn run(args: &LogLevelArgs) -> Result<(), Failure> {
    let (client, target) = (Client::of(&args.ask), Target::new(PATH));
    let level: LogLevel = match &args.filter {
        Some(filter) => client.send(Method::Put, &target, &LogLevel { filter: filter.clone() })?,
        None => client.get(&target)?,
    };
    show(args.json, &level, |level| format!("{}\n", level.filter))
}
