//! The screen of one swarm: its pieces over the whole width, rates by tier, late pieces, and its peers.

use darter_api::top::{PeerRow, SwarmDetail};
use ratatui::text::Line;

use super::list;
use super::rates::rates;
use super::state::Screen;
use super::words::{self, Palette, Tone};
use crate::units;

/// From this height on (in lines) there is room for everything.
const ROOMY: usize = 14;

pub(super) fn lines(state: &Screen, open: &SwarmDetail, width: usize, room: usize) -> Vec<Line<'static>> {
    let palette = state.palette;
    let progress = &open.row.progress;
    let mut lines = vec![
        Line::from(palette.span(words::tail(&words::clean(&progress.name), width), Tone::Strong)),
        summary(state, open, width),
        map(palette, open, width),
    ];
    if room >= ROOMY {
        lines.extend(rates(palette, &open.rates, (&state.swarm_received, &state.swarm_sent), width));
    }
    if room >= ROOMY || !open.overdue.is_empty() {
        lines.push(late(palette, open, width));
    }
    let columns = Columns::of(width);
    lines.push(Line::from(palette.span(heading(columns), Tone::Faint)));
    let peers = state.peers();
    if peers.is_empty() {
        lines.push(Line::from(palette.span("  nobody else is in this swarm now", Tone::Faint)));
        return lines;
    }
    let hidden = (open.peers_in_all as usize).saturating_sub(peers.len());
    let room = room.saturating_sub(lines.len());
    let all_fit = hidden == 0 && peers.len() <= room;
    let shown = if all_fit { room } else { room.saturating_sub(1) };
    let first = state.first_peer(shown);
    for peer in peers.iter().skip(first).take(shown) {
        lines.push(line(palette, peer, progress.pieces, columns));
    }
    if !all_fit {
        let last = (first + shown).min(peers.len());
        let text = format!("  {} to {last} of {} peers", first + 1, open.peers_in_all);
        lines.push(Line::from(palette.span(text, Tone::Faint)));
    }
    lines
}

/// Size, how much is held, the lead, the time left.
fn summary(state: &Screen, open: &SwarmDetail, width: usize) -> Line<'static> {
    let (palette, row) = (state.palette, &open.row);
    let progress = &row.progress;
    let size = progress.length.map_or_else(|| "unknown length".to_owned(), units::size);
    let held = match progress.pieces {
        Some(pieces) => format!("{} of {pieces} pieces", progress.held),
        None => format!("{} pieces so far", progress.held),
    };
    let led = match (&row.lead, row.leads) {
        (_, true) => "led here".to_owned(),
        (Some(lead), false) => format!("led by {}", words::clean(&lead.addr)),
        (None, false) => "led by nobody".to_owned(),
    };
    let left = [format!("{size}, {held}"), format!(", {led}"), format!(", {} peers", open.peers_in_all)];
    let left = left.into_iter().map(|part| palette.span(part, Tone::Plain)).collect();
    let (text, tone) = list::left(row);
    let right = match row.left {
        _ if state.open_is_gone => palette.span("put away by the agent", Tone::Bad),
        Some(_) if !progress.complete => palette.span(format!("{text} left"), tone),
        None if !progress.complete => {
            let quiet = row.quiet.map_or_else(String::new, |quiet| format!(" for {}", words::time(quiet)));
            palette.span(format!("idle{quiet}"), tone)
        }
        _ => palette.span(text, tone),
    };
    words::ends(left, vec![right], width)
}

/// A map of the blob from its first byte to its last; parts with late pieces stand out.
fn map(palette: Palette, open: &SwarmDetail, width: usize) -> Line<'static> {
    let progress = &open.row.progress;
    let tone = if progress.complete { Tone::Good } else { Tone::In };
    let pieces = progress.pieces.unwrap_or_default().max(1) as usize;
    let mut late = vec![false; width];
    for stalled in &open.overdue {
        let cell = (stalled.piece as usize).min(pieces - 1) * width / pieces;
        late[cell] = true;
    }
    let cells = words::piece_map(&open.fine_map, width);
    let mut line = Line::default();
    for (cell, late) in cells.chars().zip(late) {
        // A late piece must be visible without colours, too.
        let (cell, tone) = if late { ('!', Tone::Bad) } else { (cell, tone) };
        line.push_span(palette.span(cell, tone));
    }
    line
}

fn late(palette: Palette, open: &SwarmDetail, width: usize) -> Line<'static> {
    if open.overdue.is_empty() {
        return Line::from(palette.span("no piece is late", Tone::Faint));
    }
    let told: Vec<String> = open
        .overdue
        .iter()
        .map(|piece| format!("{} of {} {}", piece.piece, words::clean(&piece.from.addr), words::time(piece.waited)))
        .collect();
    let text = format!("{} late: {}", open.overdue.len(), told.join(", "));
    Line::from(palette.span(words::head(&text, width), Tone::Bad))
}

/// The columns of a table of peers.
#[derive(Clone, Copy)]
struct Columns {
    name: usize,
    /// True if there is room for all columns.
    all: bool,
}

impl Columns {
    fn of(width: usize) -> Self {
        let all = width >= 72;
        let others = if all { 56 } else { 44 };
        Self { name: width.saturating_sub(others).min(60), all }
    }
}

fn heading(Columns { name, all }: Columns) -> String {
    let most = format!("{:<name$}  {:<12}{:>6}{:>9}{:>9}{:>6}", "PEER", "NEAR", "HOLDS", "FROM IT", "TO IT", "OPEN");
    if all { format!("{most}{:>5}{:>7}", "LATE", "LAST") } else { most }
}

fn line(palette: Palette, peer: &PeerRow, pieces: Option<u32>, Columns { name, all }: Columns) -> Line<'static> {
    let addr = if peer.addr.is_empty() { peer.node.short() } else { words::clean(&peer.addr) };
    let near = match (peer.leads, peer.seed) {
        (true, _) => format!("{} lead", words::tier(peer.tier)),
        (false, true) => format!("{} seed", words::tier(peer.tier)),
        (false, false) => words::tier(peer.tier).to_owned(),
    };
    let holds = match (peer.held, pieces) {
        (Some(held), Some(pieces)) => format!("{}%", units::percent(held.into(), pieces.into())),
        (Some(held), None) => held.to_string(),
        (None, _) => "-".to_owned(),
    };
    let dash_or = |count: u32| if count == 0 { "-".to_owned() } else { count.to_string() };
    let arrow =
        |rate: u64, arrow: &str| if rate > 0 { format!("{arrow} {}", words::rate(rate)) } else { "-".to_owned() };
    let faint_or = |rate: u64, tone: Tone| if rate > 0 { tone } else { Tone::Faint };
    let mut spans = vec![
        palette.span(format!("{:<name$}", words::head(&addr, name)), Tone::Plain),
        palette.span(format!("  {near:<12}{holds:>6}"), Tone::Plain),
        palette.span(format!("{:>9}", arrow(peer.received, "▼")), faint_or(peer.received, Tone::In)),
        palette.span(format!("{:>9}", arrow(peer.sent, "▲")), faint_or(peer.sent, Tone::Out)),
        palette.span(format!("{:>6}", dash_or(peer.open)), Tone::Plain),
    ];
    if all {
        let tone = if peer.overdue > 0 { Tone::Bad } else { Tone::Faint };
        spans.push(palette.span(format!("{:>5}", dash_or(peer.overdue)), tone));
        let last = [peer.last_received, peer.last_sent].into_iter().flatten().reduce(f64::min);
        spans.push(palette.span(format!("{:>7}", last.map_or_else(|| "-".to_owned(), words::time)), Tone::Faint));
    }
    Line::from(spans)
}
