use super::*;

fn delete(name: &str) -> Undo {
    Undo::DeleteLink {
        name: name.into(),
        kind: "bridge".into(),
        mac: Some("02:00:00:00:00:01".into()),
    }
}

#[test]
fn a_journal_is_read_back_up_to_the_line_that_was_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::begin(folder.path()).unwrap();
    let cookie = namespace::cookie().unwrap();
    let steps = [delete("a"), delete("b")];
    for step in &steps {
        journal.note(step.clone()).unwrap();
    }
    journal.file.write_all(b"{\"delete_link\":{\"na").unwrap();
    assert_eq!(read(&File::open(&journal.path).unwrap(), cookie).unwrap(), steps);
    assert_eq!(read(&File::open(&journal.path).unwrap(), cookie + 1), None);
}

#[test]
fn a_journal_with_an_owner_is_left_alone_and_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = Journal::begin(folder.path()).unwrap();
    let second = Journal::begin(folder.path()).unwrap();
    assert!(first.path.exists() && second.path.exists() && first.path != second.path);
    drop(first);
    drop(second);
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn a_journal_without_an_owner_is_undone_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let cookie = namespace::cookie().unwrap();
    let left = folder.path().join(format!("{cookie}-1-0.{SUFFIX}"));
    let mut file = File::create(&left).unwrap();
    let header = Header {
        version: VERSION,
        namespace: cookie,
    };
    write_line(&mut file, &header).unwrap();
    // Undoing it means to look for a link that is not there.
    write_line(&mut file, &delete("hawser-nobody")).unwrap();
    drop(file);
    recover(folder.path());
    assert!(!left.exists());
}
