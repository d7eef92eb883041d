//! A snapshot as plain text, for pipes, tickets and people without a terminal.

use std::fmt::Write as _;

use darter_agent::options::Role;
use darter_api::top::{Rates, SwarmDetail, SwarmRow, TierRates, Top};

use super::{list, words};
use crate::table::{Align, Table};
use crate::units;

/// The whole snapshot.
pub(super) fn describe(top: &Top) -> String {
    let agent = &top.agent;
    let role = match agent.role {
        Role::Seed => "seed",
        Role::Node => "node",
        Role::Embedded => "agent",
    };
    let mut text = String::new();
    let at = agent.listen.as_deref().unwrap_or("-");
    let _ = writeln!(
        text,
        "{role} {} at {at}, darter {}, up {}, {}",
        agent.node,
        agent.version,
        units::seconds(agent.uptime),
        units::moment(top.at)
    );
    let quota = agent.store.quota.map_or_else(String::new, |quota| format!(" of {}", units::size(quota)));
    let mut line = |title: &str, value: &str| {
        let _ = writeln!(text, "  {title:<10}{value}");
    };
    let cores = if agent.cores == 1 { "core" } else { "cores" };
    line("cpu", &format!("{:.0} % ({} {cores})", agent.cpu * 100.0, agent.cores));
    line("memory", &units::size(agent.resident));
    line("disk", &format!("{}{quota}", units::size(agent.store.used)));
    line("peers", &format!("{}, over {} connections", agent.peers, agent.connections));
    for seed in agent.seeds.iter().filter(|seed| !seed.up) {
        line("seed", &format!("{} {}", seed.addr, seed.state()));
    }
    line("in", &incoming(&top.rates));
    line("out", &outgoing(&top.rates));
    let (came, went) = (words::received(&top.traffic), top.traffic.to_peers + top.traffic.to_local);
    line("so far", &format!("{} in, {} out", units::size(came), units::size(went)));
    if !top.swarms.is_empty() {
        text += &format!("\n{}", swarms(top));
    }
    if let Some(swarm) = &top.swarm {
        text += &format!("\n{}", closer(swarm));
    }
    words_only(&text)
}

/// `25.0 MB/s: origin 5.0 MB/s, rack 20.0 MB/s`.
fn incoming(rates: &Rates) -> String {
    sum_and_parts(rates.origin + rates.received.sum(), ("origin", rates.origin), &rates.received)
}

fn outgoing(rates: &Rates) -> String {
    sum_and_parts(rates.local + rates.sent.sum(), ("local", rates.local), &rates.sent)
}

fn sum_and_parts(sum: u64, first: (&str, u64), tiers: &TierRates) -> String {
    let TierRates { host, rack, zone, region, far } = *tiers;
    let parts: Vec<String> = [first, ("host", host), ("rack", rack), ("zone", zone), ("region", region), ("far", far)]
        .into_iter()
        .filter(|(_, rate)| *rate > 0)
        .map(|(name, rate)| format!("{name} {}", units::rate(rate)))
        .collect();
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("{}{parts}", units::rate(sum))
}

fn swarms(top: &Top) -> String {
    let mut table = Table::new([
        ("BLOB", Align::Left),
        ("HELD", Align::Right),
        ("SIZE", Align::Right),
        ("IN", Align::Right),
        ("OUT", Align::Right),
        ("PEERS", Align::Right),
        ("LATE", Align::Right),
        ("LEFT", Align::Right),
        ("LED BY", Align::Left),
        ("NAME", Align::Left),
    ]);
    for row in &top.swarms {
        let progress = &row.progress;
        let held = progress
            .length
            .map_or_else(|| "-".to_owned(), |length| format!("{} %", units::percent(progress.held_bytes, length)));
        table.row([
            progress.blob.short(),
            held,
            progress.length.map_or_else(|| "-".to_owned(), units::size),
            units::rate(progress.rate),
            units::rate(row.sent),
            row.members.to_string(),
            row.stalled.to_string(),
            list::left(row).0,
            led_by(row),
            progress.name.clone(),
        ]);
    }
    let hidden = (top.swarms_in_all as usize).saturating_sub(top.swarms.len());
    let more = if hidden > 0 { format!("and {hidden} more\n") } else { String::new() };
    table.render() + &more
}

fn led_by(row: &SwarmRow) -> String {
    match (&row.lead, row.leads) {
        (_, true) => "this agent".to_owned(),
        (Some(lead), false) => lead.addr.clone(),
        (None, false) => "-".to_owned(),
    }
}

fn closer(swarm: &SwarmDetail) -> String {
    let progress = &swarm.row.progress;
    let pieces = progress.pieces.map_or_else(|| "?".to_owned(), |pieces| pieces.to_string());
    let mut text = format!(
        "{}\n  {} of {pieces} pieces held, led by {}\n  in {}\n  out {}\n",
        progress.name,
        progress.held,
        led_by(&swarm.row),
        incoming(&swarm.rates),
        outgoing(&swarm.rates)
    );
    for piece in &swarm.overdue {
        let _ =
            writeln!(text, "  late: piece {} of {}, {}", piece.piece, piece.from.addr, units::seconds(piece.waited));
    }
    let mut table = Table::new([
        ("PEER", Align::Left),
        ("ADDRESS", Align::Left),
        ("NEAR", Align::Left),
        ("HOLDS", Align::Right),
        ("FROM IT", Align::Right),
        ("TO IT", Align::Right),
        ("OPEN", Align::Right),
        ("LATE", Align::Right),
        ("", Align::Left),
    ]);
    for peer in &swarm.peers {
        table.row([
            peer.node.short(),
            peer.addr.clone(),
            words::tier(peer.tier).to_owned(),
            peer.held.map_or_else(|| "-".to_owned(), |held| held.to_string()),
            units::rate(peer.received),
            units::rate(peer.sent),
            peer.open.to_string(),
            peer.overdue.to_string(),
            match (peer.leads, peer.seed) {
                (true, _) => "lead",
                (false, true) => "seed",
                (false, false) => "",
            }
            .to_owned(),
        ]);
    }
    text + &table.render()
}

/// The text without control characters other than line ends, which a terminal would interpret.
fn words_only(text: &str) -> String {
    text.lines().map(|line| words::clean(line) + "\n").collect()
}
