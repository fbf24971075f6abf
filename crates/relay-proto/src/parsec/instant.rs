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
    let number = |from: usize, to: usize| -> Option<u32> {
        let digits = bytes.get(from..to)?;
        let add = |sum: u32, &digit: &u8| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0'));
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
        2 => 28 + u32::from(leap),
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
            i64::from(hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let of_day = i64::from(hour * 3600 + minute * 60 + second);
    Some((days(year, month, day) * 86_400 + of_day - offset * 60) * 1000 + millis)
}

/// Reads the form that publishers write, `2026-05-27T14:22:09.331Z`; `None` for any other form.
///
/// Eight characters are compared at a time with the same text of zeros: the difference is 0 for a separator, and below
/// 10 for a digit.
#[inline(always)]
pub(super) fn as_written(bytes: &[u8; 24]) -> Option<i64> {
    let &[a, b, c] = bytes.as_chunks().0 else { return None };
    let date = u64::from_le_bytes(a) ^ u64::from_le_bytes(*b"0000-00-");
    let middle = u64::from_le_bytes(b) ^ u64::from_le_bytes(*b"00T00:00");
    let end = u64::from_le_bytes(c) ^ u64::from_le_bytes(*b":00.000Z");
    // These sums set the top bit of any byte that is no digit where one should be, or another separator.
    const NONE: u8 = 0x7f;
    const NINE: u8 = 0x76;
    // A byte whose top bit is set already may carry into the next one, but it is found itself.
    let over_in = |word: u64, bounds| word | word.wrapping_add(u64::from_le_bytes(bounds));
    let over = over_in(date, [NINE, NINE, NINE, NINE, NONE, NINE, NINE, NONE])
        | over_in(middle, [NINE, NINE, NONE, NINE, NINE, NONE, NINE, NINE])
        | over_in(end, [NONE, NINE, NINE, NONE, NINE, NINE, NINE, NONE]);
    if over & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    // In each byte ten times it and the next.
    let pairs = |word: u64| (word * 10 + (word >> 8)).to_le_bytes();
    let [century, _, year, _, _, month, ..] = pairs(date);
    let [day, _, _, hour, _, _, minute, _] = pairs(middle);
    let [_, second, _, _, centis, ..] = pairs(end);
    let millis = u32::from(centis) * 10 + u32::from(end.to_le_bytes()[6]);
    // Days that every month has need no calendar.
    if !(1..=12).contains(&month) || !(1..=28).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days(u32::from(century) * 100 + u32::from(year), month.into(), day.into());
    let of_day = (u32::from(hour) * 60 + u32::from(minute)) * 60 + u32::from(second);
    Some(days * 86_400_000 + i64::from(of_day * 1000 + millis))
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

/// Days from 1970-01-01 to a date. Years are counted from March, so that a leap day is the last of its year, and from
/// 400 years before the first one, so that none is below 0.
#[inline]
fn days(year: u32, month: u32, day: u32) -> i64 {
    let (year, month) = if month > 2 { (year + 400, month - 3) } else { (year + 399, month + 9) };
    let before = 365 * year + year / 4 - year / 100 + year / 400;
    i64::from(before + (153 * month + 2) / 5 + day - 1) - 865_565
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
