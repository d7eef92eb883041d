//! `darter top`: the swarms of a running daemon, live on a terminal, or one snapshot as text or JSON.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | chooses between the three; prints text and JSON |
//! | `top/state.rs` | what is shown and chosen, given snapshots and keys |
//! | `top/view.rs` | draws the state: the frame, the help, terminals that are too small |
//! | `top/list.rs` | the screen of all swarms |
//! | `top/detail.rs` | the screen of one swarm |
//! | `top/rates.rs` | rates by tier, above the lists on both screens |
//! | `top/words.rs` | numbers and names in few columns, sparklines, piece maps, colours |
//! | `top/plain.rs` | a snapshot as plain text |
//! | `top/terminal.rs` | the terminal, its keys, signals, and when to ask the daemon again |
//!
//! The daemon measures; this command only keeps history for the sparklines. Everything between a snapshot and the screen is
//! without I/O.

mod detail;
mod list;
mod plain;
mod rates;
mod state;
mod terminal;
mod view;
mod words;

#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::bail;
use darter_api::Client;
use darter_api::top::Top;

use self::state::Screen;
use self::words::Palette;
use crate::cli::TopArgs;
use crate::output;
use crate::show::patiently;

/// How often the daemon is asked by default.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// `darter top`.
pub(crate) async fn run(args: &TopArgs) -> anyhow::Result<()> {
    let client = Client::choose(args.place.clients()?).await;
    let first = look(&client, args.name.as_deref()).await?;
    if args.json {
        return print_json(&client, args, first).await;
    }
    if args.once || !can_draw() {
        return output::text(&plain::describe(&first));
    }
    let interval = args.interval.unwrap_or(DEFAULT_INTERVAL);
    let state = Screen::new(first, interval, Palette::of_environment());
    terminal::show(&client, state, interval).await
}

/// True if standard output is a terminal that can be drawn on: it has a size, and is not a dumb terminal.
fn can_draw() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let has_room = crossterm::terminal::size().is_ok_and(|(wide, high)| wide > 0 && high > 0);
    !dumb && std::io::stdout().is_terminal() && has_room
}

/// Asks for a snapshot. Fails if the named swarm does not exist.
async fn look(client: &Client, name: Option<&str>) -> anyhow::Result<Top> {
    let top = patiently(client, client.top(name)).await?;
    if let Some(name) = name
        && top.swarm.is_none()
    {
        bail!(
            "there is no swarm of {name} here now; `darter top --once` lists the swarms, `darter ls` the stored blobs"
        );
    }
    Ok(top)
}

/// Prints one line, or one line each interval until interrupted.
async fn print_json(client: &Client, args: &TopArgs, first: Top) -> anyhow::Result<()> {
    output::json_line(&first)?;
    let Some(interval) = args.interval else { return Ok(()) };
    // Finding a swarm by its blob's id is cheap, and still works when the swarm is complete.
    let name = first.swarm.map(|swarm| swarm.row.progress.blob.to_string());
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        output::json_line(&client.top(name.as_deref()).await?)?;
    }
}
