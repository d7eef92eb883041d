//! The report of a download, as text and as JSON.

use anyhow::Context as _;
use darter_api::Traffic;
use darter_core::{BlobId, Digest};
use serde::Serialize;

use super::jobs::Job;
use super::sink::Placed;
use crate::cli::GetArgs;
use crate::failure::{self, Failure};
use crate::output;

/// The result of a download: the JSON of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct DownloadReport {
    pub(super) url: String,
    /// The final name; `None` for standard output.
    pub(super) file: Option<String>,
    /// How the content got there; `None` for a target that is no file.
    pub(super) placed: Option<Placed>,
    pub(super) bytes: u64,
    /// The range of the content, if not everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range: Option<PartReport>,
    /// The digest of the content, as the agent, its lead, or this process (`--verify-whole`) has checked it: SHA-256 if
    /// known, else the one of `--digest`. `None` if none was computed.
    pub(super) digest: Option<Digest>,
    pub(super) blob: Option<BlobId>,
    #[serde(flatten, with = "darter_api::units::took_seconds")]
    pub(super) seconds: f64,
    pub(super) traffic: Traffic,
    /// Bytes that were stored by an earlier attempt.
    #[serde(flatten, with = "darter_api::units::resumed_bytes")]
    pub(super) resumed: u64,
    /// The daemon's socket; `None` when this process did the work.
    pub(super) daemon: Option<String>,
    /// Why this process did the work instead of a daemon.
    pub(super) why_no_daemon: Option<String>,
}

/// A range of the content: its first byte, its last byte, and the length of the content.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct PartReport {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) of: Option<u64>,
}

/// The URL to print: without user, password and signature.
pub(super) fn shown(job: &Job) -> String {
    let mut url = job.url.clone();
    // Only URLs without a host refuse, and those have no user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    darter_core::signature::take(&mut url, &[]);
    url.to_string()
}

/// Prints the results as JSON if asked to, and fails if a download failed.
pub(super) fn tell(
    args: &GetArgs,
    jobs: &[Job],
    mut results: Vec<anyhow::Result<DownloadReport>>,
) -> anyhow::Result<()> {
    if jobs.len() == 1 && args.input.is_none() {
        let report = results.pop().context("there is a result for each download")??;
        return if args.json { output::json(&report) } else { Ok(()) };
    }
    let errors = || results.iter().filter_map(|result| result.as_ref().err());
    let failures = || errors().filter(|error| !Failure::is_reader_left(error));
    let failed = failures().count();
    if args.json {
        let rows: Vec<_> = results
            .iter()
            .zip(jobs)
            .map(|(result, job)| match result {
                Ok(report) => serde_json::json!(report),
                Err(error) => {
                    let mut told = serde_json::json!(failure::problem(error));
                    told["url"] = shown(job).into();
                    told
                }
            })
            .collect();
        output::json(&rows)?;
    }
    if failed == 0 {
        return Ok(());
    }
    let may_pass = failures().all(|error| failure::blame(error).may_pass());
    Err(Failure::Some { failed, all: results.len(), told: args.json, may_pass }.into())
}
