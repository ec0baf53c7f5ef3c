//! `hawser migrate`: opens, shows and closes the channel to the process that a guest migrates to.

use super::{Client, Target, show};
use crate::api::http::Method;
use crate::api::migration::{Channel, Channels, PATH, Prepare};
use crate::cli::migrate::{MigrateArgs, MigrateCommand};
use crate::failure::Failure;
use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

/// Pause between two questions whether the processes have compared their NICs, and the number of questions.
const STEP: Duration = Duration::from_millis(20);
const STEPS: usize = 300;

/// Runs the subcommand.
///
/// # Errors
/// The process or port does not exist, or one of the two processes refuses.
pub(crate) fn run(command: &MigrateCommand) -> Result<(), Failure> {
    match command {
        MigrateCommand::Prepare(args) => {
            let client = Client::of_process(&args.args.process);
            let wanted = Prepare {
                to: args.to.clone(),
                drain: args.drain,
            };
            let mut channels: Channels = client.send(Method::Post, &target(&args.args), &wanted)?;
            for _ in 0..STEPS {
                if !channels.channels.iter().any(|channel| channel.phase == "greeting") {
                    break;
                }
                thread::sleep(STEP);
                channels = client.get(&target(&args.args))?;
            }
            let refused: Vec<_> = channels
                .channels
                .iter()
                .filter(|channel| args.args.port.as_ref().is_none_or(|port| *port == channel.port))
                .filter_map(refusal)
                .collect();
            if !refused.is_empty() {
                return Err(Failure::runtime(format_args!(
                    "the migration cannot be prepared: {}",
                    refused.join("; ")
                )));
            }
            show(args.args.json, &channels, text)
        }
        MigrateCommand::Status(args) => {
            let channels: Channels = Client::of_process(&args.process).get(&target(args))?;
            show(args.json, &channels, text)
        }
        MigrateCommand::Abort(args) => {
            let channels: Channels = Client::of_process(&args.process).send(Method::Delete, &target(args), &())?;
            show(args.json, &channels, text)
        }
    }
}

/// Why the guest of a NIC cannot leave.
fn refusal(channel: &Channel) -> Option<String> {
    let why = channel.why.as_ref().filter(|_| channel.end == "source")?;
    Some(format!("{}: {why}", channel.port))
}

fn target(args: &MigrateArgs) -> Target {
    Target::new(PATH).of(args.port.as_deref())
}

fn text(channels: &Channels) -> String {
    let mut text = String::new();
    for channel in &channels.channels {
        let Channel {
            port,
            end,
            phase,
            moved,
            carried,
            reset,
            why,
        } = channel;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{port:<16} {end:<7} {phase:<9} {moved} moved, {carried} carried, {reset} reset"
        );
        if let Some(why) = why {
            let _ = write!(text, ": {why}");
        }
        text.push('\n');
    }
    if text.is_empty() {
        text.push_str("no channel\n");
    }
    text
}
