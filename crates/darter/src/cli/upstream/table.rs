//! The settings of a registry as they are written, and how a list of several is split.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use url::Url;

/// The settings of one registry as they are written.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct UpstreamTable {
    #[serde(deserialize_with = "one_or_more", skip_serializing_if = "Vec::is_empty")]
    pub(super) url: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) skip_verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connect_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_byte_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) login_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proxy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proxy_login_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) headers: BTreeMap<String, TextOrFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prefix: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) rewrite: BTreeMap<String, String>,
}

/// A header's value as it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged, expecting = "a header's value is a string, or { file = \"FILE\" }")]
pub(super) enum TextOrFile {
    Text(String),
    File(ValueFile),
}

/// The file whose first line is a header's value.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ValueFile {
    pub(super) file: PathBuf,
}

pub(super) fn table(text: &str) -> Result<UpstreamTable, String> {
    #[derive(Deserialize)]
    struct Document {
        table: UpstreamTable,
    }
    let document: Result<Document, toml::de::Error> = toml::from_str(&format!("table = {text}"));
    document.map(|document| document.table).map_err(|error| error.message().lines().collect::<Vec<_>>().join("; "))
}

pub(super) fn address(text: &str) -> Option<Url> {
    text.parse().ok().filter(|url: &Url| matches!(url.scheme(), "http" | "https"))
}

/// Splits a list at its commas, except those within braces, brackets and quotes.
pub(super) fn items(text: &str) -> Vec<&str> {
    let (mut items, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    let (mut quote, mut escaped) = (None, false);
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(_), _) if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if depth > 0 => quote = Some(character),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                items.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(&text[start..]);
    items
}

/// A string, or an array of strings.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMore;
    impl<'de> Visitor<'de> for OneOrMore {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address, or an array of addresses")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(item) = items.next_element()? {
                all.push(item);
            }
            Ok(all)
        }
    }
    deserializer.deserialize_any(OneOrMore)
}
