use super::scalar::Meaning;
use super::*;

fn parse(text: &str) -> (Vec<Node>, Vec<SyntaxError>) {
    let mut budget = Budget::default();
    let (mut nodes, mut errors) = (Vec::new(), Vec::new());
    for document in documents(text, &mut budget) {
        match document {
            Ok(node) => nodes.push(node),
            Err(error) => errors.push(error),
        }
    }
    (nodes, errors)
}

fn one(text: &str) -> Node {
    let (mut documents, errors) = parse(text);
    assert_eq!((documents.len(), errors.as_slice()), (1, [].as_slice()), "{text}");
    documents.remove(0)
}

fn get<'a>(node: &'a Node, key: &str) -> &'a Node {
    let Value::Map(entries) = &node.value else {
        panic!("{node:?} is no map")
    };
    &entries.iter().find(|entry| &*entry.key == key).unwrap().value
}

fn scalar(node: &Node) -> &Scalar {
    let Value::Scalar(scalar) = &node.value else {
        panic!("{node:?} is no scalar")
    };
    scalar
}

fn errors(text: &str) -> Vec<(usize, String)> {
    let (_, errors) = parse(text);
    errors.into_iter().map(|e| (e.line, e.message)).collect()
}

#[test]
fn every_node_knows_its_line() {
    let root = one("# a comment\nkind: VirtualMachine\nspec:\n  list:\n  - a: 1\n\n  - {b: 2}\n");
    assert_eq!(get(&root, "kind").line, 2);
    let Value::List(items) = &get(get(&root, "spec"), "list").value else {
        panic!()
    };
    assert_eq!((items[0].line, items[1].line), (5, 7));
}

#[test]
fn a_document_that_cannot_be_read_keeps_no_other_from_being_read() {
    let (documents, errors) = parse("a: 1\n---\nb: [1\nc: }\n---\nd: 4\n---\n---\n# nothing\n");
    let keys: Vec<_> = documents
        .iter()
        .map(|d| matches!(&d.value, Value::Map(e) if e.len() == 1))
        .collect();
    assert_eq!((keys, errors.len()), (vec![true, true], 1));
    assert!((3..=4).contains(&errors[0].line), "{errors:?}");
}

#[test]
fn what_is_plain_may_be_a_number_or_a_boolean_and_what_is_quoted_is_text() {
    let root = one("{a: 100, b: '100', c: on, d: \"true\", e: ~, f: 1e3, g: 0x1F, h: 10.0.2.0/24, i: !!str 5}\n");
    let text = |key| scalar(get(&root, key)).is_text();
    assert_eq!(
        ["a", "b", "c", "d", "e", "f", "g", "h", "i"].map(text),
        [false, true, false, true, false, false, false, true, true]
    );
    assert_eq!(scalar(get(&root, "a")).integer(), Some(100));
    assert_eq!(scalar(get(&root, "b")).integer(), None);
    assert_eq!(scalar(get(&root, "c")).boolean(), Some(true));
    assert_eq!(scalar(get(&root, "d")).boolean(), None);
}

#[test]
fn text_of_several_lines_knows_them() {
    let root = one("a: '{ \"x\": 1,\n    \"y\": ''2'' }'\nb: |\n  {\n    \"x\": 1\n  }\nc: \"x\\ny\"\n");
    let lines = |key: &str| scalar(get(&root, key)).lines.clone();
    let a = lines("a").unwrap();
    assert_eq!((a.first, a.text.as_str()), (1, "{ \"x\": 1,\n    \"y\": '2' }"));
    let b = lines("b").unwrap();
    assert_eq!((b.first, b.text.as_str()), (4, "{\n  \"x\": 1\n}\n"));
    assert_eq!(lines("c"), None);
}

#[test]
fn quoted_text_may_stand_as_far_to_the_left_as_kubectl_lets_it() {
    let root = one("spec:\n  config: '{\n    \"a\": 1,\n  \"b\": 2\n}'\nnext: 1\n");
    let config = scalar(get(get(&root, "spec"), "config"));
    assert_eq!(config.text, "{ \"a\": 1, \"b\": 2 }");
    let lines = config.lines.as_ref().unwrap();
    assert_eq!((lines.first, lines.text.lines().count()), (2, 4));
    assert_eq!(get(&root, "next").line, 6);
}

#[test]
fn an_alias_is_what_it_stands_for_at_its_own_line() {
    let root = one("a: &mac 02:00:00:00:00:01\nb: *mac\n");
    assert_eq!(
        (get(&root, "b").line, scalar(get(&root, "b")).text.as_str()),
        (2, "02:00:00:00:00:01")
    );
}

#[test]
fn a_key_given_twice_is_an_error() {
    assert_eq!(
        errors("a: 1\nb: 2\na: 3\n"),
        [(3, "\"a\" is here twice, first on line 1: remove one".into())]
    );
}

#[test]
fn aliases_that_multiply_and_nesting_without_end_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let many = format!("*a{}", n - 1);
        let many = [many.as_str(); 10].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{many}]\n"));
    }
    assert_eq!(errors(&bomb).len(), 1);
    for opening in ["[", "{a: ", "- ", "? "] {
        assert_eq!(errors(&opening.repeat(100_000)).len(), 1, "{opening}");
    }
    assert_eq!(errors("a: &a [*a]\n").len(), 1);
}

#[test]
fn a_plain_scalar_is_what_kubectl_makes_of_it() {
    use Meaning::{Bool, Null, Number, Text, Whole};
    // Each meaning is that of `kubectl annotate --local -o json` (1.32).
    for (written, meaning) in [
        ("0120", Whole(80)),
        ("-0120", Whole(-80)),
        ("08", Whole(8)),
        ("0_8", Whole(8)),
        ("+1", Whole(1)),
        ("0x1F", Whole(31)),
        ("-0x1F", Whole(-31)),
        ("0X1F", Whole(31)),
        ("0x_1", Whole(1)),
        ("0o17", Whole(15)),
        ("0O17", Whole(15)),
        ("0b11", Whole(3)),
        ("0b1_1", Whole(3)),
        ("-0b11", Whole(-3)),
        ("1_000", Whole(1000)),
        ("1__0", Whole(10)),
        ("1e3", Whole(1000)),
        ("12e03", Whole(12_000)),
        ("1.", Whole(1)),
        ("1.0", Whole(1)),
        (".5", Number),
        ("+.5", Number),
        ("010.5", Number),
        ("18446744073709551615", Number),
        ("99999999999999999999", Number),
        (".inf", Number),
        ("1e1000", Text),
        ("1:30", Text),
        ("2001-01-01", Text),
        ("2001-12-14t21:59:43.10-05:00", Text),
        ("52:54:00:12:34:56", Text),
        ("10.0.2.0/24", Text),
        ("=", Text),
        ("+", Text),
        (".", Text),
        ("..", Text),
        ("0x", Text),
        ("1e", Text),
        ("_1", Text),
        ("y", Bool(true)),
        ("ON", Bool(true)),
        ("TRUE", Bool(true)),
        ("no", Bool(false)),
        ("N", Bool(false)),
        ("yEs", Text),
        ("~", Null),
        ("Null", Null),
        ("nULL", Text),
        ("!!str 0120", Text),
        ("!!int '5'", Whole(5)),
        ("!!float 5", Whole(5)),
        ("!!bool 'on'", Bool(true)),
        ("!foo 12", Text),
        ("! 12", Text),
        ("'12'", Text),
    ] {
        let root = one(&format!("v: {written}\n"));
        assert_eq!(scalar(get(&root, "v")).meaning, meaning, "{written}");
    }
    assert_eq!(scalar(get(&one("v: 0120\n"), "v")).octal(), Some(80));
    assert_eq!(
        ["08", "007", "0x1F", "1_0", "80"].map(|v| scalar(get(&one(&format!("v: {v}\n")), "v")).octal()),
        [None; 5]
    );
    assert_eq!(
        errors("v: !!bool 5\n"),
        [(1, "\"5\" is not a !!bool: leave out the tag".into())]
    );
    assert_eq!(errors("v: !!binary aGFsbG8=\n").len(), 1);
}

/// Keys and whole numbers of a map, in order.
fn pairs(node: &Node) -> Vec<(String, i64)> {
    let Value::Map(entries) = &node.value else {
        panic!("{node:?} is no map")
    };
    let mut pairs: Vec<_> = entries
        .iter()
        .map(|e| (e.key.to_string(), scalar(&e.value).integer().unwrap()))
        .collect();
    pairs.sort();
    pairs
}

#[test]
fn merge_keys_are_merged_as_kubectl_does() {
    for (map, expected) in [
        ("{<<: {a: 2, b: 3}, a: 1}", vec![("a", 1), ("b", 3)]),
        // go-yaml uses the order here, not YAML's definition of the merge key.
        ("{a: 1, <<: {a: 2, b: 3}}", vec![("a", 2), ("b", 3)]),
        ("{<<: [{a: 2}, {a: 3, c: 4}]}", vec![("a", 2), ("c", 4)]),
        ("{<<: {a: 2}, <<: {a: 3, c: 4}}", vec![("a", 3), ("c", 4)]),
        ("{!!merge <<: {a: 2}}", vec![("a", 2)]),
        ("{'<<': 5}", vec![("<<", 5)]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        assert_eq!(pairs(get(&one(&format!("m: {map}\n")), "m")), expected, "{map}");
    }
    let chain = one("x: &x\n  <<: &w {a: 5}\n  b: 6\ny: {<<: *x, c: 7}\nz: {<<: [*w, *x]}\n");
    let by = |pairs: Vec<(String, i64)>| pairs.iter().map(|(k, v)| format!("{k}{v}")).collect::<String>();
    // The key for a boolean is its name.
    assert_eq!(by(pairs(get(&chain, "true"))), "a5b6c7");
    assert_eq!(by(pairs(get(&chain, "z"))), "a5b6");
    // A merged value has the line on which it is written.
    assert_eq!(get(get(&chain, "true"), "a").line, 2);
    for wrong in ["{<<: x}", "{<<: ~}", "{<<: [x]}", "{<<: [[{a: 1}]]}"] {
        assert_eq!(
            errors(&format!("m: {wrong}\n"))[0].1,
            "<< takes a map, or a list of maps written here"
        );
    }
    assert_eq!(errors("l: &l [{a: 1}]\nm: {<<: *l}\n")[0].0, 2);
    assert_eq!(errors("m: {<<: {a: 1}, a: 2, a: 3}\n").len(), 1);
}

#[test]
fn a_key_is_what_kubectl_makes_of_it() {
    let root = one("on: 1\n0120: 2\n1.0: 3\n1_0: 4\nplain: 5\n");
    let Value::Map(entries) = &root.value else { panic!() };
    let keys: Vec<_> = entries.iter().map(|e| (&*e.key, e.written.as_deref())).collect();
    assert_eq!(
        keys,
        [
            ("true", Some("on")),
            ("80", Some("0120")),
            ("1", Some("1.0")),
            ("10", Some("1_0")),
            ("plain", None)
        ]
    );
    assert_eq!(
        errors("on: 1\ntrue: 2\n"),
        [(2, "\"true\" is here twice, first on line 1: remove one".into())]
    );
    assert!(errors("~: 1\n")[0].1.contains("null to kubectl"));
}

#[test]
fn documents_end_where_they_do_for_kubectl() {
    let texts = |text: &str| {
        let (nodes, errors) = parse(text);
        let lines: Vec<usize> = nodes.iter().map(|node| node.line).collect();
        let wrong: Vec<usize> = errors.iter().map(|error| error.line).collect();
        (lines, wrong)
    };
    let none = Vec::<usize>::new;
    assert_eq!(
        texts("a: 1\n--- # b\nb: 2\n---\n---\n\n---\nc: 3"),
        (vec![1, 3, 8], none())
    );
    assert_eq!(
        texts("\u{feff}a: 1\n---\n\u{feff}b: 2\n\n---\n\u{feff}---\nc: 3\n"),
        (vec![1, 3, 7], none())
    );
    assert_eq!(texts("a: 'x\n---\nb: y'\n"), (vec![3], vec![1]));
    assert_eq!(texts("a: 1\n--- {b: 2}\n---\nc: 3\n"), (vec![1, 4], vec![2]));
    // kubectl silently ignores the second document.
    assert_eq!(texts("a: 1\n...\nb: 2\n"), (vec![], vec![3]));
    assert_eq!(texts("a: 1\n...\n"), (vec![1], none()));
    assert_eq!(texts(&"---\n".repeat(100_000)), (vec![], none()));
    // A sequence of JSON values, as Go's decoder accepts it.
    assert_eq!(
        texts("\n{\"a\": 1}{\"b\": 2}\n\n{\"c\":\n3}\n"),
        (vec![2, 2, 4], none())
    );
    assert_eq!(
        texts("{\"a\": 1}\n---\n{\"b\": 2}\n---\nc: 3\n"),
        (vec![1, 3, 5], none())
    );
    assert_eq!(texts("{\"a\": 1}{\"b\": 2}\n{\"c\": 3,}\n"), (vec![1, 1], vec![2]));
    assert_eq!(texts("{a: 1}\n"), (vec![1], none()));
    // After --- it is YAML, of which kubectl reads only the first value.
    assert_eq!(texts("---\n{\"a\": 1}\n{\"b\": 2}\n"), (vec![], vec![3]));
}

#[test]
fn json_is_read_by_the_rules_of_json() {
    let root = one("{\"a\":\t\"\\ud83d\\ude00\\/\",\n\t\"b\": [1e3,\n1.5, -7, true,\n null], \"y\": \"off\"}");
    assert_eq!(scalar(get(&root, "a")).text, "\u{1f600}/");
    let Value::List(items) = &get(&root, "b").value else {
        panic!()
    };
    let meanings: Vec<_> = items.iter().map(|item| (item.line, scalar(item).meaning)).collect();
    use Meaning::{Bool, Null, Number, Whole};
    assert_eq!(
        meanings,
        [
            (2, Whole(1000)),
            (3, Number),
            (3, Whole(-7)),
            (3, Bool(true)),
            (4, Null)
        ]
    );
    assert_eq!(scalar(get(&root, "y")).text, "off");
    assert_eq!(
        errors("{\"a\": 1,\n\"a\": 2}"),
        [(2, "\"a\" is here twice, first on line 1: remove one".into())]
    );
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(70), "]".repeat(70));
    assert_eq!(
        errors(&deep),
        [(1, "values are nested deeper than in any manifest".into())]
    );
    // A plugin in Go does not accept 1e3 as a whole number.
    let of_go = |text: &str| json::whole(text, |line| line + 10, json::Dialect::Go, &mut Budget::default());
    assert_eq!(scalar(&of_go("1e3").unwrap()).integer(), None);
    assert_eq!(
        of_go("\n[1,\n 2, \n\n]").unwrap_err(),
        SyntaxError::at(13, "this is not JSON (column 3): a comma with nothing after it")
    );
    assert_eq!(
        of_go("{\"a\": 1,\n\"a\": 2}").unwrap_err().message,
        "\"a\" is here twice, first on line 11: remove one"
    );
    assert_eq!(
        of_go("1 2").unwrap_err().message,
        "this is not JSON (column 3): trailing characters"
    );
}

#[test]
fn tabs_may_indent_quoted_text_and_json() {
    for text in [
        "spec:\n  config: '\n\t{\n\t\t\"a\": 1\n\t}'\n",
        "spec:\n  config: \"\n\t{\n\t\t\\\"a\\\": 1\n\t}\"\n",
        "spec:\n    config: '\n  \t{\n\t\t\"a\": 1\n}'\n",
    ] {
        let root = one(text);
        assert_eq!(
            scalar(get(get(&root, "spec"), "config")).text,
            " { \"a\": 1 }",
            "{text}"
        );
    }
    let json = one("---\n{\n\t\"spec\": {\n\t\t\"a\": 1\n\t}\n}\n");
    assert_eq!(get(get(&json, "spec"), "a").line, 4);
    assert_eq!(errors("a:\n\tb: 1\n")[0].0, 2);
}

#[test]
fn any_number_of_lines_may_stand_to_the_left() {
    let lines: String = (0..1000).map(|n| format!("\"k{n}\": {n},\n")).collect();
    let root = one(&format!(
        "spec:\n    config: '{{\n{lines}\"end\": ''x''\n}}'\nnext: 1\n"
    ));
    let config = scalar(get(get(&root, "spec"), "config"));
    let source = config.lines.as_ref().unwrap();
    assert_eq!(
        source.text,
        format!("{{\n{lines}\"end\": 'x'\n}}"),
        "as the file has it"
    );
    assert_eq!((source.first, get(&root, "next").line), (2, 1005));
    // All quoted texts are moved, whether or not they are in a document of their own.
    let many = "- a: '\n{}'\n".repeat(300);
    let Value::List(items) = &one(&many).value else {
        panic!()
    };
    assert_eq!(items.len(), 300);
    // The number of attempts is limited.
    let most = "- a: '\n{}'\n".repeat(20_000);
    assert!(errors(&most)[0].1.starts_with("too much quoted text"));
}

#[test]
fn a_quote_that_is_not_closed_is_said_where_it_opens() {
    for quote in ["'", "\""] {
        let text = format!("a: 1\nb:\n  c: {quote}x\n  d: 1\ne: 2\n---\nf: 3\n");
        assert_eq!(
            errors(&text),
            [(3, "the quote that opens here is never closed".into())],
            "{quote}"
        );
        let text = format!("a: 1\nb: {quote}x\nc: 1\nd: {quote}y{quote}\n");
        let message = "the quote that opens here is closed on line 4, and more text follows there: is a quote missing?";
        assert_eq!(errors(&text), [(2, message.into())], "{quote}");
    }
    // Quotes in comments and escapes do not count as quotes.
    let text = "a: # it's\n  &b 'x''\n\n  y\n";
    assert_eq!(errors(text), [(2, "the quote that opens here is never closed".into())]);
}

/// A document of 172 bytes; 27 KB of such documents once took 1.4 GB.
const BOMB: &str = "a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                    e: [*d,*d,*d,*d,*d,*d,*d]\n---\n";

#[test]
fn the_documents_of_all_files_share_one_budget() {
    let mut budget = Budget::default();
    let count = |budget: &mut Budget| {
        let outcomes: Vec<_> = documents(&BOMB.repeat(160), budget).collect();
        (outcomes.iter().filter(|o| o.is_ok()).count(), outcomes.len())
    };
    // Each document has 11 + 111 + 1111 + 11111 + 7 × 11111 + 1 nodes, plus those around them.
    let (read, outcomes) = count(&mut budget);
    assert_eq!((read, outcomes), (4, 5));
    assert!(budget.is_exhausted() && budget.nodes_taken() <= MAX_NODES);
    assert_eq!(count(&mut budget), (0, 0), "nothing of the next file");
    // Text counts each time that it is used.
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(100));
    assert!(errors(&text)[0].1.contains("16 MiB"));
}

#[test]
fn aliases_and_merges_share_what_they_stand_for() {
    let root = one("a: &a {x: [1, 2, 3]}\nb: *a\nc: {<<: *a}\n");
    let list = |key| match &get(get(&root, key), "x").value {
        Value::List(items) => Rc::clone(items),
        _ => panic!(),
    };
    assert!(Rc::ptr_eq(&list("a"), &list("b")) && Rc::ptr_eq(&list("a"), &list("c")));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "([ \n\t:#&*!|>'\"%@`{}\\[\\],?-]|[a-c0-9]|---\n|<<: |\\PC){0,80}") {
        let (documents, errors) = parse(&text);
        proptest::prop_assert!(documents.len() + errors.len() <= text.len() + 1);
    }
}
