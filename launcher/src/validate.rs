//! `hawser validate`: prints the problems of manifests, or what would be served.

use crate::cli::{ManifestArgs, ValidateArgs};
use crate::failure::Failure;
use hawser_manifest::check::{self, Checked, Rejected, check_sources};
use hawser_manifest::objects::report::{MAX_PROBLEMS, Problem, Severity, Spot};
use hawser_manifest::objects::{MAX_FILE, SourceFile};
use hawser_manifest::plan::VmPlan;
use hawser_manifest::plan_text;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A file that cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    path: PathBuf,
    error: io::Error,
}

impl From<Unreadable> for Failure {
    fn from(Unreadable { path, error }: Unreadable) -> Self {
        Self::usage(format_args!("-f {}: {error}", path.display()))
    }
}

impl Unreadable {
    /// Reports the error as a problem of that file.
    fn rejected(&self) -> Rejected {
        let problem = Problem {
            severity: Severity::Error,
            spot: Spot::file(&self.path.to_string_lossy()),
            message: format!("it cannot be read: {}", self.error),
        };
        Rejected {
            errors: vec![problem],
            warnings: Vec::new(),
        }
    }
}

/// Reads the files of the options and plans the VM.
///
/// # Errors
/// A file cannot be read. Problems of the manifests are in the inner result.
pub(crate) fn check(args: &ManifestArgs) -> Result<Result<Checked, Rejected>, Failure> {
    Ok(check_sources(
        &read_sources(&args.sources.files())?,
        &args.setup(&args.plan.options()),
    ))
}

/// Reads files, standard input (`-`), and the manifests of directories.
///
/// # Errors
/// A file or directory cannot be read.
pub(crate) fn read_sources(paths: &[PathBuf]) -> Result<Vec<SourceFile>, Unreadable> {
    let mut files = Vec::new();
    paths.iter().try_for_each(|path| read_source(path, &mut files))?;
    Ok(files)
}

/// Does the same for files that may describe several VMs, without warnings.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_all(args: &ManifestArgs) -> Result<Result<Vec<VmPlan>, Rejected>, Failure> {
    let files = read_sources(&args.sources.files())?;
    let options = args.plan.options();
    Ok(check::check_all(&files, &args.setup(&options)))
}

/// Runs the subcommand. Problems are printed to standard error, and the plan to standard output.
///
/// # Errors
/// There are problems, or the output cannot be printed.
pub(crate) fn run(args: &ValidateArgs) -> Result<(), Failure> {
    let files = read_sources(&args.manifest.sources.files()).map_err(|unreadable| {
        let told = match args.json {
            true => print_json(Err(&unreadable.rejected())),
            false => Ok(()),
        };
        told.err().unwrap_or_else(|| unreadable.into())
    })?;
    let checked = check_sources(&files, &args.manifest.setup(&args.manifest.plan.options()));
    if args.json {
        print_json(checked.as_ref())?;
        return match checked {
            Ok(_) => Ok(()),
            Err(rejected) => Err(failure(&rejected)),
        };
    }
    let checked = checked.map_err(tell_rejected)?;
    tell(&checked.warnings);
    crate::output::print(&plan_text::text(&checked.plan))
}

fn print_json(checked: Result<&Checked, &Rejected>) -> Result<(), Failure> {
    crate::output::print(&(plan_text::json(checked).map_err(Failure::runtime)? + "\n"))
}

/// Writes all problems to standard error and returns the failure that ends the process.
pub(crate) fn tell_rejected(rejected: Rejected) -> Failure {
    let mut problems = rejected.errors.clone();
    problems.extend(rejected.warnings.iter().cloned());
    tell(&problems);
    failure(&rejected)
}

fn failure(rejected: &Rejected) -> Failure {
    let problems = match rejected.errors.len() {
        1 => "1 problem".into(),
        // The last problem only states that there are more.
        n if n > MAX_PROBLEMS => format!("more than {MAX_PROBLEMS} problems"),
        n => format!("{n} problems"),
    };
    Failure::usage(format_args!("{problems} with the manifests, nothing is served"))
}

/// Writes problems to standard error.
pub(crate) fn tell(problems: &[Problem]) {
    let mut text = String::new();
    for problem in problems {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{problem}");
    }
    // If standard error is closed, the exit status still reports the result.
    let _ = io::Write::write_all(&mut io::stderr().lock(), text.as_bytes());
}

/// Reads a file, standard input (`-`), or the manifests of a directory.
fn read_source(path: &Path, files: &mut Vec<SourceFile>) -> Result<(), Unreadable> {
    let unreadable = |error: io::Error| Unreadable {
        path: path.to_owned(),
        error,
    };
    if path == Path::new("-") {
        files.push(read_text("standard input", io::stdin().lock()).map_err(unreadable)?);
        return Ok(());
    }
    if !path.is_dir() {
        let file = File::open(path).map_err(unreadable)?;
        files.push(read_text(&path.to_string_lossy(), file).map_err(unreadable)?);
        return Ok(());
    }
    let is_manifest = |path: &PathBuf| {
        let extension = path.extension().and_then(|e| e.to_str());
        path.is_file() && extension.is_some_and(|e| matches!(e, "yaml" | "yml" | "json"))
    };
    let entries = std::fs::read_dir(path).map_err(unreadable)?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_manifest)
        .collect();
    found.sort();
    found.iter().try_for_each(|file| read_source(file, files))
}

fn read_text(name: &str, source: impl Read) -> io::Result<SourceFile> {
    let mut text = String::new();
    source.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!(
            "it is larger than any manifest ({MAX_FILE} bytes)"
        )));
    }
    let name = name.to_owned();
    Ok(SourceFile { name, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_a_problem_of_its_own_in_json() {
        let path = PathBuf::from("/nowhere/vm.yaml");
        let unreadable = read_sources(&[path]).unwrap_err();
        let json = plan_text::json(Err(&unreadable.rejected())).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["errors"][0]["file"], "/nowhere/vm.yaml");
        let message = json["errors"][0]["message"].as_str().unwrap();
        assert!(message.starts_with("it cannot be read: No such file"), "{message}");
        let failure = Failure::from(unreadable).to_string();
        assert!(failure.starts_with("-f /nowhere/vm.yaml: No such file"), "{failure}");
    }
}
