//! A unified diff of two texts, as `diff -u` prints it.

use anstyle::{AnsiColor, Style};

/// Unchanged lines before and after each change.
const CONTEXT: usize = 3;
/// The maximum product of both numbers of lines for which lines are compared; longer texts are shown as replaced.
const MAX_CELLS: usize = 16 << 20;

const GONE: Style = AnsiColor::Red.on_default();
const NEW: Style = AnsiColor::Green.on_default();
const PLACE: Style = AnsiColor::Cyan.on_default();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// The diff between a file's two texts; `None` means that there is no file. Has colours, which printing drops if they can't be shown.
pub(crate) fn unified(path: &str, old: Option<&str>, new: Option<&str>) -> String {
    let name = |text: Option<&str>| if text.is_some() { path } else { "/dev/null" };
    let lines = lines(old.unwrap_or_default(), new.unwrap_or_default());
    let mut text = format!("--- {}\n+++ {}\n", name(old), name(new));
    let (mut old_line, mut new_line, mut at) = (1, 1, 0);
    for (start, end) in hunks(&lines) {
        for line in &lines[at..start] {
            debug_assert!(matches!(line, Line::Same(_)), "hunks hold all changes");
        }
        old_line += start - at;
        new_line += start - at;
        let hunk = &lines[start..end];
        let olds = hunk.iter().filter(|line| !matches!(line, Line::New(_))).count();
        let news = hunk.iter().filter(|line| !matches!(line, Line::Gone(_))).count();
        // An empty range is named by the line before it.
        let place = |line: usize, count: usize| format!("{},{count}", if count == 0 { line - 1 } else { line });
        let (from, to) = (place(old_line, olds), place(new_line, news));
        text += &format!("{PLACE}@@ -{from} +{to} @@{PLACE:#}\n");
        for line in hunk {
            let (style, sign, line) = match line {
                Line::Same(line) => (Style::new(), ' ', line),
                Line::Gone(line) => (GONE, '-', line),
                Line::New(line) => (NEW, '+', line),
            };
            let bare = line.strip_suffix('\n').unwrap_or(line);
            text += &format!("{style}{sign}{bare}{style:#}\n");
            if !line.ends_with('\n') {
                text += "\\ No newline at end of file\n";
            }
        }
        (old_line, new_line, at) = (old_line + olds, new_line + news, end);
    }
    text
}

/// The ranges of lines to print: each change with the lines around it.
fn hunks(lines: &[Line<'_>]) -> Vec<(usize, usize)> {
    let mut hunks: Vec<(usize, usize)> = Vec::new();
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| !matches!(line, Line::Same(_))) {
        let (start, end) = (at.saturating_sub(CONTEXT), (at + 1 + CONTEXT).min(lines.len()));
        match hunks.last_mut() {
            Some(last) if start <= last.1 => last.1 = end,
            _ => hunks.push((start, end)),
        }
    }
    hunks
}

fn lines<'a>(old: &'a str, new: &'a str) -> Vec<Line<'a>> {
    let (old, new): (Vec<_>, Vec<_>) = (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let first = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old[first..].iter().rev().zip(new[first..].iter().rev());
    let last = rest.take_while(|(old, new)| old == new).count();
    let (old_middle, new_middle) = (&old[first..old.len() - last], &new[first..new.len() - last]);
    let mut lines: Vec<_> = old[..first].iter().map(|line| Line::Same(line)).collect();
    lines.extend(middle(old_middle, new_middle));
    lines.extend(old[old.len() - last..].iter().map(|line| Line::Same(line)));
    lines
}

/// The longest common subsequence, by a table with the lengths for all suffixes.
fn middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let width = new.len() + 1;
    if old.len().saturating_mul(new.len()) > MAX_CELLS {
        return old.iter().map(|line| Line::Gone(line)).chain(new.iter().map(|line| Line::New(line))).collect();
    }
    // `common[i * width + j]` is the length for `old[i..]` and `new[j..]`.
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut lines, mut i, mut j) = (Vec::new(), 0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]) {
            lines.push(Line::Gone(old[i]));
            i += 1;
        } else {
            lines.push(Line::New(new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(old: Option<&str>, new: Option<&str>) -> String {
        anstream::adapter::strip_str(&unified("/f", old, new)).to_string()
    }

    #[test]
    fn the_difference_is_what_diff_u_prints() {
        assert_eq!(plain(None, Some("a\nb\n")), "--- /dev/null\n+++ /f\n@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(plain(Some("a\n"), None), "--- /f\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-a\n");
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11";
        let new = "1\n2\n3\n4\nnew\n5\n6\n7\n8\n9\n10\n12\n";
        let said = "--- /f\n+++ /f\n@@ -2,10 +2,11 @@\n 2\n 3\n 4\n+new\n 5\n 6\n 7\n 8\n 9\n 10\n-11\n\
                    \\ No newline at end of file\n+12\n";
        assert_eq!(plain(Some(old), Some(new)), said);
        let apart = format!("{}x\n", "same\n".repeat(20));
        assert_eq!(plain(Some(&apart), Some(&format!("y\n{apart}z\n"))).matches("@@ -").count(), 2);
    }
}
