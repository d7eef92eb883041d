//! The documents agree with the tree: links lead somewhere, names that stand for code are there, and rooms import what ARCHITECTURE.md says.
//! This reads them as a newcomer does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A newcomer who wants to know one pull's way opens no more files than these.
const MAX_FILES_OF_A_PULL: usize = 25;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below `directory` whose names end with `.ending`.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|it| it == ending) {
            found.push(path);
        }
    }
    found
}

/// The documents that people read.
fn documents() -> Vec<PathBuf> {
    let root = root();
    let beside: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut found: Vec<_> = beside.into_iter().filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    found.extend(files(&root.join("docs"), "md"));
    found
}

/// The text without blocks of commands.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

#[derive(Debug)]
struct Link<'a> {
    text: &'a str,
    path: &'a str,
    heading: Option<&'a str>,
}

/// The links of a text that lead into the tree.
fn links(text: &str) -> Vec<Link<'_>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split(')').next().unwrap();
        let shown = text[..at].rsplit('[').next().unwrap();
        if !target.contains("://") {
            let (path, heading) =
                target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
            found.push(Link { text: shown, path, heading });
        }
    }
    found
}

/// The name by which a page links to one of its headings.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|char| char.is_alphanumeric() || "-_".contains(*char)).collect()
}

/// True if `source` defines `name`, or a part of what it is the name of.
fn defines(source: &str, name: &str) -> bool {
    let words = ["struct", "enum", "trait", "type", "fn", "const", "mod", "impl"];
    let is_end = |rest: &str| !rest.starts_with(|char: char| char.is_alphanumeric() || char == '_');
    words.iter().any(|word| {
        let definition = format!("{word} {name}");
        source.match_indices(&definition).any(|(at, found)| is_end(&source[at + found.len()..]))
    })
}

/// The section of `text` under a heading of the second level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    rest.split("\n## ").next().unwrap()
}

#[test]
fn every_link_leads_somewhere() {
    let (mut seen, mut amiss) = (0, Vec::new());
    for document in documents() {
        let text = prose(&read(&document));
        for link in links(&text) {
            seen += 1;
            let directory = document.parent().unwrap();
            let target = if link.path.is_empty() { document.clone() } else { directory.join(link.path) };
            let is_there = target.exists()
                && link.heading.is_none_or(|heading| {
                    let headings = read(&target);
                    headings
                        .lines()
                        .filter(|line| line.starts_with('#'))
                        .any(|line| anchor(line.trim_start_matches('#').trim()) == heading)
                });
            if !is_there {
                amiss.push(format!("{}: {link:?}", document.display()));
            }
        }
    }
    assert!(seen > 200, "{seen} links");
    assert!(amiss.is_empty(), "{amiss:#?}");
}

/// A link to a source is called after the file, or after what is defined there.
#[test]
fn a_link_to_code_is_called_what_is_found_there() {
    let (mut seen, mut amiss) = (0, Vec::new());
    for document in documents() {
        let text = prose(&read(&document));
        for link in links(&text).into_iter().filter(|link| link.path.ends_with(".rs")) {
            let Some(name) = link.text.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
            seen += 1;
            let is_path = link.path.split('/').any(|part| {
                // `swarm/hashes.rs` is darter-swarm/src/hashes.rs; a room and a module may be called without an ending.
                let last = name.rsplit('/').next().unwrap();
                let plain = |name: &str| name.trim_start_matches("darter-").trim_end_matches(".rs").to_owned();
                plain(part) == plain(last)
            });
            let is_right = is_path || {
                let source = read(&document.parent().unwrap().join(link.path));
                name.split("::").all(|part| defines(&source, part))
            };
            if !is_right {
                amiss.push(format!("{}: {link:?}", document.display()));
            }
        }
    }
    assert!(seen > 100, "{seen} links");
    assert!(amiss.is_empty(), "{amiss:#?}");
}

#[test]
fn one_pull_is_followed_through_few_files() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let opened: BTreeSet<_> = links(section(&text, "One pull")).into_iter().map(|link| link.path).collect();
    assert!((15..=MAX_FILES_OF_A_PULL).contains(&opened.len()), "{} files: {opened:#?}", opened.len());
}

/// Messages, types and functions that ARCHITECTURE.md names in passing.
#[test]
fn every_name_of_code_in_the_architecture_is_defined() {
    let text = prose(&read(&root().join("ARCHITECTURE.md")));
    let sources: String = files(&root().join("crates"), "rs").iter().map(|path| read(path)).collect();
    let is_name = |name: &&str| {
        let mut chars = name.chars();
        chars.next().is_some_and(char::is_uppercase)
            && chars.any(char::is_lowercase)
            && name.chars().all(|char| char.is_alphanumeric() || "_:.".contains(char))
            && !name.contains(".toml")
    };
    let names: BTreeSet<_> = text.split('`').skip(1).step_by(2).filter(is_name).collect();
    assert!(names.len() > 20, "{names:?}");
    // A message is a variant, which stands by itself at the beginning of a line; so does a field.
    let is_variant = |name: &str| {
        [" {", "(", ","].iter().any(|end| sources.contains(&format!("\n    {name}{end}")))
            || sources.contains(&format!("    {name}: "))
            || sources.contains(&format!(" {name}: "))
    };
    let parts: BTreeSet<_> =
        names.iter().flat_map(|name| name.split([':', '.'])).filter(|part| !part.is_empty()).collect();
    let missing: Vec<_> = parts.into_iter().filter(|part| !defines(&sources, part) && !is_variant(part)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The crates of the workspace that a crate imports outside its tests.
fn imports(manifest: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]") && !line.contains("dev-");
        } else if in_dependencies && line.starts_with("darter") {
            found.insert(line.split(['.', ' ', '=']).next().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn rooms_import_only_what_stands_below_them() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let rooms = section(&text, "Rooms");
    let drawing = rooms.split("```").nth(1).unwrap();
    let mut heights = BTreeMap::new();
    for (line, content) in drawing.lines().enumerate() {
        for word in content.split_whitespace().filter(|word| word.starts_with("darter")) {
            assert_eq!(heights.insert(word, line), None, "{word} is drawn once");
        }
    }
    let crates: Vec<_> = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(crates.len() > 20);
    for path in crates {
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(height) = heights.get(name) else { panic!("{name} is not drawn") };
        assert!(rooms.contains(&format!("| [`{name}`](crates/{name}/src/")), "{name} is not in the table");
        for below in imports(&read(&path.join("Cargo.toml"))) {
            assert!(heights[below.as_str()] > *height, "{name} imports {below}, which is not drawn below it");
        }
    }
}

#[test]
fn every_note_is_listed_and_every_note_that_a_comment_names_is_there() {
    let notes = root().join("docs/notes");
    let list = read(&notes.join("README.md"));
    for note in files(&notes, "md") {
        let name = note.file_name().unwrap().to_str().unwrap();
        assert!(name == "README.md" || list.contains(&format!("]({name})")), "{name} is not listed");
    }
    let mut seen = 0;
    for source in files(&root().join("crates"), "rs") {
        let text = read(&source);
        for (at, _) in text.match_indices("docs/notes/") {
            let name: String =
                text[at + 11..].chars().take_while(|char| char.is_alphanumeric() || "-.".contains(*char)).collect();
            if let Some(stem) = name.split(".md").next().filter(|stem| !stem.is_empty() && name.contains(".md")) {
                seen += 1;
                assert!(notes.join(format!("{stem}.md")).exists(), "{}: {name}", source.display());
            }
        }
    }
    assert!(seen > 10, "{seen} notes are named");
}
