use super::*;

fn spot(line: usize) -> Spot {
    Spot {
        line,
        ..Spot::file("vm.yaml")
    }
}

#[test]
fn after_so_many_problems_it_says_how_many_more_there_are() {
    let report = Report::default();
    (0..600).for_each(|n| report.warn(&spot(n), "w"));
    // There is always room for the first error, whatever was reported before.
    (0..30).for_each(|n| report.error(&spot(n), "e"));
    report.error(&spot(0), "e");
    let (errors, warnings) = report.into_parts();
    let texts = |problems: &[Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        texts(&errors),
        ["vm.yaml: e", "the manifests: 30 more errors that are not shown"]
    );
    assert_eq!(warnings.len(), 501);
    let last = warnings.last().unwrap();
    assert_eq!(
        (last.to_string().as_str(), last.without_severity().as_str()),
        (
            "the manifests: warning: 100 more warnings that are not shown",
            "the manifests: 100 more warnings that are not shown"
        )
    );
}

#[test]
fn reports_kept_apart_share_their_room_and_each_keeps_its_first_error() {
    let whole = Report::default();
    let parts: Vec<Report> = (0..100).map(|_| whole.apart()).collect();
    for part in &parts {
        (0..400).for_each(|n| part.warn(&spot(n), "w"));
        (0..10).for_each(|n| part.error(&spot(n), "e"));
    }
    let kept: usize = parts.iter().map(|part| part.found.borrow().problems.len()).sum();
    // Reports that were created when there was no room keep one error each.
    assert_eq!(kept, MAX_KEPT + 100 - MAX_KEPT / 410);
    assert!(parts.iter().all(Report::has_errors));
    whole.adopt(&parts[99]);
    let (errors, warnings) = whole.into_parts();
    assert_eq!((errors.len(), warnings.len()), (2, 1));
    assert_eq!(errors[1].message, "9 more errors that are not shown");
    assert_eq!(warnings[0].message, "400 more warnings that are not shown");
}

#[test]
fn a_message_quotes_no_more_of_a_manifest_than_can_be_read() {
    let report = Report::default();
    report.error(&spot(1), "ä".repeat(1 << 20));
    let (errors, _) = report.into_parts();
    assert_eq!(errors[0].message.chars().count(), MAX_MESSAGE + 2);
}

#[test]
fn what_is_adopted_twice_is_counted_once() {
    let whole = Report::default();
    let part = whole.apart();
    (0..600).for_each(|n| part.error(&spot(n), "e"));
    whole.adopt(&part);
    whole.adopt(&part);
    let (errors, _) = whole.into_parts();
    assert_eq!(errors.len(), MAX_PROBLEMS + 1);
    assert_eq!(errors.last().unwrap().message, "100 more errors that are not shown");
}
