//! Formats numbers, with decimal units, as rates and disks are sold.

use std::time::Duration;

use bytesize::ByteSize;

/// `1.5 GB`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().si().to_string()
}

/// `25.0 MB/s`, or `0 B/s` for zero.
pub(crate) fn rate(bytes_per_second: u64) -> String {
    darter_core::Rate::from_bytes_per_second(bytes_per_second)
        .map_or_else(|| "0 B/s".to_owned(), |rate| rate.to_string())
}

/// Seconds, with a precision that fits their size.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        short if short < 10.0 => format!("{short:.2} s"),
        medium if medium < 100.0 => format!("{medium:.1} s"),
        long => humantime::format_duration(Duration::from_secs(long.round() as u64)).to_string(),
    }
}

/// A share in per cent; 100 if `whole` is zero.
pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 100 } else { u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(u64::MAX) }
}

/// A time in Unix seconds, as a date and time in the user's time zone.
pub(crate) fn moment(unix_seconds: u64) -> String {
    let stamp = i64::try_from(unix_seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    match stamp {
        Some(stamp) => stamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => "-".to_owned(),
    }
}
