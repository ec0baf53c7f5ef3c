//! `/v1/rate`: shows and sets the rate limits of a port at run time.

use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use super::{Context, Refusal};
use crate::cli::policy;
use hawser_backend::config::{Rate, RateLimit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Path of the requests.
pub(crate) const PATH: &str = "/v1/rate";
/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[
    Route {
        method: Method::Get,
        path: PATH,
        handler: get,
        describe: |generator| {
            Operation::new("Shows the rate limits of a port")
                .port()
                .answers::<Rates>(generator)
        },
    },
    Route {
        method: Method::Put,
        path: PATH,
        handler: put,
        describe: |generator| {
            Operation::new("Sets the rate limits of a port; limits that are left out are removed")
                .port()
                .takes::<Rates>(generator)
                .answers::<Rates>(generator)
        },
    },
];

/// The rate limits of a port, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rates {
    /// Limit on traffic to the guest.
    #[serde(default, rename = "in")]
    pub inbound: Limit,
    /// Limit on traffic from the guest.
    #[serde(default, rename = "out")]
    pub outbound: Limit,
}

/// Limits of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Limit {
    /// Bits of frames per second, 8000 or more. If it is omitted, there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<u64>,
    /// Bytes that may arrive at once. If it is omitted, 50 ms of the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u64>,
    /// Packets per second, 1 or more. If it is omitted, there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<u64>,
    /// Packets that may arrive at once. If it is omitted, 50 ms of the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_packets: Option<u64>,
}

fn get(context: &Context, request: &Request) -> Result<Answer, Refusal> {
    let nic = context.nic(request)?;
    let rates = nic.rates().ok_or_else(|| super::not_ours(&nic))?;
    Ok(super::json(200, &Rates::from(rates)))
}

fn put(context: &Context, request: &Request) -> Result<Answer, Refusal> {
    let nic = context.nic(request)?;
    let wanted: Rates = super::body(request)?;
    let rates = hawser_backend::config::Rates {
        to_guest: wanted.inbound.checked("in")?,
        from_guest: wanted.outbound.checked("out")?,
    };
    nic.set_rates(rates).ok_or_else(|| super::not_ours(&nic))?;
    Ok(super::json(200, &Rates::from(rates)))
}

impl Limit {
    fn checked(self, direction: &str) -> Result<RateLimit, Refusal> {
        let refused = |field: &str, remedy: String| Refusal::bad_request(format!("{direction}.{field}"), remedy);
        let without = |field: &str| refused(field, "give the rate that it belongs to, or leave it out".into());
        if self.bits_per_second.is_none() && self.burst_bytes.is_some() {
            return Err(without("burstBytes"));
        }
        if self.packets_per_second.is_none() && self.burst_packets.is_some() {
            return Err(without("burstPackets"));
        }
        let bytes = self
            .bits_per_second
            .map(|bits| policy::byte_rate_of(bits, self.burst_bytes));
        let packets = self
            .packets_per_second
            .map(|packets| policy::packet_rate_of(packets, self.burst_packets));
        Ok(RateLimit {
            bytes: bytes.transpose().map_err(|why| refused("bitsPerSecond", why))?,
            packets: packets.transpose().map_err(|why| refused("packetsPerSecond", why))?,
        })
    }
}

impl From<hawser_backend::config::Rates> for Rates {
    fn from(rates: hawser_backend::config::Rates) -> Self {
        Self {
            inbound: rates.to_guest.into(),
            outbound: rates.from_guest.into(),
        }
    }
}

impl From<RateLimit> for Limit {
    fn from(limit: RateLimit) -> Self {
        let burst = |rate: Option<Rate>| rate.map(|rate| rate.burst);
        Self {
            bits_per_second: limit.bytes.map(|rate| rate.per_second * policy::BITS),
            burst_bytes: burst(limit.bytes),
            packets_per_second: limit.packets.map(|rate| rate.per_second),
            burst_packets: burst(limit.packets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ask, context};
    use serde_json::json;

    #[test]
    fn rates_are_set_and_read_and_the_defaults_filled_in() {
        let context = context(&["net0"]);
        assert_eq!(
            ask(&context, "GET", "/v1/rate", "").json(),
            json!({"in": {}, "out": {}})
        );
        let wanted = json!({"in": {"bitsPerSecond": 80_000_000}, "out": {"packetsPerSecond": 500, "burstPackets": 7}});
        let set = ask(&context, "PUT", "/v1/rate?port=net0", &wanted.to_string());
        let expected = json!({
            "in": {"bitsPerSecond": 80_000_000, "burstBytes": 500_000},
            "out": {"packetsPerSecond": 500, "burstPackets": 7},
        });
        assert_eq!((set.status, set.json()), (200, expected.clone()));
        assert_eq!(ask(&context, "GET", "/v1/rate", "").json(), expected);
    }

    #[test]
    fn a_half_right_change_changes_nothing() {
        let context = context(&["net0"]);
        for wrong in [
            r#"{"in": {"bitsPerSecond": 80000000}, "out": {"bitsPerSecond": 7}}"#,
            r#"{"in": {"bitsPerSecond": 80000000}, "out": {"packetsPerSecond": 0}}"#,
            r#"{"in": {"bitsPerSecond": 80000000, "burstPackets": 4}}"#,
            r#"{"in": {"bitsPerSecond": 80000000}, "sideways": {}}"#,
            r#"{"in": {"bitsPerSecond": 80000000}"#,
            r#"{"in": {"bitsPerSecond": "much"}}"#,
            "",
        ] {
            let answer = ask(&context, "PUT", "/v1/rate", wrong);
            assert_eq!(answer.status, 400, "{wrong}: {}", answer.text());
            assert!(
                answer.json()["remedy"].as_str().is_some_and(|text| !text.is_empty()),
                "{wrong}"
            );
        }
        assert_eq!(ask(&context, "PUT", "/v1/rate?port=net7", "{}").status, 404);
        assert_eq!(
            ask(&context, "GET", "/v1/rate", "").json(),
            json!({"in": {}, "out": {}})
        );
    }
}
