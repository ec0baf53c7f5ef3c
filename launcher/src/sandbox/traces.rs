//! Compares the lists of calls with the calls that threads made.
//!
//! `hack/trace-calls` runs the tests with real guests under strace(1), as users run the program,
//! and passes the traces to [`the_record_is_what_the_traces_show`], which records in `traced.txt`
//! the calls of each kind of thread after it was confined. Each test run compares that record with
//! the lists: every recorded call is in a list, and every call in a list is recorded or has a
//! reason beside it.
//!
//! A trace shows when a thread is confined, by the call of seccomp(2), and as which kind, by the length of its filter.
//! Until then a thread has its parent's kind.

use super::calls::{self, Argument, Call};
use super::{ThreadKind, filter, names};
use libc::c_long;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Directory of the traces, one file for each process.
const TRACES: &str = "HAWSER_TRACES";
/// If set, the record is written.
const UPDATE: &str = "UPDATE_TRACED";

const KINDS: [(ThreadKind, &str); 10] = [
    (ThreadKind::Worker, "worker"),
    (ThreadKind::FrontEnd, "front-end"),
    (ThreadKind::Links, "links"),
    (ThreadKind::Names, "names"),
    (ThreadKind::Signals, "signals"),
    (ThreadKind::Api, "api"),
    (ThreadKind::Capture, "capture"),
    (ThreadKind::Migration, "migration"),
    (ThreadKind::VmmParent, "vmm-parent"),
    (ThreadKind::Launcher, "launcher"),
];

/// The calls of a kind of thread. Each is a number and, if a list checks an argument, its value.
type Seen = BTreeMap<&'static str, BTreeSet<(c_long, Option<(u8, u32)>)>>;

fn record() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sandbox/traced.txt")
}

/// A system call in the form in which strace writes it.
struct Traced<'a> {
    thread: u32,
    call: &'a str,
    arguments: Vec<&'a str>,
    result: Option<&'a str>,
}

impl<'a> Traced<'a> {
    /// Parses `THREAD call(arguments) = result`, whole or `<unfinished ...>`, or `<... call resumed>) = result`.
    fn parse(line: &'a str) -> Option<Self> {
        let (thread, rest) = line.split_once(' ')?;
        let rest = rest.trim_start();
        let result = rest.rsplit_once(" = ").map(|(_, result)| result);
        let (call, arguments) = match rest.strip_prefix("<... ") {
            Some(resumed) => (resumed.split_once(' ')?.0, ""),
            None => rest.split_once('(')?,
        };
        Some(Self {
            thread: thread.parse().ok()?,
            call,
            arguments: arguments.split([',', ')', '<']).map(str::trim).collect(),
            result,
        })
    }

    fn is_resumed(&self) -> bool {
        self.arguments == [""]
    }

    /// The thread that was created by a call of clone(2) or clone3(2).
    fn child(&self) -> Option<u32> {
        let starts = matches!(self.call, "clone" | "clone3");
        self.result.filter(|_| starts).and_then(number)
    }

    /// The length of the installed filter.
    fn filter(&self) -> Option<usize> {
        let length = self
            .arguments
            .iter()
            .find_map(|argument| argument.strip_prefix("{len="));
        length.filter(|_| self.call == "seccomp")?.parse().ok()
    }

    fn argument(&self, index: u8) -> u32 {
        let value = self.arguments.get(usize::from(index)).copied().and_then(number);
        value.unwrap_or_else(|| {
            panic!(
                "argument {index} of {} is not a number: {:?}",
                self.call, self.arguments
            )
        })
    }
}

/// The lower half of a number that strace writes. Filters compare only this half.
#[allow(clippy::cast_possible_truncation, reason = "filters compare 32 bits")]
fn number(text: &str) -> Option<u32> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.ok().map(|number| number as u32)
}

/// The arguments that a list checks, for any kind of thread.
fn looked_at(number: c_long) -> BTreeSet<u8> {
    let calls = KINDS.iter().flat_map(|(kind, _)| calls::allowed(*kind)).flatten();
    let of_it = calls.filter(|call| call.number == number);
    of_it
        .flat_map(|call| call.when)
        .map(|argument| argument.index)
        .collect()
}

/// Adds the calls that the threads of one process made after they were confined.
fn read(trace: &str, filters: &BTreeMap<usize, &'static str>, seen: &mut Seen) {
    let lines: Vec<Traced<'_>> = trace.lines().filter_map(Traced::parse).collect();
    // A thread may run before clone(2) returns in its parent.
    let mut parents = BTreeMap::new();
    for line in &lines {
        parents.extend(line.child().map(|child| (child, line.thread)));
    }
    let mut kinds: BTreeMap<u32, Option<&'static str>> = BTreeMap::new();
    for line in lines.iter().filter(|line| !line.is_resumed()) {
        let parent = parents.get(&line.thread).and_then(|parent| kinds.get(parent).copied());
        let kind = kinds.entry(line.thread).or_insert(parent.flatten());
        if let Some(kind) = kind
            && let Some(number) = names::number_of(line.call)
        {
            let calls = seen.entry(kind).or_default();
            let indices = looked_at(number);
            calls.extend(indices.iter().map(|&i| (number, Some((i, line.argument(i))))));
            calls.extend(indices.is_empty().then_some((number, None)));
        } else if kind.is_some() {
            panic!("{} is not in the table of names", line.call);
        }
        if let Some(known) = line.filter().and_then(|length| filters.get(&length)) {
            *kind = Some(known);
        }
    }
}

fn text(seen: &Seen) -> String {
    let mut text = "# Made by hack/trace-calls: calls of threads after they were confined, and the arguments \
                    that their lists check.\n"
        .to_owned();
    for (_, kind) in KINDS {
        let _ = writeln!(text, "{kind}");
        let calls = seen.get(kind).into_iter().flatten();
        let mut lines: Vec<String> = calls
            .map(|(call, argument)| match argument {
                None => format!("  {}\n", names::name_of(*call)),
                Some((index, value)) => format!("  {} {index}:{value:#x}\n", names::name_of(*call)),
            })
            .collect();
        lines.sort();
        text.extend(lines);
    }
    text
}

fn parse(text: &str) -> Seen {
    let mut seen = Seen::new();
    let mut kind = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(call) = line.strip_prefix("  ") else {
            kind = KINDS.iter().find(|(_, name)| *name == line).unwrap().1;
            continue;
        };
        let (name, argument) = call.split_once(' ').unwrap_or((call, ""));
        let argument = argument
            .split_once(':')
            .map(|(index, value)| (index.parse().unwrap(), number(value).unwrap()));
        seen.entry(kind)
            .or_default()
            .insert((names::number_of(name).unwrap(), argument));
    }
    seen
}

/// An entry of a list, with one of its conditions.
#[derive(Clone, Copy)]
struct Entry {
    number: c_long,
    when: Option<Argument>,
    untraced: Option<&'static str>,
}

impl Entry {
    fn of(call: &Call) -> Vec<Self> {
        let Call { number, when, untraced } = *call;
        let entry = |when| Self { number, when, untraced };
        match when {
            [] => vec![entry(None)],
            when => when.iter().map(|argument| entry(Some(*argument))).collect(),
        }
    }

    /// True if this entry allows a call.
    fn lets(&self, &(number, seen): &(c_long, Option<(u8, u32)>)) -> bool {
        let holds = |argument: Argument| {
            seen.is_some_and(|(index, value)| index == argument.index && value & argument.mask == argument.value)
        };
        self.number == number && self.when.is_none_or(holds)
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", names::name_of(self.number))?;
        match self.when {
            None => Ok(()),
            Some(Argument { index, mask, value }) => write!(f, " {index}:{value:#x}/{mask:#x}"),
        }
    }
}

fn entries(lists: &[&'static [Call]]) -> Vec<Entry> {
    lists.iter().copied().flatten().flat_map(Entry::of).collect()
}

/// The contradictions between the lists and the record.
fn problems(seen: &Seen) -> Vec<String> {
    let mut problems = Vec::new();
    let mut anywhere = BTreeSet::new();
    for (kind, name) in KINDS {
        let calls = seen.get(name).cloned().unwrap_or_default();
        let allowed = entries(&calls::allowed(kind));
        for call in &calls {
            let (number, argument) = *call;
            let is_listed = allowed.iter().any(|entry| entry.number == number);
            let is_refused = !is_listed && filter::probes().any(|probe| probe == number);
            if !is_refused && !allowed.iter().any(|entry| entry.lets(call)) {
                let call = names::name_of(number);
                problems.push(format!("{name}: {call} {argument:x?} was traced and is forbidden"));
            }
        }
        problems.extend(unfounded(name, &entries(calls::own(kind)), &calls));
        anywhere.extend(calls);
    }
    problems.extend(unfounded("every", &entries(calls::EVERY_KIND), &anywhere));
    problems
}

/// Entries of a kind's lists that are neither recorded nor justified.
fn unfounded(kind: &str, entries: &[Entry], seen: &BTreeSet<(c_long, Option<(u8, u32)>)>) -> Vec<String> {
    let is_founded = |entry: &Entry| entry.untraced.is_some() || seen.iter().any(|call| entry.lets(call));
    let unfounded = entries.iter().filter(|entry| !is_founded(entry));
    unfounded
        .map(|entry| {
            format!(
                "{kind}: {entry} is allowed, no trace contains it, and no reason is \
            beside it"
            )
        })
        .collect()
}

#[test]
fn what_threads_were_seen_to_call_is_allowed_and_what_is_allowed_was_seen_or_has_a_reason() {
    let problems = problems(&parse(&fs::read_to_string(record()).unwrap()));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Reads the traces. Calls of several runs accumulate. hack/trace-calls empties the record to create it anew.
#[test]
#[ignore = "hack/trace-calls starts it"]
fn the_record_is_what_the_traces_show() {
    let Some(folder) = std::env::var_os(TRACES) else { return };
    let length = |kind| filter::passed_length(kind).unwrap();
    let filters: BTreeMap<usize, &'static str> = KINDS.iter().map(|&(kind, name)| (length(kind), name)).collect();
    assert_eq!(
        filters.len(),
        KINDS.len(),
        "filters of one length cannot be told apart: {filters:?}"
    );
    println!("filters of the kinds: {filters:?}");
    let mut seen = Seen::new();
    for file in fs::read_dir(folder).unwrap() {
        read(&fs::read_to_string(file.unwrap().path()).unwrap(), &filters, &mut seen);
    }
    if std::env::var_os(UPDATE).is_some() {
        fs::write(record(), text(&seen)).unwrap();
    }
    let mut problems = problems(&seen);
    problems.extend((text(&seen) != fs::read_to_string(record()).unwrap()).then(|| {
        "the record \
        differs"
            .into()
    }));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_thread_is_of_its_parents_kind_until_it_is_confined_itself() {
    let trace = "7 socket(0x2, 0x1, 0) = 0x3\n\
                 7 seccomp(0x1, 0, {len=10, filter=0x1}) = 0\n\
                 8 socket(0x1, 0x1, 0 <unfinished ...>\n\
                 7 clone3(0x1, 0x58 <unfinished ...>\n\
                 9 listen(0x3, 0x1) = 0\n\
                 7 <... clone3 resumed>) = 0x9\n\
                 9 seccomp(0x1, 0, {len=20, filter=0x1}) = 0\n\
                 9 recvmsg(0x3, 0x1, 0 <unfinished ...>\n\
                 9 <... recvmsg resumed>) = -1 EAGAIN (Resource temporarily unavailable)\n";
    let mut seen = Seen::new();
    read(trace, &[(10, "launcher"), (20, "worker")].into(), &mut seen);
    let numbers = |kind: &str| seen[kind].iter().map(|(number, _)| *number).collect::<Vec<_>>();
    assert_eq!(
        numbers("launcher"),
        [libc::SYS_listen, libc::SYS_seccomp, libc::SYS_clone3]
    );
    assert_eq!(numbers("worker"), [libc::SYS_recvmsg]);
    assert_eq!(seen.len(), 2);
    assert_eq!(parse(&text(&seen)), seen);
}

/// The filters of a thread add up, so it has no more calls than the thread that started it.
#[test]
fn threads_that_the_launcher_starts_have_no_call_that_it_lacks() {
    let numbers = |kind| -> BTreeSet<c_long> {
        let lists = calls::EVERY_KIND.iter().chain(calls::own(kind));
        lists.flat_map(|list| list.iter().map(|call| call.number)).collect()
    };
    let launcher = numbers(ThreadKind::Launcher);
    for kind in [
        ThreadKind::Worker,
        ThreadKind::FrontEnd,
        ThreadKind::Links,
        ThreadKind::Names,
        ThreadKind::Signals,
        ThreadKind::Api,
        ThreadKind::Migration,
    ] {
        let missing: Vec<_> = numbers(kind).difference(&launcher).copied().collect();
        assert!(missing.is_empty(), "{kind:?}: {missing:?}");
    }
}
