//! Enforces deny.toml for the dependencies, without cargo-deny.
//!
//! The locked graph for this machine comes from `cargo metadata`. Nothing is downloaded.

use serde_json::Value;
use spdx::expression::Expression;
use spdx::{LicenseReq, Licensee, ParseMode};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr as _;
use toml::Table;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn deny(section: &str) -> Table {
    let deny: Table = read("deny.toml").parse().expect("deny.toml is TOML");
    deny[section].as_table().expect("a section").clone()
}

fn strings(value: &toml::Value) -> Vec<String> {
    let array = value.as_array().expect("an array");
    array.iter().map(|v| v.as_str().expect("a string").to_owned()).collect()
}

/// The `crate` of each entry of a list of tables.
fn crates(value: &toml::Value) -> Vec<String> {
    let array = value.as_array().expect("an array");
    array
        .iter()
        .map(|v| v["crate"].as_str().expect("a crate").to_owned())
        .collect()
}

/// The relevant fields of a package in the graph.
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// Where the package comes from. `None` for members of this workspace.
    source: Option<String>,
}

fn graph() -> Vec<Package> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--offline",
            "--all-features",
        ])
        .args(["--filter-platform", &platform])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|p| Package {
            name: text(&p["name"]).expect("a name"),
            version: text(&p["version"]).expect("a version"),
            license: text(&p["license"]),
            source: text(&p["source"]),
        })
        .collect()
}

/// True if the licences in `allowed` satisfy `expression`.
fn is_licensed(expression: &str, allowed: &[String]) -> bool {
    let licensees: Vec<Licensee> = allowed
        .iter()
        .map(|name| Licensee::parse(name).expect("a licence of deny.toml"))
        .collect();
    let met = |required: &LicenseReq| licensees.iter().any(|l| l.satisfies(required));
    Expression::parse_mode(expression, ParseMode::LAX).is_ok_and(|e| e.evaluate(met))
}

#[test]
fn a_licence_is_allowed_only_if_a_choice_of_it_is() {
    let allowed = ["MIT".to_owned(), "BSD-3-Clause".to_owned()];
    for good in ["MIT", "MIT OR GPL-2.0-only", "MIT/Apache-2.0", "MIT AND BSD-3-Clause"] {
        assert!(is_licensed(good, &allowed), "{good}");
    }
    for bad in [
        "GPL-2.0-only",
        "MIT AND GPL-2.0-only",
        "Apache-2.0 WITH LLVM-exception",
        "my own",
    ] {
        assert!(!is_licensed(bad, &allowed), "{bad}");
    }
}

#[test]
fn every_package_has_a_licence_that_deny_toml_allows() {
    let licenses = deny("licenses");
    let allowed = strings(&licenses["allow"]);
    let exceptions: BTreeMap<String, Vec<String>> = licenses["exceptions"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|e| (e["crate"].as_str().expect("a crate").to_owned(), strings(&e["allow"])))
        .collect();
    let mut refused = Vec::new();
    let mut unused: BTreeSet<&String> = exceptions.keys().collect();
    for package in graph() {
        let license = package.license.unwrap_or_default();
        if is_licensed(&license, &allowed) {
            continue;
        }
        let exception = exceptions.get_key_value(&package.name);
        match exception.filter(|(_, extra)| is_licensed(&license, extra)) {
            Some((name, _)) => _ = unused.remove(name),
            None => refused.push(format!("{} {}: {license:?}", package.name, package.version)),
        }
    }
    assert!(refused.is_empty(), "not allowed by deny.toml: {refused:#?}");
    assert!(unused.is_empty(), "exceptions nobody needs: {unused:?}");
}

#[test]
fn no_library_is_there_twice_unless_deny_toml_says_so() {
    let skipped: BTreeSet<String> = crates(&deny("bans")["skip"]).into_iter().collect();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in graph() {
        versions.entry(package.name).or_default().insert(package.version);
    }
    // An entry has as many numbers of the version as are needed to distinguish it: crate@1 or crate@0.2.
    let is_skipped = |name: &str, version: &str| {
        let full = format!("{name}@{version}");
        skipped.iter().any(|entry| full.starts_with(&format!("{entry}.")))
    };
    let mut twice = Vec::new();
    for (name, versions) in &versions {
        let counted: Vec<&String> = versions.iter().filter(|v| !is_skipped(name, v)).collect();
        if counted.len() > 1 {
            twice.push(format!("{name}: {counted:?}"));
        }
    }
    assert!(twice.is_empty(), "more than one version: {twice:#?}");
    for entry in &skipped {
        let (name, numbers) = entry.split_once('@').expect("crate@version");
        let found = versions
            .get(name)
            .is_some_and(|v| v.len() > 1 && v.iter().any(|v| v.starts_with(&format!("{numbers}."))));
        assert!(found, "deny.toml skips {entry}, which is not there twice");
    }
}

#[test]
fn nothing_banned_and_nothing_from_elsewhere_comes_in() {
    let banned = crates(&deny("bans")["deny"]);
    let registries = strings(&deny("sources")["allow-registry"]);
    for Package { name, source, .. } in graph() {
        assert!(!banned.contains(&name), "deny.toml bans {name}");
        if let Some(source) = source {
            let known = source
                .strip_prefix("registry+")
                .is_some_and(|url| registries.iter().any(|r| r == url));
            assert!(known, "{name} comes from {source}");
        }
    }
}

#[test]
fn every_direct_dependency_has_its_line_in_the_documentation() {
    let manifest = Table::from_str(&read("Cargo.toml")).expect("TOML");
    let direct = manifest["workspace"]["dependencies"].as_table().expect("a table");
    let described: BTreeSet<String> = read("docs/dependencies.md")
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split_once('`')
                .map(|(name, _)| name.to_owned())
        })
        .collect();
    let ours = |(_, value): &(&String, &toml::Value)| value.get("path").is_some();
    let used: BTreeSet<String> = direct
        .iter()
        .filter(|d| !ours(d))
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(
        described, used,
        "docs/dependencies.md and Cargo.toml name the same libraries"
    );
}
