//! The state of a NIC apart from its flows and its front end, for a live upgrade or a migration.
//!
//! A record has two parts. [`Identity`](super::Identity) is what the guest has been told about its NIC; a process that
//! serves another NIC under that name refuses the record. [`State`] is what the guest, its traffic and the operator have changed since
//! the NIC was set up. Rings and features belong to the front end (`vhost-user-server`), flows to the mode.

use super::Port;
use super::identity::{Differs, Identity};
use crate::config::Rates;
use crate::config::payload::{Payload, Sealed};
use crate::counters::SavedCounters;
use crate::packet::MacAddr;
use crate::policy::{SnoopSource, SnoopedAddress};
use crate::responder::SavedLeases;
use crate::time::Instant;
use crate::worker::{self, DriverSettings};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A NIC between two processes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, from = "WrittenNic")]
pub struct NicRecord {
    /// Name of the port.
    pub name: String,
    /// What the guest knows about its NIC.
    pub identity: Sealed<Identity>,
    /// What has changed since the NIC was set up.
    pub state: State,
}

impl Payload for NicRecord {
    const KIND: &'static str = "nic";
    const VERSION: u32 = 2;
}

/// [`NicRecord`] in any version. In version 1 the identity had the name, and was no payload of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNic {
    #[serde(default)]
    name: String,
    identity: WrittenIdentity,
    state: State,
}

impl From<WrittenNic> for NicRecord {
    fn from(nic: WrittenNic) -> Self {
        let WrittenNic { name, identity, state } = nic;
        let (name, identity) = match identity {
            WrittenIdentity::Sealed(identity) => (name, identity),
            WrittenIdentity::Named(NamedIdentity { name, identity }) => (name, Sealed(identity)),
        };
        Self { name, identity, state }
    }
}

enum WrittenIdentity {
    Sealed(Sealed<Identity>),
    Named(NamedIdentity),
}

#[derive(Deserialize)]
struct NamedIdentity {
    name: String,
    #[serde(flatten)]
    identity: Identity,
}

impl<'de> Deserialize<'de> for WrittenIdentity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = WrittenIdentity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the identity of a NIC")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<WrittenIdentity, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(WrittenIdentity::Sealed)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WrittenIdentity, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map)).map(WrittenIdentity::Named)
            }
        }

        from.deserialize_any(Any)
    }
}

/// What has changed since the NIC was set up.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// False if the operator has set the link down.
    pub link_up: bool,
    /// Rate limits, which the operator can change. The buckets are full at the start.
    pub rates: Rates,
    /// Leases that the guest holds.
    pub leases: SavedLeases,
    /// Receive filters, offloads and MAC that the driver has set.
    pub driver: DriverSettings,
    /// Addresses that the guest has used, most recently seen first.
    pub snooped: Vec<SavedSighting>,
    /// Sums of the counters of all workers.
    pub counters: SavedCounters,
}

/// An address that the guest has used.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSighting {
    address: IpAddr,
    mac: MacAddr,
    source: SnoopSource,
    /// Time since it was seen last, in milliseconds.
    age: u64,
}

/// The reason why a NIC cannot continue with a record. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// The guest would see another NIC.
    #[error("interface {0}: {1}")]
    Differs(String, Differs),
    /// The record is that of another port.
    #[error(
        "interface {ours}: the state of interface {theirs} was passed on in its place; report the versions on both sides"
    )]
    Name {
        /// Name of the port.
        ours: String,
        /// Name in the record.
        theirs: String,
    },
    /// No driver can have made these settings.
    #[error("interface {0}: the settings of its driver are not possible; report the versions on both sides")]
    Driver(String),
    /// A rate limit admits nothing.
    #[error("interface {0}: a rate of zero is no rate limit; report the versions on both sides")]
    Rate(String),
}

impl Port {
    /// The NIC, for another process. Counters are exact if the workers rest.
    pub fn save(&self) -> NicRecord {
        let sighting = |(seen, age): (SnoopedAddress, Duration)| SavedSighting {
            address: seen.address,
            mac: seen.mac,
            source: seen.source,
            age: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        };
        NicRecord {
            name: self.config.name.clone(),
            identity: Sealed(self.identity()),
            state: State {
                link_up: self.link.is_wanted(),
                rates: self.rates(),
                leases: self.held.save(),
                driver: self.nic.save(),
                snooped: self.snooped().into_iter().map(sighting).collect(),
                counters: self.counters().save(),
            },
        }
    }

    /// Continues with the NIC of another process. Call this while the workers rest, after the front end was taken over:
    /// a control ring that starts resets the driver's settings.
    ///
    /// # Errors
    /// [`NicError`]
    pub fn load(&self, saved: NicRecord) -> Result<(), NicError> {
        let NicRecord {
            name,
            identity: Sealed(identity),
            state,
        } = saved;
        let ours = &self.config.name;
        if name != *ours {
            return Err(NicError::Name {
                ours: ours.clone(),
                theirs: name,
            });
        }
        let same = identity.check(&self.identity());
        same.map_err(|differs| NicError::Differs(ours.clone(), differs))?;
        let Rates { to_guest, from_guest } = state.rates;
        let rates = [to_guest.bytes, to_guest.packets, from_guest.bytes, from_guest.packets];
        if rates.into_iter().flatten().any(|rate| rate.per_second == 0) {
            return Err(NicError::Rate(name));
        }
        if !self.nic.load(state.driver) {
            return Err(NicError::Driver(name));
        }
        let now = worker::now();
        let sighting = |seen: SavedSighting| SnoopedAddress {
            address: seen.address,
            mac: seen.mac,
            source: seen.source,
            seen: Instant::from_nanos(now.as_nanos().saturating_sub(nanos(seen.age))),
        };
        self.snooping.load(state.snooped.into_iter().map(sighting).collect());
        self.held.load(state.leases);
        if let Some(counters) = self.counters.first() {
            counters.load(&state.counters);
        }
        if state.rates != self.rates() {
            self.set_rates(state.rates);
        }
        if state.link_up != self.link.is_wanted() {
            self.set_link(state.link_up);
        }
        Ok(())
    }
}

const fn nanos(millis: u64) -> u64 {
    millis.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::testing::config;
    use super::*;
    use crate::config::payload::{from_bytes, to_bytes};
    use crate::config::{Rate, RateLimit};
    use crate::nat::saved::golden;
    use crate::port::PortResources;
    use crate::virtio::control::{Order, RxMode};
    use crate::virtio::features::Features;
    use serde_json::Value;

    fn port(change: impl FnOnce(&mut crate::config::PortConfig)) -> Port {
        let mut config = config(1);
        config.mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
        change(&mut config);
        Port::new(config, PortResources::default()).unwrap()
    }

    #[test]
    fn golden_files_of_all_versions_load() {
        let nic = changed().save();
        let nic = NicRecord {
            state: State {
                snooped: Vec::new(),
                counters: SavedCounters::default(),
                ..nic.state
            },
            ..nic
        };
        golden::check("changed", std::slice::from_ref(&nic));
        for (name, loaded) in golden::all::<NicRecord>() {
            assert_eq!(loaded, std::slice::from_ref(&nic), "{name}");
            port(|_| {}).load(loaded[0].clone()).unwrap();
        }
    }

    /// A NIC of which everything has been changed.
    fn changed() -> Port {
        let old = port(|_| {});
        let bytes = Some(Rate {
            per_second: 1000,
            burst: 2000,
        });
        let to_guest = RateLimit { bytes, packets: None };
        let limits = Rates {
            to_guest,
            ..Rates::default()
        };
        old.set_rates(limits);
        old.set_link(false);
        assert!(
            old.nic
                .apply(Order::Receive(RxMode::Promiscuous, false), Features::default())
        );
        let seen = SnoopedAddress {
            address: [10, 0, 2, 2].into(),
            mac: MacAddr([2, 0, 0, 0, 0, 9]),
            source: SnoopSource::Arp,
            seen: worker::now(),
        };
        old.snooping.load(vec![seen]);
        old.held
            .load(serde_json::from_str(r#"{"v4":true,"v6":false,"stranger":"02:00:00:00:00:07"}"#).unwrap());
        let counted = r#"{"drops":{"truncated":3,"of_a_newer_version":1},"counts":{"tx_frames":4}}"#;
        old.counters[0].load(&serde_json::from_str(counted).unwrap());
        old
    }

    #[test]
    fn a_nic_continues_in_another_process() {
        let old = changed();
        let new = port(|_| {});
        new.load(from_bytes(&to_bytes(&old.save())).unwrap()).unwrap();
        let (mut before, mut after) = (old.save(), new.save());
        // Time has passed.
        before.state.snooped[0].age = 0;
        after.state.snooped[0].age = 0;
        assert_eq!(after, before);
        assert!(!new.link().is_up() && new.rates() == old.rates() && new.held_leases().has_v4());
    }

    #[test]
    fn a_nic_that_the_guest_would_not_recognise_is_refused_by_its_property() {
        let saved = port(|_| {}).save();
        let refused = |change: fn(&mut crate::config::PortConfig)| {
            let port = port(change);
            let before = port.save();
            let error = port.load(saved.clone()).unwrap_err().to_string();
            assert_eq!(port.save(), before);
            error
        };
        assert!(
            refused(|config| config.mtu = 9000)
                .contains("MTU of the NIC is 1500 in the process that serves the guest and 9000")
        );
        assert!(
            refused(|config| config.mac = None)
                .contains("MAC of the NIC is 02:00:00:00:00:09 in the process that serves the guest and unset")
        );
        assert!(refused(|config| config.name = "other".into()).contains("interface other: the state of interface"));
    }

    #[test]
    fn settings_that_no_driver_can_make_are_refused() {
        let saved = serde_json::to_value(port(|_| {}).save()).unwrap();
        let refuse = |path: &str, value: Value| {
            let mut saved = saved.clone();
            *saved.pointer_mut(path).unwrap() = value;
            let error = port(|_| {}).load(serde_json::from_value(saved).unwrap()).unwrap_err();
            error.to_string()
        };
        let group = serde_json::json!({"some": ["01:00:5e:00:00:01"]});
        assert!(refuse("/state/driver/asked/unicast", group).contains("settings of its driver"));
        assert!(refuse("/state/driver/asked/mac", "02:00:00:00:00:01".into()).contains("settings of its driver"));
        assert!(refuse("/state/driver/offloads", Value::from(1)).contains("settings of its driver"));
        let none = serde_json::json!({"per_second": 0, "burst": 1});
        assert!(refuse("/state/rates/to_guest/bytes", none).contains("a rate of zero"));
    }
}
