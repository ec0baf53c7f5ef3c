//! Finds the next free number of a range of addresses or MACs, starting at a cursor.
//!
//! As in the CNI plugin host-local and in KubeMacPool, the search starts after the number that was leased last, not at
//! the lowest free number. A released number is leased again only after the search has passed through the rest of the
//! range.

use hawser_config::GATEWAY_MAC;
use hawser_packet::{MacAddr, MacRange};
use ipnet::IpNet;
use std::net::IpAddr;

/// An address or a MAC, as a number.
pub type Number = u128;

/// The numbers from `first` to `last`, including both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Lowest number.
    pub first: Number,
    /// Highest number.
    pub last: Number,
}

impl Span {
    /// True if the number lies between the ends, inclusive.
    pub const fn contains(&self, number: Number) -> bool {
        self.first <= number && number <= self.last
    }
}

/// Maximum number of held numbers that one read returns. A range of a node rarely has a longer run without a gap.
const PAGE: usize = 256;

/// The first number after `cursor` that lies in one of `spans` and is neither held nor excluded. The search follows the
/// order of the spans and wraps round, so the cursor itself comes last. Without a cursor, or with one outside the
/// spans, it starts at the first span. `None` if no number is left.
///
/// `held` returns the first numbers held within a span, in ascending order, at most as many as the limit. One call is
/// usually enough. More are needed only for a long run without a gap.
///
/// # Errors
/// The error of `held`.
pub fn next_free<E>(
    spans: &[Span],
    cursor: Option<Number>,
    is_excluded: impl Fn(Number) -> bool,
    mut held: impl FnMut(Span, usize) -> Result<Vec<Number>, E>,
) -> Result<Option<Number>, E> {
    for span in in_turn(spans, cursor) {
        let mut rest = Some(span);
        while let Some(span) = rest {
            let page = held(span, PAGE)?;
            let is_last = page.len() < PAGE;
            match first_gap(span, &page, &is_excluded, is_last) {
                Gap::At(number) => return Ok(Some(number)),
                Gap::NotBefore(first) if !is_last => rest = Some(Span { first, ..span }),
                Gap::NotBefore(_) | Gap::None => rest = None,
            }
        }
    }
    Ok(None)
}

/// The spans in the order in which they are searched.
fn in_turn(spans: &[Span], cursor: Option<Number>) -> Vec<Span> {
    let at = cursor.and_then(|cursor| Some((spans.iter().position(|span| span.contains(cursor))?, cursor)));
    let Some((n, cursor)) = at else { return spans.to_vec() };
    let ahead = (cursor < spans[n].last).then(|| Span {
        first: cursor + 1,
        last: spans[n].last,
    });
    let behind = Span {
        first: spans[n].first,
        last: cursor,
    };
    let others = spans[n + 1..].iter().chain(&spans[..n]).copied();
    ahead.into_iter().chain(others).chain([behind]).collect()
}

/// What one page of held numbers shows about a span.
enum Gap {
    /// This number is free.
    At(Number),
    /// No number before this one is free.
    NotBefore(Number),
    /// No number is free.
    None,
}

fn first_gap(span: Span, held: &[Number], is_excluded: &impl Fn(Number) -> bool, is_last: bool) -> Gap {
    let mut first = span.first;
    for &number in held {
        if let Some(free) = (first..number).find(|number| !is_excluded(*number)) {
            return Gap::At(free);
        }
        if number >= span.last {
            return Gap::None;
        }
        first = number + 1;
    }
    if !is_last {
        return Gap::NotBefore(first);
    }
    (first..=span.last)
        .find(|number| !is_excluded(*number))
        .map_or(Gap::None, Gap::At)
}

/// The address as a number. Numbers of the two families do not overlap.
pub fn number(address: IpAddr) -> Number {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The number as an address.
pub fn address(number: Number) -> IpAddr {
    IpAddr::V6(number.into()).to_canonical()
}

/// Addresses of a network that can be leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// Network that contains the addresses.
    pub subnet: IpNet,
    /// First of these addresses.
    pub first: IpAddr,
    /// Last of these addresses.
    pub last: IpAddr,
    /// Router of the network, which is never leased.
    pub gateway: Option<IpAddr>,
}

impl AddressRange {
    /// True if `address` lies between the ends, inclusive.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}

/// Converts a set of ranges to spans.
pub fn spans(set: &[AddressRange]) -> Vec<Span> {
    let span = |range: &AddressRange| Span {
        first: number(range.first),
        last: number(range.last),
    };
    set.iter().map(span).collect()
}

/// Converts a range of MACs to spans, without the gateway MAC of masquerade mode.
pub fn mac_spans(range: &MacRange) -> Vec<Span> {
    let (first, last) = (mac_number(range.first()), mac_number(range.last()));
    let gateway = mac_number(GATEWAY_MAC);
    let whole = Span { first, last };
    if !whole.contains(gateway) {
        return vec![whole];
    }
    let below = (first < gateway).then(|| Span {
        first,
        last: gateway - 1,
    });
    let above = (gateway < last).then(|| Span {
        first: gateway + 1,
        last,
    });
    below.into_iter().chain(above).collect()
}

/// The first MAC to try if none has been leased yet. It is random, so that nodes without a common store rarely lease
/// the same MACs.
pub fn begin(range: &MacRange, random: u64) -> Number {
    let (first, last) = (mac_number(range.first()), mac_number(range.last()));
    first + Number::from(random) % (last - first + 1)
}

/// The MAC as a number.
pub fn mac_number(mac: MacAddr) -> Number {
    mac.0.iter().fold(0, |number, byte| number << 8 | Number::from(*byte))
}

/// The number as a MAC.
pub fn mac(number: Number) -> MacAddr {
    let [.., a, b, c, d, e, f] = number.to_be_bytes();
    MacAddr([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    fn next(spans: &[Span], cursor: Option<Number>, taken: &[Number]) -> Option<Number> {
        counted(spans, cursor, taken, &[]).0
    }

    /// The number found, and the number of reads.
    fn counted(
        spans: &[Span],
        cursor: Option<Number>,
        taken: &[Number],
        excluded: &[Number],
    ) -> (Option<Number>, usize) {
        let taken: BTreeSet<Number> = taken.iter().copied().collect();
        let mut reads = 0;
        let held = |span: Span, limit| {
            reads += 1;
            Ok::<_, Infallible>(taken.range(span.first..=span.last).take(limit).copied().collect())
        };
        let Ok(found) = next_free(spans, cursor, |number| excluded.contains(&number), held);
        (found, reads)
    }

    #[test]
    fn a_search_reads_the_holders_once_and_not_once_per_candidate() {
        let span = |last| Span { first: 0, last };
        let taken: Vec<Number> = (0..200).collect();
        assert_eq!(counted(&[span(1000)], None, &taken, &[]), (Some(200), 1));
        assert_eq!(counted(&[span(1000)], None, &taken, &[200, 201]), (Some(202), 1));
        assert_eq!(counted(&[span(199)], None, &taken, &[]), (None, 1));
        assert_eq!(counted(&[span(Number::MAX)], Some(500), &taken, &[]), (Some(501), 1));
        // The run is longer than a page and has no gap.
        let taken: Vec<Number> = (0..1000).collect();
        assert_eq!(counted(&[span(2000)], None, &taken, &[]), (Some(1000), 4));
        // A page ends exactly at a gap, and excluded numbers follow it.
        let taken: Vec<Number> = (0..256).collect();
        assert_eq!(counted(&[span(2000)], None, &taken, &[256]), (Some(257), 2));
        assert_eq!(counted(&[span(256)], None, &taken, &[256]), (None, 2));
    }

    const SPANS: [Span; 2] = [Span { first: 10, last: 12 }, Span { first: 5, last: 6 }];

    #[test]
    fn the_search_continues_after_the_cursor_and_wraps_around_to_it() {
        let mut cursor = None;
        let mut given = Vec::new();
        for _ in 0..7 {
            cursor = next(&SPANS, cursor, &[]);
            given.extend(cursor);
        }
        assert_eq!(given, [10, 11, 12, 5, 6, 10, 11]);
        // The number that was released last is the last to be leased again.
        assert_eq!(next(&SPANS, Some(11), &[10, 12, 5, 6]), Some(11));
        assert_eq!(next(&SPANS, Some(6), &[10, 11, 12, 5]), Some(6));
        assert_eq!(next(&SPANS, Some(11), &[10, 11, 12, 5, 6]), None);
    }

    #[test]
    fn a_cursor_of_another_range_begins_at_the_beginning() {
        assert_eq!(next(&SPANS, Some(7), &[10]), Some(11));
        assert_eq!(next(&SPANS, None, &[]), Some(10));
        let end = Span {
            first: Number::MAX,
            last: Number::MAX,
        };
        assert_eq!(next(&[end], Some(Number::MAX), &[]), Some(Number::MAX));
        assert_eq!(next(&[], Some(1), &[]), None);
    }

    #[test]
    fn the_gateways_mac_is_never_given_out() {
        let spans = mac_spans(&MacRange::DEFAULT);
        assert_eq!(mac(spans[0].first).to_string(), "02:00:00:00:00:01");
        let only = "02:00:00:00:00:00-02:00:00:00:00:00".parse::<MacRange>().unwrap();
        assert_eq!(mac_spans(&only), []);
        let other = "0a:00:00:00:00:00-0a:00:00:00:00:0f".parse::<MacRange>().unwrap();
        assert_eq!(mac_spans(&other).len(), 1);
        assert_eq!(mac(begin(&other, 0x13)).to_string(), "0a:00:00:00:00:03");
    }

    #[test]
    fn numbers_are_addresses_and_macs_again() {
        for text in ["0.0.0.1", "10.10.1.20", "255.255.255.255", "fd00::1", "2001:db8:ffff::"] {
            let given: IpAddr = text.parse().unwrap();
            assert_eq!(address(number(given)), given);
        }
        let given: MacAddr = "02:ab:00:00:12:ff".parse().unwrap();
        assert_eq!(mac(mac_number(given)), given);
    }
}
