//! `darter get`: downloads URLs into files.
//!
//! | file | what lives there |
//! |---|---|
//! | `get/jobs.rs` | which URLs, each with its place |
//! | `get/credentials.rs` | headers and logins from files and the environment |
//! | `get/disposition.rs` | the file name that an origin gives, made safe |
//! | `get/backend.rs` | the daemon, or an agent in this process |
//! | `get/rooms.rs` | the stores of such agents, so that several run at the same time |
//! | `get/target.rs` | where content goes: follows links, tells devices from files |
//! | `get/sink.rs` | how content gets there: moved, shared, linked, or copied once |
//! | `get/covered.rs` | which bytes have arrived |
//! | `get/copying.rs` | bytes from file to file, or to a pipe, inside the kernel |
//! | `get/check.rs` | whether the content is right, and its digest |
//! | `get/temporary.rs` | files without a name, and how they get their final one |
//! | `get/attributes.rs` | mode, owner and extended attributes of a file that is replaced |
//! | `get/writing.rs` | the thread that writes and checks arriving content |
//! | `get/bar.rs` | the progress bar |
//! | `get/report.rs` | the result, as text and as JSON |
//!
//! Invariant: the final name never shows a wrong or incomplete file. The content is in a file without a name, or in the store, until
//! its length and digests have been checked. (A file that has several names, or another owner, is overwritten in place once everything
//! has arrived.)
//!
//! The store resumes downloads: it keeps verified pieces, so a repeated request fetches only what is missing.

pub(crate) mod attributes;
mod backend;
mod bar;
mod check;
mod copying;
mod covered;
pub(crate) mod credentials;
mod disposition;
mod jobs;
mod report;
mod reserving;
pub(crate) mod rooms;
mod sink;
mod target;
pub(crate) mod temporary;
mod writing;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::Context as _;
use darter_agent::Order;
use darter_api::Traffic;
use darter_api::handover::Anew;
use darter_core::{BlobId, Digest};
use futures_util::stream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use self::backend::{Backend, Changed, Given, Opened, Question};
use self::bar::{Bar, Output};
pub(crate) use self::bar::{progress_bar, waiting_line};
use self::check::{Check, Trust};
use self::credentials::Senders;
use self::jobs::Job;
use self::report::{DownloadReport, PartReport, shown, tell};
use self::sink::{Placed, Wishes};
use self::target::Target;
pub(crate) use self::target::file_name;
use self::writing::{Written, has_digest, write_all};
use crate::cli::GetArgs;
use crate::cli::values::HeaderArg;
use crate::failure::{self, Failure};
use crate::signals::Signals;
use crate::units;

/// How often a download starts over because its content changed while it was read.
const MAX_RESTARTS: u32 = 5;

/// State that all downloads of one command share.
struct Work<'a> {
    args: &'a GetArgs,
    backend: Backend,
    senders: Senders,
    bar: Bar,
    /// The number of the download that writes each file.
    taken: Mutex<HashMap<PathBuf, usize>>,
    /// The URL that is written into each file with several names (hard links), by device and inode.
    linked: Mutex<HashMap<(u64, u64), Url>>,
}

/// Downloads the URLs that the command line names.
pub(crate) async fn run(args: &GetArgs) -> anyhow::Result<()> {
    share_standard_input(args)?;
    let jobs = jobs::of(args)?;
    let senders = Senders::gather(&args.credentials)?;
    refuse_early(args, &jobs)?;
    let sources: Vec<BlobId> = jobs.iter().map(|job| key(job, &senders, args)).collect();
    let mut signals = Signals::catch_in_foreground()?;
    let output = match (args.quiet, args.json) {
        (true, _) => Output::Quiet,
        (false, true) => Output::Json,
        (false, false) => Output::Bar,
    };
    let bar = Bar::new(jobs.len(), output);
    let backend = tokio::select! {
        backend = Backend::choose(args, &jobs, &sources, |line| bar.say(line)) => backend?,
        signal = signals.which() => return Err(Failure::ended_by(signal, String::new()).into()),
    };
    let work = Work { args, backend, senders, bar, taken: Mutex::default(), linked: Mutex::default() };
    let result = tokio::select! {
        results = work.all(&jobs) => Ok(results),
        signal = signals.which() => Err(signal),
    };
    work.bar.finish();
    tokio::select! {
        () = work.backend.close() => {}
        _ = signals.which() => {}
    }
    match result {
        Ok(results) => tell(args, &jobs, results),
        Err(signal) => Err(Failure::ended_by(signal, kept(&work.bar)).into()),
    }
}

/// The id of a job's source.
fn key(job: &Job, senders: &Senders, args: &GetArgs) -> BlobId {
    let headers = senders.of(&job.url);
    let signed = &args.origin.signed_parameter;
    let question = Question {
        url: &job.url,
        headers: &headers,
        digest: job.digest,
        signed,
        disposition: false,
        order: Order::InOrder,
        range: None,
        says: &|_| (),
        mute: &|_| (),
    };
    backend::source_of(&question).0.key()
}

/// Refuses two options that read standard input: the second one would find it empty.
fn share_standard_input(args: &GetArgs) -> Result<(), Failure> {
    let is_stdin = |path: &Path| path == Path::new("-");
    let headers =
        args.credentials.header.iter().filter(|header| matches!(header, HeaderArg::File(path) if is_stdin(path)));
    let others = [&args.input, &args.credentials.netrc_file].into_iter().flatten().filter(|path| is_stdin(path));
    if headers.count() + others.count() > 1 {
        let text = "only one of -i -, -H @- and --netrc-file - can read standard input: use files for the others";
        return Err(Failure::Usage(text.to_owned()));
    }
    Ok(())
}

/// Refuses early what would fail only later: a target that can't be written, two things on standard output, a digest that can't be checked.
fn refuse_early(args: &GetArgs, jobs: &[Job]) -> anyhow::Result<()> {
    if args.range.is_some() && args.digest.is_some() {
        let text = "--digest is of the whole content, of which --range fetches only a part: leave out --digest (each piece \
                    is verified all the same), or download the whole";
        return Err(Failure::Usage(text.to_owned()).into());
    }
    for job in jobs {
        if args.remote_name && job.takes_a_name() {
            job.place.check()?;
            continue;
        }
        if job.target(None)?.is_stdout() && args.json {
            let text = "--json and the content would both go to standard output; give -o FILE";
            return Err(Failure::Usage(text.to_owned()).into());
        }
    }
    Ok(())
}

/// Text that says how many bytes an interrupted command keeps, and how to go on.
fn kept(bar: &Bar) -> String {
    let unfinished = bar.unfinished();
    let held: u64 = unfinished.iter().map(|it| it.held).sum();
    if held == 0 {
        return String::new();
    }
    let of = match unfinished.iter().map(|it| it.length).sum::<Option<u64>>() {
        Some(length) => format!(" of {}", units::size(length)),
        None => String::new(),
    };
    format!("; {}{of} are kept, run the same command again to go on", units::size(held))
}

impl Work<'_> {
    /// Runs all downloads, several at a time, and returns their results in order.
    async fn all(&self, jobs: &[Job]) -> Vec<anyhow::Result<DownloadReport>> {
        let running = jobs.iter().enumerate().map(|(number, job)| async move {
            let result = self.one(number, job).await;
            self.bar.ended();
            match &result {
                Ok(report) => self.say_done(report),
                Err(error) if jobs.len() > 1 && !self.args.json && !Failure::is_reader_left(error) => {
                    let (url, told) = (shown(job), failure::line(error));
                    let told = if told.starts_with(&url) { told } else { format!("{url}: {told}") };
                    self.bar.say(&format!("error: {told}"));
                }
                Err(_) => {}
            }
            (number, result)
        });
        let mut results: Vec<_> =
            stream::iter(running).buffer_unordered(usize::from(self.args.parallel)).collect().await;
        results.sort_by_key(|(number, _)| *number);
        results.into_iter().map(|(_, result)| result).collect()
    }

    async fn one(&self, number: usize, job: &Job) -> anyhow::Result<DownloadReport> {
        let started = Instant::now();
        let args = self.args;
        let by_name = args.remote_name && job.takes_a_name();
        let is_right = match job.digest {
            Some(digest) if !by_name => has_digest(job.target(None)?, digest).await?,
            _ => None,
        };
        if let Some(bytes) = is_right
            && !args.mtime
        {
            return Ok(self.report_kept(job, &job.target(None)?, bytes, None, job.digest));
        }
        let headers = self.senders.of(&job.url);
        let signed = &args.origin.signed_parameter;
        let mut question = Question {
            url: &job.url,
            headers: &headers,
            digest: job.digest,
            signed,
            disposition: by_name,
            // In a directory, the target will be a file, whatever its name (with rare exceptions).
            order: match job.target(None)? {
                _ if args.range.is_some() => Order::InOrder,
                Target::File(_) => Order::Any,
                _ if by_name => Order::Any,
                _ => Order::InOrder,
            },
            range: args.range,
            says: &|waiting| self.bar.waits(number, waiting),
            mute: &|socket| self.bar.mute(socket),
        };
        let mut opened = self.backend.open(&question).await?;
        let called = opened.disposition.as_deref().and_then(disposition::file_name);
        let target = job.target(called.as_deref())?;
        self.take(number, job, &target)?;
        if question.order == Order::Any && !matches!(target, Target::File(_)) {
            // The name that the origin gave belongs to a pipe: ask again, for bytes in order.
            drop(opened);
            question.order = Order::InOrder;
            opened = self.backend.open(&question).await?;
        }
        let source = key(job, &self.senders, args);
        if let Target::File(file) = &target
            && args.range.is_none()
            && let Some(old) = &file.old
            && opened.length.is_none_or(|length| length == old.len())
            && (is_right.is_some() || attributes::is_marked(&file.path, opened.blob))
        {
            if let Some(modified) = self.date_for(opened.modified.as_deref()) {
                attributes::date(&file.path, modified, opened.blob)
                    .with_context(|| format!("can't set the modification time of {}", file.shown.display()))?;
            }
            let (blob, moves, bytes) = (opened.blob, opened.moves.is_some(), old.len());
            drop(opened);
            self.backend.done(source, Some(blob).filter(|_| moves)).await;
            return Ok(self.report_kept(job, &target, bytes, Some(blob), job.digest.filter(|_| is_right.is_some())));
        }
        let Fetched { report, spent } = self.fetch_version(number, job, (opened, question), &target, started).await?;
        self.backend.done(source, spent).await;
        Ok(report)
    }

    /// Notes the file that a download writes. Fails if another download of this command writes the same file, by its own name or through a link.
    fn take(&self, number: usize, job: &Job, target: &Target) -> anyhow::Result<()> {
        let Target::File(file) = target else { return Ok(()) };
        let by = *self.taken.lock().entry(file.path.clone()).or_insert(number);
        let other = file.linked().is_some_and(|inode| {
            let mut linked = self.linked.lock();
            *linked.entry(inode).or_insert_with(|| job.url.clone()) != job.url
        });
        if by != number || other {
            let shown = file.shown.display();
            anyhow::bail!("another of these downloads writes to {shown}, too; name the files in a list (-i)");
        }
        Ok(())
    }

    /// Downloads the current version of the content. If the content changes at its origin meanwhile, starts over, unless bytes were already written to a stream.
    async fn fetch_version(
        &self,
        number: usize,
        job: &Job,
        (mut opened, question): (Opened, Question<'_>),
        target: &Target,
        started: Instant,
    ) -> anyhow::Result<Fetched> {
        let mut restarts = 0;
        loop {
            let error = match self.fetch(number, job, opened, target, started).await {
                Err(error) if error.is::<Changed>() => error,
                result => return result,
            };
            restarts += 1;
            if restarts > MAX_RESTARTS || !matches!(target, Target::File(_)) {
                return Err(error);
            }
            if !self.args.quiet && !self.args.json {
                self.bar.say(&format!("{}: changed while it was read; starting over", shown(job)));
            }
            opened = self.backend.open(&question).await?;
        }
    }

    async fn fetch(
        &self,
        number: usize,
        job: &Job,
        opened: Opened,
        target: &Target,
        started: Instant,
    ) -> anyhow::Result<Fetched> {
        let Opened {
            blob, length: whole, part, modified, moves, spent: spends, before, vouched, content, watch, ..
        } = opened;
        let length = part.map_or(whole, |part| Some(part.len()));
        let progress = watch.progress().await;
        let resumed = progress.as_ref().map_or(0, |progress| already_here(progress, &before));
        let held = progress.as_ref().filter(|_| part.is_none()).map_or(0, |progress| progress.held_bytes);
        self.bar.note(number, length, held);
        if self.args.log.verbose > 0 && resumed > 0 {
            self.bar.say(&format!("resumed: {} already here", units::size(resumed)));
        }
        let args = self.args;
        let wishes = move |Anew { blob, length, modified }| {
            let modified = self.date_for(modified.as_deref());
            let marks = part.is_none();
            Wishes { blob, length, marks, moves: moves.clone(), link: args.link, modified, sync: args.sync }
        };
        let is_file = matches!(target, Target::File(_));
        // The digest of a part is not known.
        let check = match part {
            Some(_) => Check::new(None, Trust { verify_whole: false, vouched: true, can_reread: is_file }),
            None => Check::new(job.digest, Trust { verify_whole: args.verify_whole, vouched, can_reread: is_file }),
        };
        // How much of the whole blob is stored says nothing about the part.
        let came = part.map(|_| Arc::<AtomicU64>::default());
        let content = match came.clone() {
            Some(came) => content.inspect_ok(move |given| count(given, &came)).boxed(),
            None => content,
        };
        let follows = self.bar.follow(number, length, &watch, came.as_deref());
        let first = wishes(Anew { blob, length, modified });
        let again = |anew: Anew| {
            // A retry of the same content is not worth a message.
            if anew.blob != blob && !args.quiet && !args.json {
                self.bar.say(&format!("{}: changed while it was read; starting over", shown(job)));
            }
            wishes(anew)
        };
        let written = tokio::select! {
            written = write_all(content, target.clone(), first, again, check) => written,
            never = follows => match never {},
        };
        let Written { placed, blob, bytes, digest } = written?;
        self.bar.note(number, Some(bytes), bytes);
        let traffic = watch.progress().await.map(|progress| progress.traffic.since(&before)).unwrap_or_default();
        // A small file may be held before its giver is counted; and a part has no more than its own bytes.
        let resumed = resumed.min(bytes.saturating_sub(traffic.received()));
        let report = DownloadReport {
            url: shown(job),
            file: target.shown().map(|path| path.display().to_string()),
            placed: is_file.then_some(placed),
            bytes,
            range: part.map(|part| PartReport { first: part.start(), last: part.end() - 1, of: whole }),
            digest,
            blob: Some(blob),
            seconds: started.elapsed().as_secs_f64(),
            traffic,
            resumed,
            daemon: self.backend.socket().map(|socket| socket.display().to_string()),
            why_no_daemon: self.backend.why_alone().map(str::to_owned),
        };
        Ok(Fetched { report, spent: Some(blob).filter(|_| spends) })
    }

    /// The modification time for the file; `told` is the origin's Last-Modified.
    fn date_for(&self, told: Option<&str>) -> Option<SystemTime> {
        told.filter(|_| self.args.mtime).and_then(|text| httpdate::parse_http_date(text).ok())
    }

    /// The report of a file that had the right content already.
    fn report_kept(
        &self,
        job: &Job,
        target: &Target,
        bytes: u64,
        blob: Option<BlobId>,
        digest: Option<Digest>,
    ) -> DownloadReport {
        DownloadReport {
            url: shown(job),
            file: target.shown().map(|path| path.display().to_string()),
            placed: Some(Placed::Kept),
            bytes,
            range: None,
            digest,
            blob,
            seconds: 0.0,
            traffic: Traffic::default(),
            resumed: 0,
            daemon: self.backend.socket().map(|socket| socket.display().to_string()),
            why_no_daemon: self.backend.why_alone().map(str::to_owned),
        }
    }

    fn say_done(&self, report: &DownloadReport) {
        if self.args.log.verbose > 0 {
            self.bar.say(&format!("received {}", crate::show::received(&report.traffic)));
        }
        let Some(file) = report.file.as_ref().filter(|_| !self.args.quiet && !self.args.json) else { return };
        if report.placed == Some(Placed::Kept) {
            return self.bar.say(&format!("{file}: has the right content already"));
        }
        let rate = units::rate((report.bytes as f64 / report.seconds.max(1e-3)) as u64);
        let (size, seconds) = (units::size(report.bytes), units::seconds(report.seconds));
        let alone = match &report.why_no_daemon {
            Some(why) => format!(" (without a daemon: {why})"),
            None => String::new(),
        };
        self.bar.say(&format!("{file}: {size} in {seconds}, {rate}{alone}"));
    }
}

/// A finished download.
struct Fetched {
    report: DownloadReport,
    /// The blob, if this process need not keep it.
    spent: Option<BlobId>,
}

/// Counts the bytes of a part that have arrived.
fn count(given: &Given, came: &AtomicU64) {
    if let Given::Chunk(chunk) = given {
        came.fetch_add(chunk.range().len(), Ordering::Relaxed);
    }
}

/// Bytes that are held and were not received in this transfer.
fn already_here(progress: &darter_api::Progress, before: &Traffic) -> u64 {
    progress.held_bytes.saturating_sub(progress.traffic.since(before).received())
}
