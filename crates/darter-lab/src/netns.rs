//! Hosts on one switch, each in a network namespace of its own.
//!
//! The switch is a bridge in a namespace too, so the machine's own network never sees the laboratory: the hosts have no
//! route out, and two runs may use the same addresses at the same time. Names carry this process's id and a counter.
//!
//! Hosts know each other's hardware addresses from the start. The kernel's table of those that it learns has room for 1,024, in all
//! namespaces together, which thirty-two hosts that all talk to each other fill; behind that packets are dropped for seconds. Entries that are set by
//! hand are not counted.
//!
//! Cleaning up: dropping a [`Host`] ends every process left in its namespace (container shims outlive their engine)
//! before it deletes the namespace. A run that was killed can't do that, so [`Network::new`] first sweeps namespaces whose
//! process is gone.
//!
//! Every command runs with private mounts: an engine's overlays vanish with it. `nsenter` and `unshare` replace themselves
//! with the program, so that the pid is the program's own. `ip netns exec` is not used because it hides the machine's
//! `/sys/fs/cgroup`, without which runc starts no container.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use darter_core::Rate;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::link::{Link, Traffic, shaper};
use crate::place::runs_directory;
use crate::process::{Process, wait_until};

/// The beginning of every namespace's name.
const PREFIX: &str = "darter-lab-";
/// A host's end of its cable.
const CABLE: &str = "cable0";
/// Loss and queues are as usual in data centres, whatever this machine prefers.
const CONGESTION_CONTROL: &str = "cubic";
/// The bridge in the switch's namespace.
const BRIDGE: &str = "switch0";
/// The subnet of a switch's hosts.
const SUBNET: &str = "10.77.0.0/24";
/// Hosts on a switch, at most.
const MAX_HOSTS: u32 = 254;
/// How long a mount may take.
const HOLD_TIMEOUT: Duration = Duration::from_secs(60);
/// A rack's end of its link to the first switch.
const UPLINK: &str = "uplink0";

/// A switch, and a directory for all that its hosts write.
#[derive(Debug)]
pub struct Network {
    name: String,
    switch: Namespace,
    hosts: AtomicU32,
    directory: PathBuf,
}

impl Network {
    /// A switch without hosts.
    pub fn new() -> Result<Self> {
        Self::below(&runs_directory()?)
    }

    /// A switch without hosts; what its hosts write goes below `parent`.
    pub fn below(parent: &Path) -> Result<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(1);
        sweep(parent);
        let name = format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let directory = parent.join(&name);
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let switch = Namespace::create(format!("{PREFIX}{name}-switch"))?;
        let network = Self { name, switch, hosts: AtomicU32::new(0), directory };
        network.switch.add_bridge()?;
        let neighbours: String = (1..=MAX_HOSTS).map(neighbour).collect();
        fs::write(network.neighbours(), neighbours).context("write the hosts' hardware addresses")?;
        Ok(network)
    }

    /// A rack: a second switch, joined to the first by a link of this rate each way.
    pub fn rack(&self, name: &str, rate: Rate) -> Result<Rack> {
        let switch = Namespace::create(format!("{PREFIX}{}-{name}", self.name))?;
        switch.add_bridge()?;
        let far = format!("rack-{name}");
        connect(&switch.name, UPLINK, &self.switch.name, &far)?;
        switch.ip(&["link", "set", UPLINK, "master", BRIDGE, "up"])?;
        self.switch.ip(&["link", "set", &far, "master", BRIDGE, "up"])?;
        for (namespace, interface) in [(&switch.name, UPLINK), (&self.switch.name, far.as_str())] {
            shape(namespace, interface, Some(rate)).with_context(|| format!("shape the uplink of {name}"))?;
        }
        Ok(Rack { switch })
    }

    /// Plugs in a host with the next free address.
    pub fn host(&self, name: &str) -> Result<Host> {
        self.plug_in(name, &self.switch)
    }

    /// Plugs a host with the next free address into a rack's switch.
    pub fn host_in(&self, rack: &Rack, name: &str) -> Result<Host> {
        self.plug_in(name, &rack.switch)
    }

    fn plug_in(&self, name: &str, switch: &Namespace) -> Result<Host> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(number <= MAX_HOSTS, "a switch has room for {MAX_HOSTS} hosts");
        let address = address_of(number);
        let namespace = Namespace::create(format!("{PREFIX}{}-{name}", self.name))?;
        let port = format!("port{number}");
        connect(&namespace.name, CABLE, &switch.name, &port)?;
        switch.ip(&["link", "set", &port, "master", BRIDGE, "up"])?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        namespace.ip(&["address", "add", &format!("{address}/24"), "dev", CABLE])?;
        namespace.ip(&["link", "set", CABLE, "address", &hardware_address_of(number), "up"])?;
        namespace.ip(&["-batch", &self.neighbours().display().to_string()])?;
        let directory = self.directory.join(name);
        let logs = directory.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
        let switch = switch.name.clone();
        let host = Host {
            name: name.to_owned(),
            namespace,
            switch,
            port,
            address,
            directory,
            logs,
            started: AtomicU32::new(0),
        };
        host.set_congestion_control(CONGESTION_CONTROL)?;
        Ok(host)
    }

    fn neighbours(&self) -> PathBuf {
        self.directory.join("neighbours")
    }

    /// The directory of the hosts' directories.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::env::var_os("DARTER_LAB_KEEP").is_none() {
            // A directory that can't be removed is in nobody's way.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// A switch that is joined to a network's first one by a shaped link.
#[derive(Debug)]
pub struct Rack {
    switch: Namespace,
}

impl Rack {
    /// Bytes that crossed the link between this rack and the rest: received by the rack, sent by it.
    pub fn traffic(&self) -> Result<Traffic> {
        Traffic::parse(&self.switch.ip(&["-json", "-statistics", "link", "show", "dev", UPLINK])?)
    }
}

/// A host: a network namespace with one cable, and a directory for what it keeps.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: Namespace,
    switch: String,
    port: String,
    address: Ipv4Addr,
    directory: PathBuf,
    logs: PathBuf,
    started: AtomicU32,
}

impl Host {
    /// The host's name on its network.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A name that no other host on this machine has.
    pub fn unique_name(&self) -> &str {
        &self.namespace.name
    }

    /// The host's address on its network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The directory of the host's files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Creates a directory of this name below the host's own.
    pub fn make_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// A command that runs on this host, with mounts of its own. Proxies of the machine are not the host's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter_with(&["--", "unshare", "--mount", "--propagation", "private", "--"], program.as_ref())
    }

    /// A command that runs on this host with the mounts of one of its processes: a file that one of them hands to the other can be linked.
    pub fn command_beside(&self, process: u32, program: impl AsRef<OsStr>) -> Command {
        self.enter_with(&[&format!("--mount=/proc/{process}/ns/mnt"), "--"], program.as_ref())
    }

    fn enter_with(&self, arguments: &[&str], program: &OsStr) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.path().display())).args(arguments).arg(program);
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
    }

    /// Ends every process of this host at once, as a power cut does: with them go its mounts. Its disk stays as it is.
    pub fn end_all(&self) -> Result<()> {
        wait_until(&format!("all processes of {} to end", self.name), HOLD_TIMEOUT, || {
            Ok(kill_inside(&self.namespace.name)? == 0)
        })
    }

    /// Starts a process that holds mounts of the host's own, for commands [beside](Self::command_beside) it: they outlive each of those. The
    /// directory in which runc and shims keep notes of containers is among them.
    pub fn hold_mounts(&self) -> Result<Process> {
        const HOLD: &str =
            "mkdir -p /run/containerd; mount -t tmpfs -o mode=700 tmpfs /run/containerd; exec sleep 1000000";
        let anchor = self.spawn("anchor", self.command("sh").args(["-euc", HOLD]))?;
        // Before it is what it becomes, its mounts are not all there.
        let name = format!("/proc/{}/comm", anchor.id());
        wait_until("a process to hold a host's mounts", HOLD_TIMEOUT, || {
            let name = fs::read_to_string(&name).with_context(|| anchor.tail())?;
            Ok(name.trim() == "sleep")
        })?;
        Ok(anchor)
    }

    /// Starts a [`Host::command`]; its output goes to numbered files in the host's `logs`.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        Process::spawn(command, &format!("{number:03}-{name}"), &self.logs).with_context(|| format!("on {}", self.name))
    }

    /// Runs a [`Host::command`] to its end and gives its standard output.
    pub fn run(&self, name: &str, command: &mut Command, patience: Duration) -> Result<String> {
        self.spawn(name, command)?.finish(patience).with_context(|| format!("on {}", self.name))
    }

    /// Runs `work` on this host: in its network namespace, on a thread of its own.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(self.namespace.path()).with_context(|| format!("open {}", self.name))?;
        let enter = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("enter {}", self.name))?;
            work()
        };
        thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Sets the rates of the host's cable.
    pub fn shape(&self, link: Link) -> Result<()> {
        let ends = [(&self.namespace.name, CABLE, link.up), (&self.switch, self.port.as_str(), link.down)];
        for (namespace, interface, rate) in ends {
            shape(namespace, interface, rate).with_context(|| format!("shape the cable of {}", self.name))?;
        }
        Ok(())
    }

    /// Pulls the host's cable out of its switch, or plugs it in again.
    pub fn plug(&self, is_in: bool) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-netns", &self.switch, "link", "set", &self.port, if is_in { "up" } else { "down" }]);
        run(&mut command).map(drop).with_context(|| format!("plug the cable of {}", self.name))
    }

    /// Sets how the host's TCP reacts to loss, such as `cubic`, whatever the machine prefers, on its cable and within the host. By
    /// route, because a namespace's own setting knows only what the machine allows to everybody.
    fn set_congestion_control(&self, algorithm: &str) -> Result<()> {
        let own = self.address.to_string();
        let cable = ["route", "change", SUBNET, "dev", CABLE, "proto", "kernel", "scope", "link", "src", &own];
        let within = |destination| {
            let local = ["route", "change", "local", destination, "dev", "lo", "table", "local", "proto", "kernel"];
            [&local[..], &["scope", "host", "src", "127.0.0.1"]].concat()
        };
        for route in [cable.to_vec(), within("127.0.0.0/8"), within("127.0.0.1")] {
            let route = [&route[..], &["congctl", algorithm]].concat();
            self.namespace.ip(&route).with_context(|| format!("let {} use {algorithm}", self.name))?;
        }
        Ok(())
    }

    /// Lets the host's TCP hand on at least this many segments at a time, where it has them. By itself it cuts what a slow cable
    /// takes in a millisecond, two segments or so, and on one machine all hosts' packets cost the same few cores.
    pub fn set_least_segments(&self, segments: u32) -> Result<()> {
        let set = format!("net.ipv4.tcp_min_tso_segs={segments}");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace.name, "sysctl", "--quiet", "--write", &set]);
        run(&mut command).map(drop).with_context(|| format!("set the segments of {}", self.name))
    }

    /// Bytes that crossed the host's cable so far.
    pub fn traffic(&self) -> Result<Traffic> {
        Traffic::parse(&self.namespace.ip(&["-json", "-statistics", "link", "show", "dev", CABLE])?)
    }
}

/// Files below this directory that are behind loop devices of this machine.
pub fn loop_devices(below: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for device in fs::read_dir("/sys/block").context("list block devices")?.flatten() {
        // Most have none, and one may go just now.
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        files.extend(Some(PathBuf::from(file.trim_end())).filter(|file| file.starts_with(below)));
    }
    Ok(files)
}

fn address_of(host: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 0, 0).to_bits() + host)
}

/// A locally administered one.
fn hardware_address_of(host: u32) -> String {
    format!("02:00:00:00:00:{host:02x}")
}

/// The line of a batch for `ip` that makes a host known.
fn neighbour(host: u32) -> String {
    let (address, hardware) = (address_of(host), hardware_address_of(host));
    format!("neighbour replace {address} lladdr {hardware} dev {CABLE} nud permanent\n")
}

/// A cable between two namespaces.
fn connect(namespace: &str, interface: &str, other: &str, far: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["link", "add", "name", interface, "netns", namespace, "type", "veth"]);
    command.args(["peer", "name", far, "netns", other]);
    run(&mut command).map(drop)
}

fn shape(namespace: &str, interface: &str, rate: Option<Rate>) -> Result<()> {
    let mut command = Command::new("tc");
    command.args(["-netns", namespace, "qdisc", "replace", "dev", interface, "root"]);
    match rate {
        Some(rate) => command.args(shaper(rate)),
        None => command.arg("pfifo"),
    };
    run(&mut command).map(drop)
}

/// A named network namespace; deleted when dropped, after every process in it was ended.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Namespace {
    fn create(name: String) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Self { name })
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Makes this namespace a switch.
    fn add_bridge(&self) -> Result<()> {
        self.ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        self.ip(&["link", "set", BRIDGE, "up"])?;
        self.switch_without_filters()
    }

    /// On a machine with container engines, packets on bridges may go through the machine's packet filter. The laboratory has
    /// none, and the way there would cost CPU.
    fn switch_without_filters(&self) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "sysctl", "--quiet", "--ignore", "--write"]);
        command
            .args(["iptables", "ip6tables", "arptables"].map(|filter| format!("net.bridge.bridge-nf-call-{filter}=0")));
        run(&mut command).map(drop).with_context(|| format!("let {} switch without filters", self.name))
    }

    /// Runs `ip` in this namespace and gives what it printed.
    fn ip(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new("ip").args(["-netns", &self.name]).args(arguments))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Ends every process in a namespace of this crate's making, then deletes it. Does what it can: it also runs after a panic.
fn remove(name: &str) {
    // A process that is left over keeps nobody from going on.
    let _ = kill_inside(name);
    if let Err(error) = run(Command::new("ip").args(["netns", "delete", name])) {
        eprintln!("{name} stays behind: {error:#}");
    }
}

/// Kills every process in a namespace, and tells how many there were.
fn kill_inside(name: &str) -> Result<usize> {
    let inside = run(Command::new("ip").args(["netns", "pids", name]))?;
    let mut count = 0;
    for id in inside.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
        // A process that ended by itself, or was killed and is waited for by nobody yet, counts as gone.
        let state = fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).unwrap_or_default();
        let is_dead = state.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'));
        if !is_dead {
            let _ = kill_process(id, Signal::KILL);
            count += 1;
        }
    }
    Ok(count)
}

/// Removes what runs left behind that were killed before they could clean up.
fn sweep(runs: &Path) {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let file = entry.file_name();
        let Some(name) = file.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let owner = name[PREFIX.len()..].split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            remove(name);
        }
    }
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let owner = file.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
