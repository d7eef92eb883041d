//! Costs of processes: CPU time and memory as the kernel counts them, and how busy the machine was.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// CPU time and memory of processes, looked at now and then; what ended since the last look counts as it was seen then.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<u32, ProcessUsage>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ProcessUsage {
    /// CPU seconds before the race.
    before: f64,
    now: f64,
    peak: u64,
}

impl Ledger {
    /// CPU that these processes used until now is not the race's.
    pub(crate) fn open(processes: &[u32]) -> Self {
        let mut ledger = Self::default();
        for &id in processes {
            let before = cpu_seconds(id).unwrap_or_default();
            ledger.entries.insert(id, ProcessUsage { before, now: before, peak: 0 });
        }
        ledger
    }

    /// Looks at processes.
    pub(crate) fn look(&mut self, processes: &[u32]) {
        for &id in processes {
            let entry = self.entries.entry(id).or_default();
            entry.now = cpu_seconds(id).unwrap_or(0.0).max(entry.now);
            entry.peak = peak_memory(id).unwrap_or(0).max(entry.peak);
        }
    }

    /// CPU seconds, user and system, of all.
    pub(crate) fn cpu(&self) -> f64 {
        self.entries.values().map(|entry| entry.now - entry.before).sum()
    }

    /// CPU seconds, user and system, of one.
    pub(crate) fn cpu_of(&self, id: u32) -> f64 {
        self.entries.get(&id).map_or(0.0, |entry| entry.now - entry.before)
    }

    /// Most bytes resident in any one process.
    pub(crate) fn peak(&self) -> u64 {
        self.entries.values().map(|entry| entry.peak).max().unwrap_or(0)
    }
}

/// True if a process has ended; it may still wait for its parent to ask.
pub(crate) fn has_ended(id: u32) -> bool {
    stat(id).is_none_or(|fields| fields.starts_with(['Z', 'X']))
}

/// `/proc/PID/stat` from the state on: the program's name before it may hold anything.
fn stat(id: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.to_owned())
}

fn cpu_seconds(id: u32) -> Option<f64> {
    let fields = stat(id)?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn peak_memory(id: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The machine's CPU time since it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineTime {
    idle: u64,
    all: u64,
}

impl MachineTime {
    /// Reads `/proc/stat`.
    pub(crate) fn now() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").context("read /proc/stat")?)
    }

    fn parse(text: &str) -> Result<Self> {
        let line =
            text.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat has no cpu line")?;
        // user nice system idle iowait irq softirq steal; guests are counted in user.
        let times: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { idle: times[3] + times[4], all: times.iter().sum() })
    }

    /// Share of all cores' time that was busy since `earlier`.
    pub(crate) fn busy_since(self, earlier: Self) -> f64 {
        let all = (self.all - earlier.all).max(1) as f64;
        1.0 - (self.idle - earlier.idle) as f64 / all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_is_counted() {
        let own = [std::process::id()];
        let mut ledger = Ledger::open(&own);
        let machine = MachineTime::now().unwrap();
        let mut number = 0_u64;
        while ledger.cpu() < 0.1 {
            for _ in 0..1_000_000 {
                number = std::hint::black_box(number.wrapping_mul(31).wrapping_add(7));
            }
            ledger.look(&own);
        }
        assert!(ledger.peak() > 1 << 20, "{ledger:?}");
        assert!(MachineTime::now().unwrap().busy_since(machine) > 0.0);
        assert!(!has_ended(own[0]));
    }

    #[test]
    fn waiting_for_a_disk_is_not_busy() {
        let time = |text: &str| MachineTime::parse(text).unwrap();
        let (before, after) = (time("cpu  0 0 0 0 0 0 0 0 0 0\n"), time("cpu  10 0 10 60 20 0 0 0 5 0\n"));
        assert!((after.busy_since(before) - 0.2).abs() < 1e-9);
    }
}
