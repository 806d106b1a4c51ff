//! Sizes and times as people write them: `16 MiB`, `50ms`.
//!
//! Sizes are bytes, times are milliseconds; a bare integer is taken in that unit. Only binary
//! units of size are known, because `MB` means two different things to two different people.

use std::fmt::Display;

const BYTE_UNITS: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];
const MS_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// What a size may look like, for error messages.
pub const BYTES_FORM: &str = "a size such as 1572864, 64KiB, 1.5MiB or \"1 GiB\"";
/// What a time may look like, for error messages.
pub const MS_FORM: &str = "a time such as 50 (milliseconds), 50ms, 1.5s or 2m";

/// Reads a size in bytes; `None` if it is none, or not a whole number of bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    parse(text, &BYTE_UNITS)
}

/// Reads a time in milliseconds; `None` if it is none, or not a whole number of milliseconds.
pub fn parse_ms(text: &str) -> Option<u64> {
    parse(text, &MS_UNITS)
}

/// Writes a size in the largest unit that divides it (with halves): `1.5 MiB`.
pub fn format_bytes(bytes: u64) -> String {
    format(bytes, &BYTE_UNITS, " ")
}

/// Writes a time in the largest unit that divides it (with halves): `50ms`.
pub fn format_ms(ms: u64) -> String {
    format(ms, &MS_UNITS, "")
}

/// Number and unit; a bare number counts in the first unit.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let factor = match unit {
        "" => units[0].1,
        unit => {
            units
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))?
                .1
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Nine digits are finer than any unit here needs, and keep the product within 128 bits.
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits =
        u128::from(whole.parse::<u64>().ok()?) * scale + u128::from(fraction.parse::<u64>().ok()?);
    let product = digits * u128::from(factor);
    if !product.is_multiple_of(scale) {
        return None;
    }
    u64::try_from(product / scale).ok()
}

fn format(value: u64, units: &[(&str, u64)], gap: &str) -> String {
    for (name, factor) in units.iter().rev() {
        if value >= *factor && value.is_multiple_of(*factor) {
            return format!("{}{gap}{name}", value / factor);
        }
        if *factor > 1 && value > *factor && value.is_multiple_of(factor / 2) {
            return format!("{}.5{gap}{name}", value / factor);
        }
    }
    format!("{value}{gap}{}", units[0].0)
}

/// A number of the configuration file that may also be a string with a unit.
struct Quantity<T> {
    parse: fn(&str) -> Option<u64>,
    form: &'static str,
    number: std::marker::PhantomData<T>,
}

impl<T: TryFrom<u64>> Quantity<T> {
    fn convert<E: serde::de::Error>(
        &self,
        value: Option<u64>,
        given: impl Display,
    ) -> Result<T, E> {
        value
            .and_then(|value| T::try_from(value).ok())
            .ok_or_else(|| E::custom(format!("`{given}` is not {}", self.form)))
    }
}

impl<T: TryFrom<u64>> serde::de::Visitor<'_> for Quantity<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.form)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<T, E> {
        self.convert(u64::try_from(value).ok(), value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<T, E> {
        self.convert(Some(value), value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<T, E> {
        self.convert((self.parse)(value), value)
    }
}

/// `#[serde(with = "quantity::bytes")]`: a size, read from an integer or a string with a unit.
pub(super) mod bytes {
    use super::{BYTES_FORM, Quantity, format_bytes, parse_bytes};

    pub fn deserialize<'de, D: serde::Deserializer<'de>, T: TryFrom<u64>>(
        from: D,
    ) -> Result<T, D::Error> {
        from.deserialize_any(Quantity {
            parse: parse_bytes,
            form: BYTES_FORM,
            number: std::marker::PhantomData,
        })
    }

    pub fn serialize<S, T>(value: &T, to: S) -> Result<S::Ok, S::Error>
    where
        S: serde::Serializer,
        T: Copy + TryInto<u64>,
    {
        let value = (*value)
            .try_into()
            .map_err(|_| serde::ser::Error::custom("size out of range"))?;
        to.serialize_str(&format_bytes(value))
    }
}

/// `#[serde(with = "quantity::ms")]`: a time, read from an integer or a string with a unit.
pub(super) mod ms {
    use super::{MS_FORM, Quantity, format_ms, parse_ms};

    pub fn deserialize<'de, D: serde::Deserializer<'de>, T: TryFrom<u64>>(
        from: D,
    ) -> Result<T, D::Error> {
        from.deserialize_any(Quantity {
            parse: parse_ms,
            form: MS_FORM,
            number: std::marker::PhantomData,
        })
    }

    pub fn serialize<S: serde::Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format_ms(*value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1572864", 1_572_864),
            ("1.5MiB", 1_572_864),
            (" 16 MiB ", 16 << 20),
            ("64kib", 64 << 10),
            ("1 GiB", 1 << 30),
            ("7B", 7),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1,5MiB",
            "16 MB",
            "1.0001B",
            "1.",
            ".5MiB",
            "1..2B",
            "99999999999999999999",
            "18446744073709551615 KiB",
        ] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_read_with_and_without_units() {
        for (text, ms) in [
            ("50", 50),
            ("50ms", 50),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("1 h", 3_600_000),
        ] {
            assert_eq!(parse_ms(text), Some(ms), "{text}");
        }
        for text in ["", "ms", "1.5ms", "0.0001s", "5 days", "50us"] {
            assert_eq!(parse_ms(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for value in [
            0,
            1,
            3,
            1023,
            1024,
            1536,
            1_572_864,
            16 << 20,
            (16 << 20) + 1,
            3 << 39,
        ] {
            assert_eq!(
                parse_bytes(&format_bytes(value)),
                Some(value),
                "{}",
                format_bytes(value)
            );
            assert_eq!(
                parse_ms(&format_ms(value)),
                Some(value),
                "{}",
                format_ms(value)
            );
        }
        assert_eq!(format_bytes(1_572_864), "1.5 MiB");
        assert_eq!(format_ms(1500), "1.5s");
    }
}
