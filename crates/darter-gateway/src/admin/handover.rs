//! Hands a blob over to a local program, with the frames of [`handover`](darter_api::handover).

use std::io;

use darter_agent::{FetchError, Handing, Part};
use darter_api::Problem;
use darter_api::handover::{Anew, Sender};
use darter_core::{Blamed as _, in_full};
use futures_util::{Stream, StreamExt as _};

/// Most messages that are sent by one call.
const TOGETHER: usize = 64;

/// Sends all messages of `parts`. Those that are ready at the same time are sent by one call.
pub(crate) async fn send(
    mut to: Sender,
    parts: impl Stream<Item = Result<Handing, FetchError>> + Unpin,
) -> io::Result<()> {
    let mut parts = parts.ready_chunks(TOGETHER);
    while let Some(together) = parts.next().await {
        for handing in together {
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
        to.flush().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
