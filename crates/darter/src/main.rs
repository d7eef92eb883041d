//! `darter`, the command: parse, configure, build, run, drain. Each command lives in its module; this file only
//! chooses.
//!
//! | file | what lives there |
//! |---|---|
//! | `cli` | the command line's one definition |
//! | `config` | flags, environment, file and defaults, and where each value came from |
//! | `serve`, `notify` | `up`, `seed`, `node`, and what systemd is told of them |
//! | `get` | `get` |
//! | `mount` | `mount`, `unmount`, and the process that keeps a mount |
//! | `lazy` | the process that keeps a directory of layers, and the code that starts it |
//! | `snapshotter` | `snapshotter` |
//! | `show` | `status`, `ls`, `rm`, `pin`, `unpin`, `explain` |
//! | `top` | `top` |
//! | `image` | `image` |
//! | `setup` | `setup` |
//! | `doctor` | `doctor` |
//! | `demo` | `demo` |
//! | `pages` | `completions`, `man` |
//! | `failure`, `output`, `stderr`, `logging`, `signals`, `table`, `units`, `glyphs` | exit codes, streams, signals, and words for people |

mod cli;
mod config;
mod demo;
mod doctor;
mod failure;
mod get;
mod glyphs;
mod image;
mod lazy;
mod logging;
mod mount;
mod notify;
mod output;
mod pages;
mod serve;
mod setup;
mod show;
mod signals;
mod snapshotter;
mod stderr;
mod table;
mod top;
mod units;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use darter_agent::options::Role;

use self::cli::{Command, ConfigArgs, ConfigRole};
use self::config::{Configured, NotConfigured};
use self::failure::Failure;

/// How long blocking work may delay the exit of a command that has ended or failed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    darter_kernel::signal::ignore_file_size_limit();
    let arguments = cli::arguments(std::env::args_os());
    // A program that passed `--json` gets JSON even if the rest of the command line can't be parsed.
    let json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let configured = match Configured::from_arguments(&arguments) {
        Ok(configured) => configured,
        // clap reports help and version as errors, too: it knows the stream and the exit code of each.
        Err(NotConfigured::Clap(error)) if !(json && error.use_stderr()) => {
            let text = config::text_of(&error);
            // If the reader has closed the stream, there is nobody to tell.
            let _ = if error.use_stderr() {
                anstream::stderr().write_all(text.as_bytes())
            } else {
                anstream::stdout().write_all(text.as_bytes())
            };
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        Err(NotConfigured::Clap(error)) => return report(&Failure::Usage(cli::in_one_line(&error)).into(), json),
        Err(NotConfigured::File(error)) => return report(&Failure::from(error).into(), json),
    };
    logging::start(&configured.cli.command);
    let json = configured.cli.command.wants_json();
    let ended = start(configured);
    logging::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, json),
    }
}

fn start(configured: Configured) -> anyhow::Result<()> {
    let workers = workers();
    // Commands that ask a daemon need one more thread: it looks up names and reads files.
    let besides = if configured.cli.command.log().is_some() { SPARE_THREADS } else { 1 };
    can_start_threads(workers + besides).context(
        "can't start the threads that this command needs: raise the limit of processes (ulimit -u, TasksMax= in a unit file, \
         --pids-limit of a container)",
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let result = runtime.block_on(run(configured));
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    result
}

/// Threads that an agent needs besides those that run tasks: some for disk work, and one that flushes the store.
const SPARE_THREADS: usize = 4;

/// True if `count` threads can be started at once. A runtime that gets fewer panics, or waits for them without end.
fn can_start_threads(count: usize) -> std::io::Result<()> {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let start = |_| {
        let held = std::sync::Arc::clone(&held);
        std::thread::Builder::new().spawn(move || {
            // Until `hold` is dropped, one thread waits in `recv` and the others wait for the lock.
            let _ = held.lock().map(|held| held.recv());
        })
    };
    let threads: Result<Vec<_>, _> = (0..count).map(start).collect();
    drop(hold);
    threads.map(|threads| {
        for thread in threads {
            // The thread's code can't fail.
            let _ = thread.join();
        }
    })
}

/// How many threads run tasks: at most half of the cores, since other programs of the host need the rest, and at most four. Hashing and
/// writing have threads of their own. Fewer threads wake each other, and take each other's tasks, less often: on two cores, eight
/// nodes at 800 Mbit/s take 8 % less CPU with one thread each than with two.
fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).clamp(1, 4)
}

async fn run(configured: Configured) -> anyhow::Result<()> {
    match &configured.cli.command {
        Command::Up(_) | Command::Seed(_) | Command::Node(_) => serve::run(&configured).await,
        Command::Get(args) => get::run(args).await,
        Command::Mount(args) => mount::run(args, &configured).await,
        Command::Unmount(args) => mount::unmount(args).await,
        Command::KeepMount(_) => mount::keep().await,
        Command::OpenFiles(args) => mount::open(&args.files).await,
        Command::LazyDir(args) => lazy::keep(args).await,
        Command::Snapshotter(args) => snapshotter::run(args).await,
        Command::Ls(args) => show::list(args).await,
        Command::Rm(args) => show::remove(args).await,
        Command::Pin(args) => show::pin(args, true).await,
        Command::Unpin(args) => show::pin(args, false).await,
        Command::Status(args) => show::status(args).await,
        Command::Explain(args) => show::explain(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Image(args) => image::run(args).await,
        Command::Setup(args) => setup::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Config(args) => print_configuration(&configured, args),
        Command::Completions(args) => pages::completions(args),
        Command::Man(args) => pages::man(args),
        Command::Demo(args) => demo::run(args).await,
    }
}

/// Prints the configuration, after checking it as the agent would.
fn print_configuration(configured: &Configured, args: &ConfigArgs) -> anyhow::Result<()> {
    let role = match args.role {
        ConfigRole::Seed => Role::Seed,
        ConfigRole::Node => Role::Node,
    };
    args.agent.options(role, &args.join.join)?;
    let secrets = args.write_secrets.as_deref();
    let effective = configured.effective(secrets);
    if let Some(directory) = secrets {
        config::write(directory, &effective.secrets)?;
    }
    let lacking = config::not_there(&effective.secrets);
    if !lacking.is_empty() {
        let files = lacking.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        output::complain(&format!(
            "note: secrets are not printed, and the files that are named in their place do not hold them yet: {files}; \
             write them, or let --write-secrets DIR do it"
        ));
    }
    if args.json { output::json(&effective.to_json()) } else { output::text(&effective.to_toml()) }
}

/// Reports an error in one line: as JSON if the program asked for JSON, as text otherwise.
fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let code = Failure::exit_code(error);
    let reader_left = Failure::is_reader_left(error);
    if (code != 0 || reader_left) && !Failure::is_told(error) {
        let told = json && output::json(&failure::problem(error)).is_ok();
        if !told && !reader_left {
            output::complain(&format!("{STRONG}error:{STRONG:#} {}", failure::line(error)));
        }
    }
    if let Some(signal) = Failure::signal(error) {
        // This returns only if the process can't be ended by a signal, as the first process of a container; then the exit code names the signal as a shell would.
        let _ = darter_kernel::signal::end_by(signal);
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(code));
    }
    ExitCode::from(code)
}

const STRONG: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();
