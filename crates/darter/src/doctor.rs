//! `darter doctor`: what works on this host, what does not, why, and what to do about it. It changes nothing.
//!
//! Facts are gathered first ([`gather`]), and are then judged without I/O.
//!
//! | file | what lives there |
//! |---|---|
//! | `doctor/facts.rs` | the facts about the host |
//! | `doctor/gather.rs` | asks the kernel, the daemon and the engines' files |
//! | `doctor/findings.rs` | the findings: each check's result and its remedy |
//! | `doctor/host.rs` | judges kernel, daemon, disk and limits |
//! | `doctor/containerd.rs` | judges whether containerd uses the mirror |
//! | `doctor/lazy.rs` | judges whether containerd mounts layers before they are downloaded |
//! | `doctor/proxy.rs` | the same for containerd before 2.4 |
//! | `doctor/erofs.rs` | judges whether the kernel mounts layers |
//! | `doctor/engines.rs` | judges Docker and Podman |

mod containerd;
mod engines;
mod erofs;
mod facts;
mod findings;
mod gather;
mod host;
mod lazy;
mod proxy;

#[cfg(test)]
mod tests;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use self::facts::Facts;
use self::findings::{Finding, Level};
use crate::cli::DoctorArgs;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Serialize)]
struct Report<'a> {
    version: &'static str,
    checks: &'a [Finding],
    warnings: usize,
    problems: usize,
}

/// `darter doctor`.
pub(crate) async fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let facts = gather::all(args).await?;
    let findings = judge(&facts);
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (warnings, problems) = (count(Level::Warning), count(Level::Problem));
    if args.json {
        output::json(&Report { version: env!("CARGO_PKG_VERSION"), checks: &findings, warnings, problems })?;
    } else {
        output::text(&shown(&findings, warnings, problems))?;
    }
    match problems {
        0 => Ok(()),
        failed => Err(Failure::Some { failed, all: findings.len(), told: true, may_pass: false }.into()),
    }
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = host::kernel(&facts.kernel);
    findings.extend(host::daemon(&facts.daemon));
    findings.extend(containerd::mirror(&facts.containerd));
    findings.extend(lazy::start(&facts.containerd, &facts.kernel));
    findings.extend(engines::docker(&facts.docker, &facts.mirror));
    findings.extend(engines::podman(&facts.podman, &facts.mirror));
    findings
}

/// What this host lacks for lazy start, apart from containerd's settings: kernel features, and mkfs.erofs if containerd itself converts layers (`converts`).
pub(crate) fn lacking_for_lazy(converts: bool) -> Vec<String> {
    let kernel = gather::kernel();
    let mut findings = erofs::of_kernel(&kernel);
    if converts {
        findings.extend(lazy::of_mkfs(gather::mkfs()));
    }
    findings.into_iter().filter(|finding| finding.level != Level::Ok).map(|finding| in_one_line(&finding)).collect()
}

fn in_one_line(finding: &Finding) -> String {
    match &finding.todo {
        Some(todo) => format!("{}: {todo}", finding.text),
        None => finding.text.clone(),
    }
}

fn shown(findings: &[Finding], warnings: usize, problems: usize) -> String {
    let (mut text, mut area) = (String::new(), "");
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            text += &format!("{HEADING}{area}{HEADING:#}\n");
        }
        let (style, word) = match finding.level {
            Level::Ok => (FINE, "ok"),
            Level::Warning => (DOUBTFUL, "warning"),
            Level::Problem => (WRONG, "problem"),
        };
        text += &format!("  {style}{word:<8}{style:#} {}\n", finding.text);
        if let Some(todo) = &finding.todo {
            text += &format!("           {todo}\n");
        }
    }
    let several = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    text + &format!("{}, {}\n", several(problems, "problem"), several(warnings, "warning"))
}

const HEADING: Style = Style::new().bold();
const FINE: Style = AnsiColor::Green.on_default();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
const WRONG: Style = AnsiColor::Red.on_default().bold();
