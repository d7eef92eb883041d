//! `darter top`: the swarms of a running daemon, live on a terminal; or one look at them as text or JSON.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | which of the three, and the two that end by themselves |
//! | `top/state.rs` | what is shown and chosen: snapshots and keys go in |
//! | `top/view.rs` | state to screen: the frame around, the help, terminals that are too small |
//! | `top/list.rs` | the screen of all swarms |
//! | `top/detail.rs` | the screen of one swarm |
//! | `top/rates.rs` | rates by tier, above either of them |
//! | `top/words.rs` | numbers and names in few columns, sparklines, piece maps, colours |
//! | `top/plain.rs` | a snapshot as plain text |
//! | `top/terminal.rs` | the terminal, its keys, signals, and when to ask the daemon again |
//!
//! The daemon measures; this end only remembers for the sparklines. Everything between a snapshot and the screen is
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

/// How often the daemon is asked when nothing else is said.
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

/// True if standard output is a terminal that can be drawn on: one that says how large it is, and is not a dumb one.
fn can_draw() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let has_room = crossterm::terminal::size().is_ok_and(|(wide, high)| wide > 0 && high > 0);
    !dumb && std::io::stdout().is_terminal() && has_room
}

/// Asks for a snapshot; a swarm that was named must be there.
async fn look(client: &Client, name: Option<&str>) -> anyhow::Result<Top> {
    let top = patiently(client, client.top(name)).await?;
    if let Some(name) = name
        && top.swarm.is_none()
    {
        bail!("no swarm of {name} is here now; `darter top --once` lists those that are, `darter ls` what is stored");
    }
    Ok(top)
}

/// One line, or one each interval until somebody stops it.
async fn print_json(client: &Client, args: &TopArgs, first: Top) -> anyhow::Result<()> {
    output::json_line(&first)?;
    let Some(interval) = args.interval else { return Ok(()) };
    // An id is looked up at no cost, and goes on to name the swarm when its last piece is here.
    let name = first.swarm.map(|swarm| swarm.row.progress.blob.to_string());
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        output::json_line(&client.top(name.as_deref()).await?)?;
    }
}
