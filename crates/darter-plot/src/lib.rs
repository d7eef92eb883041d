//! Downloads over time as SVG: a panel for each run, a line for each node, a dashed line at the theoretical best, and a name at moments that matter.
//!
//! Text in, text out: no I/O and no dependencies, so that the demo and the laboratory draw alike. Titles and names are escaped.

use std::fmt::Write as _;

const WIDTH: f64 = 820.0;
const PANEL: f64 = 260.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 36.0;
/// Between the names of two marks.
const MARK: f64 = 20.0;
const COLOURS: [&str; 8] = ["#3366aa", "#cc5533", "#339966", "#aa7722", "#8855aa", "#228899", "#bb4477", "#667733"];

/// One run.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The text above it.
    pub title: String,
    /// Bytes that each node wants.
    pub size: u64,
    /// The theoretical best, in seconds.
    pub bound: f64,
    /// A curve for each node: seconds since the start, bytes held.
    pub curves: Vec<Vec<(f64, f64)>>,
    /// Moments with a name, in their order.
    pub marks: Vec<Mark>,
}

/// A moment with a name.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Seconds since the start.
    pub at: f64,
    /// The event's name.
    pub name: String,
}

/// Draws panels below each other, all on one scale of time.
pub fn svg(panels: &[Panel]) -> String {
    let curves = panels.iter().flat_map(|panel| &panel.curves).flatten().map(|point| point.0);
    let marks = panels.iter().flat_map(|panel| &panel.marks).map(|mark| mark.at);
    let end = curves.chain(marks).chain(panels.iter().map(|panel| panel.bound)).fold(1.0_f64, f64::max) * 1.02;
    let height = PANEL * panels.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        draw(&mut text, panel, PANEL * number as f64, end);
    }
    text.push_str("</svg>\n");
    text
}

fn draw(text: &mut String, panel: &Panel, offset: f64, end: f64) {
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
    let y = |share: f64| offset + PANEL - BOTTOM - share * (PANEL - TOP - BOTTOM);
    let mut put = |line: std::fmt::Arguments<'_>| {
        // Writing to a string can't fail.
        let _ = text.write_fmt(line);
        text.push('\n');
    };
    put(format_args!(
        "<text x=\"{LEFT}\" y=\"{:.0}\" font-size=\"14\">{}</text>",
        offset + 20.0,
        escaped(&panel.title)
    ));
    for share in [0.0, 0.5, 1.0] {
        let (left, right, at) = (x(0.0), x(end), y(share));
        put(format_args!("<path d=\"M{left:.1} {at:.1}H{right:.1}\" stroke=\"#ddd\"/>"));
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>",
            left - 6.0,
            at + 4.0,
            share * 100.0
        ));
    }
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0].into_iter().find(|step| end / step <= 10.0).unwrap_or(200.0);
    let mut seconds = 0.0;
    while seconds <= end {
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{seconds:.0} s</text>",
            x(seconds),
            y(0.0) + 18.0
        ));
        seconds += step;
    }
    put(format_args!(
        "<path d=\"M{:.1} {:.1}V{:.1}\" stroke=\"#333\" stroke-dasharray=\"4 3\"><title>theoretical best: {:.2} s</title></path>",
        x(panel.bound),
        y(0.0),
        y(1.0),
        panel.bound
    ));
    for (node, curve) in panel.curves.iter().enumerate() {
        let points: Vec<String> =
            curve.iter().map(|(at, held)| format!("{:.1},{:.1}", x(*at), y(held / panel.size.max(1) as f64))).collect();
        put(format_args!(
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.4\" points=\"{}\"><title>node {}</title></polyline>",
            COLOURS[node % COLOURS.len()],
            points.join(" "),
            node + 1
        ));
    }
    for (row, mark) in panel.marks.iter().enumerate() {
        // Names stand beside their lines, where curves that rise leave room: early ones at the top, late ones at the bottom.
        let (at, shift) = (x(mark.at), MARK * row as f64);
        let is_early = mark.at < end / 2.0;
        let below = if is_early { y(1.0) + 16.0 + shift } else { y(0.0) - 10.0 - shift };
        let (anchor, beside) = if is_early { ("start", at + 6.0) } else { ("end", at - 6.0) };
        put(format_args!("<path d=\"M{at:.1} {:.1}V{:.1}\" stroke=\"#cc5533\"/>", y(0.0), below - 10.0));
        put(format_args!(
            "<text x=\"{beside:.1}\" y=\"{below:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escaped(&mark.name)
        ));
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_a_line_in_its_panel_and_titles_are_text() {
        let curves = vec![vec![(0.0, 0.0), (11.0, 100.0)]; 3];
        let panel = Panel { title: "a < b & c".into(), size: 100, bound: 10.0, curves, marks: Vec::new() };
        let drawn = svg(&[panel.clone(), panel]);
        assert_eq!(drawn.matches("<polyline").count(), 6);
        assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"));
        assert_eq!(drawn.matches("a &lt; b &amp; c").count(), 2);
    }

    #[test]
    fn marks_are_named_on_the_side_where_there_is_room() {
        let mark = |at: f64, name: &str| Mark { at, name: name.into() };
        let marks = vec![mark(1.0, "it speaks & reads"), mark(39.0, "all here")];
        let panel = Panel {
            title: String::new(),
            size: 100,
            bound: 40.0,
            curves: vec![vec![(0.0, 0.0), (39.0, 100.0)]],
            marks,
        };
        let drawn = svg(&[panel]);
        let line = |name: &str| drawn.lines().find(|line| line.contains(name)).unwrap();
        assert!(line("it speaks &amp; reads").contains("text-anchor=\"start\""));
        assert!(line(">all here<").contains("text-anchor=\"end\""));
    }

    #[test]
    fn a_run_without_bytes_is_drawn_too() {
        let panel =
            Panel { title: String::new(), size: 0, bound: 0.0, curves: vec![vec![(0.0, 0.0)]], marks: Vec::new() };
        assert!(!svg(&[panel]).contains("NaN"));
    }
}
