//! Edits TOML and keeps its form. Each value is found together with its position, and a change inserts text at one position:
//! every other byte stays, including comments, order, quotes and line ends. Editors that rewrite a whole document change
//! some of these.
//!
//! Invariant: [`checked`] compares the meanings of the old and the new text. A change with any other effect than the requested
//! one is an error, for example if a table has a form that this module does not know.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A text and its parsed form.
#[derive(Debug)]
pub(crate) struct Document {
    text: String,
    root: Node,
}

/// A value and its position: its bytes; for a table, those of its header; for a table without a header, those of its first key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Range<usize>,
    pub(crate) value: Value,
}

/// A TOML value, with only the distinctions that this command needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Truth(bool),
    Number(i64),
    Array(Vec<Node>),
    Table(Vec<(String, Node)>),
    /// Times and fractions, which this command never uses.
    Other,
}

/// A text that can't be parsed, or can't be changed by this module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(crate) struct Wrong {
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Document {
    pub(crate) fn parse(text: &str) -> Result<Self, Wrong> {
        let table = DeTable::parse(text).map_err(|error| Wrong {
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: format!("not TOML: {}", error.message()),
        })?;
        let root = Node { at: 0..0, value: table_of(table.get_ref()) };
        Ok(Self { text: text.to_owned(), root })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The value at this path, if there is one.
    pub(crate) fn get(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(&self.root, |node, key| node.get(key))
    }

    /// The line of a byte, counted from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        line_of(&self.text, at)
    }

    /// True if a table has a header of its own, `[like.this]`.
    pub(crate) fn has_header(&self, node: &Node) -> bool {
        self.text[node.at.start..].starts_with('[') && matches!(node.value, Value::Table(_))
    }

    /// The byte offsets of the headers of all tables, in the order of the text.
    pub(crate) fn headers(&self) -> Vec<usize> {
        let mut found = Vec::new();
        self.headers_in(&self.root, &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }

    fn headers_in(&self, node: &Node, found: &mut Vec<usize>) {
        if node.at.end > 0 && self.has_header(node) {
            found.push(node.at.start);
        }
        match &node.value {
            Value::Table(entries) => entries.iter().for_each(|(_, node)| self.headers_in(node, found)),
            Value::Array(items) => items.iter().for_each(|node| self.headers_in(node, found)),
            _ => {}
        }
    }

    /// The byte offset at which the line of byte `at` begins.
    pub(crate) fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |end| end + 1)
    }

    /// The byte offset after the line of byte `at`, including its line feed.
    pub(crate) fn line_end(&self, at: usize) -> usize {
        self.text[at..].find('\n').map_or(self.text.len(), |end| at + end + 1)
    }

    /// The byte offset at which a header's block begins, including the comment lines right above it.
    pub(crate) fn block_start(&self, header: usize) -> usize {
        let mut start = self.line_start(header);
        while start > 0 {
            let above = self.line_start(start - 1);
            if !self.text[above..start].trim_start().starts_with('#') {
                break;
            }
            start = above;
        }
        start
    }

    /// The text with `added` in it, with the text's own kind of line ends.
    pub(crate) fn with(&self, range: Range<usize>, added: &str) -> String {
        let added = if self.text.contains("\r\n") { added.replace('\n', "\r\n") } else { added.to_owned() };
        format!("{}{added}{}", &self.text[..range.start], &self.text[range.end..])
    }

    /// The text with an empty line and `added` at its end.
    pub(crate) fn with_at_end(&self, added: &str) -> String {
        let end = self.text.len();
        let gap = match self.text.as_str() {
            "" => "",
            text if text.ends_with("\n\n") || text.ends_with("\n\r\n") => "",
            text if text.ends_with('\n') => "\n",
            _ => "\n\n",
        };
        self.with(end..end, &format!("{gap}{added}"))
    }

    /// The text in which `key` of this table is `value`, a TOML expression. A missing table is added at the end.
    pub(crate) fn with_key(&self, table: &[&str], key: &str, value: &str, quote: char) -> String {
        let path: Vec<_> = table.iter().copied().chain([key]).collect();
        if let Some(node) = self.get(&path) {
            return self.with(node.at.clone(), value);
        }
        match self.get(table) {
            Some(node) if self.has_header(node) => {
                let start = self.line_start(node.at.start);
                let indent = self.text[start..].len() - self.text[start..].trim_start_matches([' ', '\t']).len();
                let indent = &self.text[start..start + indent];
                let end = self.line_end(node.at.end);
                let newline = if self.text[..end].ends_with('\n') { "" } else { "\n" };
                self.with(end..end, &format!("{newline}{indent}  {key} = {value}\n"))
            }
            _ => self.with_at_end(&format!("[{}]\n  {key} = {value}\n", header(table, quote))),
        }
    }
}

impl Node {
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Value::Table(entries) = &self.value else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_true(&self) -> bool {
        self.value == Value::Truth(true)
    }

    pub(crate) fn is_false(&self) -> bool {
        self.value == Value::Truth(false)
    }

    /// The items of an array; none for any other value.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::Array(items) => items,
            _ => &[],
        }
    }

    /// The entries of a table, in the order of the text; none for any other value.
    pub(crate) fn entries(&self) -> Vec<(&str, &Self)> {
        let Value::Table(entries) = &self.value else { return Vec::new() };
        let mut entries: Vec<_> = entries.iter().map(|(name, node)| (name.as_str(), node)).collect();
        entries.sort_by_key(|(_, node)| node.at.start);
        entries
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

fn table_of(table: &DeTable<'_>) -> Value {
    let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        (key.get_ref().clone().into_owned(), node_of(value))
    };
    Value::Table(table.iter().map(entry).collect())
}

fn node_of(spanned: &Spanned<DeValue<'_>>) -> Node {
    let value = match spanned.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Boolean(truth) => Value::Truth(*truth),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Other, Value::Number)
        }
        DeValue::Array(items) => Value::Array(items.iter().map(node_of).collect()),
        DeValue::Table(table) => table_of(table),
        _ => Value::Other,
    };
    Node { at: spanned.span(), value }
}

/// A table's name, as written in its header.
pub(crate) fn header(path: &[&str], quote: char) -> String {
    let is_bare = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let key = |key: &&str| match quote {
        _ if is_bare(key) => (*key).to_owned(),
        '\'' if !key.contains('\'') => format!("'{key}'"),
        _ => quoted(key),
    };
    path.iter().map(key).collect::<Vec<_>>().join(".")
}

/// A string in TOML's notation.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The new text, if it has the meaning of the old one after `change`.
pub(crate) fn checked(old: &Document, new: &str, change: impl FnOnce(&mut toml::Table)) -> Result<Document, Wrong> {
    let meaning = |text: &str| text.parse::<toml::Table>().ok();
    let mut wanted = meaning(old.text()).unwrap_or_default();
    change(&mut wanted);
    if meaning(new).as_ref() == Some(&wanted) {
        return Document::parse(new);
    }
    // The first line that differs.
    let same = old.text().bytes().zip(new.bytes()).take_while(|(old, new)| old == new).count();
    Err(Wrong {
        line: old.line(same),
        message: "this is written in a form that can't be changed safely; write it as [tables] with headers, or make \
                  the change by hand"
            .to_owned(),
    })
}

/// Sets a value in the parsed form of a text.
pub(crate) fn set(table: &mut toml::Table, path: &[&str], value: toml::Value) {
    let Some((key, tables)) = path.split_last() else { return };
    let mut at = table;
    for name in tables {
        let inner = at.entry((*name).to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        let Some(inner) = inner.as_table_mut() else { return };
        at = inner;
    }
    at.insert((*key).to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_path(text: &str, table: &[&str], value: &str) -> Result<String, Wrong> {
        let old = Document::parse(text)?;
        let new = old.with_key(table, "key", &quoted(value), '"');
        let path: Vec<_> = table.iter().copied().chain(["key"]).collect();
        checked(&old, &new, |wanted| set(wanted, &path, value.into())).map(|document| document.text().to_owned())
    }

    #[test]
    fn a_key_is_put_where_its_table_is_and_everything_else_stays() {
        for (before, after) in [
            ("", "[a.\"b.c\"]\n  key = \"v\"\n"),
            ("x = 1", "x = 1\n\n[a.\"b.c\"]\n  key = \"v\"\n"),
            ("[a.'b.c'] # of others\n# more\nz = 2\n", "[a.'b.c'] # of others\n  key = \"v\"\n# more\nz = 2\n"),
            ("[a]\n\t[a.'b.c']", "[a]\n\t[a.'b.c']\n\t  key = \"v\"\n"),
            ("[a.'b.c']\nkey = '' # empty\n", "[a.'b.c']\nkey = \"v\" # empty\n"),
            ("[a.'b.c'.d]\r\nz = 2\r\n", "[a.'b.c'.d]\r\nz = 2\r\n\r\n[a.\"b.c\"]\r\n  key = \"v\"\r\n"),
            ("a = { 'b.c' = { key = 'w', z = 1 } }\n", "a = { 'b.c' = { key = \"v\", z = 1 } }\n"),
        ] {
            let changed = set_path(before, &["a", "b.c"], "v").unwrap_or_else(|wrong| panic!("{before:?}: {wrong}"));
            assert_eq!(changed, after, "{before:?}");
            assert_eq!(set_path(&changed, &["a", "b.c"], "v").as_deref(), Ok(after), "the second time nothing changes");
        }
    }

    #[test]
    fn what_would_mean_something_else_is_an_error_with_its_line() {
        for (before, line) in [("\n\na = { 'b.c' = { z = 1 } }\n", 4), ("a.'b.c'.z = 1\n[x]\n", 3)] {
            let wrong = set_path(before, &["a", "b.c"], "v").unwrap_err();
            assert_eq!(wrong.line, line, "{before:?}: {wrong}");
        }
        assert_eq!(Document::parse("a = 1\nb = \n").unwrap_err().line, 2);
    }

    #[test]
    fn values_are_found_with_their_places() {
        let text = "a = 'x'\n[[t]]\nn = 3\n[[t]]\n[b.c]\nyes = true\n";
        let document = Document::parse(text).unwrap();
        assert_eq!(document.get(&["a"]).and_then(Node::text), Some("x"));
        assert!(document.get(&["b", "c", "yes"]).is_some_and(Node::is_true));
        assert_eq!(document.get(&["t"]).unwrap().items().len(), 2);
        let lines: Vec<_> = document.headers().into_iter().map(|at| document.line(at)).collect();
        assert_eq!(lines, [2, 4, 5]);
    }
}
