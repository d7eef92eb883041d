//! The agent's figures for `darter top`: rates from counters, sampled once a second.
//!
//! Rates are differences of counters between two samples, so nothing is added to the data path.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use darter_api::top::{AgentView, Rates, SwarmRow, Top};
use darter_api::{StoreStatus, Traffic};
use darter_core::Moment;
use darter_engine::FetchError;
use darter_engine::context::EngineContext;
use darter_engine::transfer::Transfer;
use darter_engine::transfer::meter::TIERS;
use darter_metrics::process::Usage;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Agent, Phase, images};

/// How often counters are read.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// The minimum time over which a rate is computed: two snapshots in quick succession must not divide by nearly zero.
const MIN_SPAN: Duration = Duration::from_millis(700);

/// How many samples are kept: with one each second, the newest that is old enough is among them.
const KEPT: usize = 3;

/// Most swarms in one snapshot.
const MAX_SWARMS: usize = 256;

/// The counters at some time.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at: Moment,
    /// CPU seconds.
    cpu: f64,
    traffic: Traffic,
    /// Bytes received and sent, by tier.
    tiers: [[u64; TIERS.len()]; 2],
}

/// The last few samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct Sampler(Mutex<VecDeque<Sample>>);

impl Sampler {
    fn add(&self, sample: Sample) {
        let mut samples = self.0.lock();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The newest sample that is old enough to compute a rate; if there is none, the agent's start, when all counters were zero.
    fn before(&self, now: Moment) -> Sample {
        let samples = self.0.lock();
        samples.iter().rev().find(|sample| now.since(sample.at) >= MIN_SPAN).copied().unwrap_or_default()
    }
}

impl Sample {
    fn take(context: &EngineContext) -> Self {
        let traffic = context.metrics.traffic();
        Self { at: context.now(), cpu: Usage::now().cpu_seconds, traffic, tiers: context.tiers.read() }
    }

    /// The CPU share and the rates since an earlier sample.
    fn since(&self, earlier: &Self) -> (f64, Rates) {
        let seconds = self.at.since(earlier.at).max(Duration::from_millis(1)).as_secs_f64();
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        let mut rates = Rates {
            origin: rate(self.traffic.from_origin, earlier.traffic.from_origin),
            local: rate(self.traffic.to_local, earlier.traffic.to_local),
            ..Rates::default()
        };
        let ([received, sent], [received_before, sent_before]) = (self.tiers, earlier.tiers);
        for (at, tier) in TIERS.into_iter().enumerate() {
            *rates.received.of(tier) = rate(received[at], received_before[at]);
            *rates.sent.of(tier) = rate(sent[at], sent_before[at]);
        }
        ((self.cpu - earlier.cpu).max(0.0) / seconds, rates)
    }
}

impl Agent {
    /// A snapshot of all transfers, with details of the swarm called `name` (see [`Agent::remove`] for names).
    ///
    /// # Errors
    /// The store's errors, if it has to be asked what a name refers to.
    pub async fn top(&self, name: Option<&str>) -> Result<Top, FetchError> {
        let inner = &*self.inner;
        let named = match name {
            Some(name) => images::swarm(inner, name).await?,
            None => None,
        };
        let all = inner.swarms.all();
        let chosen = named.and_then(|blob| all.iter().find(|transfer| transfer.blob == blob));
        let sample = Sample::take(&inner.context);
        let (cpu, rates) = sample.since(&inner.sampler.before(sample.at));
        Ok(Top {
            at: inner.context.unix(),
            agent: self.view(cpu),
            rates,
            traffic: sample.traffic,
            swarm: chosen.map(|transfer| transfer.detail()),
            swarms_in_all: u32::try_from(all.len()).unwrap_or(u32::MAX),
            swarms: busiest(&all),
        })
    }

    fn view(&self, cpu: f64) -> AgentView {
        let inner = &*self.inner;
        let usage = inner.context.disk.usage();
        AgentView {
            node: inner.context.me,
            role: inner.options.role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: inner.listen.clone(),
            uptime: Duration::from_micros(inner.context.now().as_micros()).as_secs_f64(),
            draining: inner.swarms.is_draining(),
            cpu,
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            resident: Usage::now().resident_bytes,
            peers: inner.fleet.peers().len() as u32,
            connections: inner.fleet.connections(),
            seeds: inner.seeds.status(),
            store: store_status(&usage),
        }
    }

    /// Sets the metrics about the store's space.
    pub(super) fn note_room(&self) {
        self.inner.context.metrics.store(&self.inner.context.disk.usage());
    }

    /// Takes a sample every second, until the agent drains.
    pub(super) async fn sample(self, mut phases: watch::Receiver<Phase>) {
        loop {
            self.inner.sampler.add(Sample::take(&self.inner.context));
            self.note_room();
            tokio::select! {
                () = tokio::time::sleep(SAMPLE_EVERY) => {}
                _ = phases.wait_for(|phase| *phase == Phase::Stopped) => return,
            }
        }
    }
}

/// The state of the store's space.
pub(super) fn store_status(usage: &darter_store::Usage) -> StoreStatus {
    StoreStatus {
        blobs: usage.blobs,
        used: usage.used,
        quota: usage.quota,
        free: usage.disk_free.unwrap_or_default(),
        capacity: usage.capacity,
        evicted: usage.evicted_blobs,
    }
}

/// Active transfers first, then incomplete ones, then the others, by
/// name.
fn busiest(all: &[Arc<Transfer>]) -> Vec<SwarmRow> {
    let mut rows: Vec<SwarmRow> = all.iter().map(|transfer| transfer.row()).collect();
    rows.sort_by(|one, other| {
        let weight = |row: &SwarmRow| (row.progress.rate + row.sent, !row.progress.complete);
        weight(other).cmp(&weight(one)).then_with(|| one.progress.name.cmp(&other.progress.name))
    });
    rows.truncate(MAX_SWARMS);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: u64, cpu: f64, origin: u64, from_rack: u64) -> Sample {
        let traffic = Traffic { from_origin: origin, ..Traffic::default() };
        let tiers = [[0, from_rack, 0, 0, 0], [0; 5]];
        Sample { at: Moment::ZERO + Duration::from_secs(seconds), cpu, traffic, tiers }
    }

    #[test]
    fn rates_are_what_was_counted_since_the_last_sample_that_is_old_enough() {
        let sampler = Sampler::default();
        for (seconds, origin) in [(10, 0), (12, 1000), (14, 5000), (16, 6000)] {
            sampler.add(sample(seconds, 1.0, origin, 0));
        }
        let now = sample(16, 2.0, 6000, 300);
        let (cpu, rates) = now.since(&sampler.before(now.at));
        assert_eq!((cpu, rates.origin, rates.received.rack, rates.received.sum()), (0.5, 500, 150, 150));
        assert_eq!(sampler.0.lock().len(), KEPT);
    }

    #[test]
    fn the_first_look_of_all_is_an_average_since_the_start() {
        let now = sample(4, 1.0, 4000, 0);
        let (cpu, rates) = now.since(&Sampler::default().before(now.at));
        assert_eq!((cpu, rates.origin), (0.25, 1000));
    }
}
