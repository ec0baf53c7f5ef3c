//! The modules of a crate and what they import, read from its sources.
//!
//! It reads Rust's tokens, not its grammar: comments, literals, `mod`, `use` and paths, which is
//! enough to find out that one module names another. Test code is left out: items under a `cfg`
//! that names `test`, and the files they declare.

use crate::{Result, failure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module that names another module of the same crate.
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
    /// File of each module, by its path from the root; the root's own path is empty.
    files: BTreeMap<Vec<String>, PathBuf>,
    imports: BTreeSet<Import>,
    /// Paths of names, and the file that has each.
    paths: Vec<(PathBuf, Vec<String>)>,
    /// Names by which the root passes on other crates of ours.
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

    /// The files that name `variant` of an enum by a path that ends so (`Enum::Variant`).
    pub fn files_naming<'a>(&'a self, of: &'a str, variant: &'a str) -> impl Iterator<Item = &'a Path> {
        let is_it = move |path: &[String]| path.windows(2).any(|pair| pair[0] == of && pair[1] == variant);
        let paths = self.paths.iter().filter(move |(_, path)| is_it(path));
        paths.map(|(file, _)| file.as_path())
    }

    /// The modules right below the root.
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

    /// Files in the largest circle of imports.
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
        let mut reader = Reader {
            words: words(&text),
            at: 0,
            module: module.to_vec(),
            paths,
            files: Vec::new(),
            inline: Vec::new(),
            crates: Vec::new(),
        };
        reader.read();
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

/// The top module of a file; for the root, the name of its file.
fn top_of(file: &Path) -> String {
    let first = file.iter().next().unwrap_or_default().to_string_lossy();
    first.strip_suffix(".rs").unwrap_or(&first).to_owned()
}

/// A word of a source file: a name, `::`, or one other character.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Name(String),
    PathSeparator,
    Other(char),
}

/// The words of a source file, without comments and literals.
fn words(text: &str) -> Vec<Word> {
    let text: Vec<char> = text.chars().collect();
    let is = |at: usize, c: char| text.get(at) == Some(&c);
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(&c) = text.get(at) {
        match c {
            '/' if is(at + 1, '/') => at = find(&text, at, "\n"),
            '/' if is(at + 1, '*') => at = find(&text, at + 2, "*/"),
            '"' => at = end_of_string(&text, at),
            '\'' if is(at + 1, '\\') => at = find(&text, at + 3, "'"),
            '\'' if is(at + 2, '\'') => at += 3,
            ':' if is(at + 1, ':') => {
                words.push(Word::PathSeparator);
                at += 2;
            }
            c if c.is_alphanumeric() || c == '_' => {
                let end = (at..text.len()).find(|n| !(text[*n].is_alphanumeric() || text[*n] == '_'));
                let end = end.unwrap_or(text.len());
                let name: String = text[at..end].iter().collect();
                at = end;
                let is_raw = name.ends_with('r') && name.len() <= 2 && (is(at, '"') || is(at, '#') && is(at + 1, '"'));
                if is_raw {
                    let hashes = (at..).take_while(|n| is(*n, '#')).count();
                    at = find(&text, at + hashes + 1, &format!("\"{}", "#".repeat(hashes)));
                } else {
                    words.push(Word::Name(name));
                }
            }
            c => {
                if !c.is_whitespace() {
                    words.push(Word::Other(c));
                }
                at += 1;
            }
        }
    }
    words
}

/// The position after `end`, searched from `at` on.
fn find(text: &[char], at: usize, end: &str) -> usize {
    let end: Vec<char> = end.chars().collect();
    let found = (at..text.len()).find(|n| text[*n..].starts_with(&end));
    found.map_or(text.len(), |n| n + end.len())
}

fn end_of_string(text: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Reads the words of one file.
struct Reader<'a> {
    words: Vec<Word>,
    at: usize,
    /// The module the words are in.
    module: Vec<String>,
    /// Paths, and the module that names each.
    paths: &'a mut Vec<(Vec<String>, Vec<String>)>,
    /// Modules with a file of their own.
    files: Vec<Vec<String>>,
    /// Modules in this file.
    inline: Vec<Vec<String>>,
    /// Other names of this workspace's crates.
    crates: Vec<String>,
}

impl Reader<'_> {
    fn name(&self, at: usize) -> Option<&str> {
        match self.words.get(at) {
            Some(Word::Name(name)) => Some(name),
            _ => None,
        }
    }

    fn is(&self, at: usize, c: char) -> bool {
        self.words.get(at) == Some(&Word::Other(c))
    }

    fn separates(&self, at: usize) -> bool {
        self.words.get(at) == Some(&Word::PathSeparator)
    }

    /// Reads to the end of the file, or of the module in braces.
    fn read(&mut self) {
        let mut depth = 0usize;
        while self.at < self.words.len() {
            if self.is(self.at, '#') {
                if self.attribute_is_of_tests() {
                    self.skip_item();
                }
            } else if self.is(self.at, '{') {
                depth += 1;
                self.at += 1;
            } else if self.is(self.at, '}') {
                self.at += 1;
                match depth.checked_sub(1) {
                    Some(less) => depth = less,
                    None => return,
                }
            } else {
                self.read_word();
            }
        }
    }

    fn read_word(&mut self) {
        match (self.name(self.at), self.name(self.at + 1)) {
            (Some("mod"), Some(name)) => {
                let module = [&self.module[..], &[name.to_owned()]].concat();
                let has_body = self.is(self.at + 2, '{');
                self.at += 3;
                if has_body {
                    self.inline.push(module.clone());
                    let outer = std::mem::replace(&mut self.module, module);
                    self.read();
                    self.module = outer;
                } else {
                    self.files.push(module);
                }
            }
            (Some("use"), _) => {
                self.at += 1;
                self.read_use(&[]);
            }
            (Some(_), _) if self.separates(self.at + 1) => self.read_path(),
            _ => self.at += 1,
        }
    }

    /// A path outside of `use`.
    fn read_path(&mut self) {
        let mut path = Vec::new();
        while let Some(name) = self.name(self.at) {
            path.push(name.to_owned());
            self.at += 1;
            if !self.separates(self.at) {
                break;
            }
            self.at += 1;
        }
        self.paths.push((self.module.clone(), path));
    }

    /// The rest of a `use`, or one branch of it.
    fn read_use(&mut self, before: &[String]) {
        let mut path = before.to_vec();
        loop {
            if self.is(self.at, '{') {
                self.at += 1;
                while self.at < self.words.len() && !self.is(self.at, '}') {
                    self.read_use(&path);
                    if self.is(self.at, ',') {
                        self.at += 1;
                    }
                }
                self.at += 1;
                return;
            }
            match self.name(self.at) {
                // `self` in braces means the path before them.
                Some("self") if !path.is_empty() => {}
                Some(name) => path.push(name.to_owned()),
                None if self.separates(self.at) => {}
                None => {
                    // `*`, or the end of the statement.
                    self.paths.push((self.module.clone(), path));
                    while !(self.at >= self.words.len() || [';', ',', '}'].iter().any(|c| self.is(self.at, *c))) {
                        self.at += 1;
                    }
                    return;
                }
            }
            self.at += 1;
            if self.name(self.at) == Some("as") {
                let is_ours = path.first().is_some_and(|first| first.starts_with("hawser_"));
                let name = self.name(self.at + 1).filter(|_| is_ours).map(str::to_owned);
                self.crates.extend(name);
                self.at += 2;
            }
        }
    }

    /// Skips an attribute. True if it marks test code.
    fn attribute_is_of_tests(&mut self) -> bool {
        let (mut depth, mut is_cfg, mut is_test) = (0usize, false, false);
        self.at += 1;
        while self.at < self.words.len() {
            match self.words.get(self.at) {
                Some(Word::Other('[')) => depth += 1,
                Some(Word::Other(']')) => depth = depth.saturating_sub(1),
                Some(Word::Name(name)) => {
                    is_cfg |= name == "cfg";
                    is_test |= name == "test";
                }
                _ => {}
            }
            self.at += 1;
            if depth == 0 && self.is(self.at - 1, ']') {
                break;
            }
        }
        is_cfg && is_test
    }

    /// Skips the next item, field or statement.
    fn skip_item(&mut self) {
        while self.is(self.at, '#') {
            self.attribute_is_of_tests();
        }
        let is_use = (self.at..self.at + 6).any(|at| self.name(at) == Some("use"));
        let mut depth = 0usize;
        while self.at < self.words.len() {
            let word = self.words[self.at].clone();
            match word {
                Word::Other('{' | '(' | '[') => depth += 1,
                Word::Other('}' | ')' | ']') if depth == 0 => return,
                Word::Other(c @ ('}' | ')' | ']')) => {
                    depth -= 1;
                    if depth == 0 && c == '}' && !is_use {
                        self.at += 1;
                        return;
                    }
                }
                Word::Other(';') if depth == 0 => {
                    self.at += 1;
                    return;
                }
                _ => {}
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Crate {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Crate::read(folder.path()).unwrap()
    }

    fn imports(of: &Crate) -> Vec<String> {
        let text = |import: &Import| format!("{} > {}", import.from.display(), import.to.display());
        of.imports().map(text).collect()
    }

    #[test]
    fn every_way_to_name_a_module_is_an_import() {
        let found = read(&[
            (
                "lib.rs",
                "mod a; mod b; mod c { pub mod d; } pub use hawser_packet as packet;",
            ),
            (
                "a.rs",
                "use crate::{b::{self, One}, c::d::Two as Three}; fn f(x: crate::packet::X) { b() }",
            ),
            (
                "b/mod.rs",
                "mod inner; pub use inner::One; impl inner::One { fn f(x: super::c::d::Two) {} }",
            ),
            (
                "b/inner.rs",
                "use super::super::a::*; fn f<'a>(x: &'a str) -> crate::c::d::Two { '\"'; }",
            ),
            ("c/d.rs", "pub struct Two;"),
        ]);
        let expected = [
            "a.rs > b/mod.rs",
            "a.rs > c/d.rs",
            "b/inner.rs > a.rs",
            "b/inner.rs > c/d.rs",
            "b/mod.rs > b/inner.rs",
            "b/mod.rs > c/d.rs",
        ];
        assert_eq!(imports(&found), expected);
        assert_eq!(found.top_modules().into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
        let circle = ["a.rs", "b/inner.rs", "b/mod.rs"].map(Path::new);
        assert_eq!(found.largest_circle(), circle.into());
        let arrows: Vec<_> = found.arrows().into_keys().map(|(from, to)| from + &to).collect();
        assert_eq!(arrows, ["ab", "ac", "ba", "bc"]);
    }

    #[test]
    fn comments_literals_and_tests_import_nothing() {
        let found = read(&[
            ("main.rs", "mod a; mod b; #[cfg(test)] #[path = \"x.rs\"] mod missing;"),
            (
                "a.rs",
                "//! crate::b::X\n/* crate::b::X */ const A: &str = \"crate::b::X \\\" crate::b::Y\";\n\
                 const B: &str = r#\"crate::b::X\"#; const C: [char; 2] = ['\\'', '{'];\n\
                 #[cfg(test)] use crate::b::{X, Y};\n\
                 #[cfg(any(test, feature = \"testing\"))] pub(crate) fn f(x: crate::b::X) { crate::b::g() }\n\
                 struct S { #[cfg(test)] x: crate::b::X }\n\
                 #[cfg(test)] mod tests { use crate::b::X; fn f() {} }",
            ),
            ("b.rs", "#[cfg(unix)] use crate::a::A;"),
        ]);
        assert_eq!(imports(&found), ["b.rs > a.rs"]);
    }

    #[test]
    fn a_file_names_a_variant_by_a_path_or_an_import() {
        let found = read(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "fn f(x: crate::E) -> bool { matches!(x, E::One(_) | F::Two) }"),
            ("b.rs", "use other::E::{One, Three};"),
            (
                "c.rs",
                "// E::One\nfn f() { F::One; E::one(); } #[cfg(test)] mod tests { fn f() { E::One } }",
            ),
        ]);
        let naming = |variant| found.files_naming("E", variant).collect::<BTreeSet<_>>();
        assert_eq!(naming("One"), ["a.rs", "b.rs"].map(Path::new).into());
        assert_eq!(naming("Two"), BTreeSet::new());
    }
}
