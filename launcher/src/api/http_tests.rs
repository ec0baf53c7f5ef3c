use super::*;
use std::io::Read as _;
use std::os::unix::net::UnixStream as Client;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Instant;

/// Far longer than any request takes here, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

struct Stage {
    server: Option<Server>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// A server that echoes requests. It answers `/v1/later` once for each `/v1/now`, and `/v1/stream` endlessly.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let server = Server::start(&Sandbox::default(), listener, move |request| answer(request, &gate));
        Self {
            server: Some(server.unwrap()),
            path,
            _dir: dir,
        }
    }

    fn connect(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // A request that is refused before it has arrived completely need not be read to its end.
        let _ = stream.write_all(request);
        read(stream)
    }
}

fn answer(request: &Request, gate: &Arc<Semaphore>) -> Answer {
    let document = Document {
        status: 200,
        kind: "text/plain",
        body: format!("{} {:?} {}", request.path, request.query, request.body.len()).into_bytes(),
    };
    match request.path.as_str() {
        "/v1/later" => {
            let gate = Arc::clone(gate);
            Answer::Later(Box::pin(async move {
                gate.acquire().await.unwrap().forget();
                document
            }))
        }
        "/v1/now" => {
            gate.add_permits(1);
            Answer::Whole(document)
        }
        "/v1/stream" => Answer::Stream {
            kind: "text/plain",
            thread: ThreadKind::Capture,
            name: "endless",
            write: Box::new(|out| {
                loop {
                    out.write_all(b"and so on ")?;
                    out.flush()?;
                }
            }),
        },
        _ => Answer::Whole(document),
    }
}

fn read(mut stream: Client) -> String {
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    // A request that is not read to its end is answered, followed by a reset.
    while let Ok(n @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..n]);
    }
    String::from_utf8(answer).unwrap()
}

fn threads(name: &str) -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let names = threads.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|found| found.trim() == name).count()
}

#[test]
fn a_query_comes_through_whole() {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let filter = "host=fe80::1,port=53 tcp";
    let query = format!("port={}&filter={}&x", encode("vm 1&é%"), encode(filter));
    let parsed = parse_query(&query);
    assert_eq!(
        (parsed["port"].as_str(), parsed["filter"].as_str()),
        ("vm 1&é%", filter)
    );
    assert_eq!(parse_query("a=%zz%4&b=1%202")["b"], "1 2");
}

#[test]
fn a_request_is_answered_however_it_is_cut_up() {
    let stage = Stage::new();
    let request = b"PUT /v1/x?a=b HTTP/1.1\r\nHost: h\r\ncontent-length: 5\r\n\r\nabcde";
    let whole = stage.ask(request);
    assert!(whole.starts_with("HTTP/1.1 200 OK\r\n"), "{whole}");
    assert!(whole.ends_with("\r\n\r\n/v1/x {\"a\": \"b\"} 5"), "{whole}");
    let body = |answer: &str| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    let mut stream = stage.connect();
    for byte in request {
        stream.write_all(&[*byte]).unwrap();
    }
    // A client may close its sending side after the request.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(body(&read(stream)), body(&whole));
    let chunks = b"PUT /v1/x?a=b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n";
    assert_eq!(body(&stage.ask(chunks)), body(&whole));
}

#[test]
fn a_head_without_its_body_is_what_head_asks_for() {
    let stage = Stage::new();
    let get = stage.ask(b"GET /v1/x HTTP/1.1\r\n\r\n");
    let head = stage.ask(b"HEAD /v1/x HTTP/1.1\r\n\r\n");
    assert!(get.contains("content-length: 10\r\n"), "{get}");
    assert!(
        head.contains("content-length: 10\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let stream = stage.ask(b"HEAD /v1/stream HTTP/1.1\r\n\r\n");
    assert!(stream.ends_with("\r\n\r\n"), "{stream}");
}

#[test]
fn what_is_no_request_is_refused() {
    let stage = Stage::new();
    let long = [b"GET /".as_slice(), &[b'a'; HEAD_MAX]].concat();
    let endless = [
        b"PUT /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n50000\r\n".as_slice(),
        &[b'a'; BODY_MAX + 1],
    ]
    .concat();
    // The flag states whether the response has a body.
    let cases: [(&[u8], &str, bool); 8] = [
        (b"\x00\xff\x16\x03 garbage\r\n\r\n", "HTTP/1.1 400", false),
        (b"BREW /v1/status HTTP/1.1\r\n\r\n", "HTTP/1.1 501", true),
        (
            b"PUT /v1/x HTTP/1.1\r\nContent-Length: 262145\r\n\r\n",
            "HTTP/1.1 413",
            true,
        ),
        (&endless, "HTTP/1.1 413", true),
        (
            b"PUT /v1/x HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 400",
            false,
        ),
        (
            b"PUT /v1/x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 400",
            false,
        ),
        (
            b"PUT /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "HTTP/1.1 400",
            true,
        ),
        (&long, "HTTP/1.1 431", false),
    ];
    for (request, expected, has_words) in cases {
        let answer = stage.ask(request);
        assert!(answer.starts_with(expected), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        if !has_words {
            assert_eq!(body, "", "{answer}");
            continue;
        }
        let refusal: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(
            refusal["error"].is_string() && refusal["remedy"].is_string(),
            "{refusal}"
        );
    }
}

#[test]
fn half_a_request_keeps_a_place_for_a_limited_time_and_gets_no_thread() {
    let stage = Stage::new();
    let head = b"PUT /v1/x HTTP/1.1\r\nContent-Length: 5\r\n\r\n";
    let begun = Instant::now();
    let half = |n| {
        // The test connects first, because a client's time begins when its connection is accepted.
        let mut half = stage.connect();
        half.write_all(&head[..if n % 2 == 0 { 10 } else { head.len() }])
            .unwrap();
        half
    };
    let mut halves: Vec<Client> = (0..2 * CONNECTIONS).map(half).collect();
    // This request waits behind all half requests, and is answered when the last of them has timed out.
    assert!(stage.ask(b"GET /v1/x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    let taken = begun.elapsed();
    assert!(PATIENCE * 2 <= taken && taken < LONG, "{taken:?}");
    assert_eq!(read(halves.remove(0)), "");
    assert!(read(halves.remove(0)).starts_with("HTTP/1.1 408"));
    // There is one thread per server, and other tests have servers too.
    assert!(threads(THREAD) < 12, "{}", threads(THREAD));
}

#[test]
fn a_long_request_delays_no_other_and_is_answered() {
    let stage = Stage::new();
    let mut slow: Vec<Client> = (0..3).map(|_| stage.connect()).collect();
    for client in &mut slow {
        client.write_all(b"POST /v1/later HTTP/1.1\r\n\r\n").unwrap();
    }
    for _ in 0..20 {
        assert!(stage.ask(b"GET /v1/x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    }
    // The stream's own time does not run out either.
    thread::sleep(PATIENCE + PATIENCE / 4);
    for client in &mut slow {
        client.set_nonblocking(true).unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        client.set_nonblocking(false).unwrap();
    }
    for _ in &slow {
        assert!(stage.ask(b"GET /v1/now HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    }
    for client in slow {
        assert!(read(client).starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn a_stream_comes_as_it_comes_and_whoever_does_not_read_it_keeps_no_place() {
    let stage = Stage::new();
    let mut streams: Vec<Client> = (0..2 * CONNECTIONS).map(|_| stage.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"GET /v1/stream HTTP/1.1\r\n\r\n").unwrap();
    }
    assert!(stage.ask(b"GET /v1/x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    let mut read = [0; 1 << 10];
    streams[0].read_exact(&mut read).unwrap();
    let text = String::from_utf8_lossy(&read);
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("and so on "),
        "{text}"
    );
    // The time of this request is not measured.
    thread::sleep(PATIENCE + PATIENCE / 4);
    streams[0].read_exact(&mut read).unwrap();
    drop(streams);
    let begun = Instant::now();
    while threads("endless") > 0 {
        assert!(begun.elapsed() < LONG, "{}", threads("endless"));
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_end_does_not_wait_for_clients() {
    let mut stage = Stage::new();
    let mut clients: Vec<Client> = (0..2 * CONNECTIONS).map(|_| stage.connect()).collect();
    clients[0].write_all(b"GET /v1/stream HTTP/1.1\r\n\r\n").unwrap();
    clients[1].write_all(b"POST /v1/later HTTP/1.1\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(50));
    // Neither of the two responses ever ends by itself.
    let (sender, end) = channel();
    let server = stage.server.take();
    thread::spawn(move || {
        drop(server);
        let _ = sender.send(());
    });
    end.recv_timeout(LONG).unwrap();
    drop(clients);
}

#[test]
fn a_client_that_comes_too_often_waits_and_others_do_not() {
    let start = tokio::time::Instant::now();
    let mut turnstile = Turnstile::new(start);
    let moments: Vec<_> = (0..2 * CLIENTS + 1).map(|_| turnstile.pass(start)).collect();
    let after = |spans: u32| usize::try_from(spans * CLIENTS).unwrap();
    assert!(moments[..after(1)].iter().all(|at| *at == start));
    assert!(moments[after(1)..after(2)].iter().all(|at| *at == start + SPAN));
    assert_eq!(moments[after(2)], start + 2 * SPAN);
    let later = start + 10 * SPAN;
    assert_eq!(turnstile.pass(later), later);
}
