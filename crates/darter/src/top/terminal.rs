//! The terminal: set up, drawn on, and restored in any case; keys, signals, and when to ask the daemon again.
//!
//! A task of its own asks the daemon, so that a daemon that hangs blocks neither keys nor quitting. A guard restores the terminal
//! whenever [`show`] returns, and ratatui's panic hook does before a panic's message is printed.

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

/// If an answer takes longer than this, or than three intervals, the screen says that the daemon does not answer.
const DAEMON_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Restores the terminal when dropped.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // A terminal that is closed can't be restored, and need not be.
        let _ = ratatui::try_restore();
    }
}

/// Shows the live view until the user quits or a signal ends it.
pub(super) async fn show(client: &Client, mut state: Screen, interval: Duration) -> anyhow::Result<()> {
    let mut signals = Signals::catch().context("can't wait for signals")?;
    let restored = Restored;
    let mut terminal = ratatui::try_init().context("can't use this terminal; --once prints a snapshot instead")?;
    let ended = follow(client, &mut state, interval, &mut terminal, &mut signals).await;
    if terminal.show_cursor().is_err() {
        // The terminal is closed. Its destructor would report that on standard error, which may be the same terminal, and panic.
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
                // The terminal is closed.
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

/// Replaces characters that this terminal can't show by ASCII.
pub(super) fn in_ascii(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        if !cell.symbol().is_ascii() {
            let sign = cell.symbol().chars().next().map_or(' ', glyphs::ascii);
            cell.set_char(sign);
        }
    }
}

/// Asks for a snapshot. An error gives the reason in a few words.
async fn ask(client: &Client, blob: Option<BlobId>, patience: Duration) -> Result<Top, String> {
    let name = blob.map(|blob| blob.to_string());
    match tokio::time::timeout(patience, client.top(name.as_deref())).await {
        Ok(Ok(top)) => Ok(top),
        Ok(Err(error)) => Err(error.brief()),
        Err(_) => Err("the daemon does not answer".to_owned()),
    }
}

/// Stops this process as Ctrl-Z does; returns when the shell continues it.
fn suspend(terminal: &mut DefaultTerminal) -> io::Result<()> {
    ratatui::try_restore()?;
    kill_process(getpid(), Signal::TSTP)?;
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen)?;
    // A new terminal assumes an empty screen. Clearing the old one would ask for the cursor's position, which not every terminal reports.
    *terminal = DefaultTerminal::new(CrosstermBackend::new(io::stdout()))?;
    Ok(())
}
