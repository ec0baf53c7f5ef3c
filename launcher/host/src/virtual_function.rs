//! Attributes of virtual functions, which the driver of the physical function sets.
//!
//! A driver may refuse an attribute, accept it without effect, or be busy with a reset of the function. So every
//! attribute is read back after it was set, and the caller gets the value that the driver has.

use super::netlink::Netlink;
use hawser_packet::MacAddr;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkMessage, LinkVfInfo, VfInfo, VfInfoLinkState, VfInfoMac, VfInfoRate,
    VfInfoSpoofCheck, VfInfoTrust, VfLinkState, VfStats, VfVlan, VfVlanInfo, VlanProtocol,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// Attempts to set an attribute, and the pause between them: as many as sriov-cni makes.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Tag protocol of a VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TagProtocol {
    /// 802.1Q
    #[default]
    Customer,
    /// 802.1ad
    Service,
}

/// PCI device ids of the 82576, the only card of the driver igb with transmit rates for VFs.
const CARDS_WITH_RATES_OF_IGB: [&str; 8] = ["10c9", "10e6", "10e7", "10e8", "150a", "150d", "1518", "1526"];
/// The only link speed, and the highest rate below all valid ones, with which ixgbe sets rates. In Mbit/s.
const SPEED_FOR_RATES_OF_IXGBE: u32 = 10_000;
const BELOW_RATES_OF_IXGBE: u32 = 10;

/// What limits the attributes that a physical function can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PfLimits<'a> {
    /// Driver of the function.
    pub driver: &'a str,
    /// PCI device id of the function, four hexadecimal digits.
    pub device: &'a str,
    /// Speed of its link in Mbit/s; `None` while that is down.
    pub speed: Option<u32>,
}

/// Link state of a virtual function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkMode {
    /// The link state of the physical function.
    Auto,
    /// Always up.
    Enable,
    /// Always down.
    Disable,
}

/// One attribute with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// VLAN, in one message with its priority and protocol.
    Vlan {
        /// Number of the VLAN; 0 for none.
        id: u16,
        /// IEEE 802.1p priority.
        qos: u8,
        /// Tag protocol.
        protocol: TagProtocol,
    },
    /// Administrative MAC. All zeros removes it.
    Mac([u8; 6]),
    /// Limits on the transmit rate in Mbit/s; 0 for none. One message carries both.
    Rate {
        /// Guaranteed rate.
        min: u32,
        /// Maximum rate.
        max: u32,
    },
    /// True if frames from other MACs are dropped.
    SpoofCheck(bool),
    /// True if the guest may change its MAC and be promiscuous.
    Trust(bool),
    /// Link state of the function.
    Link(LinkMode),
}

impl Attribute {
    /// The field of SriovNetwork and sriov-cni that requests the attribute.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Vlan { .. } => "vlan",
            Self::Mac(_) => "mac",
            Self::Rate { .. } => "maxTxRate",
            Self::SpoofCheck(_) => "spoofChk",
            Self::Trust(_) => "trust",
            Self::Link(_) => "linkState",
        }
    }

    /// The reason why a driver does not accept this value, if it is known from the kernel's source (Linux 7.1).
    pub fn refusal(&self, pf: &PfLimits<'_>) -> Option<String> {
        let limit = match self {
            Self::Rate { max: max @ 1.., .. } => rate_limit(*max, pf),
            _ => None,
        };
        self.never(pf.driver).map(str::to_owned).or(limit)
    }

    fn never(&self, driver: &str) -> Option<&'static str> {
        let service_tags = matches!(
            self,
            Self::Vlan {
                protocol: TagProtocol::Service,
                ..
            }
        );
        match (driver, self) {
            ("igb" | "ixgbe" | "i40e" | "mlx5_core", _) if service_tags => Some("it tags with 802.1q only"),
            ("igb" | "ixgbe" | "i40e", Self::Rate { min: 1.., .. }) => Some("it has no minimum rate"),
            ("igb", Self::Link(LinkMode::Enable | LinkMode::Disable)) => Some("it has no link state of VFs"),
            ("ixgbe", Self::Link(LinkMode::Enable)) => {
                Some("it accepts enable without effect; it has auto and disable")
            }
            _ => None,
        }
    }
}

/// The reason why a driver does not accept a maximum rate on the present link.
fn rate_limit(max: u32, pf: &PfLimits<'_>) -> Option<String> {
    match (pf.driver, pf.speed) {
        ("igb", _) if !CARDS_WITH_RATES_OF_IGB.contains(&pf.device) => Some(format!(
            "of its cards only the 82576 has rates, and this is {}",
            pf.device
        )),
        ("igb", None) => Some("it sets rates only while the link is up".to_owned()),
        ("ixgbe", speed) if speed != Some(SPEED_FOR_RATES_OF_IXGBE) => {
            Some("it sets rates only while the link has 10 Gbit/s".to_owned())
        }
        ("ixgbe", _) if max <= BELOW_RATES_OF_IXGBE => {
            Some(format!("its rates are above {BELOW_RATES_OF_IXGBE} Mbit/s"))
        }
        ("igb" | "ixgbe", Some(speed)) if max > speed => Some(format!("the link has {speed} Mbit/s")),
        _ => None,
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: &bool| if *on { "on" } else { "off" };
        match self {
            Self::Vlan { id, qos, protocol } => {
                let protocol = match protocol {
                    TagProtocol::Customer => "802.1q",
                    TagProtocol::Service => "802.1ad",
                };
                write!(f, "VLAN {id} with priority {qos} and protocol {protocol}")
            }
            Self::Mac(mac) => write!(f, "MAC {}", MacAddr(*mac)),
            Self::Rate { min, max } => write!(f, "transmit rates {min} to {max} Mbit/s"),
            Self::SpoofCheck(value) => write!(f, "spoof check {}", on(value)),
            Self::Trust(value) => write!(f, "trust {}", on(value)),
            Self::Link(LinkMode::Auto) => write!(f, "link state auto"),
            Self::Link(LinkMode::Enable) => write!(f, "link state enable"),
            Self::Link(LinkMode::Disable) => write!(f, "link state disable"),
        }
    }
}

/// Counters of a virtual function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in rtnetlink(7)")]
pub struct Traffic {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// A virtual function as its driver reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualFunction {
    /// Number of the function.
    pub number: u32,
    /// Attributes that the driver reports.
    pub attributes: Vec<Attribute>,
    /// Counters of the function, if the driver has any.
    pub traffic: Option<Traffic>,
}

impl VirtualFunction {
    /// The current value of an attribute.
    pub fn current(&self, like: &Attribute) -> Option<Attribute> {
        let same = |other: &&Attribute| std::mem::discriminant(*other) == std::mem::discriminant(like);
        self.attributes.iter().find(same).copied()
    }

    fn from_info(info: &LinkVfInfo) -> Self {
        let mut vf = Self::default();
        // The list follows the plain attribute and contains more.
        let mut vlan = None;
        for value in &info.0 {
            let attribute = match value {
                VfInfo::Mac(mac) => {
                    vf.number = mac.vf_id;
                    mac.mac.get(..6).and_then(|mac| mac.try_into().ok()).map(Attribute::Mac)
                }
                VfInfo::Vlan(plain) => {
                    vlan = tag(plain.vlan_id, plain.qos, TagProtocol::Customer);
                    None
                }
                VfInfo::VlanList(list) => {
                    let found = list.iter().find_map(|entry| match entry {
                        VfVlan::Info(info) => tag(info.vlan_id, info.qos, protocol_of(info.protocol)),
                        _ => None,
                    });
                    vlan = found.or(vlan);
                    None
                }
                VfInfo::Rate(rate) => Some(Attribute::Rate {
                    min: rate.min_tx_rate,
                    max: rate.max_tx_rate,
                }),
                VfInfo::SpoofCheck(check) => Some(Attribute::SpoofCheck(check.enabled)),
                VfInfo::Trust(trust) => Some(Attribute::Trust(trust.enabled)),
                VfInfo::LinkState(link) => match link.state {
                    VfLinkState::Auto => Some(Attribute::Link(LinkMode::Auto)),
                    VfLinkState::Enable => Some(Attribute::Link(LinkMode::Enable)),
                    VfLinkState::Disable => Some(Attribute::Link(LinkMode::Disable)),
                    _ => None,
                },
                VfInfo::Stats(stats) => {
                    vf.traffic = Some(traffic(stats));
                    None
                }
                _ => None,
            };
            vf.attributes.extend(attribute);
        }
        vf.attributes.extend(vlan);
        vf
    }
}

fn tag(id: u32, qos: u32, protocol: TagProtocol) -> Option<Attribute> {
    Some(Attribute::Vlan {
        id: id.try_into().ok()?,
        qos: qos.try_into().ok()?,
        protocol,
    })
}

fn protocol_of(protocol: VlanProtocol) -> TagProtocol {
    match protocol {
        VlanProtocol::Ieee8021Ad => TagProtocol::Service,
        _ => TagProtocol::Customer,
    }
}

fn traffic(stats: &[VfStats]) -> Traffic {
    let mut traffic = Traffic::default();
    for value in stats {
        match value {
            VfStats::RxPackets(n) => traffic.rx_packets = *n,
            VfStats::TxPackets(n) => traffic.tx_packets = *n,
            VfStats::RxBytes(n) => traffic.rx_bytes = *n,
            VfStats::TxBytes(n) => traffic.tx_bytes = *n,
            VfStats::RxDropped(n) => traffic.rx_dropped = *n,
            VfStats::TxDropped(n) => traffic.tx_dropped = *n,
            _ => {}
        }
    }
    traffic
}

/// The reason why an attribute does not have the requested value.
#[derive(Debug, thiserror::Error)]
pub enum AttributeError {
    /// The driver refused it.
    #[error("the driver refuses {asked}: {source}")]
    Refused {
        /// Attribute that was requested.
        asked: Attribute,
        /// The kernel's error.
        source: io::Error,
    },
    /// The driver accepted it without effect.
    #[error("the driver accepted {asked}, but has {}", found.map_or_else(|| "none".to_owned(), |found| found.to_string()))]
    Ignored {
        /// Attribute that was requested.
        asked: Attribute,
        /// The attribute's current value.
        found: Option<Attribute>,
    },
    /// The physical function no longer has this virtual function.
    #[error("it has no VF {0}")]
    Gone(u32),
    /// The state of the functions cannot be read.
    #[error("cannot read its VFs: {0}")]
    Unread(#[source] io::Error),
}

impl Netlink {
    /// The virtual functions of a link, as its driver reports them.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn virtual_functions(&mut self, pf: u32) -> io::Result<Vec<VirtualFunction>> {
        let mut message = LinkMessage::default();
        message.header.index = pf;
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Vf])];
        let answers = self.request(RouteNetlinkMessage::GetLink(message), 0)?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        let lists = links
            .flat_map(|link| link.attributes)
            .filter_map(|attribute| match attribute {
                LinkAttribute::VfInfoList(list) => Some(list),
                _ => None,
            });
        Ok(lists.flatten().map(|info| VirtualFunction::from_info(&info)).collect())
    }

    /// A virtual function of a link.
    ///
    /// # Errors
    /// [`AttributeError::Gone`], [`AttributeError::Unread`]
    pub fn virtual_function(&mut self, pf: u32, number: u32) -> Result<VirtualFunction, AttributeError> {
        let all = self.virtual_functions(pf).map_err(AttributeError::Unread)?;
        all.into_iter()
            .find(|vf| vf.number == number)
            .ok_or(AttributeError::Gone(number))
    }

    /// Sets an attribute of a virtual function and reads it back. Attempts are repeated while the driver is busy, or
    /// has another value: the function may be in a reset. Returns the time until the driver had set it.
    ///
    /// # Errors
    /// [`AttributeError`]
    pub fn set_attribute(&mut self, pf: u32, number: u32, asked: Attribute) -> Result<Duration, AttributeError> {
        let (start, mut failure) = (Instant::now(), None);
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                thread::sleep(PAUSE);
            }
            match self.try_set(pf, number, asked) {
                Ok(()) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    failure = Some(AttributeError::Refused { asked, source: error });
                    continue;
                }
                Err(source) => return Err(AttributeError::Refused { asked, source }),
            }
            let took = start.elapsed();
            let found = self.virtual_function(pf, number)?.current(&asked);
            if found == Some(asked) {
                return Ok(took);
            }
            failure = Some(AttributeError::Ignored { asked, found });
        }
        Err(failure.unwrap_or(AttributeError::Ignored { asked, found: None }))
    }

    fn try_set(&mut self, pf: u32, number: u32, attribute: Attribute) -> io::Result<()> {
        let info = match attribute {
            Attribute::Vlan { id, qos, protocol } => {
                let protocol = match protocol {
                    TagProtocol::Customer => VlanProtocol::Ieee8021Q,
                    TagProtocol::Service => VlanProtocol::Ieee8021Ad,
                };
                let info = VfVlanInfo::new(number, id.into(), qos.into(), protocol);
                VfInfo::VlanList(vec![VfVlan::Info(info)])
            }
            Attribute::Mac(mac) => VfInfo::Mac(VfInfoMac::new(number, &mac)),
            Attribute::Rate { min, max } => VfInfo::Rate(VfInfoRate::new(number, min, max)),
            Attribute::SpoofCheck(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(number, on)),
            Attribute::Trust(on) => VfInfo::Trust(VfInfoTrust::new(number, on)),
            Attribute::Link(mode) => {
                let state = match mode {
                    LinkMode::Auto => VfLinkState::Auto,
                    LinkMode::Enable => VfLinkState::Enable,
                    LinkMode::Disable => VfLinkState::Disable,
                };
                VfInfo::LinkState(VfInfoLinkState::new(number, state))
            }
        };
        let mut message = LinkMessage::default();
        message.header.index = pf;
        message.attributes = vec![LinkAttribute::VfInfoList(vec![LinkVfInfo(vec![info])])];
        self.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_cannot_set_is_known_before_it_is_asked() {
        let igb = PfLimits {
            driver: "igb",
            device: "10c9",
            speed: Some(1_000),
        };
        let ixgbe = PfLimits {
            driver: "ixgbe",
            device: "10fb",
            speed: Some(10_000),
        };
        let rate = |min, max| Attribute::Rate { min, max };
        let service = Attribute::Vlan {
            id: 7,
            qos: 0,
            protocol: TagProtocol::Service,
        };
        let slow = PfLimits {
            speed: Some(1_000),
            ..ixgbe
        };
        let i350 = PfLimits { device: "1521", ..igb };
        let unplugged = PfLimits { speed: None, ..igb };
        for (attribute, pf, why) in [
            (rate(1, 20), igb, "it has no minimum rate"),
            (rate(0, 1_001), igb, "the link has 1000 Mbit/s"),
            (rate(0, 20), unplugged, "it sets rates only while the link is up"),
            (
                rate(0, 20),
                i350,
                "of its cards only the 82576 has rates, and this is 1521",
            ),
            (rate(0, 20), slow, "it sets rates only while the link has 10 Gbit/s"),
            (rate(0, 10), ixgbe, "its rates are above 10 Mbit/s"),
            (service, igb, "it tags with 802.1q only"),
            (Attribute::Link(LinkMode::Disable), igb, "it has no link state of VFs"),
        ] {
            assert_eq!(attribute.refusal(&pf).as_deref(), Some(why), "{attribute} by {pf:?}");
        }
        let mlx5 = PfLimits {
            driver: "mlx5_core",
            device: "101d",
            speed: None,
        };
        for (attribute, pf) in [
            (rate(0, 1_000), igb),
            (rate(0, 0), unplugged),
            (rate(10, 20), mlx5),
            (Attribute::Link(LinkMode::Auto), igb),
        ] {
            assert_eq!(attribute.refusal(&pf), None, "{attribute} by {pf:?}");
        }
    }
}
