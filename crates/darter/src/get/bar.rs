//! Progress for people: a bar when standard error is a terminal, silence otherwise.

use std::convert::Infallible;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::backend::Watch;

/// How often the bar looks.
const TICK: Duration = Duration::from_millis(200);

const KNOWN: &str =
    "{wide_bar:.cyan/dim} {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
const UNKNOWN: &str = "{spinner} {decimal_bytes}  {decimal_bytes_per_sec}";

/// A progress bar.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar for content of this length; draws nothing when quiet, or when nobody watches.
    pub(super) fn new(length: Option<u64>, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(length, target);
        bar.set_style(style(length));
        Self(bar)
    }

    /// Draws what `watch` tells, until dropped.
    pub(super) async fn follow(&self, watch: &Watch) -> Infallible {
        let mut first = true;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            if self.0.is_hidden() {
                std::future::pending::<()>().await;
            }
            let Some(progress) = watch.progress().await else { continue };
            if let Some(length) = progress.length.filter(|_| self.0.length().is_none()) {
                self.0.set_style(style(Some(length)));
                self.0.set_length(length);
            }
            self.0.set_position(progress.held_bytes);
            if std::mem::take(&mut first) {
                // What was here before says nothing of the rate.
                self.0.reset_eta();
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

fn style(length: Option<u64>) -> ProgressStyle {
    let template = if length.is_some() { KNOWN } else { UNKNOWN };
    ProgressStyle::with_template(template).expect("the template is well formed").progress_chars("━╸─")
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}
