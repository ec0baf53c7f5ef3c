//! Checks that the tests, links and scripts in the documents exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Directories with documents and sources, in addition to the root.
const PLACES: [&str; 6] = ["backend", "launcher", "tests", "benches", "docs", "hack"];

fn files(dir: &Path, extension: &str, deep: bool, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && deep && !path.ends_with("target") {
            files(&path, extension, deep, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn read_all(extension: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    files(&root, extension, false, &mut found);
    for place in PLACES {
        files(&root.join(place), extension, true, &mut found);
    }
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (path, text)
    };
    found.into_iter().map(read).collect()
}

/// Text between backticks, on one line, outside code blocks.
fn quoted(text: &str) -> Vec<&str> {
    let mut in_block = false;
    let prose = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The function in a quotation, if it is a test. This is the end of a path through a module of tests, or a name that is
/// long enough to be a sentence.
fn test_name(quoted: &str) -> Option<&str> {
    let (modules, name) = quoted.rsplit_once("::").unwrap_or(("", quoted));
    // Every test name is a sentence. A name of one word is that of a module.
    let is_name = name.contains('_')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let is_test = modules.split("::").any(|m| m.ends_with("tests")) || name.matches('_').count() >= 4;
    (is_name && is_test).then_some(name)
}

#[test]
fn every_test_a_document_names_exists() {
    let mut functions = BTreeSet::new();
    for (_, source) in read_all("rs") {
        for line in source.lines() {
            let line = line.trim_start();
            // A test that its file passes to a list of tests is visible there.
            let function = line.trim_start_matches("pub(super) ").strip_prefix("fn ");
            let name = function.and_then(|function| function.split(['(', '<']).next());
            functions.extend(name.map(str::to_owned));
        }
    }
    let mut named = 0;
    let mut missing = Vec::new();
    for (path, text) in read_all("md") {
        for name in quoted(&text).into_iter().filter_map(test_name) {
            named += 1;
            if !functions.contains(name) {
                missing.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
    assert!(
        named > 20,
        "only {named} tests are named: are the documents still found?"
    );
}

#[test]
fn a_test_is_distinguished_from_other_words() {
    assert_eq!(test_name("responder::tests::link::is_short"), Some("is_short"));
    assert_eq!(
        test_name("a_name_that_says_what_holds"),
        Some("a_name_that_says_what_holds")
    );
    for other in [
        "responder::tests::dhcp6",
        "bad_service_message",
        "--dns",
        "tests::supply_chain.rs",
        "Mode::on_room",
    ] {
        assert_eq!(test_name(other), None, "{other}");
    }
}

/// Targets of links in `text` that stay in this repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.contains("://"))
        .filter_map(|target| target.split('#').next())
        .filter(|path| !path.is_empty())
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for (document, text) in read_all("md") {
        let folder = document.parent().expect("a file is in a folder");
        for link in links(&text) {
            assert!(folder.join(link).exists(), "{}: {link}", document.display());
        }
    }
}

/// Scripts that a document tells people to run.
#[test]
fn every_script_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (document, text) in read_all("md") {
        let words = text.split(|c: char| c.is_whitespace() || "`()[],;:".contains(c));
        for script in words
            .map(|w| w.trim_end_matches('.'))
            .filter(|w| w.starts_with("hack/") && w.len() > 5)
        {
            assert!(root.join(script).exists(), "{}: {script}", document.display());
        }
    }
}
