//! Which bytes of some content are wanted, as HTTP writes it (RFC 9110, section 14.1.2), but for the unit.

use std::fmt;
use std::str::FromStr;

use darter_core::ByteRange;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `FIRST-LAST` with both included, counted from zero, `FIRST-` to the end, or `-COUNT`: the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// From a byte on, up to a last one or to the end.
    From {
        /// The first byte.
        first: u64,
        /// The last byte; the content's last one if `None`.
        last: Option<u64>,
    },
    /// So many at the end.
    Last(u64),
}

impl Span {
    /// These bytes of content of this length; `None` where it has none of them.
    pub fn of(self, length: u64) -> Option<ByteRange> {
        let range = match self {
            Self::From { first, last } => {
                let end = last.map_or(length, |last| last.saturating_add(1)).min(length);
                ByteRange::new(first.min(end), end)
            }
            Self::Last(count) => ByteRange::new(length.saturating_sub(count), length),
        };
        (!range.is_empty()).then_some(range)
    }
}

/// Text that is no [`Span`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// Another form.
    #[error("not a range of bytes: write FIRST-LAST (both included, counted from 0), FIRST- or -COUNT")]
    Form,
    /// Nothing is between the two.
    #[error("the last byte, {last}, comes before the first, {first}")]
    Backwards {
        /// The first byte.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// The last zero bytes.
    #[error("-0 is no byte: write -COUNT for the last COUNT bytes")]
    Nothing,
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        // `parse` alone would take a sign, too.
        let number = |text: &str| -> Result<u64, SpanError> {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(SpanError::Form)
        };
        match text.split_once('-').ok_or(SpanError::Form)? {
            ("", count) => match number(count)? {
                0 => Err(SpanError::Nothing),
                count => Ok(Self::Last(count)),
            },
            (first, "") => Ok(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return Err(SpanError::Backwards { first, last });
                }
                Ok(Self::From { first, last: Some(last) })
            }
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From { first, last: Some(last) } => write!(f, "{first}-{last}"),
            Self::From { first, last: None } => write!(f, "{first}-"),
            Self::Last(count) => write!(f, "-{count}"),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_in_http_and_cut_to_the_content() {
        for (text, length, range) in [
            ("0-0", 10, Some((0, 1))),
            ("2-5", 10, Some((2, 6))),
            ("2-", 10, Some((2, 10))),
            ("2-99", 10, Some((2, 10))),
            ("9-18446744073709551615", 10, Some((9, 10))),
            ("-3", 10, Some((7, 10))),
            ("-30", 10, Some((0, 10))),
            ("10-", 10, None),
            ("10-20", 10, None),
            ("0-", 0, None),
            ("-1", 0, None),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.of(length), range.map(|(start, end)| ByteRange::new(start, end)), "{text}");
            assert_eq!(span.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_span_is_refused_with_what_to_write() {
        for text in ["", "-", "5", "a-b", "+1-2", "1-2,4-5", "1 - 2", "0x1-2", "--5", "99999999999999999999-"] {
            assert_eq!(text.parse::<Span>(), Err(SpanError::Form), "{text}");
        }
        assert_eq!("5-2".parse::<Span>(), Err(SpanError::Backwards { first: 5, last: 2 }));
        assert_eq!("-0".parse::<Span>(), Err(SpanError::Nothing));
    }
}
