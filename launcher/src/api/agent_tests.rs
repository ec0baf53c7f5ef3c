use super::super::testing::block_on;
use super::*;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};

const INTERFACES: &str = r#"{"return": [
 {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [{"ip-address": "127.0.0.1", "prefix": 8, "ip-address-type": "ipv4"}]},
 {"name": "eth0\u001b[2J", "hardware-address": "02:00:00:00:00:09", "ip-addresses": [
  {"ip-address": "10.0.2.2", "prefix": 24, "ip-address-type": "ipv4"},
  {"ip-address": "fe80::9", "prefix": 64, "ip-address-type": "ipv6"},
  {"ip-address": "nonsense", "prefix": 0, "ip-address-type": "ipv4"}]},
 {"name": "sit0"}]}"#;

/// An agent that answers one client. The answer is the result of `answer` for the number that the agent receives.
fn agent(folder: &Path, answer: impl Fn(u64) -> Vec<u8> + Send + 'static) -> (PathBuf, JoinHandle<UnixStream>) {
    let path = folder.join("qga.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(&stream).split(b'\n');
        let sync = lines.next().unwrap().unwrap();
        assert_eq!(sync[0], DELIMITER);
        let sync: serde_json::Value = serde_json::from_slice(&sync[1..]).unwrap();
        let asked = lines.next().unwrap().unwrap();
        assert!(asked.windows(28).any(|words| words == b"guest-network-get-interfaces"));
        (&stream)
            .write_all(&answer(sync["arguments"]["id"].as_u64().unwrap()))
            .unwrap();
        stream
    });
    (path, thread)
}

fn answer(sync: u64) -> Vec<u8> {
    let interfaces = INTERFACES.replace('\n', "");
    // The rest of an earlier client's answer comes first.
    let mut bytes = b"{\"return\": {}}\n".to_vec();
    bytes.push(DELIMITER);
    bytes.extend(format!("{{\"return\": {sync}}}\n{interfaces}\n").into_bytes());
    bytes
}

#[test]
fn the_agents_interfaces_are_taken_and_asked_for_once_in_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let (path, thread) = agent(folder.path(), answer);
    let agent = GuestAgent::new(path);
    let interfaces = block_on(agent.interfaces());
    assert_eq!(interfaces.len(), 3, "{interfaces:?}");
    assert_eq!(interfaces[1].name, "eth0[2J");
    assert_eq!(interfaces[1].mac, "02:00:00:00:00:09".parse().ok());
    let addresses: Vec<IpAddr> = vec!["10.0.2.2".parse().unwrap(), "fe80::9".parse().unwrap()];
    assert_eq!(interfaces[1].addresses, addresses);
    thread.join().unwrap();
    // The agent no longer answers, and no request is sent.
    assert_eq!(block_on(agent.interfaces()), interfaces);
}

#[test]
fn an_agent_that_is_silent_endless_or_wrong_delays_no_other_client() {
    let babble = |_| vec![b' '; ANSWER_MAX + 1];
    let answers: [fn(u64) -> Vec<u8>; 4] = [
        |_| Vec::new(),
        babble,
        |sync| answer(sync + 1),
        |_| b"\xff{\"return\": [[[[\n".to_vec(),
    ];
    for answer in answers {
        let folder = tempfile::tempdir().unwrap();
        let (path, thread) = agent(folder.path(), answer);
        let begun = Instant::now();
        assert_eq!(block_on(GuestAgent::new(path).interfaces()), []);
        assert!(begun.elapsed() < PATIENCE * 20, "{:?}", begun.elapsed());
        // The client may have closed the connection in the middle of an answer.
        let _ = thread.join();
    }
    assert_eq!(block_on(GuestAgent::new("/nonexistent".into()).interfaces()), []);
}
