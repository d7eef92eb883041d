//! Errors as the distribution specification writes them, `{"errors":[{"code","message"}]}`, and as registries do.

use http::StatusCode;

/// Characters of a registry's own words.
const MAX_WORDS: usize = 300;

/// The specification's error codes that the pull side uses, and `UNAVAILABLE`, which Docker's registry added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// No such blob.
    BlobUnknown,
    /// No such manifest.
    ManifestUnknown,
    /// A manifest that is none, or another one.
    ManifestInvalid,
    /// No repository's name.
    NameInvalid,
    /// No such repository, or registry.
    NameUnknown,
    /// No digest.
    DigestInvalid,
    /// Credentials are needed, or others.
    Unauthorized,
    /// These credentials open something else.
    Denied,
    /// To be asked less often.
    TooManyRequests,
    /// Not for this server.
    Unsupported,
    /// The server's own failure; Docker's registry added it.
    Unavailable,
}

impl Code {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unsupported => "UNSUPPORTED",
            Self::Unavailable => "UNAVAILABLE",
        }
    }

    /// The code that goes with a status; `unknown` with a 404.
    pub fn of(status: StatusCode, unknown: Self) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized,
            StatusCode::FORBIDDEN => Self::Denied,
            StatusCode::NOT_FOUND | StatusCode::GONE => unknown,
            StatusCode::TOO_MANY_REQUESTS => Self::TooManyRequests,
            status if status.is_client_error() => Self::Unsupported,
            _ => Self::Unavailable,
        }
    }
}

/// True if an error's body is in the specification's form.
pub fn is_in_form(body: &[u8]) -> bool {
    let parsed: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    parsed["errors"][0]["code"].is_string()
}

/// A registry's own words in an error's body, in one short line.
pub fn own_words(body: &[u8]) -> Option<String> {
    let words = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(parsed) => {
            let first = &parsed["errors"][0];
            let texts = [&first["code"], &first["message"], &parsed["message"], &parsed["error"], &parsed["details"]];
            let texts: Vec<_> =
                texts.into_iter().filter_map(|text| text.as_str()).filter(|it| !it.is_empty()).collect();
            texts.join(": ")
        }
        Err(_) => {
            let text = std::str::from_utf8(body).ok()?;
            // A page for browsers says nothing in its first line.
            let is_page = text.trim_start().starts_with('<');
            text.lines().map(str::trim).find(|line| !line.is_empty()).filter(|_| !is_page)?.to_owned()
        }
    };
    let short: String = words.chars().filter(|it| !it.is_control()).take(MAX_WORDS).collect();
    (!short.is_empty()).then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_own_words_are_found_in_all_the_usual_forms() {
        for (body, words) in [
            (r#"{"errors":[{"code":"DENIED","message":"not today"}]}"#, Some("DENIED: not today")),
            (r#"{"errors":[{"code":"UNKNOWN"}]}"#, Some("UNKNOWN")),
            (r#"{"message":"Bad credentials"}"#, Some("Bad credentials")),
            (r#"{"details":"incorrect username or password"}"#, Some("incorrect username or password")),
            ("\nupstream connect error\nmore", Some("upstream connect error")),
            ("<html><body>502</body></html>", None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(own_words(body.as_bytes()).as_deref(), words, "{body}");
        }
    }
}
