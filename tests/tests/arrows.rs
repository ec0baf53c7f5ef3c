//! Checks that imports go one way, by comparing the tables of docs/architecture.md with the sources.
//!
//! The page lists crates, and the modules of a crate, by layer. A crate or module may use only lower layers. An import
//! that still goes the other way is listed there as a debt; a debt that is paid must be removed from the page.

use hawser_testkit::imports::Crate;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use toml::Table;

const PAGE: &str = "docs/architecture.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// The words in backticks in a cell.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The cells of a row of a table.
fn cells(line: &str) -> Option<Vec<String>> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// The headers of the tables whose first column is `first`, each with the rows below it.
fn tables(page: &str, first: &str) -> Vec<(Vec<String>, Vec<Vec<String>>)> {
    let mut lines = page.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(header) = cells(line).filter(|header| header[0] == first) {
            let rows = lines.by_ref().map_while(cells).skip(1).collect();
            found.push((header, rows));
        }
    }
    found
}

/// The layer of each name in the column `of`, counted from the top.
fn layers(page: &str, of: &str) -> BTreeMap<String, usize> {
    let mut layers = BTreeMap::new();
    for (header, rows) in tables(page, "layer") {
        let Some(column) = header.iter().position(|cell| cell == of) else {
            continue;
        };
        for (layer, row) in rows.iter().enumerate() {
            for name in quoted(&row[column]) {
                let earlier = layers.insert(name.clone(), layer);
                assert!(earlier.is_none(), "{PAGE} lists `{name}` twice");
            }
        }
    }
    assert!(!layers.is_empty(), "{PAGE} has a column of layers of {of}");
    layers
}

/// Arrows that may point up, as (sources, from, to).
fn debts(page: &str) -> BTreeSet<(String, String, String)> {
    let debt = |row: Vec<String>| match &quoted(&row.join(" "))[..] {
        [sources, from, to, ..] => (sources.clone(), from.clone(), to.clone()),
        _ => panic!("{PAGE}: a debt names sources, from and to: {row:?}"),
    };
    let rows = tables(page, "debt in").into_iter().flat_map(|(_, rows)| rows);
    rows.map(debt).collect()
}

/// The sources whose modules the page lists.
fn sources(page: &str) -> Vec<String> {
    let headers = tables(page, "layer").into_iter().flat_map(|(header, _)| header);
    let source = |cell: String| Some(cell.strip_prefix("modules of `")?.strip_suffix('`')?.to_owned());
    headers.filter_map(source).collect()
}

/// Every arrow that does not point down, as text.
fn wrong<'a>(
    arrows: impl IntoIterator<Item = &'a (String, String)>,
    layers: &BTreeMap<String, usize>,
) -> Vec<&'a (String, String)> {
    let leads_down = |(from, to): &(String, String)| match (layers.get(from), layers.get(to)) {
        (Some(from), Some(to)) => from < to,
        _ => false,
    };
    arrows.into_iter().filter(|arrow| !leads_down(arrow)).collect()
}

#[test]
fn imports_between_modules_go_down_the_table_of_the_architecture() {
    let page = read(PAGE);
    let mut unpaid = debts(&page);
    let sources = sources(&page);
    assert!(
        [
            "backend/src",
            "launcher/src",
            "launcher/manifest/src",
            "launcher/store/src",
            "launcher/host/src",
            "launcher/agent/src"
        ]
        .iter()
        .all(|s| sources.iter().any(|found| found == s)),
        "{PAGE} has tables of {sources:?}"
    );
    let mut refused = Vec::new();
    for folder in &sources {
        let layers = layers(&page, &format!("modules of `{folder}`"));
        let found = Crate::read(&root().join(folder)).expect("the sources");
        let listed: BTreeSet<&str> = layers.keys().map(String::as_str).collect();
        assert_eq!(
            found.top_modules(),
            listed,
            "modules of {folder}, and those {PAGE} lists"
        );
        let arrows = found.arrows();
        for arrow @ (from, to) in wrong(arrows.keys(), &layers) {
            if !unpaid.remove(&(folder.clone(), from.clone(), to.clone())) {
                refused.push(format!("{folder}/{}: `{from}` imports `{to}`", arrows[arrow].display()));
            }
        }
    }
    assert!(refused.is_empty(), "not an arrow of {PAGE}: {refused:#?}");
    assert!(unpaid.is_empty(), "{PAGE} lists debts that are paid: {unpaid:#?}");
}

/// The enums that have a variant for each mode: its name, the request, the plan and the port.
const MODE_ENUMS: [(&str, &str); 4] = [
    ("Mode", "launcher/src/mode.rs"),
    ("ModeSpec", "launcher/manifest/src/nic.rs"),
    ("NicMode", "launcher/manifest/src/plan.rs"),
    ("ModeConfig", "backend/config/src/mode.rs"),
];
/// Maximum number of places that a new mode may touch.
const MODE_PLACES_MAX: usize = 10;

/// The variants of an enum that `file` declares.
fn variants(file: &str, of: &str) -> Vec<String> {
    let text = read(file);
    let start = format!("enum {of} {{");
    let is_start = |line: &str| line.starts_with("pub") && line.ends_with(&start);
    let body = text.lines().skip_while(|line| !is_start(line)).skip(1);
    let name = |line: &str| {
        line.trim()
            .split(['(', ',', '{'])
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let lines = body.take_while(|line| *line != "}").map(name);
    let variants: Vec<String> = lines.filter(|name| name.starts_with(char::is_uppercase)).collect();
    assert!(!variants.is_empty(), "{file} declares {of}");
    variants
}

/// The files that name a mode, by an enum of [`MODE_ENUMS`].
fn files_that_name_a_mode() -> BTreeSet<String> {
    let mut places: BTreeSet<String> = MODE_ENUMS.iter().map(|(_, file)| (*file).to_owned()).collect();
    for folder in [
        "backend/src",
        "backend/config/src",
        "launcher/src",
        "launcher/manifest/src",
    ] {
        let found = Crate::read(&root().join(folder)).expect("the sources");
        for (of, file) in MODE_ENUMS {
            for variant in variants(file, of) {
                let files = found.files_naming(of, &variant);
                places.extend(files.map(|file| format!("{folder}/{}", file.display())));
            }
        }
    }
    places
}

#[test]
fn a_mode_is_named_in_the_places_of_the_architecture_and_in_no_others() {
    let page = read(PAGE);
    let rows: Vec<_> = tables(&page, "to add").into_iter().flat_map(|(_, rows)| rows).collect();
    let row = rows.iter().find(|row| row[0] == "a mode").expect("a row for a mode");
    let words = quoted(&row[1]).into_iter();
    let listed: BTreeSet<String> = words
        .filter(|word| word.ends_with(".rs") && !word.starts_with("tests"))
        .collect();
    let found = files_that_name_a_mode();
    assert_eq!(found, listed, "files that name a mode, and those {PAGE} lists");
    assert!(found.len() <= MODE_PLACES_MAX, "{} places: {found:#?}", found.len());
}

#[test]
fn crates_use_crates_below_them_in_the_table_of_the_architecture() {
    let page = read(PAGE);
    let layers = layers(&page, "crates");
    let members = Table::from_str(&read("Cargo.toml")).expect("TOML");
    let members = members["workspace"]["members"].as_array().expect("members");
    let mut arrows = BTreeSet::new();
    let mut names = BTreeSet::new();
    for member in members.iter().filter_map(toml::Value::as_str) {
        if !member.starts_with("backend") && !member.starts_with("launcher") {
            continue;
        }
        let manifest = Table::from_str(&read(&format!("{member}/Cargo.toml"))).expect("TOML");
        let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
        let ours = dependencies.into_iter().flatten().map(|(name, _)| name);
        let ours = ours.filter(|dependency| dependency.starts_with("hawser"));
        arrows.extend(ours.map(|dependency| (name.clone(), dependency.clone())));
        names.insert(name);
    }
    let listed: BTreeSet<String> = layers.keys().cloned().collect();
    assert_eq!(
        names, listed,
        "crates of backend/ and launcher/, and those {PAGE} lists"
    );
    let wrong = wrong(&arrows, &layers);
    assert!(wrong.is_empty(), "not an arrow of {PAGE}: {wrong:#?}");
}

#[test]
fn an_arrow_that_is_turned_round_is_wrong() {
    let page = "| layer | modules of `x` | modules of `y` |\n|---|---|---|\n| 1 | `a`, `b` | `c` |\n| 2 | `c` | |\n";
    let layers = layers(page, "modules of `x`");
    let arrow = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert!(wrong(&[arrow("a", "c")], &layers).is_empty());
    for turned in [arrow("c", "a"), arrow("a", "b"), arrow("a", "unlisted")] {
        assert_eq!(wrong([&turned], &layers), [&turned]);
    }
    assert_eq!(sources(page), ["x", "y"]);
}
