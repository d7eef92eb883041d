//! The store's blobs: lists, removes and pins them.

use darter_api::BlobRow;
use darter_api::{Client, ClientError};
use darter_core::Blamed as _;
use serde_json::json;

use super::patiently;
use crate::cli::{ListArgs, NamesArgs};
use crate::failure::{self, Failure};
use crate::table::{Align, Table};
use crate::{output, units};

/// `darter ls`.
pub(crate) async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let client = Client::choose(args.place.clients()?).await;
    let blobs = patiently(&client, client.blobs()).await?;
    if args.json { output::json(&blobs) } else { output::text(&table(&blobs)) }
}

/// `darter rm`.
pub(crate) async fn remove(args: &NamesArgs) -> anyhow::Result<()> {
    each(args, "removed", async |client, name| client.remove(name).await).await
}

/// `darter pin` and `darter unpin`.
pub(crate) async fn pin(args: &NamesArgs, pinned: bool) -> anyhow::Result<()> {
    let word = if pinned { "pinned" } else { "unpinned" };
    each(args, word, async |client, name| client.pin(name, pinned).await).await
}

/// Does something with each name in turn, and stops at the first failure; `done` is the participle for the names before it.
async fn each(
    args: &NamesArgs,
    done: &str,
    act: impl AsyncFn(&Client, &str) -> Result<(), ClientError>,
) -> anyhow::Result<()> {
    let client = Client::choose(args.place.clients()?).await;
    for (number, name) in args.names.iter().enumerate() {
        match patiently(&client, act(&client, name)).await {
            Ok(()) if args.json => {}
            Ok(()) => output::text(&format!("{done} {name}\n"))?,
            Err(error) if args.json && number > 0 => {
                let may_pass = error.blame().may_pass();
                let mut told = json!(failure::problem(&error.into()));
                told[done] = json!(args.names[..number]);
                output::json(&told)?;
                let (failed, all) = (args.names.len() - number, args.names.len());
                return Err(Failure::Some { failed, all, told: true, may_pass }.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    if args.json { output::json(&json!({ done: args.names })) } else { Ok(()) }
}

/// The name to print for a blob: the image that it is a part of, else the name by which it was requested.
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
