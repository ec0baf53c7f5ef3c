//! `/v1/forwards`: lists, adds and removes port forwards at run time.

use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use super::{Context, Refusal};
use crate::machine::ServedNic;
use hawser_backend::config::{Forward, Transport};
use hawser_backend::port::ForwardError;
use hawser_manifest::forward;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Path of the requests.
pub(crate) const PATH: &str = "/v1/forwards";
/// Maximum number of ports of a forward that is added to a running process. The worker takes over all its sockets
/// between two packets.
const PORTS_MAX: u16 = 1024;

/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[
    Route {
        method: Method::Get,
        path: PATH,
        handler: |context, request| context.nic(request).map(|nic| list(&nic)),
        describe: |generator| {
            Operation::new("Lists the port forwards")
                .port()
                .answers::<Forwards>(generator)
        },
    },
    Route {
        method: Method::Post,
        path: PATH,
        handler: add,
        describe: |generator| {
            Operation::new("Adds a port forward, for one port or a range")
                .port()
                .takes::<Change>(generator)
                .answers::<Forwards>(generator)
        },
    },
    Route {
        method: Method::Delete,
        path: PATH,
        handler: remove,
        describe: |generator| {
            Operation::new("Removes a port forward, as it was added; its open connections stay")
                .port()
                .takes::<Change>(generator)
                .answers::<Forwards>(generator)
        },
    },
];

/// A forward to add or remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    /// The forward in the syntax of `--port`: `[tcp|udp]:[ADDR:]HOST[-HOST2][:GUEST[-GUEST2]]`, such as `2222:22`.
    pub forward: String,
}

/// The port forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Forwards {
    /// The forwards in the order in which they were added.
    pub forwards: Vec<Entry>,
}

/// Ports that reach a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// The whole forward, in the syntax of `--port`.
    pub forward: String,
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// Address on the host. If it is omitted, all addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// First port on the host.
    pub host_port: u16,
    /// First port in the guest.
    pub guest_port: u16,
    /// Number of ports.
    pub count: u16,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

fn list(nic: &ServedNic) -> Answer {
    let forwards = nic.forwards().iter().map(Entry::from).collect();
    super::json(200, &Forwards { forwards })
}

fn add(context: &Context, request: &Request) -> Result<Answer, Refusal> {
    let (nic, forward) = asked(context, request)?;
    if forward.count.get() > PORTS_MAX {
        let error = format!("{forward} is {} ports", forward.count);
        let remedy = format!("add at most {PORTS_MAX} at a time, or give --port when hawser is started");
        return Err(Refusal::bad_request(error, remedy));
    }
    if let Some(other) = nic.forwards().iter().find(|other| forward::collide(other, &forward)) {
        let error = format!("{forward} is forwarded already, by {other}");
        return Err(Refusal::conflict(
            error,
            "remove that one first, or choose another port",
        ));
    }
    nic.add_forward(&forward).map_err(refusal)?;
    log::info!("{} has {forward} now", nic.name());
    Ok(list(&nic))
}

fn remove(context: &Context, request: &Request) -> Result<Answer, Refusal> {
    let (nic, forward) = asked(context, request)?;
    let gone = nic.remove_forward(&forward).map_err(refusal)?;
    log::info!("{} has {gone} no more", nic.name());
    Ok(list(&nic))
}

fn asked(context: &Context, request: &Request) -> Result<(ServedNic, Forward), Refusal> {
    let nic = context.nic(request)?;
    let change: Change = super::body(request)?;
    let bad = |why| Refusal::bad_request(format!("forward: {why}"), "write it as --port has it, such as 2222:22");
    Ok((nic, forward::parse(&change.forward).map_err(bad)?))
}

fn refusal(error: ForwardError) -> Refusal {
    match error {
        ForwardError::NoGateway => Refusal::conflict(
            error,
            "choose a port in masquerade mode, or on a layer2 network with a gateway",
        ),
        ForwardError::EveryPort => Refusal::conflict(error, "give --port beside --port=all when hawser is started"),
        ForwardError::Unknown(_) => Refusal::not_found(error, format!("GET {PATH} lists the existing ones")),
        ForwardError::Listen(_) => Refusal::conflict(error, "no new socket was opened"),
        ForwardError::Watch(_) => Refusal::internal(error, "raise the limits on open files and epoll watches"),
    }
}

impl From<&Forward> for Entry {
    fn from(forward: &Forward) -> Self {
        Self {
            forward: forward.to_string(),
            protocol: match forward.transport {
                Transport::Tcp => Protocol::Tcp,
                Transport::Udp => Protocol::Udp,
            },
            address: forward.bind,
            host_port: forward.host_port,
            guest_port: forward.guest_port,
            count: forward.count.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ask, context};
    use serde_json::json;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::process;
    use std::sync::atomic::{AtomicU16, Ordering};

    /// The first of `count` consecutive ports that are free for both TCP and UDP. They are below the range from which
    /// the kernel chooses (net.ipv4.ip_local_port_range), so that concurrent tests do not get one of them by chance.
    /// Each call returns different ports.
    fn free_ports(count: u16) -> u16 {
        const LOWEST: u16 = 10_000;
        const SPAN: u16 = 20_000;
        static USED: AtomicU16 = AtomicU16::new(0);
        let start = u16::try_from(process::id() % u32::from(SPAN)).unwrap();
        loop {
            let used = USED.fetch_add(count, Ordering::Relaxed);
            let first = LOWEST + (start + used) % SPAN;
            let is_free =
                |port| TcpListener::bind(("0.0.0.0", port)).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok();
            if (first..first + count).all(is_free) {
                return first;
            }
        }
    }

    fn free_port() -> u16 {
        free_ports(1)
    }

    fn body(forward: &str) -> String {
        json!({"forward": forward}).to_string()
    }

    #[test]
    fn a_forward_listens_from_when_it_is_added_until_it_is_removed() {
        let context = context(&["net0"]);
        let port = free_port();
        let spec = format!("tcp:127.0.0.1:{port}:22");
        for _ in 0..3 {
            let added = ask(&context, "POST", "/v1/forwards?port=net0", &body(&spec));
            assert_eq!(added.status, 200, "{}", added.text());
            let expected = json!({"forwards": [{
                "forward": spec, "protocol": "tcp", "address": "127.0.0.1", "hostPort": port, "guestPort": 22, "count": 1
            }]});
            assert_eq!(ask(&context, "GET", "/v1/forwards", "").json(), expected);
            TcpStream::connect(("127.0.0.1", port)).unwrap();
            // The guest's port may be omitted.
            let removed = ask(&context, "DELETE", "/v1/forwards", &body(&format!("127.0.0.1:{port}")));
            assert_eq!((removed.status, removed.json()), (200, json!({"forwards": []})));
            let error = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn a_udp_forward_has_its_port_while_it_is_there() {
        let context = context(&["net0"]);
        let port = free_port();
        let spec = format!("udp:127.0.0.1:{port}");
        assert_eq!(ask(&context, "POST", "/v1/forwards", &body(&spec)).status, 200);
        assert_eq!(
            UdpSocket::bind(("127.0.0.1", port)).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        assert_eq!(ask(&context, "DELETE", "/v1/forwards", &body(&spec)).status, 200);
        UdpSocket::bind(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn a_range_of_which_one_port_is_taken_is_not_forwarded_at_all() {
        let context = context(&["net0"]);
        let first = free_ports(3);
        let taken = TcpListener::bind(("127.0.0.1", first + 2)).unwrap();
        let spec = format!("127.0.0.1:{first}-{}", first + 2);
        let refused = ask(&context, "POST", "/v1/forwards", &body(&spec));
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert!(
            refused.text().contains(&format!("port {} is in use", first + 2)),
            "{}",
            refused.text()
        );
        assert_eq!(ask(&context, "GET", "/v1/forwards", "").json(), json!({"forwards": []}));
        TcpListener::bind(("127.0.0.1", first)).unwrap();
        drop(taken);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_remedy() {
        let context = context(&["net0"]);
        let port = free_port();
        let spec = format!("127.0.0.1:{port}");
        assert_eq!(ask(&context, "POST", "/v1/forwards", &body(&spec)).status, 200);
        let cases = [
            ("POST", body(&spec), 409),
            ("POST", body(&format!("{port}:80")), 409),
            ("POST", body("ftp:21"), 400),
            ("POST", body("1-65535"), 400),
            ("POST", "{\"forward\": 22}".into(), 400),
            ("DELETE", body("127.0.0.1:1"), 404),
            ("DELETE", body(&format!("udp:127.0.0.1:{port}")), 404),
            ("PUT", body(&spec), 405),
        ];
        for (method, body, status) in cases {
            let answer = ask(&context, method, "/v1/forwards", &body);
            assert_eq!(answer.status, status, "{method} {body}: {}", answer.text());
            assert!(answer.json()["remedy"].as_str().is_some_and(|text| !text.is_empty()));
        }
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}
