//! Number of virtual CPUs of a VM, which determines the number of queue pairs of its interfaces.

use super::fields::kubevirt as table;
use super::reader::{Item, Object};

/// Counts virtual CPUs as KubeVirt does for queues (`SetDefaultGuestCPUTopology` in pkg/defaults, `GetCPUTopology` in
/// pkg/virt-launcher/virtwrap/converter/vcpu).
///
/// The number is the product of sockets, cores and threads, where zero means "not given" and counts as one. If none of
/// the three is given, the CPU limit counts, or else the request. `maxSockets` does not count.
pub fn virtual_cpus(domain: &Object<'_>) -> u32 {
    const MOST: i64 = u32::MAX as i64;
    let cpu = domain.object("cpu", &table::CPU);
    let part = |name| cpu.as_ref().and_then(|cpu| cpu.integer::<u32>(name, 0..=MOST));
    let parts = ["sockets", "cores", "threads"].map(|name| part(name).filter(|n| *n > 0));
    if parts.iter().any(Option::is_some) {
        let parts = parts.into_iter().map(|part| part.unwrap_or(1));
        return parts.fold(1, u32::saturating_mul);
    }
    let resources = domain.object("resources", &table::RESOURCES);
    let amount = |name| {
        let amounts = resources.as_ref()?.get(name)?.texts();
        let (_, amount) = amounts.into_iter().find(|(key, _)| *key == "cpu")?;
        quantity(&amount)
    };
    // Both are read, so that both are checked.
    let [limit, request] = ["limits", "requests"].map(amount);
    limit.or(request).unwrap_or(1).max(1)
}

/// Reads a quantity of the API, rounded up like its `Value()`.
fn quantity(item: &Item<'_>) -> Option<u32> {
    let scalar = item.scalar()?;
    let text = &scalar.text;
    if let Some(read) = scalar.octal() {
        item.error(format!("{text} is {read} to kubectl: write {read}"));
        return None;
    }
    let value = whole(text);
    if value.is_none() {
        item.error(format!("{text:?}: give a number of CPUs, such as 2, 1500m or 0.5"));
    }
    value
}

/// Parses "2", "1500m", "0.5", "1e1" or "1k", rounded up.
fn whole(text: &str) -> Option<u32> {
    /// Suffixes and their factors, as powers of ten.
    const SUFFIXES: [(&str, i32); 6] = [("n", -9), ("u", -6), ("m", -3), ("k", 3), ("M", 6), ("G", 9)];
    let suffix = SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix));
    let (number, mut power) = match suffix {
        Some((suffix, power)) => (&text[..text.len() - suffix.len()], *power),
        None => match text.split_once(['e', 'E']) {
            Some((number, power)) => (number, power.parse().ok().filter(|p| (-18..=18).contains(p))?),
            None => (text, 0),
        },
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.strip_prefix('+').unwrap_or(whole);
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 18 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: u128 = digits.parse().ok()?;
    power -= i32::try_from(fraction.len()).ok()?;
    let ten = 10u128.checked_pow(power.unsigned_abs())?;
    let value = if power < 0 {
        digits.div_ceil(ten)
    } else {
        digits.checked_mul(ten)?
    };
    Some(u32::try_from(value).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn quantities_are_rounded_up_as_the_api_does() {
        for (text, value) in [
            ("4", Some(4)),
            ("1500m", Some(2)),
            ("1000m", Some(1)),
            ("0.5", Some(1)),
            ("2.000", Some(2)),
            ("2.001", Some(3)),
            (".5", Some(1)),
            ("1e1", Some(10)),
            ("15E-1", Some(2)),
            ("1k", Some(1000)),
            ("1000000u", Some(1)),
            ("0", Some(0)),
            ("99999999999", Some(u32::MAX)),
            ("", None),
            ("m", None),
            ("two", None),
            ("-1", None),
            ("1 m", None),
        ] {
            assert_eq!(whole(text), value, "{text}");
        }
    }
}
