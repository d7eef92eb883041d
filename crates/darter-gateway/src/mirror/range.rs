//! The `Range` header of a request (RFC 9110, section 14): one range of bytes; anything else means the whole content.

use darter_core::ByteRange;

/// What a `Range` header means for content of a known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestedRange {
    /// Everything: there is no range, or one that servers ignore (another unit, several ranges, malformed).
    Whole,
    /// These bytes; not empty, and inside the content.
    Part(ByteRange),
    /// The range lies outside the content.
    Unsatisfiable,
}

/// Parses the header's value.
pub(crate) fn parse(value: Option<&str>, length: u64) -> RequestedRange {
    let Some(spec) = value.and_then(|value| value.trim().strip_prefix("bytes=")) else { return RequestedRange::Whole };
    let Some((first, last)) = spec.split_once('-') else { return RequestedRange::Whole };
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let Some(count) = number(last) else { return RequestedRange::Whole };
        return within(length.saturating_sub(count), length, length);
    }
    let Some(start) = number(first) else { return RequestedRange::Whole };
    if last.is_empty() {
        return within(start, length, length);
    }
    let Some(last) = number(last) else { return RequestedRange::Whole };
    if last < start {
        return RequestedRange::Whole;
    }
    within(start, last.saturating_add(1), length)
}

/// True if the header's value requests everything from some byte on.
pub(crate) fn is_open_ended(value: Option<&str>) -> bool {
    value.is_some_and(|value| value.trim_end().ends_with('-'))
}

fn within(start: u64, end: u64, length: u64) -> RequestedRange {
    let range = ByteRange::new(start, end).clamp_to(length);
    if start >= length || range.is_empty() { RequestedRange::Unsatisfiable } else { RequestedRange::Part(range) }
}

/// Digits only: `parse` alone would also accept a sign. A number that is too large counts as the largest one.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_engines_write_them() {
        let part = |start, end| RequestedRange::Part(ByteRange::new(start, end));
        for (value, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-5", part(2, 6)),
            ("bytes=2-", part(2, 10)),
            ("bytes=2-99", part(2, 10)),
            ("bytes=9-99999999999999999999", part(9, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-30", part(0, 10)),
            ("bytes=10-", RequestedRange::Unsatisfiable),
            ("bytes=99999999999999999999-", RequestedRange::Unsatisfiable),
            ("bytes=-0", RequestedRange::Unsatisfiable),
        ] {
            assert_eq!(parse(Some(value), 10), expected, "{value}");
        }
        assert_eq!(parse(Some("bytes=0-"), 0), RequestedRange::Unsatisfiable);
    }

    #[test]
    fn what_servers_ignore_means_the_whole() {
        for value in ["bytes=1-2,4-5", "bytes=5-2", "bytes=", "bytes=-", "bytes=+1-2", "bytes=a-b", "items=0-1", "0-1"]
        {
            assert_eq!(parse(Some(value), 10), RequestedRange::Whole, "{value}");
        }
        assert_eq!(parse(None, 10), RequestedRange::Whole);
    }
}
