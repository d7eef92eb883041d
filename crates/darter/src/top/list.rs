//! The screen of all swarms: one row each, the chosen one in reverse video.

use darter_api::top::SwarmRow;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::rates::rates;
use super::state::Screen;
use super::words::{self, Palette, Tone};
use crate::units;

/// The width of all columns except name, size and map, including the spaces before them.
const FIXED: usize = 2 + 5 + 1 + 6 + 6 + 6 + 5 + 7;

/// On narrower terminals there is no room for sizes.
const SIZES_FROM: usize = 72;

/// The widths of the columns that depend on the terminal.
#[derive(Clone, Copy)]
struct Widths {
    name: usize,
    size: usize,
    map: usize,
}

impl Widths {
    fn of(width: usize) -> Self {
        let size = if width < SIZES_FROM { 0 } else { 10 };
        let flexible = width.saturating_sub(FIXED + size);
        let map = (flexible * 2 / 5).min(64);
        Self { name: flexible - map, size, map }
    }
}

pub(super) fn lines(state: &Screen, width: usize, room: usize) -> Vec<Line<'static>> {
    let palette = state.palette;
    let widths = Widths::of(width);
    let mut lines = rates(palette, &state.top.rates, (&state.received, &state.sent), width);
    if room > 12 {
        lines.push(Line::default());
    }
    lines.push(Line::from(palette.span(heading(widths), Tone::Faint)));
    let rows = state.swarms();
    if rows.is_empty() {
        lines.push(Line::default());
        lines.push(Line::from("  Nothing is being transferred now; `darter get URL` starts a swarm."));
        return lines;
    }
    let hidden = (state.top.swarms_in_all as usize).saturating_sub(rows.len());
    let room = room.saturating_sub(lines.len() + usize::from(hidden > 0));
    let selected = state.selected();
    let first = (selected + 1).saturating_sub(room);
    for (at, row) in rows.iter().enumerate().skip(first).take(room) {
        lines.push(line(palette, row, at == selected, widths));
    }
    if hidden > 0 {
        lines.push(Line::from(palette.span(format!("  and {hidden} more that are quieter"), Tone::Faint)));
    }
    lines
}

fn heading(widths: Widths) -> String {
    let Widths { name, size, map } = widths;
    let sizes = if size > 0 { "SIZE" } else { "" };
    format!(
        "  {:<name$}{sizes:>size$}{:>5} {:<map$}{:>6}{:>6}{:>6}{:>5}{:>7}",
        "SWARM", "HELD", "", "IN", "OUT", "PEERS", "LATE", "LEFT"
    )
}

fn line(palette: Palette, row: &SwarmRow, is_selected: bool, widths: Widths) -> Line<'static> {
    let progress = &row.progress;
    let name = words::short_name(&progress.name, widths.name);
    let size = match progress.length {
        _ if widths.size == 0 => String::new(),
        Some(length) => units::size(length),
        None => "?".to_owned(),
    };
    let held = progress
        .length
        .map_or_else(|| "?".to_owned(), |length| format!("{}%", units::percent(progress.held_bytes, length)));
    let map = words::piece_map(&progress.map, widths.map);
    let (left, left_tone) = left(row);
    let late = if row.stalled > 0 { row.stalled.to_string() } else { "-".to_owned() };
    let spans = vec![
        palette.span(if row.leads { "* " } else { "  " }, Tone::Strong),
        palette.span(format!("{name:<0$}", widths.name), Tone::Plain),
        palette.span(format!("{size:>0$}{held:>5} ", widths.size), Tone::Plain),
        palette.span(map, if progress.complete { Tone::Good } else { Tone::Plain }),
        palette.span(format!("{:>6}", words::rate(progress.rate)), Tone::In),
        palette.span(format!("{:>6}", words::rate(row.sent)), Tone::Out),
        palette.span(format!("{:>6}", row.members), Tone::Plain),
        palette.span(format!("{late:>5}"), if row.stalled > 0 { Tone::Bad } else { Tone::Faint }),
        palette.span(format!("{left:>7}"), left_tone),
    ];
    let line = Line::from(spans);
    if is_selected { reversed(line) } else { line }
}

/// Reverses a whole line, so that the choice is visible without colours, too.
fn reversed(line: Line<'static>) -> Line<'static> {
    let spans = line.spans.into_iter().map(|span| {
        let style = Style { fg: None, ..span.style }.add_modifier(Modifier::REVERSED);
        Span::styled(span.content, style.remove_modifier(Modifier::DIM))
    });
    Line::from(spans.collect::<Vec<_>>())
}

/// The time until the blob is complete.
pub(super) fn left(row: &SwarmRow) -> (String, Tone) {
    match row.left {
        _ if row.progress.complete => ("done".to_owned(), Tone::Good),
        Some(left) => (words::time(left), Tone::Plain),
        None => ("idle".to_owned(), Tone::Bad),
    }
}
