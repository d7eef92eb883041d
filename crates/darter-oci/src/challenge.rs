//! Challenges: what a server asks for in `WWW-Authenticate` (RFC 9110, section 11.6.1).
//!
//! One header may hold several challenges, and the comma that parts them also parts the parameters of one; values are
//! quoted or not. A challenge that does not parse is skipped, never an error: a server that also says something sensible is
//! understood.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// One challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme in lower case, such as `bearer`.
    pub scheme: String,
    /// Parameters, names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// All challenges in these headers, in their order.
pub fn challenges_of(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    values.flat_map(|value| parse(&String::from_utf8_lossy(value.as_bytes()))).collect()
}

/// All challenges in one header's value.
fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = take_token(rest);
        if word.is_empty() {
            // Something that can't start a word, such as a stray quote: skip it.
            let mut characters = rest.chars();
            if characters.next().is_none() {
                return challenges;
            }
            rest = characters.as_str();
            continue;
        }
        let Some(value) = after.trim_start().strip_prefix('=') else {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = after;
            continue;
        };
        let (value, after) = take_value(value.trim_start());
        rest = after;
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.push((word.to_ascii_lowercase(), value));
        }
    }
}

/// A quoted string without its quotes and escapes, or a token; and what follows.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (token, rest) = take_token(text);
        return (token.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    (value, characters.as_str())
}

/// The longest beginning that is a token, generously: also `/` and `:`, which some servers leave unquoted.
fn take_token(text: &str) -> (&str, &str) {
    let ends = |character: char| character.is_whitespace() || matches!(character, ',' | '=' | '"');
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Vec<(String, Vec<(String, String)>)> {
        parse(text).into_iter().map(|challenge| (challenge.scheme, challenge.parameters)).collect()
    }

    fn expected(scheme: &str, parameters: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        (scheme.to_owned(), parameters.iter().map(owned).collect())
    }

    #[test]
    fn a_comma_inside_quotes_parts_nothing() {
        let text = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let bearer = expected(
            "bearer",
            &[
                ("realm", "https://auth.docker.io/token"),
                ("service", "registry.docker.io"),
                ("scope", "repository:a/b:pull,push"),
            ],
        );
        assert_eq!(parsed(text), [bearer]);
    }

    #[test]
    fn several_challenges_stand_in_one_header() {
        let text = r#"Negotiate, Basic realm="a \"b\" c" , BEARER Realm = https://t/x, service=s"#;
        let all = [
            expected("negotiate", &[]),
            expected("basic", &[("realm", r#"a "b" c"#)]),
            expected("bearer", &[("realm", "https://t/x"), ("service", "s")]),
        ];
        assert_eq!(parsed(text), all);
    }

    #[test]
    fn several_headers_are_read_and_one_unreadable_does_no_harm() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "\"\"\" ,,=\"".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Basic realm=\"unfinished".parse().unwrap());
        let challenges = challenges_of(&headers);
        assert_eq!(challenges.last().unwrap().get("realm"), Some("unfinished"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            parse(&text);
        }

        #[test]
        fn what_was_quoted_comes_back(value in "[ -~]*", scheme in "[A-Za-z]{1,9}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("Other, {scheme} realm=\"{quoted}\", x=y");
            let challenges = parse(&text);
            prop_assert_eq!(challenges.len(), 2);
            prop_assert_eq!(challenges[1].get("realm"), Some(value.as_str()));
            prop_assert_eq!(challenges[1].get("x"), Some("y"));
        }
    }
}
