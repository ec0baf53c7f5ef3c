//! `hawser announce`: tells the segment of a port that its guest is there.

use super::{Client, Target, show};
use crate::api::announce::{Announced, PATH};
use crate::api::http::Method;
use crate::cli::client::AnnounceArgs;
use crate::failure::Failure;

/// Requests the announcement, and prints the port.
///
/// # Errors
/// The process or port does not exist, or the port has no segment.
pub(crate) fn run(args: &AnnounceArgs) -> Result<(), Failure> {
    let target = Target::new(PATH).of(args.ask.port.as_deref());
    let announced: Announced = Client::of(&args.ask).send(Method::Post, &target, &())?;
    show(args.json, &announced, |announced| {
        format!("{}: announced\n", announced.port)
    })
}
