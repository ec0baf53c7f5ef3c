//! What anybody may read: the node's report, its metrics, the traffic of its VMs, and a page that shows them.
//!
//! The address is given by `--http`. Nothing here reads the store or changes anything, so a client costs no more than
//! its connection, and all clients together one sample of the traffic per second.

use super::http::{Answer, Request};
use super::traffic::Traffic;
use super::{NodeState, metrics};
use crate::cluster::Refused;
use hyper::Method;
use serde::Serialize;

const JSON: &str = "application/json";

/// Files of the page, by their paths.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    ),
];

/// A JSON answer.
pub(super) fn json(status: u16, value: &impl Serialize) -> Answer {
    // This fails only for maps with keys other than text, and there are none.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    Answer {
        status,
        kind: JSON,
        body,
    }
}

/// The metrics of the node.
pub(super) fn scrape(node: &NodeState) -> Result<Answer, Refused> {
    let starting = || Refused::Store("the node has not finished its first turn: try again".to_owned());
    let report = node.get().ok_or_else(starting)?;
    let text = metrics::render(report).map_err(|error| Refused::Store(error.to_string()))?;
    Ok(Answer {
        status: 200,
        kind: metrics::KIND,
        body: text.into_bytes(),
    })
}

/// Answers a request that comes over TCP.
pub(super) fn answer(node: &NodeState, traffic: &Traffic, request: &Request) -> Answer {
    let text = |status, text: &str| Answer {
        status,
        kind: "text/plain; charset=utf-8",
        body: text.as_bytes().to_vec(),
    };
    if request.method != Method::GET && request.method != Method::HEAD {
        return text(405, "this address is for reading: use hawser-agent on the node\n");
    }
    if let Some((_, kind, body)) = FILES.iter().find(|(path, ..)| *path == request.path) {
        return Answer {
            status: 200,
            kind,
            body: body.as_bytes().to_vec(),
        };
    }
    match request.path.as_str() {
        "/v1/node" => json(200, &node.get()),
        "/v1/traffic" => json(200, &traffic.get(node)),
        // The second path is the one that Prometheus uses by default.
        "/v1/metrics" | "/metrics" => scrape(node).unwrap_or_else(|refused| text(503, &refused.to_string())),
        _ => text(404, "there are /, /v1/node, /v1/traffic and /metrics\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Bytes;

    fn ask(method: Method, path: &str) -> Answer {
        let request = Request {
            method,
            path: path.to_owned(),
            query: Default::default(),
            body: Bytes::new(),
        };
        answer(&NodeState::default(), &Traffic::default(), &request)
    }

    #[test]
    fn only_reading_is_served() {
        assert_eq!(ask(Method::POST, "/v1/apply").status, 405);
        assert_eq!(ask(Method::DELETE, "/v1/objects").status, 405);
        assert_eq!(ask(Method::GET, "/v1/objects").status, 404);
        assert_eq!(ask(Method::GET, "/metrics").status, 503, "there is no report yet");
    }

    #[test]
    fn the_page_uses_its_own_files_only() {
        for (path, ..) in FILES {
            let answer = ask(Method::GET, path);
            let text = String::from_utf8(answer.body).unwrap();
            assert_eq!(answer.status, 200, "{path}");
            assert!(!text.contains("://"), "{path} refers to another site");
            // Text from manifests must not become markup.
            assert!(!text.contains("innerHTML"), "{path}");
        }
        let page = String::from_utf8(ask(Method::GET, "/").body).unwrap();
        for id in ["node", "problem", "vms", "traffic", "networks", "wrong", "events"] {
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
            assert!(FILES[2].2.contains(&format!("\"{id}\"")), "{id}");
        }
    }
}
