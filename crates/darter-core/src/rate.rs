//! Rates as people write them: `25MB/s`, `1.5GiB/s`, `200mbit`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes per second; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rate(u64);

/// A text that is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a rate: {0:?} (write for example 25MB/s, 40MiB/s, 200mbit or 1gbit)")]
pub struct ParseRateError(String);

impl Rate {
    /// A rate of this many bytes per second; `None` for zero.
    pub const fn from_bytes_per_second(bytes: u64) -> Option<Self> {
        if bytes == 0 { None } else { Some(Self(bytes)) }
    }

    /// Bytes per second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0
    }
}

/// Units by suffix, longest first, in bytes per second.
const UNITS: [(&str, f64); 14] = [
    ("gib/s", 1_073_741_824.0),
    ("mib/s", 1_048_576.0),
    ("kib/s", 1024.0),
    ("gb/s", 1e9),
    ("mb/s", 1e6),
    ("kb/s", 1e3),
    ("gbit/s", 125e6),
    ("mbit/s", 125e3),
    ("kbit/s", 125.0),
    ("gbit", 125e6),
    ("mbit", 125e3),
    ("kbit", 125.0),
    ("bit", 0.125),
    ("b/s", 1.0),
];

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let wrong = || ParseRateError(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let (number, unit) =
            UNITS.iter().find_map(|(suffix, unit)| Some((lower.strip_suffix(suffix)?, unit))).ok_or_else(wrong)?;
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let bytes = number * unit;
        if !bytes.is_finite() || !(1.0..=1e15).contains(&bytes) {
            return Err(wrong());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie in 1..=1e15")]
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1_000_000_000 => write!(f, "{:.2} GB/s", bytes as f64 / 1e9),
            bytes if bytes >= 1_000_000 => write!(f, "{:.1} MB/s", bytes as f64 / 1e6),
            bytes if bytes >= 1_000 => write!(f, "{:.1} kB/s", bytes as f64 / 1e3),
            bytes => write!(f, "{bytes} B/s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_bits() {
        let rate = |text: &str| text.parse::<Rate>().map(Rate::bytes_per_second);
        assert_eq!(rate("25MB/s"), Ok(25_000_000));
        assert_eq!(rate("200mbit"), Ok(25_000_000));
        assert_eq!(rate("200 Mbit/s"), Ok(25_000_000));
        assert_eq!(rate("1GiB/s"), Ok(1 << 30));
        assert_eq!(rate("1.5kb/s"), Ok(1500));
        for wrong in ["", "25", "MB/s", "-1MB/s", "0MB/s", "nanMB/s", "1e99gbit"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
