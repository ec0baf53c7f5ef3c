//! `/v1/capture`: streams the packets that cross a port.
//!
//! A thread of its own writes each capture, so a client that does not read blocks only that thread.

use super::http::{Answer, Method, Request, Stream};
use super::openapi::{Operation, Parameter};
use super::router::Route;
use super::{Context, Refusal};
use crate::machine::CapturePlace;
use crate::sandbox::ThreadKind;
use hawser_backend::capture::{CaptureFilter, CaptureRules, CaptureStream, PcapngWriter, SNAP_LENGTH_MAX};
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

/// Path of capture requests.
pub(crate) const PATH: &str = "/v1/capture";
/// Value of `at` for the outer packets of a tunnel.
pub(crate) const TUNNEL: &str = "tunnel";
/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[Route {
    method: Method::Get,
    path: PATH,
    handler: get,
    describe: |_| {
        Operation::new("Streams the packets that cross a port, as pcapng, until the client disconnects")
            .port()
            .parameter(Parameter::text(
                "at",
                "nic: the guest's frames; tunnel: the outer packets of a layer2 port's tunnel [default: nic]",
            ))
            .parameter(Parameter::number("snap-length", "Bytes kept of each packet"))
            .parameter(Parameter::text(
                "filter",
                "Terms that must all match: in, out, dropped, arp, ip, ip6, tcp, udp, icmp, host=ADDR, port=N, mac=MAC",
            ))
            .binary(KIND)
    },
}];
const KIND: &str = "application/x-pcapng";
/// Interval of writes while no packet crosses the port. Two writes are needed to notice that a client has gone: the
/// first is lost and the second fails.
const IDLE: Duration = Duration::from_millis(500);

fn get(context: &Context, request: &Request) -> Result<Answer, Refusal> {
    let nic = context.nic(request)?;
    let place = match request.query.get("at").map(String::as_str) {
        None | Some("nic") => CapturePlace::Nic,
        Some(TUNNEL) => CapturePlace::Tunnel,
        Some(other) => {
            let error = format!("at: {other:?} is not a place to capture");
            return Err(Refusal::bad_request(error, "write nic or tunnel"));
        }
    };
    let snap_length = match request.query.get("snap-length").map(|text| text.parse::<usize>()) {
        None => SNAP_LENGTH_MAX,
        Some(Ok(length)) if length > 0 => length.min(SNAP_LENGTH_MAX),
        Some(_) => {
            return Err(Refusal::bad_request(
                "snap-length is not a number of bytes",
                "write a number above 0",
            ));
        }
    };
    let filter: CaptureFilter = request
        .query
        .get("filter")
        .map_or("", String::as_str)
        .parse()
        .map_err(|error| Refusal::bad_request(format!("filter: {error}"), "see hawser capture --help"))?;
    let rules = CaptureRules { snap_length, filter };
    let busy = |error| Refusal::conflict(error, "only one capture of a port can run at a time");
    let started = nic.capture(place, rules).ok_or_else(|| match place {
        CapturePlace::Nic => super::not_ours(&nic),
        CapturePlace::Tunnel => Refusal::conflict(
            format!("{} is not on a network that spans nodes", nic.name()),
            "name a port in layer2 mode with ?port=",
        ),
    })?;
    let stream = started.map_err(busy)?;
    let name = match place {
        CapturePlace::Nic => nic.name().to_owned(),
        CapturePlace::Tunnel => format!("{} {TUNNEL}", nic.name()),
    };
    let write: Stream = Box::new(move |client| write(client, &name, snap_length, &stream));
    Ok(Answer::Stream {
        kind: KIND,
        thread: ThreadKind::Capture,
        name: "capture",
        write,
    })
}

fn write(out: impl Write, name: &str, snap_length: usize, stream: &CaptureStream) -> io::Result<()> {
    let mut writer = PcapngWriter::new(out, name, snap_length)?;
    loop {
        writer.flush()?;
        let Ok(packet) = stream.next(IDLE) else { return Ok(()) };
        let Some(packet) = packet else {
            writer.idle(SystemTime::now())?;
            continue;
        };
        writer.packet(&packet)?;
        while let Some(packet) = stream.ready() {
            writer.packet(&packet)?;
        }
    }
}
