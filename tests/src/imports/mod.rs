//! Reads the modules of a crate and their imports from its sources.
//!
//! It reads Rust's tokens, but not its grammar: comments, literals, `mod`, `use` and paths. That is enough to detect
//! that one module names another. Test code is left out: items under a `cfg` that names `test`, and the files that they
//! declare.

mod reader;

use crate::{Result, failure};
use reader::read;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// An import: one module names another module of the same crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// File of the importing module, relative to the crate's sources.
    pub from: PathBuf,
    /// File of the imported module.
    pub to: PathBuf,
}

/// The modules of a crate.
#[derive(Debug, Default)]
pub struct Crate {
    /// File of each module, by its path from the root. The root's own path is empty.
    files: BTreeMap<Vec<String>, PathBuf>,
    imports: BTreeSet<Import>,
    /// Paths of names, each with the file that contains it.
    paths: Vec<(PathBuf, Vec<String>)>,
    /// Names by which the root re-exports other crates of this workspace.
    crates: BTreeSet<String>,
}

impl Crate {
    /// Reads the crate whose sources are in `folder`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let root = ["lib.rs", "main.rs"]
            .into_iter()
            .find(|name| folder.join(name).is_file());
        let root = root.ok_or_else(|| failure(format!("no crate in {}", folder.display())))?;
        let mut this = Self::default();
        let mut paths = Vec::new();
        this.read_module(folder, &[], Path::new(root), &mut paths)?;
        for (module, path) in paths {
            let from = this.files[&module].clone();
            if let Some(target) = this.resolve(&module, &path) {
                let (from, to) = (from.clone(), this.files[&target].clone());
                if from != to {
                    this.imports.insert(Import { from, to });
                }
            }
            this.paths.push((from, path));
        }
        Ok(this)
    }

    /// Every import from one file of the crate to another, except those of the root.
    pub fn imports(&self) -> impl Iterator<Item = &Import> {
        let root = self.files.get(&Vec::new());
        self.imports.iter().filter(move |import| Some(&import.from) != root)
    }

    /// The files that name `variant` of an enum by a path that ends in `Enum::Variant`.
    pub fn files_naming<'a>(&'a self, of: &'a str, variant: &'a str) -> impl Iterator<Item = &'a Path> {
        let is_it = move |path: &[String]| path.windows(2).any(|pair| pair[0] == of && pair[1] == variant);
        let paths = self.paths.iter().filter(move |(_, path)| is_it(path));
        paths.map(|(file, _)| file.as_path())
    }

    /// The modules directly below the root.
    pub fn top_modules(&self) -> BTreeSet<&str> {
        let of_root = self.files.keys().filter(|path| path.len() == 1);
        of_root.map(|path| path[0].as_str()).collect()
    }

    /// The imports between modules directly below the root, each with one file that contains it.
    pub fn arrows(&self) -> BTreeMap<(String, String), &Path> {
        let arrow = |import: &Import| (top_of(&import.from), top_of(&import.to));
        let between = self.imports().map(|import| (arrow(import), import.from.as_path()));
        between.filter(|((from, to), _)| from != to).collect()
    }

    /// The files in the largest cycle of imports.
    pub fn largest_circle(&self) -> BTreeSet<&Path> {
        let mut reached: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for file in self.files.values() {
            let mut seen = BTreeSet::new();
            let mut todo = vec![file.as_path()];
            while let Some(next) = todo.pop() {
                let of_next = self.imports.iter().filter(|import| import.from == next);
                todo.extend(of_next.map(|import| import.to.as_path()).filter(|to| seen.insert(*to)));
            }
            reached.insert(file, seen);
        }
        let circle = |file: &Path| -> BTreeSet<&Path> {
            let both = reached[file].iter().filter(|other| reached[**other].contains(file));
            both.copied().collect()
        };
        let circles = reached.keys().map(|file| circle(file));
        circles.max_by_key(BTreeSet::len).unwrap_or_default()
    }

    /// Reads a module and its submodules. Adds the paths each module names to `paths`.
    fn read_module(
        &mut self,
        folder: &Path,
        module: &[String],
        file: &Path,
        paths: &mut Vec<(Vec<String>, Vec<String>)>,
    ) -> Result<()> {
        let text = fs::read_to_string(folder.join(file)).map_err(|e| failure(format!("{}: {e}", file.display())))?;
        self.files.insert(module.to_vec(), file.to_owned());
        let reader = read(&text, module, paths);
        if module.is_empty() {
            self.crates.extend(reader.crates);
        }
        for inline in reader.inline {
            self.files.insert(inline, file.to_owned());
        }
        for child in reader.files {
            let name = child.iter().collect::<PathBuf>();
            let candidates = [name.with_extension("rs"), name.join("mod.rs")];
            let found = candidates.iter().find(|file| folder.join(file).is_file());
            let found = found.ok_or_else(|| failure(format!("no file of module {}", child.join("::"))))?;
            self.read_module(folder, &child, found, paths)?;
        }
        Ok(())
    }

    /// The module of this crate that `path` refers to, if `module` names it.
    fn resolve(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut at = module.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" if rest.get(1).is_some_and(|name| self.crates.contains(name)) => return None,
            "crate" => (at, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                let child = [module, &[child.to_owned()]].concat();
                if !self.files.contains_key(&child) {
                    return None;
                }
            }
        }
        for word in rest {
            at.push(word.clone());
            if !self.files.contains_key(&at) {
                at.pop();
                break;
            }
        }
        Some(at)
    }
}

/// The top module of a file. For the root, it is the name of the root's file.
fn top_of(file: &Path) -> String {
    let first = file.iter().next().unwrap_or_default().to_string_lossy();
    first.strip_suffix(".rs").unwrap_or(&first).to_owned()
}

#[cfg(test)]
mod tests;
