//! The metrics in Prometheus' older text format (0.0.4), for clients that do not ask for OpenMetrics: `promtool check
//! metrics`, `curl`, and collectors that support nothing else.
//!
//! Differences: a counter's own name ends in `_total`, and there is no type `info`, no `# UNIT`, and no `# EOF`. The samples are the same.
//! Pure.

use std::collections::HashMap;
use std::fmt::Write as _;

/// The media type of the result of [`of_openmetrics`].
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// True if an `Accept` header asks for OpenMetrics.
pub(super) fn wants_openmetrics(accept: &str) -> bool {
    accept.split(',').any(|kind| kind.trim_start().starts_with("application/openmetrics-text"))
}

/// Converts an OpenMetrics text to the older format.
pub(super) fn of_openmetrics(text: &str) -> String {
    let mut kinds = HashMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kinds.insert(name, kind);
        }
    }
    let renamed = |name: &str| match kinds.get(name).copied() {
        Some("counter") => format!("{name}_total"),
        Some("info") => format!("{name}_info"),
        _ => name.to_owned(),
    };
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let comment = line.strip_prefix("# ").map(|rest| rest.splitn(3, ' ').collect::<Vec<_>>());
        let written = match comment.as_deref() {
            None => writeln!(out, "{line}"),
            Some(["HELP", name, help]) => writeln!(out, "# HELP {} {help}", renamed(name)),
            Some(["TYPE", name, kind]) => {
                let kind = if *kind == "info" { "gauge" } else { kind };
                writeln!(out, "# TYPE {} {kind}", renamed(name))
            }
            // `# UNIT` and `# EOF` do not exist in the older format.
            Some(_) => Ok(()),
        };
        written.expect("writing to a string does not fail");
    }
    out
}

#[cfg(test)]
mod tests {
    use darter_metrics::Metrics;

    use super::*;

    #[test]
    fn every_sample_has_the_name_of_its_type_and_every_line_is_known_to_the_older_format() {
        let metrics = Metrics::new(7);
        metrics.wrong_content("reg.example");
        let plain = of_openmetrics(&metrics.encode());
        let mut typed = "";
        for line in plain.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
                typed = name;
            } else if let Some(help) = line.strip_prefix("# HELP ") {
                assert!(help.contains(' '), "{line}");
            } else {
                let name = line.split(['{', ' ']).next().unwrap();
                let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
                assert!(name == typed && !line.starts_with('#'), "{line} after the type of {typed}");
            }
        }
        assert!(plain.contains("# TYPE darter_origin_bytes_total counter\ndarter_origin_bytes_total 0\n"), "{plain}");
        assert!(plain.contains("# TYPE darter_build_info gauge\ndarter_build_info{"), "{plain}");
    }

    #[test]
    fn prometheus_asks_for_the_newer_format_and_others_do_not() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
        assert!(wants_openmetrics(prometheus));
        assert!(!wants_openmetrics("*/*") && !wants_openmetrics("") && !wants_openmetrics("text/plain"));
    }
}
