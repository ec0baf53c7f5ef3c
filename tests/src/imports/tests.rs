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
fn what_follows_test_code_is_read() {
    let after = [
        "mod tests { use crate::a::X; fn f() {} }",
        "use crate::a::{X, Y};",
        "mod tests;",
        "pub(crate) fn f<A, B>(x: [u8; 3]) -> Result<A, B> where A: X, B: Y { crate::a::g(); }",
        "const fn f() { crate::a::g() }",
        "const A: crate::a::X = crate::a::X { y: 1 }.z(crate::a::Y);",
        "static A: &[u8] = if B { crate::a::X } else { crate::a::Y };",
        "struct A(crate::a::X);",
        "struct A { x: crate::a::X }",
        "unsafe impl crate::a::X for Y {}",
        "macro_rules! m { () => { crate::a::X } }",
    ];
    let inside = [
        ("struct S {", "pub(crate) x: M<A, crate::a::X>,", "y: crate::c::Y }"),
        ("struct S {", "x: Box<dyn Fn(A) -> crate::a::X>,", "y: crate::c::Y }"),
        ("enum E {", "A(crate::a::X, u8),", "B(crate::c::Y) }"),
        ("enum E {", "A { x: crate::a::X },", "B(crate::c::Y) }"),
        (
            "fn f() { match x {",
            "A(x) if x < 3 => crate::a::g(x),",
            "B => crate::c::h() } }",
        ),
        (
            "fn f() { match x {",
            "A { x } => { crate::a::g(x) }",
            "B => crate::c::h() } }",
        ),
        ("fn f() {", "crate::a::g(x, y);", "crate::c::h() }"),
        (
            "fn f() {",
            "let x = if y { crate::a::g() } else { crate::a::h() };",
            "crate::c::h() }",
        ),
        (
            "fn f() {",
            "if x { crate::a::g() } else { crate::a::h() }",
            "crate::c::h() }",
        ),
        ("fn f() {", "{ crate::a::g() }", "crate::c::h() }"),
        ("fn f() {", "unsafe { crate::a::g() }", "crate::c::h() }"),
        ("fn f() { S {", "x: crate::a::g(),", "y: crate::c::h() } }"),
    ];
    let after = after.map(|item| ("", item, "use crate::c::Y;"));
    for (before, item, rest) in after.into_iter().chain(inside) {
        let text = format!("{before} #[cfg(test)] #[allow(x)] {item} {rest} fn last() {{ crate::d::g() }}");
        let found = read(&[
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", ""),
            ("b.rs", &text),
            ("c.rs", ""),
            ("d.rs", ""),
            ("tests.rs", ""),
        ]);
        assert_eq!(imports(&found), ["b.rs > c.rs", "b.rs > d.rs"], "{text}");
    }
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
