//! Every node's progress over time as SVG: a panel for each row.

use darter_plot::Panel;

use crate::race::row::Row;

/// Draws rows below each other, all on one scale of time.
pub fn svg(rows: &[Row]) -> String {
    let panel = |row: &Row| Panel {
        title: format!("{}, {}", row.scenario, row.kind),
        size: row.size,
        bound: row.bound,
        curves: row.curves.clone(),
        marks: Vec::new(),
    };
    darter_plot::svg(&rows.iter().map(panel).collect::<Vec<_>>())
}
