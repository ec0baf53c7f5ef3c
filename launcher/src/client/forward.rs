//! `hawser forward`: adds, removes and lists port forwards of a running process.

use super::{Client, Target, show};
use crate::api::forwards::{Change, Forwards, PATH};
use crate::api::http::Method;
use crate::cli::client::{ForwardArgs, ForwardCommand};
use crate::failure::Failure;
use hawser_backend::config::Forward;

/// Adds or removes a forward, then prints all forwards.
///
/// # Errors
/// The process or port does not exist, or the process refuses.
pub(crate) fn run(args: &ForwardCommand) -> Result<(), Failure> {
    let (method, forward, args) = match args {
        ForwardCommand::List(args) => (Method::Get, None, args),
        ForwardCommand::Add { forward, args } => (Method::Post, Some(forward), args),
        ForwardCommand::Remove { forward, args } => (Method::Delete, Some(forward), args),
    };
    let forwards = change(args, method, forward)?;
    show(args.json, &forwards, |forwards| {
        let lines = forwards.forwards.iter().map(|entry| format!("{}\n", entry.forward));
        lines.collect()
    })
}

fn change(args: &ForwardArgs, method: Method, forward: Option<&Forward>) -> Result<Forwards, Failure> {
    let client = Client::of(&args.ask);
    let target = Target::new(PATH).of(args.ask.port.as_deref());
    match forward {
        None => client.get(&target),
        Some(forward) => {
            let forward = forward.to_string();
            client.send(method, &target, &Change { forward })
        }
    }
}
