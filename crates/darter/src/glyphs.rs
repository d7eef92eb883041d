//! Characters beyond ASCII, and their replacements where the locale can't show them.

use std::env;
use std::ffi::OsString;

/// True if the locale is UTF-8, or if none is set, as in many containers.
pub(crate) fn is_unicode() -> bool {
    says_unicode(|name| env::var_os(name))
}

fn says_unicode(environment: impl Fn(&str) -> Option<OsString>) -> bool {
    // The first variable that is set counts: see locale(7).
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(environment).find(|value| !value.is_empty());
    let Some(locale) = set else { return true };
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// The character's replacement on a terminal that has only ASCII.
pub(crate) const fn ascii(sign: char) -> char {
    match sign {
        ' '..='~' => sign,
        '·' => '-',
        '▁' | '▂' => '.',
        '▃' | '▄' => ':',
        '▅' | '▆' => '+',
        '▇' => '*',
        '█' => '#',
        '▼' => 'v',
        '▲' => '^',
        '…' => '~',
        '×' => 'x',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_says_whether_signs_are_shown() {
        let with = |pairs: &'static [(&str, &str)]| {
            says_unicode(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
        };
        assert!(with(&[]) && with(&[("LANG", "de_DE.UTF-8")]) && with(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]));
        assert!(!with(&[("LANG", "C")]) && !with(&[("LANG", "en_US.ISO-8859-1")]));
        assert!(!with(&[("LC_ALL", "POSIX"), ("LANG", "de_DE.UTF-8")]), "the first counts");
    }
}
