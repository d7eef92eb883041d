//! The progress bar: one for all downloads of the command if standard error is a terminal, none otherwise.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use darter_api::Waiting;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use super::backend::Watch;
use crate::{glyphs, output, show};

/// How often the bar is updated.
const TICK: Duration = Duration::from_millis(200);

/// Waits for an origin that are shorter than this many seconds are not reported.
const MIN_TOLD: u64 = 2;

const KNOWN: &str =
    "{msg}{wide_bar:.cyan/dim} {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
const WAITING: &str = "{spinner} {msg} ({elapsed})";
const UNKNOWN: &str = "{msg}{spinner} {decimal_bytes}  {decimal_bytes_per_sec}";

/// On narrower terminals (in columns), lines would be broken.
const MIN_WIDTH: u16 = 60;
const KNOWN_NARROW: &str = "{percent} %  {decimal_bytes}";
const UNKNOWN_NARROW: &str = "{spinner} {decimal_bytes}";

/// The progress of all downloads, and the bar that shows it.
pub(super) struct Bar {
    bar: ProgressBar,
    width: Width,
    jobs: u64,
    done: AtomicU64,
    /// Downloads whose progress is known.
    moving: Mutex<Vec<Moving>>,
    output: Output,
    /// The reason to wait that was last printed for each download.
    waits: Mutex<HashMap<usize, String>>,
    /// True once the message that the daemon does not answer was printed.
    is_mute: AtomicBool,
}

/// What a command prints on standard error while downloads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A bar on a terminal, and reasons to wait as text.
    Bar,
    /// The bar, and reasons to wait as JSON.
    Json,
    /// Nothing.
    Quiet,
}

/// The progress of one download.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moving {
    job: usize,
    pub(super) length: Option<u64>,
    pub(super) held: u64,
    /// Bytes that were stored when the download began.
    before: u64,
}

impl Bar {
    /// A bar for `jobs` downloads. Draws nothing if `output` is quiet or standard error is no terminal.
    pub(super) fn new(jobs: usize, output: Output) -> Self {
        Self {
            output,
            waits: Mutex::default(),
            is_mute: AtomicBool::new(false),
            bar: progress_bar(None, output == Output::Quiet),
            width: width(),
            jobs: jobs as u64,
            done: AtomicU64::new(0),
            moving: Mutex::default(),
        }
    }

    /// Updates the bar with one download's progress, until dropped. For a part of the content, `came` counts its bytes so far, out of `length`.
    pub(super) async fn follow(
        &self,
        job: usize,
        length: Option<u64>,
        watch: &Watch,
        came: Option<&AtomicU64>,
    ) -> Infallible {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            let (of_whole, held) = match watch.progress().await {
                Some(progress) => {
                    // An agent in this process logs its reasons to wait.
                    if let (Some(waiting), Watch::Daemon(..)) = (&progress.waiting, watch) {
                        self.waits(job, waiting);
                    }
                    (progress.length.or(length), progress.held_bytes)
                }
                None => (length, 0),
            };
            match came {
                Some(came) => self.note(job, length, came.load(Ordering::Relaxed)),
                None => self.note(job, of_whole, held),
            }
            self.draw();
        }
    }

    /// Notes the progress of a download.
    pub(super) fn note(&self, job: usize, length: Option<u64>, held: u64) {
        let mut moving = self.moving.lock();
        match moving.iter_mut().find(|it| it.job == job) {
            Some(it) => (it.length, it.held) = (length.or(it.length), it.held.max(held)),
            None => moving.push(Moving { job, length, held, before: held }),
        }
    }

    /// Prints that a download waits for its origin, once for each reason, and only for longer waits.
    pub(super) fn waits(&self, job: usize, waiting: &Waiting) {
        if waiting.retry_in_seconds < MIN_TOLD {
            return;
        }
        let reason = format!("{} {}", waiting.origin, waiting.reason);
        let known = self.waits.lock().insert(job, reason.clone()).is_some_and(|before| before == reason);
        if known {
            return;
        }
        match self.output {
            Output::Quiet => {}
            Output::Json => {
                self.say(&serde_json::json!({ "event": "waiting", "job": job, "waiting": waiting }).to_string());
            }
            Output::Bar => self.say(&waiting.to_string()),
        }
    }

    /// Prints that the daemon does not answer, once.
    pub(super) fn mute(&self, socket: &Path) {
        if self.output == Output::Bar && !self.is_mute.swap(true, Ordering::Relaxed) {
            self.say(&show::mute(socket));
        }
    }

    /// Notes that a download has ended, successfully or not.
    pub(super) fn ended(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.draw();
    }

    /// The progress of all downloads that have begun and are not complete.
    pub(super) fn unfinished(&self) -> Vec<Moving> {
        let moving = self.moving.lock();
        moving.iter().filter(|it| it.length.is_none_or(|length| it.held < length)).copied().collect()
    }

    /// Prints a line above the bar.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| output::complain(line));
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn draw(&self) {
        if self.bar.is_hidden() {
            return;
        }
        let moving = self.moving.lock();
        let held = moving.iter().map(|it| it.held).sum();
        let length: Option<u64> = moving.iter().map(|it| it.length).sum();
        let length = length.filter(|_| !moving.is_empty());
        if self.bar.length() != length {
            if self.bar.length().is_some() != length.is_some() {
                self.bar.set_style(style(length, self.width));
            }
            match length {
                Some(length) => self.bar.set_length(length),
                None => self.bar.unset_length(),
            }
        }
        if self.jobs > 1 {
            self.bar.set_message(format!("{} of {} files  ", self.done.load(Ordering::Relaxed), self.jobs));
        }
        if self.bar.position() == 0 && held > 0 && held == moving.iter().map(|it| it.before).sum::<u64>() {
            // Bytes that were stored before must not count for the rate.
            self.bar.set_position(held);
            self.bar.reset_eta();
        }
        self.bar.set_position(held);
    }
}

/// A bar for `length` bytes, if known. Draws nothing if `quiet` is true or standard error is no terminal.
pub(crate) fn progress_bar(length: Option<u64>, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    ProgressBar::with_draw_target(length, target).with_style(style(length, width()))
}

/// A line that says what a command waits for, and for how long. Draws nothing if standard error is no terminal.
pub(crate) fn waiting_line(what: &str) -> ProgressBar {
    let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let line = line.with_style(in_glyphs(WAITING)).with_message(what.to_owned());
    line.enable_steady_tick(TICK);
    line
}

/// The width of a line on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    /// Enough for everything that is known of a download.
    Full,
    /// Less.
    Narrow,
}

fn width() -> Width {
    let is_narrow = |size: rustix::termios::Winsize| (1..MIN_WIDTH).contains(&size.ws_col);
    if rustix::termios::tcgetwinsize(std::io::stderr()).is_ok_and(is_narrow) { Width::Narrow } else { Width::Full }
}

fn style(length: Option<u64>, width: Width) -> ProgressStyle {
    let template = match (length, width) {
        (Some(_), Width::Full) => KNOWN,
        (Some(_), Width::Narrow) => KNOWN_NARROW,
        (None, Width::Full) => UNKNOWN,
        (None, Width::Narrow) => UNKNOWN_NARROW,
    };
    in_glyphs(template)
}

/// The style, with characters that the terminal has.
fn in_glyphs(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    if glyphs::is_unicode() {
        style.progress_chars("━╸─")
    } else {
        style.progress_chars("=> ").tick_chars("|/-\\ ")
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}
