//! The words of a source file, and the modules and paths in them.

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

/// The position after the next `end`, searched from `at` onwards.
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
pub(super) struct Reader<'a> {
    words: Vec<Word>,
    at: usize,
    /// Path of the module that contains the words.
    module: Vec<String>,
    /// Paths, each with the module that names it.
    paths: &'a mut Vec<(Vec<String>, Vec<String>)>,
    /// Modules with a file of their own.
    pub files: Vec<Vec<String>>,
    /// Modules in this file.
    pub inline: Vec<Vec<String>>,
    /// Other names of this workspace's crates.
    pub crates: Vec<String>,
}

/// Reads the text of `module`'s file. Adds the paths that each module names to `paths`.
pub(super) fn read<'a>(text: &str, module: &[String], paths: &'a mut Vec<(Vec<String>, Vec<String>)>) -> Reader<'a> {
    let mut reader = Reader {
        words: words(text),
        at: 0,
        module: module.to_vec(),
        paths,
        files: Vec::new(),
        inline: Vec::new(),
        crates: Vec::new(),
    };
    reader.read();
    reader
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

    /// A path outside a `use` statement.
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

    /// The rest of a `use` statement, or one of its branches.
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

    /// Skips the next item, statement, field, variant or arm of a `match`.
    fn skip_item(&mut self) {
        while self.is(self.at, '#') {
            self.attribute_is_of_tests();
        }
        let end = self.end_of_next();
        let mut inside = Nesting::default();
        while self.at < self.words.len() {
            let closes_outer = matches!(self.words[self.at], Word::Other('}' | ')' | ']'));
            if closes_outer && inside.is_none() {
                return;
            }
            let is_body = self.is(self.at, '}') && inside.is_last();
            let follows_arrow = inside.block_follows_arrow;
            inside.read(&self.words, self.at);
            self.at += 1;
            let is_over = match end {
                End::Semicolon => self.is(self.at - 1, ';') && inside.is_none(),
                End::Body => is_body || self.is(self.at - 1, ';') && inside.is_none(),
                End::Branches => is_body && self.name(self.at) != Some("else"),
                End::Comma => {
                    is_body && follows_arrow
                        || [',', ';'].iter().any(|c| self.is(self.at - 1, *c)) && inside.is_none_nor_generic()
                }
            };
            if is_over {
                return;
            }
        }
    }

    /// The end of the item that starts here.
    fn end_of_next(&self) -> End {
        let mut at = self.at;
        if self.name(at) == Some("pub") {
            at += 1;
            if self.is(at, '(') {
                let close = (at..self.words.len()).find(|at| self.is(*at, ')'));
                at = close.map_or(self.words.len(), |close| close + 1);
            }
        }
        let names_a_value = self.is(at + 1, ':');
        match self.name(at) {
            Some(_) if names_a_value => End::Comma,
            Some("use" | "let" | "static" | "type") => End::Semicolon,
            // `const NAME: …`, `const _: …` or `const fn`
            Some("const") if self.is(at + 2, ':') => End::Semicolon,
            Some(
                "async" | "const" | "enum" | "extern" | "fn" | "impl" | "macro_rules" | "mod" | "struct" | "trait"
                | "union",
            ) => End::Body,
            Some("unsafe") => End::Body,
            Some("for" | "if" | "loop" | "match" | "while") => End::Branches,
            None if self.is(at, '{') => End::Body,
            _ => End::Comma,
        }
    }
}

/// The kinds of end that an item can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A semicolon. The item itself may contain braces.
    Semicolon,
    /// The end of its body, or a semicolon instead of one.
    Body,
    /// The end of its last branch.
    Branches,
    /// A comma or semicolon. For an arm of a `match`, also the end of its block.
    Comma,
}

/// Depth of the brackets around a word of an item.
#[derive(Clone, Copy, Debug, Default)]
struct Nesting {
    brackets: usize,
    /// Number of open angle brackets of a type.
    angles: usize,
    /// True once `=` was read, after which `<` is a comparison.
    has_value: bool,
    /// True if the outermost braces follow `=>` directly.
    block_follows_arrow: bool,
}

impl Nesting {
    const fn is_none(&self) -> bool {
        self.brackets == 0
    }

    const fn is_none_nor_generic(&self) -> bool {
        self.brackets == 0 && self.angles == 0
    }

    /// True if one more closing bracket closes the outermost one.
    const fn is_last(&self) -> bool {
        self.brackets == 1
    }

    fn read(&mut self, words: &[Word], at: usize) {
        let is = |at: Option<usize>, c| at.and_then(|at| words.get(at)) == Some(&Word::Other(c));
        let before = |n| at.checked_sub(n);
        let Word::Other(c) = words[at] else { return };
        match c {
            '{' | '(' | '[' => {
                if self.brackets == 0 {
                    self.block_follows_arrow = c == '{' && is(before(1), '>') && is(before(2), '=');
                }
                self.brackets += 1;
            }
            '}' | ')' | ']' => self.brackets -= 1,
            '<' if self.brackets == 0 && !self.has_value => self.angles += 1,
            '>' if self.brackets == 0 && !is(before(1), '-') => self.angles = self.angles.saturating_sub(1),
            '=' if self.is_none_nor_generic() => self.has_value = true,
            _ => {}
        }
    }
}
