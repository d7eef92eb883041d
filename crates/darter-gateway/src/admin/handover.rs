//! Hands a blob over to a program of this host: what a download gives, as [`handover`](darter_api::handover) has it.

use std::io;

use darter_agent::{FetchError, Handing, Part};
use darter_api::Problem;
use darter_api::handover::{Anew, Sender};
use darter_core::{Blamed as _, in_full};
use futures_util::{Stream, StreamExt as _};

/// Sends parts until their end.
pub(crate) async fn send(
    mut to: Sender,
    mut parts: impl Stream<Item = Result<Handing, FetchError>> + Unpin,
) -> io::Result<()> {
    while let Some(handing) = parts.next().await {
        match handing {
            Ok(Handing::Part(_, Part::File(part))) => to.range(&part.file, part.range).await?,
            Ok(Handing::Part(at, Part::Bytes(bytes))) => to.bytes(at, &bytes).await?,
            Ok(Handing::Anew { blob, length, modified }) => to.anew(&Anew { blob, length, modified }).await?,
            Ok(Handing::Whole { length, checked }) => return to.end(length, &checked).await,
            Err(error) => {
                let problem = Problem::new(in_full(&error).to_string(), error.blame());
                return to.failed(&problem, error.is_changed()).await;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
