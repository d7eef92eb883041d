//! The store's blobs: what is here, away with it, or keep it.

use darter_node::api::BlobRow;
use serde_json::json;

use crate::cli::{ListArgs, NamesArgs};
use crate::client::Client;
use crate::table::{Align, Table};
use crate::{output, units};

/// `darter ls`.
pub(crate) async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let blobs = Client::choose(args.place.clients()?).await.blobs().await?;
    if args.json { output::json(&blobs) } else { output::text(&table(&blobs)) }
}

/// `darter rm`. Stops at the first name that can't be removed; what stands before it is gone.
pub(crate) async fn remove(args: &NamesArgs) -> anyhow::Result<()> {
    let client = Client::choose(args.place.clients()?).await;
    for name in &args.names {
        client.remove(name).await?;
        if !args.json {
            output::text(&format!("removed {name}\n"))?;
        }
    }
    if args.json { output::json(&json!({ "removed": args.names })) } else { Ok(()) }
}

/// `darter pin` and `darter unpin`. Stops at the first name that there is no blob of.
pub(crate) async fn pin(args: &NamesArgs, pinned: bool) -> anyhow::Result<()> {
    let client = Client::choose(args.place.clients()?).await;
    let word = if pinned { "pinned" } else { "unpinned" };
    for name in &args.names {
        client.pin(name, pinned).await?;
        if !args.json {
            output::text(&format!("{word} {name}\n"))?;
        }
    }
    if args.json { output::json(&json!({ word: args.names })) } else { Ok(()) }
}

/// What people know it by: the image that it is a part of, else what it was requested as.
fn called(blob: &BlobRow) -> String {
    match &blob.images[..] {
        [] => blob.name.clone(),
        [image] => image.clone(),
        [image, others @ ..] => format!("{image} and {} more", others.len()),
    }
}

pub(super) fn table(blobs: &[BlobRow]) -> String {
    let mut table = Table::new([
        ("BLOB", Align::Left),
        ("DIGEST", Align::Left),
        ("SIZE", Align::Right),
        ("HELD", Align::Right),
        ("LAST USED", Align::Left),
        ("", Align::Left),
        ("NAME", Align::Left),
    ]);
    for blob in blobs {
        let held = match (blob.complete, blob.length) {
            (true, _) => "all".to_owned(),
            (false, Some(length)) => format!("{} %", units::percent(blob.held, length)),
            (false, None) => units::size(blob.held),
        };
        let marks = [(blob.pinned, "pinned"), (blob.in_use, "in use")];
        let marks: Vec<_> = marks.into_iter().filter_map(|(set, word)| set.then_some(word)).collect();
        table.row([
            blob.blob.short(),
            blob.digest.map_or_else(|| "-".to_owned(), |digest| digest.short()),
            blob.length.map_or_else(|| "-".to_owned(), units::size),
            held,
            units::moment(blob.last_used),
            marks.join(", "),
            called(blob),
        ]);
    }
    table.render()
}
