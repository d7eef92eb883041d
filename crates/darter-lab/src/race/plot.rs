//! Progress over time as SVG: a panel for each row, a line for each node, a dashed line at T*.

use std::fmt::Write as _;

use crate::race::row::Row;

const WIDTH: f64 = 820.0;
const PANEL: f64 = 260.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 36.0;
const COLOURS: [&str; 8] = ["#3366aa", "#cc5533", "#339966", "#aa7722", "#8855aa", "#228899", "#bb4477", "#667733"];

/// Draws rows below each other, all on one scale of time.
pub fn svg(rows: &[Row]) -> String {
    let curves = rows.iter().flat_map(|row| &row.curves).flatten().map(|point| point.0);
    let end = curves.chain(rows.iter().map(|row| row.bound)).fold(1.0_f64, f64::max) * 1.02;
    let height = PANEL * rows.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, row) in rows.iter().enumerate() {
        panel(&mut text, row, PANEL * number as f64, end);
    }
    text.push_str("</svg>\n");
    text
}

fn panel(text: &mut String, row: &Row, offset: f64, end: f64) {
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
    let y = |share: f64| offset + PANEL - BOTTOM - share * (PANEL - TOP - BOTTOM);
    let mut put = |line: std::fmt::Arguments<'_>| {
        // Writing to a string can't fail.
        let _ = text.write_fmt(line);
        text.push('\n');
    };
    put(format_args!(
        "<text x=\"{LEFT}\" y=\"{:.0}\" font-size=\"14\">{}, {}</text>",
        offset + 20.0,
        row.scenario,
        row.kind
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
        "<path d=\"M{:.1} {:.1}V{:.1}\" stroke=\"#333\" stroke-dasharray=\"4 3\"><title>T*</title></path>",
        x(row.bound),
        y(0.0),
        y(1.0)
    ));
    for (node, curve) in row.curves.iter().enumerate() {
        let points: Vec<String> =
            curve.iter().map(|(at, held)| format!("{:.1},{:.1}", x(*at), y(held / row.size as f64))).collect();
        put(format_args!(
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.4\" points=\"{}\"><title>node {}</title></polyline>",
            COLOURS[node % COLOURS.len()],
            points.join(" "),
            node + 1
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::method::Kind;
    use crate::race::scenario::Scenario;

    #[test]
    fn every_node_has_a_line_in_its_panel() {
        let mut row = Row::new(&Scenario::open("gate").unwrap(), Kind::Darter).unwrap();
        row.curves = vec![vec![(0.0, 0.0), (11.0, row.size as f64)]; 3];
        let drawn = svg(&[row.clone(), row]);
        assert_eq!(drawn.matches("<polyline").count(), 6);
        assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"));
    }
}
