//! Parsers of values: positions, phases, label keys, rates, durations, sizes.

use std::net::SocketAddr;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::time::Duration;

use relay_pods::{EventHash, Selector};
use relay_proto::time::Timestamp;

pub(super) fn hash(text: &str) -> Result<EventHash, String> {
    EventHash::new(text).map_err(|error| error.to_string())
}

pub(super) fn phase(text: &str) -> Result<relay_pods::Phase, String> {
    let phases = relay_pods::Phase::ALL;
    phases.into_iter().find(|phase| phase.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
        let names: Vec<_> = phases.iter().map(|phase| phase.as_str()).collect();
        format!("one of {}", names.join(", "))
    })
}

pub(crate) fn label_key(text: &str) -> Result<String, String> {
    let selector = Selector::parse(text).map_err(|error| error.rule().to_owned())?;
    match selector.requirements().next() {
        // Only a selector of one key is written like the key.
        Some(requirement) if requirement.key() == text => Ok(text.to_owned()),
        _ => Err("a label key, without a value".into()),
    }
}

pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "a number of events per second".to_owned())?;
    if rate.is_finite() && (0.0..=1e6).contains(&rate) {
        Ok(rate)
    } else {
        Err("0 to 1000000 events per second".into())
    }
}

/// A whole number within a range, which the rule names.
pub(crate) fn whole<T: TryFrom<u64>>(
    range: impl RangeBounds<u64> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            let first = match range.start_bound() {
                Bound::Included(first) => *first,
                Bound::Excluded(before) => before.saturating_add(1),
                Bound::Unbounded => 0,
            };
            match range.end_bound() {
                Bound::Included(last) => format!("a whole number from {first} to {last}"),
                Bound::Excluded(end) => format!("a whole number from {first} to {}", end.saturating_sub(1)),
                Bound::Unbounded => format!("a whole number from {first}"),
            }
        })
    }
}

/// A directory, which may be made later.
pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.exists() && !path.is_dir() { Err("this is no directory".into()) } else { Ok(path) }
}

pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    let rule = || "a point in time as RFC 3339 has it, such as 2026-11-21T09:00:00Z".to_owned();
    Timestamp::parse_rfc3339(text).ok_or_else(rule)
}

/// `127.0.0.1:8080`.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let rule =
        "an IP address and a port, such as 127.0.0.1:8080 or, to be reached from elsewhere, 0.0.0.0:8080";
    text.parse().map_err(|_| rule.to_owned())
}

/// `500ms`, `10s`, `5m`, `24h`, `1d`, `1h30m`; a bare `0`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 5] = [("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 0.001)];
    let rule = || {
        "a duration is a number and ms, s, m, h or d, such as 500ms, 24h or 1h30m, and not negative"
            .to_owned()
    };
    let (mut rest, mut seconds, mut units) = (text, 0.0, &UNITS[..]);
    loop {
        let (number, after) = number_and_unit(rest).ok_or_else(rule)?;
        if number == 0.0 && text == "0" {
            return Ok(Duration::ZERO);
        }
        let unit = after.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let name = &after[..after.len() - unit.len()];
        // Each unit is smaller than the one before it.
        let at = units.iter().position(|(unit, _)| *unit == name).ok_or_else(rule)?;
        seconds += number * units[at].1;
        (rest, units) = (unit, &units[at + 1..]);
        if rest.is_empty() {
            return Duration::try_from_secs_f64(seconds).map_err(|_| rule());
        }
    }
}

/// A duration in the largest unit that divides it, in the form that [`duration`] reads.
pub(crate) fn written(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    match units.into_iter().find(|(size, _)| millis > 0 && millis.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{}{unit}", millis / size),
        None if millis == 0 => "0s".into(),
        None => format!("{millis}ms"),
    }
}

pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|d| if d.is_zero() { Err("a duration above 0".into()) } else { Ok(d) })
}

/// `1024`, `64KiB`, `256MiB`, `2GiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let rule = || "a size is a number of bytes, or a number and KiB, MiB or GiB, such as 256MiB".to_owned();
    let (number, unit) = number_and_unit(text).ok_or_else(rule)?;
    let factor: u32 = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(rule()),
    };
    let bytes = number * f64::from(1u32 << factor);
    if bytes.fract() == 0.0 && bytes < 1e18 { Ok(bytes as u64) } else { Err(rule()) }
}

fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let number: f64 = text[..digits].parse().ok()?;
    Some((number, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_say_their_range() {
        assert_eq!(whole::<u64>(0..)("0"), Ok(0));
        assert_eq!(whole::<u64>(0..)("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(whole::<u16>(200..=599)("599"), Ok(599));
        for bad in ["", "-1", "x", "1.5", "1e3", " 1", "18446744073709551616"] {
            assert_eq!(whole::<u64>(0..)(bad), Err("a whole number from 0".into()), "{bad}");
        }
        for bad in ["199", "600", "65736"] {
            assert_eq!(whole::<u16>(200..=599)(bad), Err("a whole number from 200 to 599".into()), "{bad}");
        }
        assert_eq!(whole::<u32>(1..5)("5"), Err("a whole number from 1 to 4".into()));
    }

    #[test]
    fn durations_and_sizes_are_written_as_documented() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("0", 0),
            ("1.5s", 1500),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("1m0.5s", 60_500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "10",
            "s",
            "10 s",
            "-1s",
            "1w",
            "1e9999s",
            ".s",
            "1m1h",
            "1m1m",
            "1h30",
            "-1h",
            "1h-5m",
            "1h 5m",
            "h1",
            "00",
            "99999999999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for text in ["500ms", "10s", "90s", "2m", "36h", "1d", "0s"] {
            assert_eq!(written(duration(text).unwrap()), text);
        }
        assert_eq!(written(Duration::from_secs(120)), "2m");
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("64KiB", 65_536),
            ("256MiB", 1 << 28),
            ("2GiB", 1 << 31),
            ("1.5KiB", 1536),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "1MB", "-1", "1.5", "1e5"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
