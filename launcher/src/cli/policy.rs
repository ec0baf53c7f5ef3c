//! Options of a port's policy: VLANs, checks of the guest's frames, and rates.

use clap::Args;
use hawser_backend::config::{AddressCheck, MacCheck, PolicyConfig, Rate, RateLimit, Rates, VlanConfig, VlanSet};
use hawser_backend::packet::vlan::VlanId;
use hawser_manifest::nic::SourceSpec;
use hawser_manifest::values;
use std::ops::RangeInclusive;

/// Options for the frames that cross the port.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub(crate) struct PolicyArgs {
    /// VLAN of the guest, 1 to 4094; the guest sees no tag. With --vlan-trunk, the VLAN of its
    /// untagged frames
    #[arg(long, value_name = "ID", help_heading = "Segment", conflicts_with = "native_vlan")]
    pub vlan: Option<VlanId>,
    /// VLANs that the guest uses with tags, such as 10,20-30
    #[arg(
        long,
        value_name = "ID[-ID2],…",
        help_heading = "Segment",
        value_delimiter = ',',
        value_parser = vlan_range
    )]
    pub vlan_trunk: Vec<RangeInclusive<VlanId>>,
    /// VLAN of the guest's untagged frames on a trunk: another name for --vlan
    #[arg(long, value_name = "ID", help_heading = "Segment")]
    pub native_vlan: Option<VlanId>,
    /// Keep the guest in the segment's untagged VLAN as well as its own
    #[arg(long, help_heading = "Segment")]
    pub preserve_default_vlan: bool,

    /// Drop frames that the guest sends from a MAC other than --mac (always on with
    /// --mode=masquerade)
    #[arg(long, help_heading = "Checks")]
    pub mac_spoof_check: bool,
    /// Source addresses and networks that the guest may use; drop its IP, ARP and neighbour discovery frames from any
    /// other. A family without an entry is blocked. With --mode=layer2, addresses besides those that the network
    /// assigns to the guest; off: any [default: off on a segment, the assigned addresses with --mode=layer2]
    #[arg(
        long,
        value_name = "ADDR[/LEN],…|off",
        help_heading = "Checks",
        value_parser = values::sources
    )]
    pub ip_spoof_check: Vec<SourceSpec>,
    /// Drop DHCP and DHCPv6 server messages from the guest
    #[arg(long, help_heading = "Checks")]
    pub dhcp_guard: bool,
    /// Drop router advertisements and redirects from the guest
    #[arg(long, help_heading = "Checks")]
    pub router_guard: bool,

    /// Limit on traffic to the guest: bits per second such as 500M, 1G or 1gbit, and burst in
    /// bytes [default burst: 50 ms of the rate]
    #[arg(long, value_name = "RATE[:BURST]", help_heading = "Rates", value_parser = byte_rate)]
    pub rate_in: Option<Rate>,
    /// Limit on traffic from the guest, in the syntax of --rate-in
    #[arg(long, value_name = "RATE[:BURST]", help_heading = "Rates", value_parser = byte_rate)]
    pub rate_out: Option<Rate>,
    /// Limit on packets per second to the guest, and burst in packets
    #[arg(long, value_name = "RATE[:BURST]", help_heading = "Rates", value_parser = packet_rate)]
    pub packet_rate_in: Option<Rate>,
    /// Limit on packets per second from the guest, in the syntax of --packet-rate-in
    #[arg(long, value_name = "RATE[:BURST]", help_heading = "Rates", value_parser = packet_rate)]
    pub packet_rate_out: Option<Rate>,
}

/// Contradictions between options about VLANs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    /// A VLAN is in two ranges.
    #[error("--vlan-trunk={spec} names VLAN {id} twice: name each VLAN in one range only")]
    Overlap {
        /// Value of the option.
        spec: String,
        /// VLAN that is named twice.
        id: VlanId,
    },
    /// The native VLAN is among the tagged VLANs.
    #[error(
        "--vlan-trunk={spec} and --{option}={id} both name VLAN {id}, which cannot be both tagged and untagged: \
         remove it from one"
    )]
    NativeInTrunk {
        /// Value of the trunk option.
        spec: String,
        /// Name of the other option.
        option: &'static str,
        /// VLAN that both options name.
        id: VlanId,
    },
    /// The address check is switched both on and off.
    #[error("--ip-spoof-check=off disables the check that other values of the option describe: leave one out")]
    SourcesOnAndOff,
    /// A native VLAN is given without a trunk.
    #[error("--native-vlan={0} is the VLAN of untagged frames on a trunk: give --vlan-trunk too, or --vlan={0} alone")]
    NativeWithoutTrunk(VlanId),
    /// The default VLAN is to be kept, but no other VLAN is given.
    #[error("--preserve-default-vlan has an effect only with --vlan or --vlan-trunk: give one, or leave it out")]
    NothingToPreserve,
}

impl PolicyArgs {
    /// The options that apply only on a segment, and whether each was given.
    pub(crate) fn of_a_segment(&self) -> [(bool, &'static str); 6] {
        [
            (self.vlan.is_some(), "--vlan"),
            (!self.vlan_trunk.is_empty(), "--vlan-trunk"),
            (self.native_vlan.is_some(), "--native-vlan"),
            (self.preserve_default_vlan, "--preserve-default-vlan"),
            (self.dhcp_guard, "--dhcp-guard"),
            (self.router_guard, "--router-guard"),
        ]
    }

    /// The policy of a guest on a private network.
    pub(crate) fn off_segment(&self) -> PolicyConfig {
        PolicyConfig {
            rates: self.rates(),
            ..PolicyConfig::default()
        }
    }

    /// The policy of a guest on a segment.
    ///
    /// # Errors
    /// The first contradiction between the options.
    pub(crate) fn on_segment(&self) -> Result<PolicyConfig, PolicyError> {
        Ok(PolicyConfig {
            vlan: self.vlans()?,
            mac_check: if self.mac_spoof_check {
                MacCheck::Enforced
            } else {
                MacCheck::Off
            },
            addresses: match self.sources()? {
                SourceSpec::Assigned(check) if check != AddressCheck::default() => Some(check),
                _ => None,
            },
            dhcp_guard: self.dhcp_guard,
            router_guard: self.router_guard,
            rates: self.rates(),
        })
    }

    fn vlans(&self) -> Result<VlanConfig, PolicyError> {
        let keep_default = self.preserve_default_vlan;
        if self.vlan_trunk.is_empty() {
            return match (self.vlan, self.native_vlan) {
                (Some(id), _) => Ok(VlanConfig::Access { id, keep_default }),
                (None, Some(id)) => Err(PolicyError::NativeWithoutTrunk(id)),
                (None, None) if keep_default => Err(PolicyError::NothingToPreserve),
                (None, None) => Ok(VlanConfig::Transparent),
            };
        }
        let mut tagged = VlanSet::default();
        for range in &self.vlan_trunk {
            tagged.add(range.clone()).map_err(|id| PolicyError::Overlap {
                spec: self.trunk_spec(),
                id,
            })?;
        }
        let native = self.vlan.or(self.native_vlan);
        if let Some(id) = native.filter(|id| tagged.contains(id.get())) {
            let option = if self.vlan.is_some() { "vlan" } else { "native-vlan" };
            return Err(PolicyError::NativeInTrunk {
                spec: self.trunk_spec(),
                option,
                id,
            });
        }
        Ok(VlanConfig::Trunk {
            tagged,
            native,
            keep_default,
        })
    }

    /// The trunk's ranges, as given by the operator.
    fn trunk_spec(&self) -> String {
        let range = |range: &RangeInclusive<VlanId>| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        self.vlan_trunk.iter().map(range).collect::<Vec<_>>().join(",")
    }

    /// The source addresses that the guest may use, from all values of the option.
    ///
    /// # Errors
    /// Some values name addresses, and another one allows any.
    pub(crate) fn sources(&self) -> Result<SourceSpec, PolicyError> {
        let mut all = AddressCheck::default();
        let mut is_off = false;
        for sources in &self.ip_spoof_check {
            match sources {
                SourceSpec::Any => is_off = true,
                SourceSpec::Assigned(check) => {
                    all.ipv4.extend(&check.ipv4);
                    all.ipv6.extend(&check.ipv6);
                }
            }
        }
        match is_off {
            true if all != AddressCheck::default() => Err(PolicyError::SourcesOnAndOff),
            true => Ok(SourceSpec::Any),
            false => Ok(SourceSpec::Assigned(all)),
        }
    }

    const fn rates(&self) -> Rates {
        Rates {
            to_guest: RateLimit {
                bytes: self.rate_in,
                packets: self.packet_rate_in,
            },
            from_guest: RateLimit {
                bytes: self.rate_out,
                packets: self.packet_rate_out,
            },
        }
    }
}

type Parsed<T> = Result<T, String>;

/// Parses `--vlan-trunk`: one VLAN or a range of VLANs.
fn vlan_range(text: &str) -> Parsed<RangeInclusive<VlanId>> {
    let id = |text: &str| text.parse::<VlanId>().map_err(|e| e.to_string());
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (id(first)?, id(last)?),
        None => (id(text)?, id(text)?),
    };
    if first > last {
        return Err(format!("the range ends before it begins: write {last}-{first}"));
    }
    Ok(first..=last)
}

/// Lowest rate, which allows one full frame in 1.5 seconds.
const MIN_BYTES_PER_SECOND: u64 = 1000;
/// Divisor of one second. The default burst is what the rate allows in that time.
const DEFAULT_BURST: u64 = 20;
/// Minimum of the default burst. A frame that carries many segments fits into it.
const MIN_DEFAULT_BURST: u64 = 128 << 10;
const MIN_DEFAULT_PACKETS: u64 = 64;
/// Number of bits in a byte.
pub(crate) const BITS: u64 = 8;

/// Parses `--rate-in` and `--rate-out`: bits per second, and burst in bytes.
pub(crate) fn byte_rate(text: &str) -> Parsed<Rate> {
    let (rate, burst) = split(text);
    let rate = rate.strip_suffix("bit").unwrap_or(rate);
    let bits = decimal(rate).ok_or("give bits per second such as 800k, 500M, 1G or 1gbit, and :BYTES for the burst")?;
    let burst = burst.map(|burst| binary(burst).ok_or("give the burst in bytes, such as 256K or 1M"));
    byte_rate_of(bits, burst.transpose()?)
}

/// A rate of `bits` per second.
///
/// # Errors
/// The rate is below the minimum.
pub(crate) fn byte_rate_of(bits: u64, burst: Option<u64>) -> Parsed<Rate> {
    let per_second = bits / BITS;
    if per_second < MIN_BYTES_PER_SECOND {
        return Err(format!("give {}k or more", MIN_BYTES_PER_SECOND * BITS / 1000));
    }
    let burst = burst.unwrap_or_else(|| (per_second / DEFAULT_BURST).max(MIN_DEFAULT_BURST));
    Ok(Rate { per_second, burst })
}

/// Parses `--packet-rate-in` and `--packet-rate-out`: packets per second, and burst in packets.
pub(crate) fn packet_rate(text: &str) -> Parsed<Rate> {
    let (rate, burst) = split(text);
    let shape = "give packets per second such as 5000 or 100k, and :PACKETS for the burst";
    let burst = burst.map(|burst| decimal(burst).ok_or("give the burst in packets, such as 1000"));
    packet_rate_of(decimal(rate).ok_or(shape)?, burst.transpose()?)
}

/// A rate of `per_second` packets.
///
/// # Errors
/// The rate is zero.
pub(crate) fn packet_rate_of(per_second: u64, burst: Option<u64>) -> Parsed<Rate> {
    if per_second == 0 {
        return Err("give packets per second such as 5000, 1 or more".into());
    }
    let burst = burst.unwrap_or_else(|| (per_second / DEFAULT_BURST).max(MIN_DEFAULT_PACKETS));
    Ok(Rate { per_second, burst })
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once(':')
        .map_or((text, None), |(rate, burst)| (rate, Some(burst)))
}

/// Parses a number with k, M, G or T for powers of 1000, or Ki, Mi, Gi or Ti for powers of 1024, as in Kubernetes
/// quantities. tc's lower-case letters mean the same.
fn decimal(text: &str) -> Option<u64> {
    match text.strip_suffix('i') {
        Some(text) => scaled(text, 1024),
        None => scaled(text, 1000),
    }
}

/// Parses a number with K, M or G for powers of 1024, as for sizes in tc.
fn binary(text: &str) -> Option<u64> {
    scaled(text, 1024)
}

fn scaled(text: &str, base: u64) -> Option<u64> {
    let power = |letter: char| "kmgt".find(letter.to_ascii_lowercase());
    let (digits, power) = match text.char_indices().next_back() {
        Some((at, letter)) if letter.is_ascii_alphabetic() => (&text[..at], power(letter)? + 1),
        _ => (text, 0),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits
        .parse::<u64>()
        .ok()?
        .checked_mul(base.checked_pow(u32::try_from(power).ok()?)?)
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
