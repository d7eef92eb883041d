//! The terminal: set up, drawn on, and given back whatever happens; keys, signals, and when to ask the daemon again.
//!
//! The daemon is asked in a task of its own, so that a daemon that hangs holds up neither keys nor the way out. The terminal
//! is restored by a guard on every way out of [`show`], and by ratatui's panic hook before a panic's message is printed.

use std::io;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use crossterm::event::{Event, EventStream, KeyEventKind};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, enable_raw_mode};
use darter_api::Client;
use darter_api::top::Top;
use darter_core::BlobId;
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use rustix::process::{Signal, getpid, kill_process};
use tokio::time::MissedTickBehavior;

use super::state::{Screen, Step};
use super::view;
use crate::glyphs;
use crate::signals::Signals;

/// A daemon that takes longer than this, or than three intervals, is said not to answer.
const DAEMON_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Gives the terminal back when dropped.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = ratatui::try_restore();
    }
}

/// Shows the live view until somebody ends it.
pub(super) async fn show(client: &Client, mut state: Screen, interval: Duration) -> anyhow::Result<()> {
    let mut signals = Signals::catch().context("can't wait for signals")?;
    let restored = Restored;
    let mut terminal = ratatui::try_init().context("can't use this terminal; --once prints a snapshot instead")?;
    let ended = follow(client, &mut state, interval, &mut terminal, &mut signals).await;
    if terminal.show_cursor().is_err() {
        // It is gone. Dropped, it would say so on standard error, which may be the same terminal, and then nothing catches the panic.
        std::mem::forget(terminal);
    }
    drop(restored);
    ended
}

async fn follow(
    client: &Client,
    state: &mut Screen,
    interval: Duration,
    terminal: &mut DefaultTerminal,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let unicode = glyphs::is_unicode();
    let mut events = EventStream::new();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let patience = DAEMON_ANSWER_TIMEOUT.max(interval * 3);
    let mut asking = pin!(None);
    loop {
        let drawn = terminal.draw(|frame| {
            view::draw(frame, state);
            if !unicode {
                in_ascii(frame.buffer_mut());
            }
        });
        drawn.context("can't write to the terminal")?;
        let step = tokio::select! {
            () = signals.next() => Step::Quit,
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => state.press(key),
                Some(Ok(_)) => Step::Stay,
                Some(Err(error)) => return Err(error).context("can't read keys from the terminal"),
                // Its terminal is gone.
                None => Step::Quit,
            },
            _ = ticks.tick(), if asking.is_none() && !state.paused => {
                asking.set(Some(ask(client, state.wanted(), patience)));
                Step::Stay
            }
            answer = async { asking.as_mut().as_pin_mut().expect("checked beside").await }, if asking.is_some() => {
                asking.set(None);
                match answer {
                    Ok(top) => state.take(top),
                    Err(why) => state.miss(why),
                }
                Step::Stay
            }
        };
        match step {
            Step::Stay => {}
            Step::Look => {
                asking.set(None);
                ticks.reset_immediately();
            }
            Step::Suspend => suspend(terminal).context("can't use the terminal again")?,
            Step::Quit => return Ok(()),
        }
    }
}

/// Puts signs that every terminal has in the places of those that this one does not show.
pub(super) fn in_ascii(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        if !cell.symbol().is_ascii() {
            let sign = cell.symbol().chars().next().map_or(' ', glyphs::ascii);
            cell.set_char(sign);
        }
    }
}

/// Asks for a snapshot; why there is none, in a few words.
async fn ask(client: &Client, blob: Option<BlobId>, patience: Duration) -> Result<Top, String> {
    let name = blob.map(|blob| blob.to_string());
    match tokio::time::timeout(patience, client.top(name.as_deref())).await {
        Ok(Ok(top)) => Ok(top),
        Ok(Err(error)) => Err(error.brief()),
        Err(_) => Err("the daemon does not answer".to_owned()),
    }
}

/// Stops this process as Ctrl-Z does elsewhere; returns when the shell lets it go on.
fn suspend(terminal: &mut DefaultTerminal) -> io::Result<()> {
    ratatui::try_restore()?;
    kill_process(getpid(), Signal::TSTP)?;
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen)?;
    // A terminal that knows of nothing on the screen. Clearing the old one would ask where the cursor is, which not every terminal says.
    *terminal = DefaultTerminal::new(CrosstermBackend::new(io::stdout()))?;
    Ok(())
}
