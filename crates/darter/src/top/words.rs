//! Numbers and names in few columns, sparklines and piece maps, and their colours.

use std::collections::VecDeque;
use std::env;

use darter_api::Traffic;
use darter_core::Tier;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// Eighths of a cell, from nothing to all.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What a cell means; the palette decides how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Ordinary text.
    Plain,
    /// Headings and names.
    Strong,
    /// Labels and less important text.
    Faint,
    /// Bytes received.
    In,
    /// Bytes sent.
    Out,
    /// Something that a user should look at.
    Bad,
    /// Something complete.
    Good,
}

/// Whether the screen has colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    /// True for colours; otherwise bold and reverse video.
    pub(super) colours: bool,
}

impl Palette {
    /// With colours, unless `NO_COLOR` is set to a non-empty value (see no-color.org).
    pub(super) fn of_environment() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colours: !refused }
    }

    /// How a tone looks.
    pub(super) fn style(self, tone: Tone) -> Style {
        let coloured = |colour: Color| if self.colours { Style::new().fg(colour) } else { Style::new() };
        match tone {
            Tone::Plain => Style::new(),
            Tone::Strong => Style::new().add_modifier(Modifier::BOLD),
            // Grey may be unreadable on the terminal's background; the terminal chooses how dim text looks.
            Tone::Faint => Style::new().add_modifier(Modifier::DIM),
            Tone::In | Tone::Good => coloured(Color::Green),
            Tone::Out => coloured(Color::Cyan),
            Tone::Bad => coloured(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    /// A span of this tone.
    pub(super) fn span(self, text: impl Into<String>, tone: Tone) -> Span<'static> {
        Span::styled(text.into(), self.style(tone))
    }
}

/// The last values of a quantity, newest last.
#[derive(Clone, Debug, Default)]
pub(super) struct History(VecDeque<f64>);

impl History {
    /// How many values are kept: more than a sparkline is wide.
    const KEPT: usize = 120;

    /// Adds a value.
    pub(super) fn push(&mut self, value: f64) {
        if self.0.len() == Self::KEPT {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// The last `width` values as a sparkline; the highest of them, or `full` if that is more, fills a cell.
    pub(super) fn sparkline(&self, width: usize, full: f64) -> String {
        let shown = self.0.len().min(width);
        let values = self.0.iter().skip(self.0.len() - shown);
        let highest = values.clone().fold(full, |highest, value| highest.max(*value));
        let mut line = " ".repeat(width - shown);
        for value in values {
            let eighths = if highest > 0.0 { (value / highest * 8.0).ceil() as usize } else { 0 };
            line.push(EIGHTHS[eighths.min(8)]);
        }
        line
    }
}

/// A map of digits, from `0` for none to `8` for all, in `width` cells. A part with any piece is visible, and only a complete part is full.
pub(super) fn piece_map(map: &str, width: usize) -> String {
    let parts: Vec<usize> = map.bytes().map(|digit| usize::from(digit.saturating_sub(b'0')).min(8)).collect();
    if parts.is_empty() {
        return " ".repeat(width);
    }
    (0..width)
        .map(|cell| {
            let from = cell * parts.len() / width;
            let to = ((cell + 1) * parts.len() / width).max(from + 1);
            let part = &parts[from..to];
            let sum: usize = part.iter().sum();
            let mean = sum / part.len();
            if sum == 0 { '·' } else { EIGHTHS[mean.max(1)] }
        })
        .collect()
}

/// Bytes per second in at most five columns; zero is a dash.
pub(super) fn rate(bytes: u64) -> String {
    if bytes == 0 {
        return "-".to_owned();
    }
    let mut value = bytes as f64;
    for unit in ["", "k", "M", "G"] {
        if value < 999.5 {
            let decimals = usize::from(!unit.is_empty() && value < 99.95);
            return format!("{value:.decimals$}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1}T")
}

/// Seconds in at most six columns.
pub(super) fn time(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..10 => format!("{:.1}s", seconds.max(0.0)),
        10..100 => format!("{whole}s"),
        100..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..360_000 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d", whole / 86_400),
    }
}

/// Text from elsewhere, without characters that a terminal would interpret.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// A blob's name in at most `width` columns: the part that distinguishes it.
pub(super) fn short_name(name: &str, width: usize) -> String {
    let name = clean(name);
    let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(&name);
    let short = match name.split_once("@sha256:") {
        // Blobs of a registry differ in their digests, and other tools show the beginning of the digest.
        Some((repository, digest)) => {
            let digest = digest.get(..12).unwrap_or(digest);
            let room = width.saturating_sub(digest.len() + 1);
            if room < 8 { digest.to_owned() } else { format!("{}@{digest}", tail(repository, room)) }
        }
        None => name.to_owned(),
    };
    tail(&short, width)
}

/// The end of a text, if it is too long.
pub(super) fn tail(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = text.chars().skip(length - width.saturating_sub(1));
    std::iter::once('…').chain(kept).take(width).collect()
}

/// The beginning of a text, if it is too long.
pub(super) fn head(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).take(width).collect()
}

/// The tier as a word.
pub(super) const fn tier(tier: Option<Tier>) -> &'static str {
    match tier {
        Some(Tier::Host) => "host",
        Some(Tier::Rack) => "rack",
        Some(Tier::Zone) => "zone",
        Some(Tier::Region) => "region",
        Some(Tier::Far) => "far",
        None => "gone",
    }
}

/// All bytes received.
pub(super) const fn received(traffic: &Traffic) -> u64 {
    traffic.from_origin + traffic.from_seed + traffic.from_peers
}

/// Puts two texts at the two ends of a line; if they do not fit, the left one loses its last spans.
pub(super) fn ends(mut left: Vec<Span<'static>>, right: Vec<Span<'static>>, width: usize) -> Line<'static> {
    let width_of = |spans: &[Span<'_>]| spans.iter().map(Span::width).sum::<usize>();
    while left.len() > 1 && width_of(&left) + 2 + width_of(&right) > width {
        left.pop();
    }
    let fill = width.saturating_sub(width_of(&left) + width_of(&right));
    left.push(Span::raw(" ".repeat(fill)));
    left.extend(right);
    Line::from(left)
}
