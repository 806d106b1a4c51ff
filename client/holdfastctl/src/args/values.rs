//! Values of arguments that the standard library does not read.

use std::time::Duration;

/// `300ms`, `5s`, `2m`, `1h`; a bare number is seconds. Never zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1.0,
        "" | "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        unit => return Err(format!("unknown unit {unit:?}; use ms, s, m or h")),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("{digits:?} is not a number"))?;
    let seconds = number * unit_ms / 1000.0;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && seconds <= 86_400.0 * 365.0 => Ok(duration),
        _ => Err("must be above zero and at most a year".into()),
    }
}

/// Decimal, or hexadecimal after `0x`.
pub fn number(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for wrong in ["", "s", "0s", "-1s", "5d", "nan", "inf", "1e300h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
