//! The file of `--peers`: the guests of a layer2 network, for set-ups without a store.
//!
//! Each line describes one guest, in the syntax of `--peer`. Text after a `#` is a comment, and empty lines are
//! ignored. All processes of a network can share one file, because each skips the lines of its own endpoint.
//!
//! ```text
//! # VNI 4711
//! 52:54:00:00:01:0b,10.100.0.11@198.51.100.1
//! 52:54:00:00:01:0c,10.100.0.12@198.51.100.2,name=db   # the database
//! any@198.51.100.9
//! ```

use crate::values;
use hawser_config::PeerConfig;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{self, Display};
use std::hash::Hash;

/// The first invalid line of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct PeersError {
    /// Number of the line, starting at 1.
    pub line: usize,
    /// What is wrong with the line.
    pub reason: String,
}

impl Display for PeersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.reason)
    }
}

impl std::error::Error for PeersError {}

/// A guest that is listed in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPeer {
    /// Number of the guest's line, starting at 1.
    pub line: usize,
    /// The guest itself.
    pub peer: PeerConfig,
}

/// The guests that are listed in the text of a file.
///
/// # Errors
/// The first line that does not describe a peer, or repeats a MAC, an address or a name of an earlier line.
pub fn parse(text: &str) -> Result<Vec<ListedPeer>, PeersError> {
    let (mut macs, mut addresses, mut names) = (HashMap::new(), HashMap::new(), HashMap::new());
    let mut peers = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.split_once('#').map_or(text, |(text, _)| text).trim();
        if text.is_empty() {
            continue;
        }
        let at_line = |reason| PeersError { line, reason };
        let peer = values::peer(text).map_err(at_line)?;
        for mac in &peer.macs {
            claim(&mut macs, "MAC", *mac, line).map_err(at_line)?;
        }
        for address in &peer.addresses {
            claim(&mut addresses, "address", *address, line).map_err(at_line)?;
        }
        if let Some(name) = &peer.name {
            claim(&mut names, "name", name.to_ascii_lowercase(), line).map_err(at_line)?;
        }
        peers.push(ListedPeer { line, peer });
    }
    Ok(peers)
}

/// Records the line of `key`, or returns an error with the earlier line that has it.
fn claim<K: Clone + Display + Eq + Hash>(
    lines: &mut HashMap<K, usize>,
    kind: &str,
    key: K,
    line: usize,
) -> Result<(), String> {
    match lines.entry(key.clone()) {
        Entry::Vacant(entry) => {
            entry.insert(line);
            Ok(())
        }
        Entry::Occupied(entry) => Err(format!(
            "{kind} {key} is already in line {}: give each guest its own",
            entry.get()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_one_guest_a_line_in_the_form_of_the_option() {
        let text = "# guests\n\n 02:00:00:00:00:05,10.1.0.5@192.0.2.2 # one\nany@[2001:db8::9]:7000\r\n";
        let expected = [
            (3, "02:00:00:00:00:05,10.1.0.5@192.0.2.2"),
            (4, "any@[2001:db8::9]:7000"),
        ];
        let expected = expected.map(|(line, peer)| ListedPeer {
            line,
            peer: values::peer(peer).unwrap(),
        });
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn a_line_that_is_no_peer_is_refused_with_its_number() {
        let error = parse("any@192.0.2.2\n\n02:00:00:00:00:05\n").unwrap_err();
        assert_eq!(error.line, 3);
        assert!(error.to_string().starts_with("3: give MAC"), "{error}");
    }

    #[test]
    fn a_mac_an_address_and_a_name_belong_to_one_line() {
        let first = "02:00:00:00:00:05,10.1.0.5@192.0.2.2,name=db\n";
        for (second, taken) in [
            ("02:00:00:00:00:05@192.0.2.3", "MAC 02:00:00:00:00:05"),
            ("02:00:00:00:00:06,10.1.0.5@192.0.2.3", "address 10.1.0.5"),
            ("02:00:00:00:00:06,10.1.0.6@192.0.2.3,name=DB", "name db"),
        ] {
            let error = parse(&format!("{first}{second}")).unwrap_err().to_string();
            let expected = format!("2: {taken} is already in line 1: give each guest its own");
            assert_eq!(error, expected);
        }
    }
}
