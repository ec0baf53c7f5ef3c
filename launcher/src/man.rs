//! `hawser manual-pages`: manual pages, generated from the declaration of the options.

use crate::cli::Cli;
use crate::failure::Failure;
use clap::CommandFactory as _;
use std::path::Path;

/// Writes the manual page of the program, and one page per subcommand, into `folder`.
///
/// # Errors
/// A page cannot be written.
pub(crate) fn run(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(|error| Failure::runtime(format_args!("{}: {error}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    const HEAD: &str = "\
# Options

Reference of all options and subcommands. `hawser --help`, `hawser SUBCOMMAND --help` and the manual pages have the
same text. This page is generated: `UPDATE_DOCS=1 cargo test -p hawser documentation` writes it. What the options are for:
[masquerade.md](masquerade.md), [bridge.md](bridge.md), [manifests.md](manifests.md), [api.md](api.md).
";

    /// Spelling and help of each option that is already listed.
    type Listed = BTreeSet<(String, String)>;

    /// A page that would repeat more options than this refers to those of `hawser` itself.
    const FEW: usize = 15;

    fn spelling(arg: &Arg) -> String {
        let values = arg.get_value_names().unwrap_or_default();
        let value = values.first().map(ToString::to_string).unwrap_or_default();
        let takes_value = arg.get_action().takes_values();
        match (arg.get_long(), arg.get_short()) {
            (Some(long), Some(short)) => format!("-{short}, --{long}={value}"),
            (Some(long), None) if takes_value => format!("--{long}={value}"),
            (Some(long), None) => format!("--{long}"),
            (None, _) => value,
        }
    }

    fn help(arg: &Arg) -> String {
        let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let defaults = arg.get_default_values();
        let defaults: Vec<_> = defaults.iter().map(|value| value.to_string_lossy()).collect();
        if arg.get_action().takes_values() && !defaults.concat().is_empty() {
            let _ = write!(text, " [default: {}]", defaults.join(","));
        }
        text
    }

    /// Writes a row for each option that `listed` lacks. Returns the spellings of the others.
    fn section(text: &mut String, command: &Command, listed: &mut Listed) -> Vec<String> {
        let mut headings: Vec<(&str, Vec<&Arg>)> = Vec::new();
        let mut repeated = Vec::new();
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            if !listed.insert((spelling(arg), help(arg))) && !arg.is_positional() {
                repeated.push(spelling(arg));
                continue;
            }
            let heading = arg.get_help_heading().unwrap_or_default();
            match headings.iter_mut().find(|(known, _)| *known == heading) {
                Some((_, args)) => args.push(arg),
                None => headings.push((heading, vec![arg])),
            }
        }
        for (heading, args) in headings {
            let heading = if heading.is_empty() { "option" } else { heading };
            let _ = write!(text, "\n| {heading} | |\n|---|---|\n");
            for arg in args {
                let cell = |text: String| text.replace('|', "\\|");
                let _ = writeln!(text, "| `{}` | {} |", cell(spelling(arg)), cell(help(arg)));
            }
        }
        repeated
    }

    fn subcommands(text: &mut String, name: &str, command: &Command, listed: &mut Listed) {
        let shown = command.get_subcommands();
        for sub in shown.filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
            let name = format!("{name} {}", sub.get_name());
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = write!(text, "\n## {name}\n\n{about}.\n");
            let repeated = section(text, sub, listed);
            let _ = match repeated.len() {
                0 => Ok(()),
                1..=FEW => write!(text, "\nAlso, as above: `{}`.\n", repeated.join("`, `")),
                _ => text.write_str("\nAlso the other options of `hawser`, above.\n"),
            };
            subcommands(text, &name, sub, listed);
        }
    }

    fn page() -> String {
        let command = Cli::command();
        let mut text = format!("{HEAD}\n## hawser\n\nServes one NIC.\n");
        let mut listed = Listed::new();
        section(&mut text, &command, &mut listed);
        subcommands(&mut text, "hawser", &command, &mut listed);
        text
    }

    #[test]
    fn the_options_page_of_the_documentation_is_that_of_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/options.md");
        let text = page();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == text,
            "docs/options.md is stale: UPDATE_DOCS=1 cargo test -p hawser documentation"
        );
    }
}
