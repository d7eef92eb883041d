//! The result of the demo, compared with the theoretical best and with plain downloads.

use darter_core::{Digest, Rate};
use darter_swarm::bound::least_time;
use serde::Serialize;

use super::finish::Finish;
use super::plain::PlainRun;
use super::swarm::SwarmRun;
use crate::table::{Align, Table};
use crate::units;

/// When the last and the median node of a run finished.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Times {
    /// Seconds until the last node was complete.
    pub(super) last: f64,
    /// Seconds until half of the nodes were complete.
    pub(super) median: f64,
    /// `last`, divided by the theoretical best.
    pub(super) over_bound: f64,
    /// How many copies of the content the origin sent.
    pub(super) origin_copies: f64,
}

/// The JSON of `--json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) bytes: u64,
    pub(super) nodes: u16,
    /// Bytes per second.
    #[serde(flatten, with = "darter_api::units::rate_bytes_per_second")]
    pub(super) rate: u64,
    pub(super) digest: Digest,
    /// The theoretical best (T*), in seconds.
    pub(super) bound: f64,
    pub(super) swarm: Times,
    /// How many copies the seed sent.
    pub(super) seed_copies: f64,
    /// CPU seconds of all members, divided by the gigabytes that the nodes received.
    pub(super) cpu_per_gigabyte: f64,
    pub(super) plain: Option<Times>,
    /// How many downloads were hashed, in both runs.
    pub(super) digests_checked: usize,
    pub(super) digests_right: usize,
}

impl Outcome {
    pub(super) fn new(
        nodes: u16,
        rate: Rate,
        bytes: u64,
        digest: Digest,
        swarm: &SwarmRun,
        plain: Option<&PlainRun>,
    ) -> Self {
        let members: Vec<(Rate, Rate)> = vec![(rate, rate); usize::from(nodes)];
        let bound = least_time(bytes, rate, &members).as_secs_f64();
        let copies = |sent: u64| sent as f64 / bytes as f64;
        let all: Vec<Finish> =
            swarm.finishes.iter().chain(plain.iter().flat_map(|plain| &plain.finishes)).copied().collect();
        Self {
            bytes,
            nodes,
            rate: rate.bytes_per_second(),
            digest,
            bound,
            swarm: Times::new(&swarm.finishes, bound, copies(swarm.from_origin)),
            seed_copies: copies(swarm.from_seed),
            cpu_per_gigabyte: swarm.cpu / (bytes as f64 * f64::from(nodes) / 1e9),
            plain: plain.map(|plain| Times::new(&plain.finishes, bound, copies(plain.from_origin))),
            digests_checked: all.len(),
            digests_right: all.iter().filter(|finish| finish.right).count(),
        }
    }

    /// The result as a table.
    pub(super) fn table(&self) -> String {
        let mut times = Table::new([
            ("", Align::Left),
            ("SLOWEST NODE", Align::Right),
            ("MEDIAN", Align::Right),
            ("× BEST POSSIBLE", Align::Right),
            ("READ FROM ORIGIN", Align::Right),
        ]);
        let row = |name: &str, times: &Times| {
            [
                name.to_owned(),
                units::seconds(times.last),
                units::seconds(times.median),
                format!("{:.2}", times.over_bound),
                format!("{:.2} copies", times.origin_copies),
            ]
        };
        times.row([
            "theoretical best".into(),
            units::seconds(self.bound),
            String::new(),
            "1.00".into(),
            "1.00 copies".into(),
        ]);
        times.row(row("darter", &self.swarm));
        if let Some(plain) = &self.plain {
            times.row(row("plain downloads", plain));
        }
        let mut rest = Table::new([("", Align::Left), ("", Align::Left)]);
        rest.row(["sent by the seed".into(), format!("{:.2} copies, for {} nodes", self.seed_copies, self.nodes)]);
        rest.row(["CPU".into(), format!("{:.1} s per GB received", self.cpu_per_gigabyte)]);
        rest.row([
            "digests right".into(),
            format!("{} of {} ({})", self.digests_right, self.digests_checked, self.digest.short()),
        ]);
        format!("{}{}\n{}\n", times.render(), rest.render(), self.conclusion())
    }

    /// The sentence that says who won, and what to do next.
    fn conclusion(&self) -> String {
        let copies = |copies: f64| match copies {
            once if (once - 1.0).abs() < 0.05 => "once".to_owned(),
            whole if (whole - whole.round()).abs() < 0.05 => format!("{whole:.0} times"),
            more => format!("{more:.2} times"),
        };
        let read = copies(self.swarm.origin_copies);
        let won = match &self.plain {
            Some(plain) if plain.last > self.swarm.last => format!(
                "Darter finished {:.1} times sooner than plain downloads and read the origin {read} instead of {}.",
                plain.last / self.swarm.last,
                copies(plain.origin_copies)
            ),
            Some(plain) => format!(
                "Plain downloads finished {:.1} times sooner than Darter here, which read the origin {read} instead of {}.",
                self.swarm.last / plain.last,
                copies(plain.origin_copies)
            ),
            None => format!(
                "Darter took {:.2} times the theoretical best and read the origin {read} for {} nodes.",
                self.swarm.over_bound, self.nodes
            ),
        };
        format!(
            "{won}\nNext: `darter up` on this host, or one `darter seed` and a `darter node --join SEED:7400` on each other host."
        )
    }
}

impl Times {
    fn new(finishes: &[Finish], bound: f64, origin_copies: f64) -> Self {
        let mut seconds: Vec<f64> = finishes.iter().map(|finish| finish.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let last = seconds.last().copied().unwrap_or_default();
        let median = seconds.get(seconds.len().saturating_sub(1) / 2).copied().unwrap_or_default();
        Self { last, median, over_bound: last / bound, origin_copies }
    }
}
