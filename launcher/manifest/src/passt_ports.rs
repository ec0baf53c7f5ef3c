//! The port specifications of passt(1): `-t` and `-u`.
//!
//! `none`, `all`, or `[ADDRESS/]PORTS`. PORTS are ranges separated by commas, each with the guest's ports after a colon
//! if they differ, or with `~` before it if its ports are left out. If all ranges are left out, every other port is meant.

use hawser_config::{Forward, PortSet, Transport};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

/// One value of the option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// No port.
    None,
    /// Every port but these.
    All(Vec<RangeInclusive<u16>>),
    /// The ports of these ranges.
    Some(Vec<Range>),
}

/// Ports of the host, and the guest's ports for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Address to listen on. `None`: all.
    bind: Option<IpAddr>,
    /// Ports of the host.
    host: RangeInclusive<u16>,
    /// The guest's port for the first of them.
    guest: u16,
}

/// Parses a value.
///
/// # Errors
/// The text is none, or asks for something that is not served.
pub fn parse(text: &str) -> Result<Spec, String> {
    match text {
        "none" => return Ok(Spec::None),
        "all" => return Ok(Spec::All(Vec::new())),
        "auto" => return Err("auto is for a namespace of pasta: name the ports, or give all".into()),
        _ => {}
    }
    let (bind, ports) = match text.split_once('/') {
        None => (None, text),
        Some((place, _)) if place.contains('%') => {
            return Err("ports of one interface are not served: give the interface's address instead".into());
        }
        Some((place, ports)) => {
            let address: IpAddr = place.parse().map_err(|_| format!("{place:?} is not an IP address"))?;
            (Some(address).filter(|address| !address.is_unspecified()), ports)
        }
    };
    let (mut ranges, mut left_out) = (Vec::new(), Vec::new());
    for part in ports.split(',') {
        match part.strip_prefix('~') {
            Some(out) => left_out.push(range(out)?),
            None => ranges.push(mapping(part, bind)?),
        }
    }
    match (&ranges[..], bind) {
        ([], Some(address)) => Err(format!(
            "every port of the one address {address} is not served: name the ports, or leave the address out"
        )),
        ([], None) => Ok(Spec::All(left_out)),
        (ranges, _) => Ok(Spec::Some(
            ranges.iter().flat_map(|range| range.without(&left_out)).collect(),
        )),
    }
}

fn mapping(text: &str, bind: Option<IpAddr>) -> Result<Range, String> {
    let (host, guest) = match text.split_once(':') {
        Some((host, guest)) => (range(host)?, Some(range(guest)?)),
        None => (range(text)?, None),
    };
    let first = match &guest {
        Some(guest) if guest.len() != host.len() => {
            return Err(format!("{text}: both ranges must have the same number of ports"));
        }
        Some(guest) => *guest.start(),
        None => *host.start(),
    };
    Ok(Range {
        bind,
        host,
        guest: first,
    })
}

fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(format!("{text:?} is not a port: give a number from 1 to 65535")),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    match first <= last {
        true => Ok(first..=last),
        false => Err(format!("the range {text} ends before it begins")),
    }
}

impl Range {
    /// The runs of ports that remain without those left out.
    fn without(&self, out: &[RangeInclusive<u16>]) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for port in self
            .host
            .clone()
            .filter(|port| !out.iter().any(|out| out.contains(port)))
        {
            match runs.last_mut() {
                Some(run) if *run.host.end() + 1 == port => run.host = *run.host.start()..=port,
                _ => runs.push(Self {
                    bind: self.bind,
                    host: port..=port,
                    guest: self.guest + (port - self.host.start()),
                }),
            }
        }
        runs
    }

    fn forward(&self, transport: Transport) -> Forward {
        let beyond = self.host.end() - self.host.start();
        Forward {
            transport,
            bind: self.bind,
            host_port: *self.host.start(),
            guest_port: self.guest,
            // Port 0 is in no range, so the number of ports fits.
            count: NonZeroU16::MIN.saturating_add(beyond),
        }
    }
}

/// Adds the ports of one transport to forwards and to the set of every port.
///
/// # Errors
/// The values contradict each other.
pub fn collect(
    specs: &[Spec],
    transport: Transport,
    forwards: &mut Vec<Forward>,
    every: &mut Option<PortSet>,
) -> Result<(), String> {
    let alone = |spec: &Spec| !matches!(spec, Spec::Some(_));
    if specs.len() > 1 && specs.iter().any(alone) {
        return Err("all, none and exclusions alone cannot be combined with other ports".into());
    }
    for spec in specs {
        match spec {
            Spec::None => {}
            Spec::All(left_out) => {
                let set = every.get_or_insert_default();
                set.insert(transport, 1..=u16::MAX);
                for ports in left_out {
                    set.remove(transport, ports.clone());
                }
            }
            Spec::Some(ranges) => forwards.extend(ranges.iter().map(|range| range.forward(transport))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwards(specs: &[&str]) -> Result<Vec<String>, String> {
        let specs: Vec<Spec> = specs.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
        let (mut forwards, mut every) = (Vec::new(), None);
        collect(&specs, Transport::Tcp, &mut forwards, &mut every)?;
        let every = every.map(|set| format!("every {set}"));
        Ok(forwards.iter().map(ToString::to_string).chain(every).collect())
    }

    #[test]
    fn specifications_of_the_manual_mean_what_it_says() {
        let cases: [(&[&str], &[&str]); 12] = [
            (&["none"], &[]),
            (&["22"], &["tcp:22"]),
            (&["22:23"], &["tcp:22:23"]),
            (&["22,25"], &["tcp:22", "tcp:25"]),
            (&["80,443:8443"], &["tcp:80", "tcp:443:8443"]),
            (&["22-80"], &["tcp:22-80"]),
            (&["22-80:32-90"], &["tcp:22-80:32-90"]),
            (&["192.0.2.1/22"], &["tcp:192.0.2.1:22"]),
            (&["2001:db8::1/22", "23"], &["tcp:[2001:db8::1]:22", "tcp:23"]),
            (&["22-80,~25"], &["tcp:22-24", "tcp:26-80"]),
            (&["22-80:32-90,~30-40"], &["tcp:22-29:32-39", "tcp:41-80:51-90"]),
            (
                &["~15000,~15090"],
                &["every tcp:1-14999 tcp:15001-15089 tcp:15091-65535"],
            ),
        ];
        for (specs, wanted) in cases {
            assert_eq!(forwards(specs).unwrap(), wanted, "{specs:?}");
        }
        assert_eq!(forwards(&["all"]).unwrap(), ["every tcp:1-65535"]);
        assert_eq!(forwards(&["1-65535"]).unwrap(), ["tcp:1-65535"]);
    }

    #[test]
    fn what_is_no_specification_is_refused() {
        let cases = [
            ("", "not a port"),
            ("0", "not a port"),
            ("+1", "not a port"),
            ("70000", "not a port"),
            ("80-22", "ends before it begins"),
            ("22-80:90-91", "same number of ports"),
            ("host/22", "not an IP address"),
            ("%eth0/22", "the interface's address"),
            ("192.0.2.1%eth0/22", "the interface's address"),
            ("192.0.2.1/~22", "leave the address out"),
            ("auto", "pasta"),
        ];
        for (text, words) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(forwards(&["all", "22"]).unwrap_err().contains("combined"));
    }
}
