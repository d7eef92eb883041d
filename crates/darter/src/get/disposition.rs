//! The file name in a `Content-Disposition` header (RFC 6266, RFC 8187), made safe: an origin may choose a name in the
//! directory that the user chose, but no other directory and no hidden file.

use percent_encoding::percent_decode_str;

/// Most bytes of a name on Linux file systems.
const MAX_NAME: usize = 255;

/// The usable name that the header gives, if any. `filename*` takes precedence over `filename`.
pub(super) fn file_name(header: &str) -> Option<String> {
    let (mut plain, mut extended) = (None, None);
    for (name, value) in parameters(header) {
        match name.to_ascii_lowercase().as_str() {
            "filename*" => extended = extended.or_else(|| decoded(&value)),
            "filename" => plain = plain.or(Some(value)),
            _ => {}
        }
    }
    extended.and_then(|name| safe(&name)).or_else(|| plain.and_then(|name| safe(&name)))
}

/// The parameters after the disposition's type. Malformed parameters are skipped, since many servers send some.
fn parameters(header: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = header.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((name, after)) = rest.split_once('=') {
        // A parameter without a value may precede this one.
        let name = name.rsplit(';').next().unwrap_or_default().trim().to_owned();
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => {
                let (value, next) = after.split_once(';').unwrap_or((after, ""));
                (value.trim().to_owned(), next)
            }
        };
        found.push((name, value));
        rest = next;
    }
    found
}

/// A quoted string without its quotes and escapes, and the text after it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, text[at + 1..].trim_start().trim_start_matches(';')),
            // A backslash before any other character is literal: Windows paths are written so.
            '\\' => match letters.clone().next() {
                Some((_, next @ ('"' | '\\'))) => {
                    letters.next();
                    value.push(next);
                }
                _ => value.push('\\'),
            },
            other => value.push(other),
        }
    }
    (value, "")
}

/// An extended value: `UTF-8'en'na%C3%AFve.txt`.
fn decoded(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let (charset, _, text) = (parts.next()?, parts.next()?, parts.next()?);
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" => String::from_utf8(bytes).ok(),
        "iso-8859-1" => Some(bytes.into_iter().map(char::from).collect()),
        _ => None,
    }
}

/// The last component of what may be a path, if it is a valid name for a file that is not hidden.
fn safe(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next()?;
    let clean: String = last.chars().filter(|letter| !letter.is_control() && !is_unseen(*letter)).collect();
    let clean = clean.trim();
    if clean.is_empty() || clean.starts_with('.') || clean == "-" {
        return None;
    }
    // `rm *` and the like would take a name with a dash in front for an option.
    let plain = clean.strip_prefix('-').map_or_else(|| clean.to_owned(), |rest| format!("_{rest}"));
    Some(shortened(&plain))
}

/// True if a character is invisible: it may change how its neighbours look, so that `.exe` looks like `.txt`, or make two names look
/// the same.
pub(super) const fn is_unseen(letter: char) -> bool {
    matches!(
        letter,
        '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}'
    )
}

/// A name that is not too long: the beginning and the extension of `name`.
fn shortened(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let extension = name.rfind('.').map_or("", |dot| &name[dot..]);
    let extension = if extension.len() > 32 { "" } else { extension };
    let mut end = MAX_NAME - extension.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{extension}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_servers_write_them() {
        for (header, name) in [
            ("attachment; filename=example.html", Some("example.html")),
            ("Attachment; FileName=\"an example.html\"", Some("an example.html")),
            ("attachment; filename=\"a;b=c.txt\"; size=3", Some("a;b=c.txt")),
            ("attachment; filename=\"a \\\"quoted\\\" name\"", Some("a \"quoted\" name")),
            ("attachment; filename=\"EURO.txt\"; filename*=utf-8''%e2%82%ac%20rates", Some("€ rates")),
            ("attachment; filename*=UTF-8'en'na%C3%AFve.txt; filename=naive.txt", Some("naïve.txt")),
            ("attachment; filename*=iso-8859-1''%A3.txt", Some("£.txt")),
            ("attachment; filename*=utf-16''x; filename=y", Some("y")),
            ("attachment;filename=a.bin;", Some("a.bin")),
            ("attachment; flag; filename=b", Some("b")),
            ("inline", None),
            ("attachment; filename=\"\"", None),
            ("attachment; filename=\"open", Some("open")),
            ("", None),
        ] {
            assert_eq!(file_name(header).as_deref(), name, "{header}");
        }
    }

    #[test]
    fn no_paths_and_no_hidden_files() {
        for (given, name) in [
            ("../../etc/passwd", Some("passwd")),
            ("/etc/cron.d/x", Some("x")),
            ("C:\\Windows\\x.exe", Some("x.exe")),
            ("..", None),
            (".bashrc", None),
            ("a/.ssh", None),
            ("dir/", None),
            ("-", None),
            (" . ", None),
            ("a\u{0}b\nc", Some("abc")),
            ("-rf", Some("_rf")),
            ("a/--help", Some("_-help")),
            ("photo_\u{202e}gpj.exe", Some("photo_gpj.exe")),
            ("\u{feff}a\u{200b}.txt", Some("a.txt")),
            ("\u{200b}", None),
        ] {
            assert_eq!(safe(given).as_deref(), name, "{given:?}");
        }
        assert_eq!(file_name("attachment; filename*=utf-8''..%2F..%2Fx%2F.profile"), None);
        assert_eq!(file_name("attachment; filename*=utf-8''..%2Fy"), Some("y".to_owned()));
    }

    #[test]
    fn long_names_keep_their_extension() {
        let long = shortened(&format!("{}.tar", "ä".repeat(200)));
        assert!(long.len() <= MAX_NAME && long.ends_with("ä.tar"), "{long}");
        assert_eq!(shortened(&"x".repeat(255)).len(), 255);
    }
}
