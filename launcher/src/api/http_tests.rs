use super::*;
use std::path::PathBuf;

struct Stage {
    server: Option<Server>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// Answers with what was asked.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = Server::start(listener, |request| Answer::Whole {
            status: 200,
            kind: "text/plain",
            body: format!("{} {:?} {}", request.path, request.query, request.body.len()).into_bytes(),
        });
        Self {
            server: Some(server.unwrap()),
            path,
            _dir: dir,
        }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // One that is refused before its end has come need not be taken whole.
        let _ = stream.write_all(request);
        read(stream)
    }
}

fn read(mut stream: UnixStream) -> String {
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    // Whoever is not heard out is told with a reset after the answer.
    while let Ok(n @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..n]);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_query_comes_through_whole() {
    let filter = "host=fe80::1,port=53";
    let query = format!("port={}&filter={}&x", encode("vm 1&é%"), encode(filter));
    let parsed = parse_query(&query);
    assert_eq!(
        (parsed["port"].as_str(), parsed["filter"].as_str()),
        ("vm 1&é%", filter)
    );
    assert_eq!(decode("%zz%4"), "%zz%4");
}

#[test]
fn a_request_is_answered_however_it_is_cut_up() {
    let stage = Stage::new();
    let request = b"PUT /v1/x?a=b HTTP/1.1\r\nHost: h\r\ncontent-length: 5\r\n\r\nabcde";
    let whole = stage.ask(request);
    assert!(whole.starts_with("HTTP/1.1 200 OK\r\n"), "{whole}");
    assert!(whole.ends_with("\r\n\r\n/v1/x {\"a\": \"b\"} 5"), "{whole}");
    let mut stream = stage.connect();
    for byte in request {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(read(stream), whole);
}

#[test]
fn what_is_no_request_is_refused_with_a_reason() {
    let stage = Stage::new();
    let long = [b"GET /".as_slice(), &[b'a'; HEAD_MAX]].concat();
    let cases: [(&[u8], &str); 7] = [
        (b"\x00\xff\x16\x03 garbage\r\n\r\n", "HTTP/1.1 400"),
        (b"BREW /v1/status HTTP/1.1\r\n\r\n", "HTTP/1.1 501"),
        (b"PUT /v1/x HTTP/1.1\r\nContent-Length: 262145\r\n\r\n", "HTTP/1.1 413"),
        (
            b"PUT /v1/x HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 411",
        ),
        (b"PUT /v1/x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 411"),
        (
            b"PUT /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 411",
        ),
        (&long, "HTTP/1.1 413"),
    ];
    for (request, expected) in cases {
        let answer = stage.ask(request);
        assert!(answer.starts_with(expected), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let refusal: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(
            refusal["error"].is_string() && refusal["remedy"].is_string(),
            "{refusal}"
        );
    }
}

#[test]
fn half_a_request_keeps_a_thread_for_a_limited_time_and_no_memory_or_thread_beyond() {
    let stage = Stage::new();
    let mut halves: Vec<UnixStream> = (0..2 * THREADS).map(|_| stage.connect()).collect();
    for half in &mut halves {
        half.write_all(b"GET /v1/x HTT").unwrap();
    }
    let begun = Instant::now();
    // Behind all halves, and answered when the last of them has had its time.
    assert!(stage.ask(b"GET /v1/x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < PATIENCE * 3, "{:?}", begun.elapsed());
    assert!(read(halves.remove(0)).starts_with("HTTP/1.1 408"));
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let names = threads.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    // Other tests have servers too, each with its threads.
    assert_eq!(names.filter(|name| name.starts_with("api-")).count() % THREADS, 0);
}

#[test]
fn the_end_does_not_wait_for_clients() {
    let mut stage = Stage::new();
    let clients: Vec<UnixStream> = (0..2 * THREADS).map(|_| stage.connect()).collect();
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    drop(stage.server.take());
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    drop(clients);
}
