//! `darter explain`: where a blob's bytes came from, and what happened on the way.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use darter_api::Client;
use darter_api::{Explained, ExplainedRange, Explanation, Giver, Wait};

use super::status::received;
use super::{image, patiently};
use crate::cli::ExplainArgs;
use crate::table::{Align, Table};
use crate::{output, units};

/// How many ranges are printed; JSON has them all.
const RANGES_SHOWN: usize = 40;

/// How many waits are printed, the longest first.
const WAITS_SHOWN: usize = 3;

/// `darter explain`.
pub(crate) async fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    let client = Client::choose(args.place.clients()?).await;
    let explained = patiently(&client, client.explain(&args.name)).await?;
    if args.json {
        return output::json(&explained);
    }
    match &explained {
        Explained::Blob(explanation) => output::text(&describe(explanation)),
        Explained::Image(image) => output::text(&image::describe(image)),
    }
}

pub(super) fn describe(explanation: &Explanation) -> String {
    let mut text = format!("{}  {}\n", explanation.blob, explanation.name);
    let mut line = |title: &str, value: &str| {
        let _ = writeln!(text, "  {title:<10}{value}");
    };
    line(
        "length",
        &explanation
            .length
            .map_or_else(|| "not known yet".to_owned(), |length| format!("{} ({length} bytes)", units::size(length))),
    );
    if let Some(digest) = &explanation.digest {
        line("digest", &digest.to_string());
    }
    line("requested", &units::moment(explanation.started));
    if let Some(reason) = &explanation.failed {
        line("thrown away", &format!(" {reason}"));
    }
    line("took", &explanation.seconds.map_or_else(|| "not complete yet".to_owned(), units::seconds));
    line("received", &received(&explanation.traffic));
    for wait in explanation.waits.iter().take(WAITS_SHOWN) {
        line("waited", &waited(wait));
    }
    if explanation.max_lag_bytes > 0 {
        let lag = units::size(explanation.max_lag_bytes);
        line("lag", &format!("at most {lag} received before a piece that comes earlier in the content"));
    }
    if let Some(waiting) = &explanation.waiting {
        line("waiting", waiting);
    }
    text += &format!("\n{}", givers(&explanation.ranges));
    text += &format!("\n{}", ranges(&explanation.ranges));
    if !explanation.events.is_empty() {
        text += "\nWHAT HAPPENED\n";
        for event in &explanation.events {
            let _ = writeln!(text, "{:>9}  {}", format!("{:.2} s", event.at), event.what);
        }
    }
    text
}

/// `20 s for seed 10.0.0.2:7400, 2.5 MB/s`.
fn waited(wait: &Wait) -> String {
    let whom = match &wait.from {
        Some(Giver::Origin) => "the origin".to_owned(),
        Some(Giver::Disk) => "the disk".to_owned(),
        Some(Giver::Seed { addr, .. }) => format!("seed {addr}"),
        Some(Giver::Peer { addr, .. }) => format!("peer {addr}"),
        None => "the check of the whole".to_owned(),
    };
    let rate = wait.rate.map_or_else(String::new, |rate| format!(", {}", units::rate(rate)));
    format!("{} for {whom}{rate}", units::seconds(wait.seconds))
}

/// Bytes and ranges by source.
fn givers(ranges: &[ExplainedRange]) -> String {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for range in ranges {
        let sum = sums.entry(name(&range.from)).or_default();
        sum.0 += range.end.saturating_sub(range.start);
        sum.1 += 1;
    }
    let mut table = Table::new([("FROM", Align::Left), ("BYTES", Align::Right), ("RANGES", Align::Right)]);
    for (giver, (bytes, count)) in sums {
        table.row([giver, units::size(bytes), count.to_string()]);
    }
    table.render()
}

fn ranges(ranges: &[ExplainedRange]) -> String {
    let mut table = Table::new([("FIRST BYTE", Align::Right), ("LENGTH", Align::Right), ("FROM", Align::Left)]);
    for range in ranges.iter().take(RANGES_SHOWN) {
        let length = range.end.saturating_sub(range.start);
        table.row([range.start.to_string(), units::size(length), name(&range.from)]);
    }
    let left = ranges.len().saturating_sub(RANGES_SHOWN);
    let more = if left > 0 { format!("and {left} more ranges: see --json\n") } else { String::new() };
    table.render() + &more
}

fn name(giver: &Giver) -> String {
    match giver {
        Giver::Origin => "origin".to_owned(),
        Giver::Disk => "disk (held before)".to_owned(),
        Giver::Seed { node, addr } => format!("seed {} {addr}", node.short()),
        Giver::Peer { node, addr } => format!("peer {} {addr}", node.short()),
    }
}
