//! Help, version and usage errors: what the program says without doing anything.

use crate::support::{Room, Running};

#[test]
fn every_command_explains_itself() {
    let room = Room::new();
    let top = room.run("--help").succeeded();
    let (_, listed) = top.text().split_once("Commands:\n").unwrap();
    let listed = listed.split("\n\n").next().unwrap().lines();
    // A line that goes on with a command's text is indented further.
    let listed = listed.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let commands: Vec<_> = listed.map(|line| line.split(' ').next().unwrap()).filter(|it| *it != "help").collect();
    assert!(commands.len() > 20 && commands.contains(&"mount"), "{commands:?}");
    for command in commands {
        let help = room.run(&format!("{command} --help")).succeeded();
        assert!(help.text().contains(&format!("Usage: darter {command}")), "{}", help.text());
    }
    assert!(room.run("demo -- --help").succeeded().text().contains("Usage: darter demo"));
    assert!(room.run("--version").succeeded().text().starts_with("darter 0."));
}

#[test]
fn wrong_usage_exits_with_two() {
    let room = Room::new();
    for line in [
        "",
        "fetch",
        "get",
        "get example.org/x",
        "up --upload-limit fast",
        "node",
        "get http://a/",
        "get http://a/b -o /nowhere/b",
        "get http://a/b --range 5-2",
        "get http://a/b --range 1-2,4-5",
        "get http://a/b --range -0",
        "top --interval 5ms",
        "top --once --json",
        "image",
        "image expand layer.tar",
    ] {
        let outcome = room.run(line);
        assert_eq!(outcome.code, Some(2), "{line:?}: {}", outcome.err);
        // With --json, the error is JSON, too.
        assert!(!outcome.err.is_empty() || outcome.json()["error"].is_string(), "{line:?}");
    }
}

#[test]
fn a_bad_file_is_one_line_with_its_place() {
    let room = Room::new();
    let file = room.path("f.toml");
    std::fs::write(&file, "quota = \"1GB\"\nuplaod-limit = \"1MB/s\"\n").unwrap();
    let told = format!("{}:2: unknown key \"uplaod-limit\"; did you mean \"upload-limit\"?", file.display());
    for command in ["up", "seed", "node --join a:1", "ls", "config"] {
        room.run(&format!("{command} --config {}", file.display())).failed_with(2, &[&told]);
    }
}

#[test]
fn config_tells_where_each_value_came_from() {
    let room = Room::new();
    let file = room.path("f.toml");
    std::fs::write(&file, "\nquota = \"1GB\"\nupload-limit = \"1MB/s\"\n").unwrap();
    let mut command = room.darter(&format!("config --json --local 127.0.0.1:9 --config {}", file.display()));
    command.env("DARTER_UPLOAD_LIMIT", "2MB/s").env("DARTER_JOIN", "a:1,b:2");
    let config = crate::support::Outcome::of(command.output().unwrap()).succeeded().json();
    let setting = |key: &str| (config[key]["value"].clone(), config[key]["from"].as_str().unwrap().to_owned());
    assert_eq!(setting("quota"), ("1GB".into(), format!("{}:2", file.display())));
    assert_eq!(setting("upload-limit"), ("2MB/s".into(), "env DARTER_UPLOAD_LIMIT".into()));
    assert_eq!(setting("join"), (["a:1", "b:2"].as_slice().into(), "env DARTER_JOIN".into()));
    assert_eq!(setting("local"), ("127.0.0.1:9".into(), "flag".into()));
    assert_eq!(setting("insecure"), (false.into(), "default".into()));
    assert_eq!(setting("data-dir").1, "env DARTER_DATA_DIR");
    room.run("config --role node").failed_with(2, &["--join"]);
}

/// A template leaves an empty variable for a value that a host does not have.
#[test]
fn a_variable_that_is_there_and_empty_is_as_none() {
    let room = Room::new();
    let file = room.path("f.toml");
    std::fs::write(&file, "quota = \"1GB\"\n").unwrap();
    let help = room.run("node --help").succeeded();
    let names = help.text().split("[env: ").skip(1).filter_map(|rest| rest.split(']').next());
    let names: Vec<_> = names.filter(|name| !["DARTER_CONFIG", "DARTER_DATA_DIR"].contains(name)).collect();
    assert!(names.len() > 30 && names.contains(&"DARTER_QUOTA"), "{names:?}");
    let config = |empty: bool| {
        let mut command = room.darter(&format!("config --role node --join a:1 --json --config {}", file.display()));
        for name in &names {
            if empty {
                command.env(name, "")
            } else {
                command.env_remove(name)
            };
        }
        crate::support::Outcome::of(command.output().unwrap()).succeeded().json()
    };
    let with = config(true);
    assert_eq!(with, config(false));
    assert_eq!(with["quota"]["value"], "1GB", "the file's counts");
    let mut command = room.darter("node --local 127.0.0.1:1");
    command.env("DARTER_JOIN", "");
    crate::support::Outcome::of(command.output().unwrap()).failed_with(2, &["--join"]);
}

// The output of `darter config` is pasted into reports and kept in repositories.
#[test]
fn config_moves_secrets_into_files_and_says_when_it_did_not() {
    let room = Room::new();
    let (file, dir) = (room.path("f.toml"), room.path("secrets"));
    std::fs::write(&file, "[upstream.reg]\nurl = \"https://me:hidden@reg\"\nproxy = \"http://me:hidden@p\"\n").unwrap();
    let line = format!("config --login a=robot:hidden --config {}", file.display());
    let printed = room.run(&line).succeeded();
    assert!(!printed.text().contains("hidden"), "{}", printed.text());
    assert!(printed.err.contains("reg.login") && printed.err.contains("--write-secrets"));

    let mut to_nobody = room.darter(&line);
    to_nobody.stderr(std::fs::File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(to_nobody.output().unwrap().status.code(), Some(0), "what can't be told is no reason to fail");

    let printed = room.run(&format!("{line} --write-secrets {}", dir.display())).succeeded();
    assert_eq!(printed.err, "");
    for (name, text) in [("reg.login", "me:hidden\n"), ("reg.proxy-login", "me:hidden\n"), ("a.password", "hidden\n")] {
        let path = dir.join(name);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    std::fs::write(&file, printed.text()).unwrap();
    let again = room.run(&format!("config --config {}", file.display())).succeeded();
    assert_eq!(again.err, "");
    assert!(again.text().contains("login-file") && !again.text().contains("hidden"));
}

#[test]
fn without_a_daemon_one_is_told_to_start_it() {
    let room = Room::new();
    for line in ["status", "ls", "rm x", "explain x", "top", "top --once", "top x --interval 1s"] {
        let socket = room.data_dir().join("darter.sock").display().to_string();
        room.run(line).failed_with(1, &["no daemon at", &socket, "darter up"]);
    }
    let told = room.run("status --json");
    assert_eq!(told.code, Some(1));
    assert!(told.json()["error"].as_str().unwrap().contains("no daemon at"));
}

#[test]
fn completions_and_pages_come_for_every_command() {
    let room = Room::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = room.run(&format!("completions {shell}")).succeeded();
        assert!(script.text().contains("upload-limit") && script.text().contains("interval"), "{shell}");
    }
    assert!(room.run("man").succeeded().text().contains(".TH darter 1"));
    room.run("man pages").succeeded();
    for page in ["darter.1", "darter-get.1", "darter-seed.1", "darter-top.1", "darter-setup.1", "darter-doctor.1"] {
        assert!(room.path("out/pages").join(page).exists(), "{page}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let room = Room::new();
    let mut process = Running::start(room.darter("completions zsh"));
    process.close_stdout();
    let outcome = process.ended();
    assert_eq!(outcome.code(), Some(0));
}

#[test]
fn a_process_that_may_have_too_few_threads_says_so() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs a user who runs nothing else");
    }
    let room = Room::new();
    for (most, line) in [(1, "status"), (1, "up"), (2, "up"), (3, "up"), (4, "up"), (2, "get http://127.0.0.1:1/x")] {
        let most = format!("--nproc={most}");
        let limited = ["setpriv", "--reuid=64999", "--regid=64999", "--clear-groups", "prlimit", &most];
        let told = crate::support::Outcome::of(room.darter_by(&limited, line).output().unwrap());
        assert!(told.err.contains("ulimit -u") && !told.err.contains("panicked"), "{line}, {most}: {told:?}");
        assert!(matches!(told.code, Some(1 | 75)), "{line}, {most}: {told:?}");
    }
}
