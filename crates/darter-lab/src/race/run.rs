//! One race: all begin, some may die, and when the last is done everything is counted and checked.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use darter_core::{Clock, SystemClock};
use darter_scenario::{Event, Scenario};

use crate::link::Traffic;
use crate::race::account::{Ledger, MachineTime};
use crate::race::content::Content;
use crate::race::course::Testbed;
use crate::race::kind::MethodKind;
use crate::race::method::Method;
use crate::race::row::Row;
use crate::reserve::Reserve;

/// How often is looked whether somebody is done.
const GLANCE: Duration = Duration::from_millis(20);
/// How often progress is noted, and agents are asked.
const SAMPLE: Duration = Duration::from_millis(200);
/// Blobs of a node that may be asked about in each sample.
const BLOBS_A_SAMPLE: u32 = 8;
/// A method that needs more than this many times T* is given up.
const GIVE_UP_FACTOR: f64 = 14.0;
/// Nobody is given up sooner.
const GIVE_UP_FLOOR: f64 = 120.0;
/// Seconds within which memory is freed where no cable says how long it takes.
const MIN_FREEING: f64 = 3.0;

/// A node in a race.
#[derive(Clone, Debug, Default)]
struct Runner {
    begun: Option<f64>,
    finished: Option<f64>,
    killed: bool,
    curve: Vec<(f64, f64)>,
}

/// Counters of all cables.
struct Meters {
    seed: Traffic,
    nodes: Vec<Traffic>,
    rack: Traffic,
}

impl Meters {
    fn read(course: &Testbed<'_>) -> Result<Self> {
        Ok(Self {
            seed: course.seed.traffic()?,
            nodes: course.nodes.iter().map(|host| host.traffic()).collect::<Result<_>>()?,
            rack: course.rack.as_ref().map(|rack| rack.traffic()).transpose()?.unwrap_or_default(),
        })
    }
}

/// Runs one method over one scenario, on hosts of their own.
pub fn race(scenario: &Scenario, content: &Content, kind: MethodKind) -> Result<Row> {
    let kills = kills(scenario)?;
    let course = Testbed::build(scenario, content)?;
    let mut method = kind.start(&course).with_context(|| format!("start {kind}"))?;
    // Each node stores the content, once or twice, and so does the seed.
    let reserve = Reserve::gather(scenario.size() * u64::from(scenario.nodes * kind.writes() + 1))?;
    let origin_before = method.origin_sent()?;
    let before = Meters::read(&course)?;
    let mut ledger = Ledger::open(&method.processes());
    let machine = MachineTime::now()?;
    reserve.free_within(Duration::from_secs_f64(scenario.bound()?.max(MIN_FREEING)));
    let runners = run(&course, kills, method.as_mut(), &mut ledger)?;
    let busy = MachineTime::now()?.busy_since(machine);
    ledger.look(&method.processes());
    let after = Meters::read(&course)?;
    let origin_sent = method.origin_sent()?;

    let mut row = Row::new(scenario, kind)?;
    let size = scenario.size() as f64;
    let copies = |after: u64, before: u64| (after - before) as f64 / size;
    let mut delivered = 0;
    for (node, runner) in runners.iter().enumerate() {
        row.curves.push(runner.curve.clone());
        if runner.killed {
            continue;
        }
        row.wanted += 1;
        let (Some(begun), Some(finished)) = (runner.begun, runner.finished) else { continue };
        row.finished.push(finished);
        if row.bound > 0.0 {
            let own = (finished - begun) / scenario.own_bound(node)?;
            row.own_ratios.push(own);
            if !scenario.has_own_cable(node) {
                row.others_ratio = Some(row.others_ratio.map_or(own, |worst| worst.max(own)));
            }
        }
        if method.is_right(node)? {
            row.right += 1;
        }
        delivered += 1;
    }
    row.finished.sort_by(f64::total_cmp);
    row.own_ratios.sort_by(f64::total_cmp);
    row.origin_copies = (origin_sent - origin_before) as f64 / size;
    row.seed_copies = copies(after.seed.sent, before.seed.sent);
    let received: f64 =
        after.nodes.iter().zip(&before.nodes).map(|(after, before)| copies(after.received, before.received)).sum();
    row.received_per_node = received / f64::from(scenario.nodes);
    row.link_copies = course.rack.as_ref().map(|_| copies(after.rack.received, before.rack.received));
    row.cpu_per_gb = ledger.cpu() / (f64::from(delivered.max(1)) * size / 1e9);
    row.peak_memory = ledger.peak();
    row.busy = busy;
    row.lag = method.lag()?;
    Ok(row)
}

fn run(
    course: &Testbed<'_>,
    mut kills: Vec<(Duration, u32)>,
    method: &mut dyn Method,
    ledger: &mut Ledger,
) -> Result<Vec<Runner>> {
    let scenario = course.scenario;
    let bound = scenario.bound()?;
    let give_up = (bound * GIVE_UP_FACTOR).max(GIVE_UP_FLOOR);
    let sample = SAMPLE * scenario.blobs.div_ceil(BLOBS_A_SAMPLE);
    let mut runners = vec![Runner::default(); course.nodes.len()];
    let arrivals = (0..runners.len()).map(|node| scenario.arrival(node)).collect::<Result<Vec<_>>>()?;
    let clock = SystemClock::start();
    let start = clock.now();
    let mut sampled = None;
    loop {
        let now = clock.now().since(start);
        let seconds = now.as_secs_f64();
        for (node, runner) in runners.iter_mut().enumerate() {
            if runner.begun.is_none() && arrivals[node] <= now {
                runner.begun = Some(clock.now().since(start).as_secs_f64());
                method.begin(node)?;
            }
        }
        kills.retain(|(at, node)| {
            let due = now >= *at;
            if due {
                // A victim's costs end here, and are not forgotten.
                ledger.look(&method.processes());
                let victim = (*node as usize).checked_sub(1);
                method.kill(victim);
                if let Some(node) = victim {
                    runners[node].killed = runners[node].finished.is_none();
                }
            }
            !due
        });
        let samples = sampled.is_none_or(|last| now - last >= sample);
        if samples {
            sampled = Some(now);
            ledger.look(&method.processes());
        }
        if samples || !method.looks_disturb() {
            look(method, &mut runners, samples, || clock.now().since(start).as_secs_f64())?;
        }
        if runners.iter().all(|runner| runner.finished.is_some() || runner.killed) || seconds > give_up {
            return Ok(runners);
        }
        thread::sleep(GLANCE);
    }
}

/// When whom dies.
///
/// # Errors
/// For events that only virtual time can play.
fn kills(scenario: &Scenario) -> Result<Vec<(Duration, u32)>> {
    let kill = |(at, event)| match event {
        Event::Kill(node) => Ok((at, node)),
        other => {
            bail!("the laboratory kills and has nodes come late; `{}` is for cargo sim {}", other.word(), scenario.name)
        }
    };
    scenario.timeline()?.into_iter().map(kill).collect()
}

/// Looks at who runs; notes how far each is when `samples`.
fn look(method: &mut dyn Method, runners: &mut [Runner], samples: bool, now: impl Fn() -> f64) -> Result<()> {
    for (node, runner) in runners.iter_mut().enumerate() {
        let Some(begun) = runner.begun.filter(|_| runner.finished.is_none() && !runner.killed) else { continue };
        let Some(look) = method.look(node)? else { continue };
        let seconds = now();
        if look.done {
            let finished = look.seconds.map_or(seconds, |own| begun + own);
            runner.finished = Some(finished);
            runner.curve.push((finished, look.held as f64));
        } else if samples {
            runner.curve.push((seconds, look.held as f64));
        }
    }
    Ok(())
}
