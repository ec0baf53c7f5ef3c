//! `hawser rate`: shows or changes the rate limits of a port.

use super::{Client, Target, show};
use crate::api::http::Method;
use crate::api::rate::{Limit, PATH, Rates};
use crate::cli::client::{RateArgs, Wanted};
use crate::cli::policy::BITS;
use crate::failure::Failure;
use std::fmt::Write as _;

/// Changes the limits that are given, then prints all limits.
///
/// # Errors
/// The process or port does not exist.
pub(crate) fn run(args: &RateArgs) -> Result<(), Failure> {
    let client = Client::of(&args.ask);
    let target = || Target::new(PATH).of(args.ask.port.as_deref());
    let mut rates: Rates = client.get(&target())?;
    let given = [args.rate_in, args.rate_out, args.packet_rate_in, args.packet_rate_out];
    if given.iter().any(Option::is_some) {
        set_bytes(&mut rates.inbound, args.rate_in);
        set_bytes(&mut rates.outbound, args.rate_out);
        set_packets(&mut rates.inbound, args.packet_rate_in);
        set_packets(&mut rates.outbound, args.packet_rate_out);
        rates = client.send(Method::Put, &target(), &rates)?;
    }
    show(args.json, &rates, text)
}

fn set_bytes(limit: &mut Limit, wanted: Option<Wanted>) {
    let Some(wanted) = wanted else { return };
    (limit.bits_per_second, limit.burst_bytes) = match wanted {
        Wanted::Limit(rate) => (Some(rate.per_second * BITS), Some(rate.burst)),
        Wanted::Off => (None, None),
    };
}

fn set_packets(limit: &mut Limit, wanted: Option<Wanted>) {
    let Some(wanted) = wanted else { return };
    (limit.packets_per_second, limit.burst_packets) = match wanted {
        Wanted::Limit(rate) => (Some(rate.per_second), Some(rate.burst)),
        Wanted::Off => (None, None),
    };
}

fn text(rates: &Rates) -> String {
    let mut text = String::new();
    for (direction, limit) in [("in", rates.inbound), ("out", rates.outbound)] {
        let bits = limit.bits_per_second.zip(limit.burst_bytes);
        let bits = bits.map(|(rate, burst)| format!("{rate} bit/s, {burst} bytes at once"));
        let packets = limit.packets_per_second.zip(limit.burst_packets);
        let packets = packets.map(|(rate, burst)| format!("{rate} packets/s, {burst} at once"));
        let limits: Vec<String> = [bits, packets].into_iter().flatten().collect();
        let limits = if limits.is_empty() {
            "no limit".to_owned()
        } else {
            limits.join("; ")
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{direction:<4} {limits}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_config::Rate;

    #[test]
    fn limits_read_as_they_are_meant() {
        let mut rates = Rates::default();
        let rate = Rate {
            per_second: 1000,
            burst: 70,
        };
        set_bytes(&mut rates.inbound, Some(Wanted::Limit(rate)));
        set_packets(&mut rates.inbound, Some(Wanted::Limit(rate)));
        assert_eq!(
            text(&rates),
            "in   8000 bit/s, 70 bytes at once; 1000 packets/s, 70 at once\nout  no limit\n"
        );
        set_bytes(&mut rates.inbound, Some(Wanted::Off));
        set_packets(&mut rates.inbound, None);
        assert_eq!(text(&rates), "in   1000 packets/s, 70 at once\nout  no limit\n");
    }
}
