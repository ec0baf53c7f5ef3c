use super::*;

fn one(text: &str) -> Node {
    let (mut documents, errors) = parse(text);
    assert_eq!((documents.len(), errors.as_slice()), (1, [].as_slice()), "{text}");
    documents.remove(0)
}

fn get<'a>(node: &'a Node, key: &str) -> &'a Node {
    let Value::Map(entries) = &node.value else {
        panic!("{node:?} is no map")
    };
    &entries.iter().find(|entry| entry.key == key).unwrap().value
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
        [(3, "\"a\" is here twice, first on line 1".into())]
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

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "([ \n:#&*!|>'\"%@`{}\\[\\],?-]|[a-c0-9]|---\n|\\PC){0,80}") {
        let (documents, errors) = parse(&text);
        proptest::prop_assert!(documents.len() + errors.len() <= text.len() + 1);
    }
}
