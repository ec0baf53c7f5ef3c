//! Reads `ports` and `portRanges` of an interface: the forwarded ports.

use super::fields::kubevirt as table;
use super::interface::Binding;
use super::reader::{Item, Object};
use super::report::Spot;
use hawser_config::Transport;

/// A range of ports of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Position in the manifest.
    pub spot: Spot,
    /// Transport of the ports.
    pub transport: Transport,
    /// First port of the range.
    pub first: u16,
    /// Last port of the range.
    pub last: u16,
    /// Name of the port for Services.
    pub name: Option<String>,
}

/// TCP ports that Istio's proxy uses in the pod's namespace.
pub const ISTIO_RESERVED: [u16; 10] = [15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090];
/// Values of `protocol`.
const TRANSPORTS: &[(&str, Transport)] = &[("TCP", Transport::Tcp), ("UDP", Transport::Udp)];
/// Valid port numbers.
const PORTS: std::ops::RangeInclusive<i64> = 1..=65_535;
/// Maximum number of ranges that KubeVirt accepts.
const MAX_RANGES: usize = 10;
/// Longest name of a port (RFC 6335 section 5.1).
const MAX_NAME: usize = 15;

impl PortRange {
    /// True if the port is in the range.
    pub fn contains(&self, transport: Transport, port: u16) -> bool {
        self.transport == transport && (self.first..=self.last).contains(&port)
    }

    fn collides(&self, other: &Self) -> bool {
        self.transport == other.transport && self.first <= other.last && other.first <= self.last
    }
}

/// Reads the ports of an interface. `None` if none are given.
pub fn read(interface: &Object<'_>, binding: Option<Binding>, istio: bool) -> Option<Vec<PortRange>> {
    let (ports, ranges) = (interface.get("ports"), interface.get("portRanges"));
    let (given, ranges) = (
        ports.as_ref().or(ranges.as_ref())?.clone(),
        ranges.map(|r| (r.items(), r)),
    );
    match binding {
        None | Some(Binding::Masquerade | Binding::Passt) => {}
        // KubeVirt checks them and leaves them to plugins, and this one connects the guest to its network as a whole.
        Some(Binding::L2Bridge | Binding::ManagedTap) if ranges.is_none() => given.warn(
            "every port of the guest is reachable on its network, whatever is in the list; only targetPort of a Service \
             uses the names",
        ),
        Some(_) => given.error("only an interface bound with masquerade or passtBinding has ports to forward: leave them out"),
    }
    let mut all: Vec<PortRange> = Vec::new();
    for item in ports.iter().flat_map(Item::items) {
        all.extend(port(&item));
    }
    if let Some((items, ranges)) = ranges {
        if ports.is_some() {
            ranges.error("ports is given too: write only one of them");
        }
        if items.len() > MAX_RANGES {
            ranges.error(format!("{} ranges are too many: give up to {MAX_RANGES}", items.len()));
        }
        for item in items {
            all.extend(range(&item));
        }
    }
    check(interface, &all, istio);
    // An empty list means the same as none.
    (!all.is_empty()).then_some(all)
}

fn check(interface: &Object<'_>, all: &[PortRange], istio: bool) {
    for (n, range) in all.iter().enumerate() {
        let before = &all[..n];
        if before.iter().any(|b| b.collides(range)) {
            interface.error_at(&range.spot, "these ports are already in the list: remove them here");
        }
        if range.name.is_some() && before.iter().any(|b| b.name == range.name) {
            interface.error_at(&range.spot, "another port has the same name: give each its own");
        }
        let reserved = ISTIO_RESERVED
            .iter()
            .find(|port| range.contains(Transport::Tcp, **port));
        if let (true, Some(port)) = (istio, reserved) {
            let message = format!("TCP port {port} belongs to Istio's proxy: leave it out");
            interface.error_at(&range.spot, message);
        }
    }
}

/// Reads `protocol`, which is TCP by default.
pub fn protocol(object: &Object<'_>) -> Option<Transport> {
    match object.get("protocol") {
        Some(item) => item.choice(TRANSPORTS),
        None => Some(Transport::Tcp),
    }
}

/// `IsValidPortName`: an IANA service name (RFC 6335 section 5.1).
///
/// # Errors
/// The rule that the text breaks.
pub fn port_name(text: &str) -> Result<String, String> {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edges = !text.starts_with('-') && !text.ends_with('-') && !text.contains("--");
    let shape = text.bytes().all(letters) && edges && text.bytes().any(|b| b.is_ascii_lowercase());
    if shape && text.len() <= MAX_NAME {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "give up to {MAX_NAME} lower-case letters, digits and hyphens, such as http"
        ))
    }
}

fn port(item: &Item<'_>) -> Option<PortRange> {
    let object = item.object(&table::PORT)?;
    let transport = protocol(&object);
    let name = object.get("name").and_then(|item| item.parsed(port_name));
    let port = object.need("port", "give the port's number")?.integer(PORTS)?;
    Some(PortRange {
        spot: item.spot().clone(),
        transport: transport?,
        first: port,
        last: port,
        name,
    })
}

fn range(item: &Item<'_>) -> Option<PortRange> {
    let object = item.object(&table::PORT_RANGE)?;
    let protocol = object.need("protocol", "give TCP or UDP, which is required for a range");
    let transport = protocol.and_then(|item| item.choice(TRANSPORTS));
    let first: Option<u16> = object
        .need("start", "give its first port")
        .and_then(|i| i.integer(PORTS));
    let last: Option<u16> = object.need("end", "give its last port").and_then(|i| i.integer(PORTS));
    let (first, last) = (first?, last?);
    if last < first {
        object.error(format!("the range ends ({last}) before it starts ({first})"));
        return None;
    }
    Some(PortRange {
        spot: item.spot().clone(),
        transport: transport?,
        first,
        last,
        name: None,
    })
}
