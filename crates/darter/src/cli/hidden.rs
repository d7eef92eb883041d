//! Hides logins in messages about a wrong value, which may be an address with a password, whichever flag it was typed for.
//!
//! Values that could be parsed are printed without logins anyway ([`crate::config`] names files instead). The functions here are for
//! values that could not be parsed and are quoted in an error: they search the text, and may hide too much.

use darter_core::Digest;

/// Printed in place of a login.
const HIDDEN: &str = "…";

/// `text`, with `…` in place of the login of each address in it: `https://…@host`.
pub(crate) fn without_logins(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|letter: char| !ends_word(letter)) {
        let (gap, after) = rest.split_at(at);
        let (word, after) = after.split_at(after.find(ends_word).unwrap_or(after.len()));
        shown.push_str(gap);
        word_without_login(word, &mut shown);
        rest = after;
    }
    shown.push_str(rest);
    shown
}

/// True if `text` has a login to hide.
pub(crate) fn has_login(text: &str) -> bool {
    without_logins(text) != text
}

const fn ends_word(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '"' | '\'' | '`')
}

fn word_without_login(word: &str, shown: &mut String) {
    let Some(slashes) = word.find("://") else {
        // `user:password@host`, but not an image, `host:5000/app@sha256:…`.
        let login = word.rsplit_once('@').filter(|(login, after)| {
            let is_digest = after.split_once(':').is_some_and(|(first, _)| Digest::ALGORITHMS.contains(&first));
            login.contains(':') && !is_digest
        });
        // A name before the login, in a list or a pair, is no part of the login.
        let front =
            |login: &str| login.split(':').next().and_then(|user| Some(user.rfind([',', '='])? + 1)).unwrap_or(0);
        match login {
            Some((login, after)) => shown.extend([&login[..front(login)], HIDDEN, "@", after]),
            None => shown.push_str(word),
        }
        return;
    };
    let (scheme, rest) = word.split_at(slashes + "://".len());
    shown.push_str(scheme);
    let authority = &rest[..rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len())];
    let after_login = match authority.rfind('@') {
        Some(at) => at,
        // A password with an unescaped slash, which is invalid in an address: the text after the colon is no port.
        None if !ends_in_port(authority) => rest.rfind('@').unwrap_or(0),
        None => 0,
    };
    if after_login > 0 {
        shown.push_str(HIDDEN);
    }
    let (_, rest) = rest.split_at(after_login);
    // A list may have another address in the same word.
    match rest.find("://") {
        Some(_) => word_without_login(rest, shown),
        None => shown.push_str(rest),
    }
}

fn ends_in_port(authority: &str) -> bool {
    let port = if authority.ends_with(']') { None } else { authority.rsplit_once(':').map(|(_, port)| port) };
    port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_login_is_quoted() {
        for (text, shown) in [
            ("https://me:secret@host/x", "https://…@host/x"),
            ("https://secret@host", "https://…@host"),
            ("not an address: \"http://me:secret@p:3128\" (write", "not an address: \"http://…@p:3128\" (write"),
            ("a=http://me:secret@a,b=http://me:secret@b/x", "a=http://…@a,b=http://…@b/x"),
            ("https://me:sec/ret@host/x", "https://…@host/x"),
            ("https://me:sec@ret@host/x", "https://…@host/x"),
            ("me:secret@host:7400", "…@host:7400"),
            ("a:1,me:secret@host:7400", "…@host:7400"),
            ("reg=me:secret@host", "reg=…@host"),
            ("http:me:secret@host", "…@host"),
        ] {
            assert_eq!(without_logins(text), shown, "{text}");
            assert!(has_login(text) && !has_login(shown), "{text}");
        }
        for plain in [
            "https://host:5000/@scope/x",
            "https://host/a@b",
            "https://[::1]:5000/x@y",
            "host:5000/app@sha256:0123",
            "me@example.org",
            "a b  \"c\"\n",
            "",
        ] {
            assert_eq!(without_logins(plain), plain);
        }
    }
}
