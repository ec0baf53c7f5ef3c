//! The programs that tests run, each built once per process.

use crate::{Result, failure};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Root directory of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The directory that `hack/guests` fills.
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    let default = || {
        env::var_os("XDG_CACHE_HOME")
            .map_or_else(|| home().join(".cache"), PathBuf::from)
            .join("hawser")
    };
    env::var_os("HAWSER_CACHE").map_or_else(default, PathBuf::from)
}

/// Runs `command` to its end. Its output is shown only if it fails.
fn must_succeed(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failure(format!("{command:?}: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Err(failure(format!("{command:?} failed, {}:\n{out}{err}", output.status)))
}

fn once(
    cell: &OnceLock<std::result::Result<PathBuf, String>>,
    make: impl FnOnce() -> Result<PathBuf>,
) -> Result<PathBuf> {
    cell.get_or_init(|| make().map_err(|e| e.to_string()))
        .clone()
        .map_err(failure)
}

fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace())
        .args(["build", "--quiet", "--release", "--locked"]);
    cargo
}

/// The release build of `hawser`, or the program in `HAWSER_BIN`.
pub fn hawser() -> Result<PathBuf> {
    static PATH: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    once(&PATH, || {
        if let Some(path) = env::var_os("HAWSER_BIN") {
            return Ok(path.into());
        }
        let target = workspace().join("target");
        must_succeed(cargo().args(["--package", "hawser", "--target-dir"]).arg(&target))?;
        Ok(target.join("release/hawser"))
    })
}

/// The release build of `hawser-agent`, or the program in `HAWSER_AGENT_BIN`.
pub fn agent() -> Result<PathBuf> {
    static PATH: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    once(&PATH, || {
        if let Some(path) = env::var_os("HAWSER_AGENT_BIN") {
            return Ok(path.into());
        }
        let target = workspace().join("target");
        must_succeed(cargo().args(["--package", "hawser-agent", "--target-dir"]).arg(&target))?;
        Ok(target.join("release/hawser-agent"))
    })
}

/// The example `vf` of `hawser-host`, which passes a VF without a VM, or the program in `HAWSER_VF_BIN`.
pub fn vf() -> Result<PathBuf> {
    static PATH: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    once(&PATH, || {
        if let Some(path) = env::var_os("HAWSER_VF_BIN") {
            return Ok(path.into());
        }
        let target = workspace().join("target");
        let mut cargo = cargo();
        cargo.args(["--package", "hawser-host", "--example", "vf", "--target-dir"]);
        must_succeed(cargo.arg(&target))?;
        Ok(target.join("release/examples/vf"))
    })
}

/// `hawser-traffic`, static, so that it runs in any guest.
pub fn traffic() -> Result<PathBuf> {
    static PATH: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    once(&PATH, || {
        let (target, triple) = (workspace().join("target/guest"), "x86_64-unknown-linux-gnu");
        let mut cargo = cargo();
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
        cargo
            .args(["--package", "hawser-traffic", "--target", triple, "--target-dir"])
            .arg(&target);
        must_succeed(&mut cargo)?;
        Ok(target.join(triple).join("release/hawser-traffic"))
    })
}

/// Parts of the cache directory.
#[derive(Clone, Copy)]
enum Part {
    Guests,
    /// Includes the programs for comparison.
    Peers,
    /// Includes the lab VM with SR-IOV.
    Sriov,
}

/// The cache directory, in which this part has been filled.
fn guests(part: Part) -> Result<PathBuf> {
    static FILLED: [OnceLock<std::result::Result<PathBuf, String>>; 3] = [const { OnceLock::new() }; 3];
    let (filled, option) = match part {
        Part::Guests => (&FILLED[0], None),
        Part::Peers => (&FILLED[1], Some("--peers")),
        Part::Sriov => (&FILLED[2], Some("--sriov")),
    };
    once(filled, || {
        must_succeed(Command::new(workspace().join("hack/guests")).args(option))?;
        Ok(cache())
    })
}

fn file_of(part: Part, path: &str) -> Result<PathBuf> {
    let file = guests(part)?.join(path);
    if file.exists() {
        Ok(file)
    } else {
        Err(failure(format!("{} is missing: run hack/guests", file.display())))
    }
}

/// A file of the guests, such as `bin/linux.uml`.
pub fn guest_file(path: &str) -> Result<PathBuf> {
    file_of(Part::Guests, path)
}

/// A file of the lab VM with SR-IOV, or of the guests.
pub fn lab_file(path: &str) -> Result<PathBuf> {
    let is_sriov = path.starts_with("sriov/");
    file_of(if is_sriov { Part::Sriov } else { Part::Guests }, path)
}

/// A program with which hawser is compared or communicates, such as `passt`.
pub fn peer_program(name: &str) -> Result<PathBuf> {
    peer_file(&format!("bin/{name}"))
}

/// A file of one of these programs.
pub fn peer_file(path: &str) -> Result<PathBuf> {
    Ok(guests(Part::Peers)?.join(path))
}
