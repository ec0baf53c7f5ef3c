use super::*;

fn delete(name: &str) -> Undo {
    Undo::DeleteLink {
        name: name.into(),
        kind: "bridge".into(),
        mac: Some("02:00:00:00:00:01".into()),
    }
}

fn path(journal: &Journal) -> &Path {
    &journal.kept.as_ref().unwrap().record.path
}

#[test]
fn a_journal_that_is_handed_over_is_undone_by_the_process_that_has_it_and_by_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::begin(folder.path()).unwrap();
    let file = path(&journal).to_owned();
    journal.note(delete("hawser-nobody")).unwrap();
    let written = fs::read(&file).unwrap();
    let (record, descriptors) = journal.into_handover();
    // Neither the old process nor one that starts meanwhile changes anything.
    recover(folder.path());
    assert_eq!(fs::read(&file).unwrap(), written);
    let record = serde_json::from_value(serde_json::to_value(record).unwrap()).unwrap();
    let mut journal = Journal::take_over(record, &mut descriptors.into_iter()).unwrap();
    journal.note(delete("hawser-other")).unwrap();
    recover(folder.path());
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 3);
    drop(journal);
    assert!(!file.exists());
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
    let kept = journal.kept.as_mut().unwrap();
    kept.file.write_all(b"{\"delete_link\":{\"na").unwrap();
    let path = path(&journal);
    assert_eq!(read(&File::open(path).unwrap(), cookie).unwrap(), steps);
    assert_eq!(read(&File::open(path).unwrap(), cookie + 1), None);
}

#[test]
fn a_journal_with_an_owner_is_left_alone_and_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = Journal::begin(folder.path()).unwrap();
    let second = Journal::begin(folder.path()).unwrap();
    assert!(path(&first).exists() && path(&second).exists() && path(&first) != path(&second));
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
    // Undoing it looks for a link that does not exist.
    write_line(&mut file, &delete("hawser-nobody")).unwrap();
    drop(file);
    recover(folder.path());
    assert!(!left.exists());
}
