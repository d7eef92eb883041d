//! The resources that this process uses, under the names that all Prometheus clients share (`process_…`), read when
//! somebody asks.
//!
//! Source: `/proc/self` (proc(5)). A figure that the system does not tell is left out.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

/// A process's use of resources at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory in bytes; 0 where the system does not tell.
    pub resident_bytes: u64,
    /// Address space in bytes; 0 where the system does not tell.
    pub virtual_bytes: u64,
    /// User and system time so far.
    pub cpu_seconds: f64,
}

impl Usage {
    /// Of this process, now.
    pub fn now() -> Self {
        let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut pages = pages.split(' ').map(|pages| pages.parse::<u64>().unwrap_or_default());
        let mut bytes = || pages.next().unwrap_or_default() * rustix::param::page_size() as u64;
        let (virtual_bytes, resident_bytes) = (bytes(), bytes());
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self { resident_bytes, virtual_bytes, cpu_seconds: spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9 }
    }
}

/// Reads the figures for each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    /// When the process started, in Unix seconds.
    started: u64,
}

impl ProcessCollector {
    /// The figures of a process that started at this date, in seconds since 1970.
    pub(super) const fn new(started: u64) -> Self {
        Self { started }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let usage = Usage::now();
        let cpu = ConstCounter::new(usage.cpu_seconds);
        let help = "Total user and system CPU time spent in seconds";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu_type())?)?;
        let descriptors = fs::read_dir("/proc/self/fd").ok().map(|open| open.count() as u64);
        let threads = fs::read_dir("/proc/self/task").ok().map(|threads| threads.count() as u64);
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory size in bytes", Some(usage.resident_bytes)),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes", Some(usage.virtual_bytes)),
            (
                "process_start_time_seconds",
                "Start time of the process since the Unix epoch in seconds",
                Some(self.started),
            ),
            ("process_open_fds", "Number of open file descriptors", descriptors),
            ("process_max_fds", "Maximum number of open file descriptors", getrlimit(Resource::Nofile).current),
            ("process_threads", "Number of threads", threads),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge_type())?)?;
        }
        Ok(())
    }
}

const fn cpu_type() -> prometheus_client::metrics::MetricType {
    prometheus_client::metrics::MetricType::Counter
}

const fn gauge_type() -> prometheus_client::metrics::MetricType {
    prometheus_client::metrics::MetricType::Gauge
}
