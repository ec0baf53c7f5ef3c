//! Parsers for the values of single options. Each function is a clap value parser: its error
//! completes "invalid value '…' for '--option': ".

use crate::nic::{Family, GatewaySpec, IpvtapMode, MacvtapMode, SourceSpec, Stack, Underlay, UnderlaySpec};
use hawser_config::{AddressCheck, GATEWAY_MAC, PeerConfig};
use hawser_packet::MacAddr;
use hawser_packet::geneve::{self, Vni};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Minimum MTU of IPv4 (RFC 791).
pub const MIN_MTU: u16 = 68;
/// Maximum number of queue pairs. vhost-user numbers rings with eight bits, and one ring is the control ring.
pub const MAX_QUEUE_PAIRS: u16 = 127;
/// Maximum length of a Unix socket's path: sun_path without its closing NUL.
const MAX_SOCKET_PATH: usize = 107;
/// Maximum length of a DNS label and of a DNS name, in text without the last dot (RFC 1035 2.3.4).
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;
/// First descriptor that is not standard input, output or error.
const FIRST_FREE_DESCRIPTOR: RawFd = 3;
/// Longest prefixes of networks with room for a gateway, a guest, and the first and last address.
const MAX_IPV4_PREFIX: u8 = 30;
const MAX_IPV6_PREFIX: u8 = 126;

type Parsed<T> = Result<T, String>;

/// Parses `--socket-path`
pub fn socket_path(text: &str) -> Parsed<PathBuf> {
    let path = PathBuf::from(text);
    match path.as_os_str().as_bytes().len() {
        0 => Err("name a file for the socket".into()),
        n if n > MAX_SOCKET_PATH => Err(format!(
            "{n} bytes are too long for the path of a Unix socket: give up to {MAX_SOCKET_PATH}"
        )),
        _ => Ok(path),
    }
}

/// Parses `--fd`
pub fn descriptor(text: &str) -> Parsed<RawFd> {
    text.parse()
        .ok()
        .filter(|fd| *fd >= FIRST_FREE_DESCRIPTOR)
        .ok_or_else(|| format!("give the number of an inherited descriptor, {FIRST_FREE_DESCRIPTOR} or more"))
}

/// Parses `--socket-mode`: permissions in octal.
pub fn socket_mode(text: &str) -> Parsed<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "give permissions in octal, such as 0660".into())
}

/// Maximum length of a network interface's name: IFNAMSIZ without its closing NUL.
const MAX_INTERFACE_NAME: usize = 15;

/// Parses options that name a network interface, by the kernel's rules.
pub fn interface_name(text: &str) -> Parsed<String> {
    let is_wrong = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    if text.is_empty() || text.len() > MAX_INTERFACE_NAME || text.contains(is_wrong) || [".", ".."].contains(&text) {
        return Err(format!(
            "the name of a network interface has 1 to {MAX_INTERFACE_NAME} bytes, without spaces, slashes and colons"
        ));
    }
    Ok(text.to_owned())
}

fn stack<M>(text: &str, modes: &[(&str, M)]) -> Parsed<Stack<M>>
where
    M: Copy,
{
    let (lower, mode) = match text.split_once(':') {
        Some((lower, mode)) => (lower, Some(mode)),
        None => (text, None),
    };
    let find = |asked: &str| {
        let found = modes.iter().find(|(name, _)| *name == asked).map(|(_, mode)| *mode);
        let names: Vec<&str> = modes.iter().map(|(name, _)| *name).collect();
        found.ok_or_else(|| format!("'{asked}' is not a mode; choose one of {}", names.join(", ")))
    };
    Ok(Stack {
        lower: interface_name(lower)?,
        mode: mode.map(find).transpose()?,
    })
}

/// Parses `--macvtap`
pub fn macvtap(text: &str) -> Parsed<Stack<MacvtapMode>> {
    let modes = [
        ("private", MacvtapMode::Private),
        ("vepa", MacvtapMode::Vepa),
        ("bridge", MacvtapMode::Bridge),
        ("passthru", MacvtapMode::Passthru),
    ];
    stack(text, &modes)
}

/// Parses `--ipvtap`
pub fn ipvtap(text: &str) -> Parsed<Stack<IpvtapMode>> {
    let modes = [("l2", IpvtapMode::L2), ("l3", IpvtapMode::L3), ("l3s", IpvtapMode::L3s)];
    stack(text, &modes)
}

/// Parses `--guest-address`
pub fn guest_address(text: &str) -> Parsed<IpAddr> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| "give an address such as 192.0.2.5 or 2001:db8::5".to_owned())?;
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if address.is_multicast() || address.is_unspecified() || address.is_loopback() || link_local {
        return Err("a guest cannot have this address; choose one of its network".into());
    }
    Ok(address)
}

/// Parses `--mac`
pub fn guest_mac(text: &str) -> Parsed<MacAddr> {
    let mac: MacAddr = MacAddr::from_str(text).map_err(|e| e.to_string())?;
    if mac.is_multicast() {
        return Err("this is a multicast address; the first byte of a NIC's MAC is even".into());
    }
    if mac == GATEWAY_MAC {
        return Err("this is the MAC of the gateway; choose another for the guest".into());
    }
    if mac == MacAddr::default() {
        return Err("this is not a valid MAC for a NIC; choose another, or leave out --mac".into());
    }
    Ok(mac)
}

/// Parses `--mtu`
pub fn mtu(text: &str) -> Parsed<u16> {
    text.parse()
        .ok()
        .filter(|mtu| *mtu >= MIN_MTU)
        .ok_or_else(|| format!("give {MIN_MTU} to {} bytes", u16::MAX))
}

/// Parses `--queue-pairs`
pub fn queue_pairs(text: &str) -> Parsed<NonZeroU16> {
    text.parse()
        .ok()
        .filter(|n: &NonZeroU16| n.get() <= MAX_QUEUE_PAIRS)
        .ok_or_else(|| format!("give 1 to {MAX_QUEUE_PAIRS}"))
}

/// Longest time of polling or rest, in microseconds. It is a timer tick of a guest.
const MAX_PAUSE: u16 = 1000;

/// Parses `--busy-poll` and `--rest`
pub fn pause(text: &str) -> Parsed<Duration> {
    text.parse()
        .ok()
        .filter(|micros: &u16| *micros <= MAX_PAUSE)
        .map(|micros: u16| Duration::from_micros(micros.into()))
        .ok_or_else(|| format!("give 0 (never) to {MAX_PAUSE} microseconds"))
}

/// Parses `--ipv4`
pub fn ipv4_network(text: &str) -> Parsed<Family<Ipv4Net>> {
    if text == "off" {
        return Ok(Family::Off);
    }
    let net: Ipv4Net = text
        .parse()
        .map_err(|_| "give a network such as 10.0.2.0/24, or off".to_owned())?;
    let net = net.trunc();
    let first = net.addr();
    if net.prefix_len() > MAX_IPV4_PREFIX {
        return Err(format!(
            "gateway and guest need a network of /{MAX_IPV4_PREFIX} or wider"
        ));
    }
    if first.octets()[0] == 0 || first.is_loopback() || first.is_multicast() || first.is_link_local() || is_class_e(net)
    {
        return Err("this network cannot have hosts; use a private one such as 10.0.2.0/24".into());
    }
    Ok(Family::On(net))
}

/// True for networks in 240.0.0.0/4, which hosts do not accept as their address.
fn is_class_e(net: Ipv4Net) -> bool {
    net.addr().octets()[0] >= 240
}

/// Parses `--ipv6`
pub fn ipv6_network(text: &str) -> Parsed<Family<Ipv6Net>> {
    if text == "off" {
        return Ok(Family::Off);
    }
    let net: Ipv6Net = text
        .parse()
        .map_err(|_| "give a network such as fd10:0:2::/120, or off".to_owned())?;
    let net = net.trunc();
    let first = net.addr();
    if net.prefix_len() > MAX_IPV6_PREFIX {
        return Err(format!(
            "gateway and guest need a network of /{MAX_IPV6_PREFIX} or wider"
        ));
    }
    if first.segments()[0] == 0 || first.is_multicast() || first.is_unicast_link_local() {
        return Err("this network cannot have hosts; use a private one such as fd10:0:2::/120".into());
    }
    Ok(Family::On(net))
}

/// Parses `--hostname`, a single label of RFC 1123.
pub fn hostname(text: &str) -> Parsed<String> {
    if is_label(text) {
        Ok(text.to_owned())
    } else {
        Err("give one label of letters, digits and hyphens, without a dot".into())
    }
}

/// Parses `--dns`
pub fn name_server(text: &str) -> Parsed<IpAddr> {
    let addr: IpAddr = text.parse().map_err(|_| "give an IPv4 or IPv6 address".to_owned())?;
    if addr.is_multicast() || addr.is_unspecified() {
        return Err("this cannot be a server's address".into());
    }
    Ok(addr)
}

/// Parses `--search`, a domain name. A dot at the end is allowed and dropped.
pub fn search_domain(text: &str) -> Parsed<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() <= MAX_NAME && name.split('.').all(is_domain_label) {
        Ok(name.to_owned())
    } else {
        Err("give a domain name such as example.com".into())
    }
}

/// Parses `--vni`
pub fn vni(text: &str) -> Parsed<Vni> {
    let number: u32 = text.parse().map_err(|_| "give a number".to_owned())?;
    Vni::try_from(number).map_err(|e| e.to_string())
}

/// Parses `--gateway`: addresses of the network's gateway, or `off`.
pub fn gateway(text: &str) -> Parsed<GatewaySpec> {
    if text == "off" {
        return Ok(GatewaySpec::Off);
    }
    let addresses = text.split(',').map(guest_address).collect::<Parsed<Vec<_>>>();
    let addresses =
        addresses.map_err(|_| "give one host address of each subnet, such as 10.1.0.254, or off".to_owned())?;
    match addresses[..] {
        [_] | [IpAddr::V4(_), IpAddr::V6(_)] | [IpAddr::V6(_), IpAddr::V4(_)] => Ok(GatewaySpec::At(addresses)),
        _ => Err("a network has one gateway in each family: give one address of each".into()),
    }
}

/// Parses `--ip-spoof-check`: addresses and networks from which the guest may send, or `off`.
pub fn sources(text: &str) -> Parsed<SourceSpec> {
    if text == "off" {
        return Ok(SourceSpec::Any);
    }
    let mut check = AddressCheck::default();
    for net in text.split(',') {
        let address = || net.parse::<IpAddr>().map(IpNet::from).ok();
        let net = net.parse::<IpNet>().ok().or_else(address).map(|net| net.trunc());
        match net.ok_or("give an address such as 192.0.2.5, a network such as 2001:db8::/64, or off")? {
            net if net.addr().is_multicast() => {
                return Err("this is a multicast address, which cannot be a source: give the guest's own".into());
            }
            IpNet::V4(net) => check.ipv4.push(net),
            IpNet::V6(net) => check.ipv6.push(net),
        }
    }
    Ok(SourceSpec::Assigned(check))
}

/// Parses `--vtep`: an address, or the family of the default route whose address is used.
pub fn underlay(text: &str) -> Parsed<UnderlaySpec> {
    match text {
        "ipv4" => Ok(UnderlaySpec::DefaultRoute(Some(Underlay::Ipv4))),
        "ipv6" => Ok(UnderlaySpec::DefaultRoute(Some(Underlay::Ipv6))),
        _ => {
            let address: IpAddr = text.parse().map_err(|_| "give an address, ipv4 or ipv6".to_owned())?;
            if address.is_unspecified() || address.is_multicast() {
                return Err("peers cannot send to this address: give one of this host or pod".into());
            }
            Ok(UnderlaySpec::Address(address))
        }
    }
}

/// Property of a peer: it supports hawser's frame option.
const FRAMES: &str = "frames";
/// Property of a peer: the guest of the process itself, which has moved there.
const MOVED: &str = "moved";
/// Property of a peer: the name of its guest.
const NAME: &str = "name=";

/// Parses `--peer`: a MAC or `any`, addresses, `@`, address and port of the endpoint, and properties. These are whether
/// the endpoint supports hawser's frame option, whether it is where the guest of this process has moved to, and the name
/// of its guest.
pub fn peer(text: &str) -> Parsed<PeerConfig> {
    let (station, endpoint) = text.split_once('@').ok_or(
        "give MAC[,ADDR…]@ADDR[:PORT][,frames][,name=NAME], such as 02:00:00:00:00:05,10.1.0.5@192.0.2.2".to_owned(),
    )?;
    let mut properties = endpoint.split(',');
    let vtep = vtep_address(properties.next().unwrap_or_default())?;
    let (mut knows_frame_option, mut is_moved, mut name) = (false, false, None);
    for property in properties {
        match property.strip_prefix(NAME) {
            Some(label) if name.is_none() => name = Some(hostname(label)?),
            None if property == FRAMES && !knows_frame_option => knows_frame_option = true,
            None if property == MOVED && !is_moved => is_moved = true,
            _ => {
                return Err(format!(
                    "{property} is not a property of an endpoint, or is given twice: give {FRAMES}, {MOVED} or {NAME}NAME"
                ));
            }
        }
    }
    let mut parts = station.split(',');
    let macs = match parts.next() {
        Some("any") => Vec::new(),
        Some(mac) => vec![guest_mac(mac)?],
        None => Vec::new(),
    };
    let addresses = parts.map(guest_address).collect::<Parsed<Vec<_>>>()?;
    if macs.is_empty() && !addresses.is_empty() {
        return Err("any has no address of its own: give the MAC that has this address".into());
    }
    if macs.is_empty() && (knows_frame_option || is_moved) {
        let property = if is_moved { MOVED } else { FRAMES };
        return Err(format!(
            "{property} is for a hawser process, whose MAC is known: give the MAC"
        ));
    }
    if addresses.is_empty() && name.is_some() {
        return Err("a name needs addresses: give the guest's".into());
    }
    Ok(PeerConfig {
        vtep,
        macs,
        addresses,
        name,
        knows_frame_option,
        is_moved,
    })
}

/// Parses an endpoint of a tunnel: an address, and a port unless it is Geneve's.
fn vtep_address(text: &str) -> Parsed<SocketAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let vtep = match (text.parse(), bare.parse()) {
        (Ok(vtep), _) => vtep,
        (_, Ok(address)) => SocketAddr::new(address, geneve::PORT),
        _ => {
            return Err(format!(
                "{text} is not an endpoint: give an address such as 192.0.2.2 or [2001:db8::2]:6081"
            ));
        }
    };
    let ip = vtep.ip();
    if ip.is_unspecified() || ip.is_multicast() || vtep.port() == 0 {
        return Err(format!(
            "{text} cannot receive datagrams: give the address and port of one process"
        ));
    }
    Ok(vtep)
}

fn is_label(text: &str) -> bool {
    is_domain_label(text) && !text.contains('_')
}

/// Checks a label of a domain name. It has the form of a host name, but may also contain underscores, which cluster
/// domains use.
fn is_domain_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Parses `--memory`: digits and K, M or G, which are passed on unchanged.
pub fn memory_size(text: &str) -> Parsed<String> {
    let digits = text.strip_suffix(['K', 'M', 'G']).unwrap_or(text);
    match digits.parse::<u64>() {
        Ok(n) if n > 0 => Ok(text.to_owned()),
        _ => Err("give a size such as 512M or 2G".into()),
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
