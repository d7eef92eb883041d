//! The state of one agent.

use std::fmt::Write as _;

use darter_agent::options::Role;
use darter_api::Client;
use darter_api::{Status, Traffic};

use super::patiently;
use crate::cli::StatusArgs;
use crate::table::{Align, Table};
use crate::{output, units};

/// `darter status`.
pub(crate) async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let client = Client::choose(args.place.clients()?).await;
    let status = patiently(&client, client.status()).await?;
    if args.json { output::json(&status) } else { output::text(&describe(&status)) }
}

pub(super) fn describe(status: &Status) -> String {
    let mut text = String::new();
    let role = match status.role {
        Role::Seed => "seed",
        Role::Node => "node",
        Role::Embedded => "embedded agent",
    };
    let draining = if status.draining { ", draining" } else { "" };
    let up = units::seconds(status.uptime);
    let _ =
        writeln!(text, "{role} {}  darter {}, process {}, up {up}{draining}", status.node, status.version, status.pid);
    let mut line = |title: &str, value: &str| {
        let _ = writeln!(text, "  {title:<10}{value}");
    };
    line("peers at", status.listen.as_deref().unwrap_or("-"));
    line("local at", status.local.as_deref().unwrap_or("-"));
    line("data", &status.data_dir);
    line("store", &store(status));
    if !status.labels.is_empty() {
        let labels: Vec<_> = status.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        line("labels", &labels.join(" "));
    }
    line("memory", &format!("{}, {:.1} s of CPU", units::size(status.resident), status.cpu));
    line("received", &received(&status.traffic));
    line(
        "sent",
        &format!(
            "{} to peers, {} to this host",
            units::size(status.traffic.to_peers),
            units::size(status.traffic.to_local)
        ),
    );
    for seed in &status.seeds {
        let at = seed.at.as_ref().map_or_else(String::new, |at| format!(" ({at})"));
        line("seed", &format!("{}{at} {}", seed.addr, seed.state()));
    }
    for wrong in &status.wrong {
        let times = if wrong.times == 1 { "once".to_owned() } else { format!("{} times", wrong.times) };
        let last = units::moment(wrong.last);
        line("wrong", &format!("content from {}, {times}, last {last} (blob {})", wrong.from, wrong.blob.short()));
    }
    if !status.peers.is_empty() {
        text += &format!("\n{}", peers(status));
    }
    if !status.swarms.is_empty() {
        text += &format!("\n{}", swarms(status));
    }
    text
}

fn store(status: &Status) -> String {
    let store = &status.store;
    let quota = store.quota.map_or_else(String::new, |quota| format!(" of {} (--quota)", units::size(quota)));
    let mut text = format!("{} blobs, {}{quota}", store.blobs, units::size(store.used));
    if store.quota.is_some_and(|quota| store.capacity < quota) {
        text += &format!(", room for {} (--reserve)", units::size(store.capacity.saturating_sub(store.used)));
    }
    text += &format!(", {} free on the disk", units::size(store.free));
    if store.evicted > 0 {
        text += &format!(", {} evicted", store.evicted);
    }
    text
}

/// `1 GB from origins, 2 GB from seeds, 3 GB from peers`.
pub(crate) fn received(traffic: &Traffic) -> String {
    let [origin, seed, peers] = [traffic.from_origin, traffic.from_seed, traffic.from_peers].map(units::size);
    format!("{origin} from origins, {seed} from seeds, {peers} from peers")
}

fn peers(status: &Status) -> String {
    let mut table =
        Table::new([("PEER", Align::Left), ("ADDRESS", Align::Left), ("NEAR", Align::Left), ("", Align::Left)]);
    for peer in &status.peers {
        let near = format!("{:?}", peer.tier).to_lowercase();
        let seed = if peer.seed { "seed" } else { "" };
        table.row([peer.node.short(), peer.addr.clone(), near, seed.to_owned()]);
    }
    table.render()
}

fn swarms(status: &Status) -> String {
    let mut table = Table::new([
        ("BLOB", Align::Left),
        ("HELD", Align::Right),
        ("OF", Align::Right),
        ("IN", Align::Right),
        ("OUT", Align::Right),
        ("ORIGIN", Align::Left),
        ("MEMBERS", Align::Right),
        ("NAME", Align::Left),
    ]);
    for swarm in &status.swarms {
        let progress = &swarm.progress;
        table.row([
            swarm.blob.short(),
            progress
                .length
                .map_or_else(|| "-".to_owned(), |length| format!("{} %", units::percent(progress.held_bytes, length))),
            progress.length.map_or_else(|| "-".to_owned(), units::size),
            units::rate(progress.rate),
            units::rate(swarm.sent_rate),
            match swarm.origin_connections {
                0 => "-".to_owned(),
                connections => format!("by {connections}"),
            },
            swarm.members.to_string(),
            progress.name.clone(),
        ]);
    }
    table.render()
}
