//! Keeps a mounted file connected: connections to agents, one after the other, and the rest of the file, which is fetched while there is one. A part of
//! `impl MountedFile`.
//!
//! Invariant: a connection is used only if its content is this file's, which is checked with a piece whose hash is known.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_core::ByteRange;

use super::{AHEAD_TIMEOUT, Condition, LOOK_EVERY, Link, MountedFile, RETRY_PAUSE, Settings};
use crate::fill::{Fill, Rest, Step};
use crate::kept::Kept;
use crate::limits::RetryPauses;
use crate::supply::{Content, End, Given, Supplier, Supply};

/// How long reporting to the agent which parts were read may take, at the end.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// For how many bytes of a complete file the hashes are requested at a time.
const HASHED_STEP: u64 = 32 << 20;

/// A connection that lasted this long resets the pauses.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// How long an agent may take to open the content again: longer than the hour that it allows for expanding a layer. Reads that wait meanwhile end at their own
/// limits.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4200);

/// How long comparing a piece may delay the use of a new connection.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(5);

const OTHER_PIECES: &str = "the daemon has it in pieces of another length, and all of it can be read without";

const OTHER: &str = "the content is another one at its origin by now; unmount it, and mount what is there";

/// How a connection's content compares with the mounted content.
enum About {
    /// It is the mounted content.
    This,
    /// It is the mounted content, but with another piece length than the hashes by which everything can be read without an agent.
    OtherPieces,
    /// It is a blob with another name or length.
    OtherBlob,
    /// It has the mounted content's name and length, but other bytes.
    OtherBytes,
}

impl MountedFile {
    /// Keeps a connection to an agent: opens another one when one ends. Returns when that is no longer useful: the content has
    /// changed at its origin, or was found to be wrong.
    pub async fn keep(&self, supplier: &dyn Supplier) -> Condition {
        let mut pauses = RetryPauses::default();
        let Settings { fill, fill_rate, .. } = self.settings;
        let mut rest = Rest::new(self.content.length, fill, fill_rate, self.clock.now());
        loop {
            let link = self.link.borrow().clone();
            let Link::Up(supply) = link else { unreachable!("a connection was opened") };
            let since = self.clock.now();
            let end = tokio::select! {
                end = supply.ended() => end,
                () = self.contradicted.notified() => End::Changed(OTHER.to_owned()),
                never = self.fill(&supply, &mut rest) => match never {},
            };
            drop(supply);
            let reason = match end {
                End::Wrong(reason) => return self.ends(Condition::Tainted(reason)),
                // If there is a digest, the bytes that were read are of no version with that digest.
                End::Changed(reason) if self.settings.has_digest => {
                    return self.ends(Condition::Tainted(of_no_one_version(&reason)));
                }
                End::Changed(reason) => return self.ends(Condition::Changed(reason)),
                End::Gone(reason) => reason,
            };
            tracing::info!(reason, "the connection to the agent ended");
            self.link.send_replace(Link::Down(Condition::Waiting(reason)));
            if self.clock.now().since(since) > GOOD_AFTER {
                pauses.reset();
            }
            loop {
                self.pause(&mut pauses).await;
                let opened = tokio::time::timeout(OPEN_TIMEOUT, supplier.open()).await;
                let silent = |_| format!("the agent has not opened it again for {} s", OPEN_TIMEOUT.as_secs());
                let reason = match opened.map_err(silent).flatten() {
                    Ok((content, supply)) => match self.about(&content, &*supply).await {
                        About::This => {
                            self.kept.lock().another_connection();
                            self.link.send_replace(Link::Up(supply));
                            break;
                        }
                        About::OtherPieces => OTHER_PIECES.to_owned(),
                        About::OtherBytes if self.settings.has_digest => {
                            return self.ends(Condition::Tainted(of_no_one_version(OTHER)));
                        }
                        About::OtherBlob | About::OtherBytes => {
                            return self.ends(Condition::Changed(OTHER.to_owned()));
                        }
                    },
                    Err(reason) => reason,
                };
                self.link.send_replace(Link::Down(Condition::Waiting(reason)));
            }
            rest.begin_anew();
            self.touches.lock().begin_anew();
        }
    }

    /// Reports to the agent, if there is one, which parts were read since the last report: for a caller that is done with the file.
    pub async fn hand_over(&self) {
        let link = self.link.borrow().clone();
        if let Link::Up(supply) = link {
            // The report is only useful for others, so nothing waits for it long.
            let _ = tokio::time::timeout(HAND_OVER_TIMEOUT, self.tell_touches(&*supply, true)).await;
        }
    }

    async fn tell_touches(&self, supply: &dyn Supply, last: bool) {
        if !supply.takes_touches() {
            return;
        }
        let touched = self.touches.lock().take(last, self.clock.now());
        if let Some(ranges) = touched {
            supply.touched(&ranges).await;
        }
    }

    /// Compares the content of a connection with the mounted content. Besides name and length, one known piece is compared, since an origin
    /// may send other bytes under the same name.
    async fn about(&self, content: &Content, supply: &dyn Supply) -> About {
        let is_called_so = (content.blob, content.length) == (self.content.blob, self.content.length);
        if !is_called_so {
            return About::OtherBlob;
        }
        if content.pieces != self.kept.lock().pieces() {
            if self.is_alone() {
                return About::OtherPieces;
            }
            // The known hashes are of pieces of another length.
            *self.kept.lock() = Kept::new(content.pieces, content.length);
        }
        let known = self.kept.lock().first_known();
        match known {
            Some(known) => match tokio::time::timeout(COMPARE_TIMEOUT, supply.fetch(known, COMPARE_TIMEOUT)).await {
                Ok(Ok(hashes)) if !self.kept.lock().learn(known, &hashes) => About::OtherBytes,
                // Later pieces are compared, too.
                Ok(Ok(_) | Err(_)) | Err(_) => About::This,
            },
            None => About::This,
        }
    }

    fn ends(&self, condition: Condition) -> Condition {
        self.link.send_replace(Link::Down(condition.clone()));
        condition
    }

    async fn pause(&self, pauses: &mut RetryPauses) {
        // Created first, so that it notices a reader that is not counted yet.
        let begins = self.begins.notified();
        let waits = self.waiting.load(Ordering::SeqCst) > 0;
        let pause = pauses.next(waits);
        if tokio::time::timeout(pause, begins).await.is_ok() {
            // A program waits now.
            tokio::time::sleep(pause.min(RETRY_PAUSE)).await;
        }
    }

    /// Fetches the rest as configured, and once the file is complete learns what is needed to go on without an agent.
    async fn fill(&self, supply: &Arc<dyn Supply>, rest: &mut Rest) -> std::convert::Infallible {
        let Settings { fill, fill_rate, .. } = self.settings;
        if fill == Fill::Always && fill_rate.is_none() {
            supply.everything().await;
        }
        let mut fills = fill == Fill::Idle || (fill == Fill::Always && fill_rate.is_some());
        loop {
            self.tell_touches(&**supply, false).await;
            let now = self.clock.now();
            let pause = match fills.then(|| rest.next(self.waits.last(now), now)) {
                None => LOOK_EVERY,
                // However slow the rest arrives, reads are reported and progress is checked.
                Some(Step::Wait(pause)) => pause.min(LOOK_EVERY),
                Some(Step::Fetch(step)) => match supply.fetch(step, AHEAD_TIMEOUT).await {
                    Ok(hashes) => {
                        self.learn(step, &hashes);
                        rest.fetched(step);
                        continue;
                    }
                    Err(_) => LOOK_EVERY,
                },
                Some(Step::Done) => {
                    // The agent checks the whole, and tells others.
                    supply.everything().await;
                    fills = false;
                    LOOK_EVERY
                }
            };
            tokio::time::sleep(pause).await;
            let progress = supply.progress().await;
            if let Some(progress) = progress {
                *self.held.lock() = progress;
            }
            if progress.is_some_and(|(_, whole)| whole) && !self.needs_nobody() {
                self.learn_all(supply).await;
            }
        }
    }

    /// True if everything is known about the file that was named last.
    fn needs_nobody(&self) -> bool {
        self.content.length == 0 || (self.files.lock().last_is_whole() && self.kept.lock().knows_all())
    }

    /// Learns all hashes of complete content, and the file with it.
    async fn learn_all(&self, supply: &Arc<dyn Supply>) {
        let first = self.kept.lock().whole_pieces(ByteRange::new(0, 1));
        // Bytes that are in no file can only be read through the agent.
        let Ok(Given::File(file, hashes)) = supply.read(first, AHEAD_TIMEOUT).await else { return };
        if !self.came(supply, &file, first, &hashes) {
            return;
        }
        let mut at = if self.kept.lock().knows_all() { self.content.length } else { 0 };
        while at < self.content.length {
            let step = ByteRange::new(at, at + HASHED_STEP).clamp_to(self.content.length);
            let Ok(hashes) = supply.fetch(step, AHEAD_TIMEOUT).await else { return };
            if !self.learn(step, &hashes) {
                return;
            }
            at = step.end();
        }
        self.files.lock().is_whole(&file);
    }
}

fn of_no_one_version(reason: &str) -> String {
    format!("not the content with the digest that it was mounted by: {reason}")
}
