//! Tables in Markdown that are printed line by line, so that each row shows as soon as it is known.

/// The two head lines.
pub(crate) fn heads(heads: &[&str]) -> String {
    let names: Vec<String> = heads.iter().map(|&head| head.to_owned()).collect();
    let rule: Vec<String> = heads.iter().map(|head| "-".repeat(width(head))).collect();
    format!("{}\n{}", line(heads, &names), line(heads, &rule))
}

/// One row's line.
pub(crate) fn line(heads: &[&str], cells: &[String]) -> String {
    let cells = cells.iter().zip(heads).map(|(cell, head)| format!(" {cell:>width$} |", width = width(head)));
    format!("|{}", cells.collect::<String>())
}

/// The median of values; the mean of the two in the middle where their number is even.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// The verdict on a goal, as a cell: `-` where there is none, `met`, or what was missed.
pub(crate) fn verdict(missed: Option<&[String]>) -> String {
    match missed {
        None => "-".to_owned(),
        Some([]) => "met".to_owned(),
        Some(missed) => missed.join(", "),
    }
}

fn width(head: &str) -> usize {
    head.len().max(6)
}
