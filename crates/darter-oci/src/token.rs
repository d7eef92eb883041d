//! A token service's answer, read as leniently as Go's `encoding/json` reads it into the usual struct.
//!
//! Registries are written for clients in Go, so whatever those take is in use: `token` and `access_token` side by side
//! (Docker Hub, Harbor), either of them empty or null, names in another case, a field twice, fields nobody knows, bytes
//! after the object. A lifetime that is no number, or not a positive one, is a lifetime that was not told.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Longest lifetime that is read; it only has to be longer than any token is kept, and fit into a [`Duration`].
const MAX_LIFETIME: f64 = 1e9;

/// An access token and how long it is good for.
#[derive(Default, PartialEq)]
pub struct Granted {
    /// The token; never empty.
    pub token: Option<String>,
    /// Its lifetime, if the service told one that makes sense.
    pub lifetime: Option<Duration>,
}

impl Granted {
    /// Reads the body of a token service's answer.
    ///
    /// # Errors
    /// When the body does not begin with a JSON object (or `null`).
    pub fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        let text = String::from_utf8_lossy(body);
        let read = |reads_lifetime| {
            // Without asking for the end of the input: what follows the first value is ignored.
            serde_json::Deserializer::from_str(&text).deserialize_any(FieldsVisitor { reads_lifetime })
        };
        // A number beyond all measure is an error if it is read, and none if it is skipped.
        let fields = read(true).or_else(|_| read(false))?;
        // With both, clients in Go take `access_token`.
        Ok(Self { token: fields.access_token.or(fields.token), lifetime: fields.expires_in })
    }
}

#[derive(Default)]
struct Fields {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<Duration>,
}

struct FieldsVisitor {
    reads_lifetime: bool,
}

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a token")
    }

    fn visit_unit<E: Error>(self) -> Result<Fields, E> {
        Ok(Fields::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Name>()? {
            if name.is("token") {
                fields.token = map.next_value::<Scalar>()?.token().or(fields.token);
            } else if name.is("access_token") {
                fields.access_token = map.next_value::<Scalar>()?.token().or(fields.access_token);
            } else if name.is("expires_in") && self.reads_lifetime {
                fields.expires_in = map.next_value::<Scalar>()?.lifetime().or(fields.expires_in);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}

/// The name of a field. Half a surrogate pair in it does no harm.
struct Name(String);

impl Name {
    /// True if this name is `field`: in any case, as Go compares names, for which the long s and the sign for kelvin are letters.
    fn is(&self, field: &str) -> bool {
        let folded = self.0.chars().map(|letter| match letter {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            other => other.to_ascii_lowercase(),
        });
        folded.eq(field.chars())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Name, E> {
        Ok(Name(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Name, E> {
        Ok(Name(text.to_owned()))
    }
}

/// The value of a field that matters: a text, a number, or anything else, which says nothing.
enum Scalar {
    Text(String),
    Number(f64),
    Other,
}

impl Scalar {
    fn token(self) -> Option<String> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn lifetime(self) -> Option<Duration> {
        let seconds = match self {
            Self::Number(number) => number,
            Self::Text(text) => text.trim().parse().ok()?,
            Self::Other => return None,
        };
        (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(MAX_LIFETIME)))
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number as f64))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number as f64))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Scalar, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Scalar, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> (Option<String>, Option<f64>) {
        let granted = Granted::parse(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
        (granted.token, granted.lifetime.map(|lifetime| lifetime.as_secs_f64()))
    }

    /// krustlet#495: Docker Hub and Harbor send both names.
    #[test]
    fn either_name_of_the_token_does_and_both_at_once() {
        let cases = [
            (r#"{"token":"t"}"#, "t"),
            (r#"{"access_token":"a"}"#, "a"),
            (r#"{"token":"t","access_token":"a","expires_in":300,"issued_at":"2026-11-28T07:00:00Z"}"#, "a"),
            (r#"{"access_token":"a","token":"t"}"#, "a"),
            (r#"{"token":"t","access_token":""}"#, "t"),
            (r#"{"token":"t","access_token":null}"#, "t"),
            (r#"{"token":"","access_token":"a"}"#, "a"),
            (r#"{"token":null,"access_token":"a"}"#, "a"),
            (r#"{"token":{"x":[1]},"access_token":"a"}"#, "a"),
            (r#"{"Token":"t","ACCESS_TOKEN":7}"#, "t"),
            (r#"{"token":"before","token":"t"}"#, "t"),
            (r#"{"\u0074oken":"t"}"#, "t"),
            ("{\"acce\u{17f}\u{17f}_to\u{212a}en\":\"a\"}", "a"),
        ];
        for (body, token) in cases {
            assert_eq!(read(body).0.as_deref(), Some(token), "{body}");
        }
        for nothing in ["{}", "null", r#"{"token":"","access_token":null}"#, r#"{"token":false}"#] {
            assert_eq!(read(nothing).0, None, "{nothing}");
        }
    }

    /// AllexVeldman/pyoci#321: a lifetime may be missing, or anything.
    #[test]
    fn a_lifetime_is_a_positive_number_or_was_not_told() {
        let cases = [
            ("300", Some(300.0)),
            ("300.5", Some(300.5)),
            ("3e2", Some(300.0)),
            ("\"300\"", Some(300.0)),
            ("\" 300.5 \"", Some(300.5)),
            ("18446744073709551616", Some(MAX_LIFETIME)),
            ("\"inf\"", Some(MAX_LIFETIME)),
            ("1e999", None),
            ("-1e999", None),
            ("0", None),
            ("-1", None),
            ("-0.5", None),
            ("null", None),
            ("\"\"", None),
            ("\"NaN\"", None),
            ("\"soon\"", None),
            ("true", None),
            ("[300]", None),
            ("{\"seconds\":300}", None),
        ];
        for (value, lifetime) in cases {
            assert_eq!(
                read(&format!(r#"{{"expires_in":{value},"token":"t"}}"#)),
                (Some("t".into()), lifetime),
                "{value}"
            );
        }
        assert_eq!(read(r#"{"token":"t"}"#), (Some("t".into()), None));
    }

    #[test]
    fn what_nobody_asked_for_does_no_harm() {
        let deep = format!(r#"{{"deep":{}{},"token":"t"}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(read(&deep).0.as_deref(), Some("t"));
        for body in [
            &br#" {"huge":1e999,"surrogate":"\ud800","scope":null,"refresh_token":{"a":[]},"token":"t"} trailing"#[..],
            b"{\"description\":\"\xff\xfe\",\"token\":\"t\"}",
            br#"{"\ud800":1,"token":"t"}"#,
        ] {
            assert_eq!(Granted::parse(body).unwrap().token.as_deref(), Some("t"));
        }
        for wrong in ["", "<html>", "[]", "\"t\"", "7", "{\"token\":\"t\""] {
            assert!(Granted::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
