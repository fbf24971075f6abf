//! The time in an envelope: RFC 3339, kept as milliseconds.

/// Milliseconds since 1970 of an RFC 3339 text, rounded down. `None` when it is not such a text.
///
/// We have our own calendar because general readers of times also accept forms outside of RFC 3339.
pub(super) fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if let Ok(written) = bytes.try_into()
        && let Some(millis) = as_written(written)
    {
        return Some(millis);
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        let add = |sum: i64, &digit: &u8| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0'));
        digits.iter().try_fold(0, add)
    };
    let sign = |at: usize, signs: &[u8]| bytes.get(at).is_some_and(|byte| signs.contains(byte));
    if !(sign(4, b"-") && sign(7, b"-") && sign(10, b"Tt") && sign(13, b":") && sign(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // RFC 3339 allows leap seconds; one counts as the next second.
    if !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (mut at, mut millis) = (19, 0);
    if sign(at, b".") {
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for place in 0..3 {
            millis = millis * 10 + if place < digits { i64::from(bytes[at + 1 + place] - b'0') } else { 0 };
        }
        at += 1 + digits;
    }
    let offset = match bytes.get(at)? {
        b'Z' | b'z' if bytes.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == at + 6 && bytes[at + 3] == b':' => {
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    Some(seconds * 1000 + millis)
}

/// Reads the form that publishers write, `2026-05-27T14:22:09.331Z`; `None` for any other form.
#[inline]
fn as_written(bytes: &[u8; 24]) -> Option<i64> {
    let &[c, d, y, z, b'-', m, o, b'-', a, e, b'T', h, r, b':', i, n, b':', s, t, b'.', f, g, k, b'Z'] =
        bytes
    else {
        return None;
    };
    let digits = [c, d, y, z, m, o, a, e, h, r, i, n, s, t, f, g, k];
    // Computed without a branch for each digit.
    if digits.iter().fold(0, |worst, digit| worst.max(digit.wrapping_sub(b'0'))) > 9 {
        return None;
    }
    let pair = |tens: u8, ones: u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
    let (year, month, day) = (pair(c, d) * 100 + pair(y, z), pair(m, o), pair(a, e));
    let (hour, minute, second) = (pair(h, r), pair(i, n), pair(s, t));
    // Days that every month has need no calendar.
    if !(1..=12).contains(&month) || !(1..=28).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(seconds * 1000 + pair(f, g) * 10 + i64::from(k - b'0'))
}

/// Appends the text: UTC, exactly three digits of a second, `Z`. Years are clamped to 0 to 9999.
pub(super) fn write(millis: i64, out: &mut String) {
    use std::fmt::Write as _;
    let (first, last) = (days(0, 1, 1) * 86_400_000, days(10_000, 1, 1) * 86_400_000 - 1);
    let millis = millis.clamp(first, last);
    let (day, rest) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    // From days to a date, counting years from March, so that a leap day is the last of its year.
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (second, millis) = (rest / 1000, rest % 1000);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // Writing to a String cannot fail.
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
}

/// Days from 1970-01-01 to a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(millis: i64) -> String {
        let mut out = String::new();
        write(millis, &mut out);
        out
    }

    #[test]
    fn any_precision_and_offset_is_read_and_three_digits_are_written() {
        for (read, written) in [
            ("2026-05-27T14:22:09.331Z", "2026-05-27T14:22:09.331Z"),
            ("2026-05-27T14:22:09.331999999Z", "2026-05-27T14:22:09.331Z"),
            ("2026-05-27T14:22:09Z", "2026-05-27T14:22:09.000Z"),
            ("2026-05-27T16:22:09.3+02:00", "2026-05-27T14:22:09.300Z"),
            ("2026-05-27T08:52:09.3-05:30", "2026-05-27T14:22:09.300Z"),
            ("2024-02-29T00:00:00z", "2024-02-29T00:00:00.000Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
            ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(text(parse(read).unwrap_or_else(|| panic!("{read}"))), written);
        }
        for bad in [
            "",
            "today",
            "2026-05-27",
            "2026-05-27 14:22:09Z",
            "2026-05-27T14:22Z",
            "2026-05-27T14:22:09",
            "2026-05-27T14:22:09.Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-05-27T24:00:00Z",
            "2026-05-27T14:22:09+0200",
            "2026-05-27T14:22:09+02",
            "2026-05-27T14:22:09Zx",
            "+2026-05-27T14:22:09Z",
            "2026-05-27T14:22:09.3é",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(text(i64::MIN), "0000-01-01T00:00:00.000Z");
        assert_eq!(text(i64::MAX), "9999-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn as_jiff_says(millis in -60_000_000_000_000_i64..250_000_000_000_000) {
            let written = text(millis);
            prop_assert_eq!(parse(&written), Some(millis));
            let jiff: jiff::Timestamp = written.parse().unwrap();
            prop_assert_eq!(jiff.as_millisecond(), millis);
        }
    }
}
