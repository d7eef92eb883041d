//! containerd's filters, which select snapshots: `kind==active,labels."a/b"==x`. No I/O.
//!
//! A filter is a list of selectors, separated by commas, all of which have to match. A selector is a field's path, and either nothing (the field exists) or `==` or `!=` with a value. Of
//! several filters, one has to match. `~=`, a regular expression, is refused: no client uses it with a snapshotter.

use crate::tree::{Refusal, Snapshot};

/// Filters, one of which has to match.
#[derive(Debug)]
pub(crate) struct Filters(Vec<Vec<Selector>>);

#[derive(Debug, PartialEq, Eq)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug, PartialEq, Eq)]
enum Test {
    Present,
    Is(String),
    IsNot(String),
}

impl Filters {
    /// Parses filters. Without any, everything matches.
    pub(crate) fn parse(filters: &[String]) -> Result<Self, Refusal> {
        let parsed = filters.iter().map(|filter| {
            Parser { text: filter, at: 0 }
                .selectors()
                .map_err(|what| Refusal::Argument(format!("can't read the filter {filter:?}: {what}")))
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn fit(&self, name: &str, snapshot: &Snapshot) -> bool {
        let one = |selectors: &Vec<Selector>| selectors.iter().all(|selector| selector.fits(name, snapshot));
        self.0.is_empty() || self.0.iter().any(one)
    }
}

impl Selector {
    fn fits(&self, name: &str, snapshot: &Snapshot) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = match path[..] {
            ["name"] => Some(name),
            ["kind"] => Some(snapshot.kind.name()),
            ["parent"] => Some(snapshot.parent.as_deref().unwrap_or_default()),
            // A label's name may contain dots, even without quotes.
            ["labels", ..] => snapshot.labels.get(&path[1..].join(".")).map(String::as_str),
            _ => None,
        };
        match &self.test {
            Test::Present => value.is_some(),
            Test::Is(wanted) => value == Some(wanted),
            Test::IsNot(other) => value.unwrap_or_default() != other,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, word: &str) -> bool {
        self.skip_spaces();
        let is_there = self.rest().starts_with(word);
        self.at += if is_there { word.len() } else { 0 };
        is_there
    }

    fn selectors(mut self) -> Result<Vec<Selector>, String> {
        let mut selectors = Vec::new();
        self.skip_spaces();
        if self.rest().is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            self.skip_spaces();
            if self.rest().is_empty() {
                return Ok(selectors);
            }
            if !self.take(",") {
                return Err(format!("a comma is missing before {:?}", self.rest()));
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, String> {
        let mut path = vec![self.field()?];
        while self.take(".") {
            path.push(self.field()?);
        }
        let test = if self.take("==") {
            Test::Is(self.value()?)
        } else if self.take("!=") {
            Test::IsNot(self.value()?)
        } else if self.take("~=") {
            return Err("regular expressions are not supported".to_owned());
        } else {
            Test::Present
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, String> {
        let is_of_field = |letter: char| letter == '_' || letter.is_ascii_alphanumeric();
        self.word(is_of_field)
            .and_then(|field| if field.is_empty() { Err("a field's name is missing".to_owned()) } else { Ok(field) })
    }

    fn value(&mut self) -> Result<String, String> {
        self.word(|letter| letter != ',' && !letter.is_whitespace() && !letter.is_control())
    }

    /// Parses a quoted text, or the letters that `fits` accepts.
    fn word(&mut self, fits: impl Fn(char) -> bool) -> Result<String, String> {
        self.skip_spaces();
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        let word: String = self.rest().chars().take_while(|letter| fits(*letter)).collect();
        self.at += word.len();
        Ok(word)
    }

    fn quoted(&mut self) -> Result<String, String> {
        let inside = &self.text[self.at + 1..];
        let (mut word, mut letters) = (String::new(), inside.char_indices());
        while let Some((place, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.at += place + 2;
                    return Ok(word);
                }
                '\\' => match letters.next().map(|(_, letter)| letter) {
                    Some(letter @ ('"' | '\\')) => word.push(letter),
                    Some('n') => word.push('\n'),
                    Some('t') => word.push('\t'),
                    other => return Err(format!("unknown character after a backslash: {other:?}")),
                },
                letter => word.push(letter),
            }
        }
        Err("a quote is not closed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tree::{Labels, SnapshotKind, Usage};

    fn fits(filters: &[&str]) -> Result<bool, Refusal> {
        let labels = [("l", "2"), ("containerd.io/gc.root", "walk"), ("a \"quoted\" one", "x,y")];
        let snapshot = Snapshot {
            number: 1,
            kind: SnapshotKind::Active,
            parent: Some("p".to_owned()),
            created: Duration::ZERO,
            updated: Duration::ZERO,
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Labels>(),
            usage: Usage::default(),
            lazy: None,
        };
        let filters: Vec<_> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        Ok(Filters::parse(&filters)?.fit("a", &snapshot))
    }

    #[test]
    fn what_fits_is_found() {
        for filters in [
            &[][..],
            &[""],
            &["name==a"],
            &["name==b", "kind==active"],
            &["kind == active , labels.l"],
            &["labels.\"containerd.io/gc.root\"==walk,parent==p"],
            &["parent!=\"\""],
            &["labels.none!=x"],
            &["labels.\"a \\\"quoted\\\" one\"==\"x,y\""],
            &["labels.l==2,name!=b"],
        ] {
            assert_eq!(fits(filters), Ok(true), "{filters:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_not() {
        for filters in [
            &["name==b"][..],
            &["name==a,kind==view"],
            &["labels.none"],
            &["labels.l==3"],
            &["parent==\"\""],
            &["size"],
            &["labels.containerd"],
        ] {
            assert_eq!(fits(filters), Ok(false), "{filters:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for filter in ["name=a", "name==a kind==b", "==a", "labels.\"x", "name~=a", "labels.\"\\q\"", ","] {
            assert!(matches!(fits(&[filter]), Err(Refusal::Argument(_))), "{filter}");
        }
    }
}
