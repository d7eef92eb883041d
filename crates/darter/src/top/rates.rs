//! Rates in and out, by tier, at the top of both screens.

use darter_api::top::{Rates, TierRates};
use ratatui::text::Line;

use super::words::{self, History, Palette, Tone};

/// Rates in and out, by tier: three lines.
pub(super) fn rates(
    palette: Palette,
    rates: &Rates,
    histories: (&History, &History),
    width: usize,
) -> Vec<Line<'static>> {
    let cell = if width < 72 { 6 } else { 7 };
    let spark = width.saturating_sub(12 + 7 * cell).min(40);
    let mut title = format!("{:<1$}", "", 11 + spark);
    let region = if cell > 6 { "region" } else { "reg" };
    for name in ["origin", "host", "rack", "zone", region, "far", "local"] {
        title += &format!("{name:>cell$}");
    }
    let row = |label: &str, sum: u64, history: &History, cells: [Option<u64>; 7], tone: Tone| {
        let mut line = Line::default();
        line.push_span(palette.span(format!("{label:<4}"), Tone::Strong));
        line.push_span(palette.span(format!("{:>6} ", words::rate(sum)), tone));
        line.push_span(palette.span(history.sparkline(spark, 0.0), tone));
        for value in cells {
            let tone = if value.is_some_and(|value| value > 0) { tone } else { Tone::Faint };
            line.push_span(palette.span(format!("{:>cell$}", value.map_or_else(String::new, words::rate)), tone));
        }
        line
    };
    let (received, sent) = (&rates.received, &rates.sent);
    let cells = |tiers: &TierRates, first: Option<u64>, last: Option<u64>| {
        [first, Some(tiers.host), Some(tiers.rack), Some(tiers.zone), Some(tiers.region), Some(tiers.far), last]
    };
    let came = cells(received, Some(rates.origin), None);
    let went = cells(sent, None, Some(rates.local));
    vec![
        Line::from(palette.span(title, Tone::Faint)),
        row("in", rates.origin + received.sum(), histories.0, came, Tone::In),
        row("out", rates.local + sent.sum(), histories.1, went, Tone::Out),
    ]
}
