//! Hands a pod's interface to the guest, as KubeVirt's bridge binding does.
//!
//! The guest gets the interface's MAC and address. The interface itself is renamed, gets a new MAC and becomes a port
//! of a bridge. The guest's TAP device is the other port. The pod keeps a link of the old name with the address, which
//! kubelet and CNI plugins still find. It carries no traffic. The kernel sends no ARP replies on the bridge, because
//! the guest replies for the address.

use super::AttachError;
use super::bridge_port::BridgePort;
use super::device::{port_mac, random_mac, random_name};
use super::survey::{Finding, article, check_lower, find, require_privilege};
use hawser_backend::config::{LeaseConfig, NameConfig};
use hawser_backend::packet::MacAddr;
use hawser_host::addresses::{Address, Ipv4Route, Route};
use hawser_host::journal::{Interface, Journal, Undo};
use hawser_host::link::{Link, NewKind, NewLink, PortManner};
use hawser_host::netlink::Netlink;
use hawser_manifest::nic::NicSpec;
use ipnet::IpNet;
use std::io;
use std::net::Ipv4Addr;

/// Maximum length of a link's name.
const MAX_NAME: usize = 15;
/// KubeVirt's prefix for the name of a pod interface's bridge. The interface's name follows it.
const BRIDGE_PREFIX: &str = "k6t-";
/// KubeVirt's suffix for the name of the interface once it is a port.
const PORT_SUFFIX: &str = "-nic";

/// Source address of hawser's DHCP server. It is the same as KubeVirt's. No link has this address.
pub(crate) const DHCP_SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);

/// Kinds of links that share the MAC or the frames of their lower link, so that nothing can be inserted between them
/// and their segment.
const STACKED: [&str; 4] = ["macvlan", "macvtap", "ipvlan", "ipvtap"];

/// Surveys an interface of the pod.
pub(super) fn look(netlink: &mut Netlink, name: &str, spec: &NicSpec) -> Result<Finding, AttachError> {
    let link = find(netlink, name, "")?;
    if STACKED.contains(&link.kind.as_str()) {
        return Err(AttachError::Kind {
            found: format!("{}, which passes on only frames of its own MAC", article(&link.kind)),
            wanted: "a link that can be a port of a bridge",
            remedy: "attach the guest to its lower link (--macvtap, CNI macvlan)".into(),
            name: link.name,
        });
    }
    check_lower(netlink, &link)?;
    require_privilege(netlink, "taking over a pod's interface")?;
    let takeover = Takeover::survey(netlink, &link, spec.mac)?;
    let port = BridgePort {
        bridge: takeover.bridge().to_owned(),
        tap: random_name("hw")?,
        mac: port_mac()?,
        mtu: link.mtu,
        manner: PortManner::default(),
        promiscuous: false,
        vlans: None,
    };
    Ok(Finding {
        mac: Some(takeover.guest_mac()),
        takeover: Some(takeover),
        ..Finding::of(port, Some(&link))
    })
}
/// The interface, and the MAC and addresses that the guest takes over.
#[derive(Debug)]
pub(crate) struct Takeover {
    interface: Link,
    guest_mac: MacAddr,
    addresses: Vec<Address>,
    routes: Vec<Route>,
    bridge: String,
    port: String,
}

impl Takeover {
    /// Surveys an interface. The guest gets `mac` if it is given, and the interface's MAC otherwise.
    ///
    /// # Errors
    /// The interface has nothing to take over, or a name that hawser needs is in use.
    pub(crate) fn survey(netlink: &mut Netlink, interface: &Link, mac: Option<MacAddr>) -> Result<Self, AttachError> {
        let name = &interface.name;
        let nothing = |what| AttachError::Nothing(name.clone(), what);
        let addresses = netlink.addresses(interface.index)?;
        if !addresses
            .iter()
            .any(|address| address.is_global() && address.net.addr().is_ipv4())
        {
            return Err(nothing("IPv4 address"));
        }
        let takeover = Self {
            guest_mac: mac.or(interface.mac).ok_or_else(|| nothing("MAC"))?,
            routes: netlink.routes(interface.index)?,
            bridge: format!("{BRIDGE_PREFIX}{}", tail(name, MAX_NAME - BRIDGE_PREFIX.len())),
            port: format!("{}{PORT_SUFFIX}", tail(name, MAX_NAME - PORT_SUFFIX.len())),
            interface: interface.clone(),
            addresses,
        };
        for new in [&takeover.bridge, &takeover.port] {
            if netlink.link_named(new)?.is_some() {
                return Err(AttachError::Taken(new.clone()));
            }
        }
        Ok(takeover)
    }

    /// Name of the bridge to which the guest will be attached.
    pub(crate) fn bridge(&self) -> &str {
        &self.bridge
    }

    /// MAC that the guest gets.
    pub(crate) const fn guest_mac(&self) -> MacAddr {
        self.guest_mac
    }

    /// The DHCP lease of the guest: the interface's first IPv4 address and its routes.
    pub(crate) fn lease(&self, names: NameConfig) -> Option<LeaseConfig> {
        let address = self.addresses.iter().find_map(|address| match address.net {
            IpNet::V4(net) if address.is_global() => Some(net),
            _ => None,
        })?;
        let (default, mut routes): (Vec<Ipv4Route>, Vec<Ipv4Route>) = self
            .routes
            .iter()
            .filter_map(Route::ipv4)
            .partition(Ipv4Route::is_default);
        routes.extend(default.first());
        Some(LeaseConfig {
            client: self.guest_mac,
            address,
            server: DHCP_SERVER,
            router: default
                .first()
                .map(|route| route.gateway)
                .filter(|gateway| !gateway.is_unspecified()),
            routes: routes.iter().map(|route| (route.destination, route.gateway)).collect(),
            names,
        })
    }

    /// Creates the bridge and makes the interface its port.
    ///
    /// # Errors
    /// The kernel refuses a change. `journal` contains the changes made until then.
    pub(crate) fn perform(&self, netlink: &mut Netlink, journal: &mut Journal) -> Result<(), AttachError> {
        journal.note(Undo::RestoreInterface(self.record()))?;
        let port_mac = random_mac()?;
        self.make_bridge(netlink, journal, port_mac)?;
        self.strip(netlink, port_mac)?;
        self.keep_address(netlink, journal)?;
        Ok(())
    }

    fn record(&self) -> Interface {
        Interface {
            index: self.interface.index,
            name: self.interface.name.clone(),
            mac: self.interface.mac.unwrap_or_default().to_string(),
            addresses: self.addresses.iter().map(Address::record).collect(),
            routes: self.routes.iter().map(Route::record).collect(),
        }
    }

    /// Creates the bridge. It gets the MAC of its first port, which the kernel would choose too.
    fn make_bridge(&self, netlink: &mut Netlink, journal: &mut Journal, mac: MacAddr) -> io::Result<()> {
        let new = NewLink {
            name: &self.bridge,
            kind: NewKind::Bridge,
            mac: Some(mac),
            mtu: Some(self.interface.mtu),
            lower: None,
        };
        make(netlink, journal, &new)?;
        let index = index_of(netlink, &self.bridge)?;
        netlink.silence(index)?;
        refuse_router_advertisements(&self.bridge);
        netlink.set_up(index, true)
    }

    /// Takes name, MAC and addresses from the interface, and makes it a port of the bridge.
    fn strip(&self, netlink: &mut Netlink, mac: MacAddr) -> io::Result<()> {
        let index = self.interface.index;
        for address in self.addresses.iter().filter(|address| address.net.addr().is_ipv4()) {
            netlink.delete_address(address)?;
        }
        // The kernel removes the IPv6 addresses itself.
        netlink.set_up(index, false)?;
        netlink.rename(index, &self.port)?;
        netlink.set_mac(index, mac)?;
        let bridge = index_of(netlink, &self.bridge)?;
        netlink.set_master(index, Some(bridge))?;
        // A reflected frame of the guest must not make the bridge learn the guest on this port.
        let manner = PortManner {
            no_learning: true,
            ..PortManner::default()
        };
        netlink.set_port_manner(index, manner)?;
        netlink.set_up(index, true)
    }

    /// Creates a link with the interface's old name, MAC and addresses. It is a dummy, or a bridge without ports if the
    /// kernel has no dummy links.
    fn keep_address(&self, netlink: &mut Netlink, journal: &mut Journal) -> io::Result<()> {
        let mut new = NewLink {
            name: &self.interface.name,
            kind: NewKind::Dummy,
            mac: self.interface.mac,
            mtu: Some(self.interface.mtu),
            lower: None,
        };
        match make(netlink, journal, &new) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                new.kind = NewKind::Bridge;
                make(netlink, journal, &new)?;
            }
            made => made?,
        }
        let index = index_of(netlink, &self.interface.name)?;
        netlink.silence(index)?;
        netlink.set_up(index, true)?;
        for address in self.addresses.iter().filter(|address| address.is_global()) {
            netlink.add_address(&address.moved_to(index))?;
        }
        Ok(())
    }
}

/// Adds a link to the journal, then creates it.
fn make(netlink: &mut Netlink, journal: &mut Journal, new: &NewLink<'_>) -> io::Result<()> {
    journal.note(Undo::DeleteLink {
        name: new.name.to_owned(),
        kind: new.kind.name().to_owned(),
        mac: new.mac.map(|mac| mac.to_string()),
    })?;
    netlink.make_link(new)
}

fn index_of(netlink: &mut Netlink, name: &str) -> io::Result<u32> {
    let link = netlink.link_named(name)?;
    let gone = || io::Error::new(io::ErrorKind::NotFound, format!("{name} has gone away"));
    link.map(|link| link.index).ok_or_else(gone)
}

/// The last `len` bytes of a name, which consists of ASCII characters.
fn tail(name: &str, len: usize) -> &str {
    name.get(name.len().saturating_sub(len)..).unwrap_or(name)
}

/// Keeps the kernel from configuring an IPv6 address on the bridge from router advertisements. If /proc/sys is
/// read-only, the bridge may get an address, which has no effect outside the pod.
fn refuse_router_advertisements(bridge: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6");
    if let Err(error) = std::fs::write(&path, "1") {
        log::debug!("{path}: {error}");
    }
}
