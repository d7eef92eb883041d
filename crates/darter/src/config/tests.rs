//! Precedence of flags, environment and file, the source that is shown for each value, and the errors about a bad file.

use std::path::Path;

use darter_agent::options::{Role, StaleTags};

use super::*;
use crate::cli::Command;

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn configured(line: &str) -> Configured {
    Configured::from_arguments(&words(line)).unwrap_or_else(|error| panic!("{line}: {error:?}"))
}

/// A configuration file that lives as long as the test.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn setting<'a>(effective: &'a Effective, key: &str) -> (&'a [String], String) {
    let setting = effective.settings.iter().find(|setting| setting.key == key).unwrap();
    (&setting.values, setting.origin.to_string())
}

#[test]
fn flag_wins_over_file_and_file_over_default() {
    let file =
        file("data-dir = \"/from/file\"\n\njoin = [\"a:1\", \"b:2\"]\nupload-limit = \"10MB/s\"\ninsecure = true\n");
    let path = file.path().display();
    let configured = configured(&format!("darter node --config {path} --upload-limit 20MB/s"));
    let Command::Node(args) = &configured.cli.command else { panic!() };
    let options = args.options().unwrap();
    assert_eq!(options.data_dir, Path::new("/from/file"));
    assert_eq!(options.join, ["a:1", "b:2"]);
    assert_eq!(options.upload_limit, "20MB/s".parse().ok());
    assert!(options.insecure);

    let effective = configured.effective(None);
    assert_eq!(setting(&effective, "upload-limit"), (&["20MB/s".to_owned()][..], "flag".to_owned()));
    assert_eq!(setting(&effective, "data-dir").1, format!("{path}:1"));
    assert_eq!(setting(&effective, "join").1, format!("{path}:3"));
    assert_eq!(setting(&effective, "listen"), (&[][..], "not set".to_owned()));
    assert_eq!(setting(&effective, "quota"), (&["80%".to_owned()][..], "default".to_owned()));
}

#[test]
fn the_mirror_asks_for_logins_only_when_told_to() {
    let file = file("ask-login = true\n");
    let path = file.path().display();
    let told = format!("darter seed --data-dir /d --config {path}");
    for (line, asks) in
        [("darter seed --data-dir /d", false), (&told, true), (&format!("{told} --ask-login=no"), false)]
    {
        let Command::Seed(args) = configured(line).cli.command else { panic!() };
        assert_eq!(args.options(Role::Seed, &[]).unwrap().ask_login, asks, "{line}");
    }
}

#[test]
fn when_tags_may_be_stale_can_stand_in_the_file() {
    let file = file("stale-tags = \"never\"\n");
    let path = file.path().display();
    let told = format!("darter seed --data-dir /d --config {path}");
    for (line, when) in [(&told, StaleTags::Never), (&format!("{told} --stale-tags errors"), StaleTags::Errors)] {
        let Command::Seed(args) = configured(line).cli.command else { panic!() };
        assert_eq!(args.options(Role::Seed, &[]).unwrap().stale_tags, when, "{line}");
    }
}

#[test]
fn tables_and_single_values_stand_for_lists() {
    let file = file("label = { rack = \"17\", zone = \"a\" }\njoin = \"a:1\"\nquota = 1000000\nplain-http = []\n");
    let configured = configured(&format!("darter node --config {}", file.path().display()));
    let Command::Node(args) = configured.cli.command else { panic!() };
    let options = args.options().unwrap();
    assert_eq!((options.labels["rack"].as_str(), options.labels["zone"].as_str()), ("17", "a"));
    assert_eq!(options.join, ["a:1"]);
    assert_eq!(options.quota, Some(darter_agent::options::Amount::Bytes(1_000_000)));
    assert_eq!(options.plain_http, [""; 0]);
}

#[test]
fn one_file_serves_every_command() {
    let file = file("data-dir = \"/d\"\nlisten = \"0.0.0.0:1\"\njoin = [\"a:1\"]\n");
    let path = file.path().display();
    for line in ["seed", "up", "ls", "get http://a/b", "config"] {
        configured(&format!("darter {line} --config {path}"));
    }
    let Command::Ls(args) = configured(&format!("darter ls --config {path}")).cli.command else { panic!() };
    assert_eq!(args.place.data_dir().unwrap(), Path::new("/d"));
}

#[test]
fn what_config_prints_is_a_file_that_says_the_same() {
    let first =
        file("label = [\"rack=1\"]\nverify-whole = true\nupstream = { \"docker.io\" = \"http://10.0.0.1:5000\" }\n");
    let line = format!("darter config --data-dir /d --config {} --quota 5GB", first.path().display());
    let before = configured(&line).effective(None);
    let second = file(&before.to_toml());
    let after = configured(&format!("darter config --config {}", second.path().display())).effective(None);
    let values = |effective: &Effective| {
        effective.settings.iter().map(|s| (s.key.clone(), s.values.clone())).collect::<Vec<_>>()
    };
    assert_eq!(values(&before), values(&after));
    assert_eq!(
        setting(&after, "quota").1,
        format!("{}:{}", second.path().display(), line_with(&before.to_toml(), "quota"))
    );
    assert_eq!(before.to_json()["verify-whole"]["value"], true);
    assert_eq!(before.to_json()["label"]["value"][0], "rack=1");
    assert_eq!(before.to_json()["quota"]["from"], "flag");
}

fn line_with(text: &str, key: &str) -> usize {
    text.lines().position(|line| line.starts_with(key)).unwrap() + 1
}

#[test]
fn what_is_particular_to_a_registry_is_a_table_of_its_own() {
    let file = file(
        "quota = \"5GB\"\n\n[upstream]\nplain = \"http://10.0.0.1:5000\"\n\n[upstream.\"registry.corp\"]\n\
         url = [\"https://a.corp\", \"https://b.corp\"]\nca = \"/etc/ca.pem\"\nskip-verify = true\n\
         headers = { Authorization = \"Bearer hunter2\" }\n",
    );
    let line = format!("darter node --data-dir /d --join a:1 --config {}", file.path().display());
    let configured = configured(&line);
    let Command::Node(args) = &configured.cli.command else { panic!() };
    let options = args.options().unwrap();
    let [plain, corp] = options.upstreams.as_slice() else { panic!("{:?}", options.upstreams) };
    assert_eq!((plain.name.as_str(), plain.urls[0].as_str()), ("plain", "http://10.0.0.1:5000/"));
    assert_eq!(corp.urls.iter().map(|url| url.as_str()).collect::<Vec<_>>(), ["https://a.corp/", "https://b.corp/"]);
    assert_eq!((corp.ca.as_deref(), corp.skip_verify), (Some(Path::new("/etc/ca.pem")), true));
    assert_eq!(corp.headers, [("Authorization".to_owned(), "Bearer hunter2".to_owned())]);
    let shown = configured.effective(None).to_toml();
    assert!(shown.contains("b.corp") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn values_of_headers_are_not_printed() {
    // The printed configuration can be used: it names the files that the values belong into.
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept.toml");
    let text = "data-dir = \"/d\"\n[upstream.\"a:1\"]\nheaders = { Authorization = \"Bearer hunter2\", X-Key = \"hunter2\" }\n";
    std::fs::write(&kept, text).unwrap();
    let line = format!("darter config --config {}", kept.display());
    let options = || {
        let Command::Config(args) = configured(&line).cli.command else { panic!() };
        args.agent.options(Role::Seed, &[])
    };
    let before = options().unwrap().upstreams;
    let effective = configured(&line).effective(None);
    assert!(setting(&effective, "upstream").1.starts_with(&format!("{}:2; secrets belong", kept.display())));
    assert!(!effective.to_json().to_string().contains("hunter2"));
    let printed = effective.to_toml();
    assert!(!printed.contains("hunter2") && !printed.contains("***"), "{printed}");
    std::fs::write(&kept, printed).unwrap();
    let told = options().unwrap_err().to_string();
    assert!(told.contains("a:1.Authorization.header"), "{told}");
    std::fs::write(dir.path().join("a:1.Authorization.header"), "Bearer hunter2\n").unwrap();
    for (wrong, part) in [("***\n", "stands for a header value"), ("\n", "is empty"), ("sec\u{1}ret", "can't stand in")]
    {
        std::fs::write(dir.path().join("a:1.X-Key.header"), wrong).unwrap();
        let told = options().unwrap_err().to_string();
        assert!(told.contains(part) && !told.contains("\u{1}ret"), "{told}");
    }
    std::fs::write(dir.path().join("a:1.X-Key.header"), "hunter2").unwrap();
    assert_eq!(options().unwrap().upstreams, before);
    // If the result is printed again, it is the same.
    let again = configured(&line).effective(None);
    assert_eq!(setting(&again, "upstream").0, setting(&effective, "upstream").0);
}

#[test]
fn passwords_are_not_printed() {
    let effective = configured("darter config --data-dir /d --login ghcr.io=robot:hunter2").effective(None);
    assert_eq!(setting(&effective, "login").0, ["ghcr.io=robot"]);
    assert!(!effective.to_toml().contains("hunter2") && !effective.to_json().to_string().contains("hunter2"));

    // The printed configuration can be used: it names the file that the password belongs into.
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept.toml");
    std::fs::write(&kept, "data-dir = \"/d\"\nlogin = [\"a:1=robot:hunter2\", \"b=me:other\"]\n").unwrap();
    let line = format!("darter config --config {}", kept.display());
    let printed = configured(&line).effective(None).to_toml();
    assert!(!printed.contains("hunter2") && !printed.contains("***"), "{printed}");
    std::fs::write(&kept, printed).unwrap();
    let options = || {
        let Command::Config(args) = configured(&line).cli.command else { panic!() };
        args.agent.options(Role::Seed, &[])
    };
    let told = options().unwrap_err().to_string();
    assert!(told.contains("a:1.password"), "{told}");
    std::fs::write(dir.path().join("a:1.password"), "hunter2\n").unwrap();
    std::fs::write(dir.path().join("b.password"), "***\n").unwrap();
    assert!(options().unwrap_err().to_string().contains("stands for a password"));
    std::fs::write(dir.path().join("b.password"), "other").unwrap();
    let logins = options().unwrap().logins;
    assert_eq!((logins[0].password.as_str(), logins[1].password.as_str()), ("hunter2", "other"));
}

/// A setting that may hold a password, and how it is written.
#[test]
fn no_place_prints_a_password_and_what_is_printed_says_the_same() {
    let table = |settings: &str| format!("[upstream.\"a/b:1\"]\n{settings}\n");
    let files = [
        ("a login", "login = [\"a:1=robot:hun%ter2\"]".to_owned(), 1),
        ("several logins", "login = { \"a:1\" = \"robot:hunter2\", b = \"me:hun=ter2:x\" }".to_owned(), 2),
        ("an address", "upstream = { a = \"https://me:hun%40ter2@h:5000/x\" }".to_owned(), 1),
        ("an address without a password", "upstream = { a = \"https://hunter2@h\" }".to_owned(), 1),
        ("addresses", table("url = [\"https://me:hunter2@h\", \"https://me:hunter2@i\"]"), 1),
        ("a proxy", table("proxy = \"http://me:hun%2Fter2@p:3128\""), 1),
        ("a header", table("headers = { Authorization = \"Bearer hunter2\" }"), 1),
        (
            "all of them",
            format!(
                "login = {{ c = \"me:hunter2\" }}\n{}",
                table(concat!(
                    "url = \"http://me:hunter2@h\"\nproxy = \"http://you:hunter2@p\"\nca = \"/ca\"\n",
                    "headers = { A = \"hunter2\", B = \"hunter2\" }"
                ))
            ),
            5,
        ),
    ];
    for (place, text, count) in files {
        let dir = tempfile::tempdir().unwrap();
        let (old, new, secrets) =
            (dir.path().join("old.toml"), dir.path().join("new.toml"), dir.path().join("secrets"));
        std::fs::write(&old, format!("data-dir = \"/d\"\n{text}")).unwrap();
        let load = |file: &Path| {
            let configured = configured(&format!("darter config --config {}", file.display()));
            let Command::Config(args) = &configured.cli.command else { panic!() };
            let options = args.agent.options(Role::Seed, &[]);
            (configured, options.map(|it| (it.upstreams, it.logins)))
        };
        let (configured, before) = load(&old);
        let before = before.unwrap();
        let effective = configured.effective(Some(&secrets));
        assert_eq!(effective.secrets.len(), count, "{place}");
        for printed in [
            effective.to_toml(),
            effective.to_json().to_string(),
            configured.effective(None).to_toml(),
            format!("{before:?}"),
        ] {
            assert!(!printed.contains("ter2") && !printed.contains("***"), "{place}: {printed}");
        }
        // Until the files hold the secrets, a note says so.
        std::fs::write(&new, effective.to_toml()).unwrap();
        let told = load(&new).1.unwrap_err().to_string();
        assert!(told.contains(&secrets.display().to_string()) && told.contains("--write-secrets"), "{place}: {told}");
        assert_eq!(not_there(&effective.secrets).len(), count, "{place}");

        write(&secrets, &effective.secrets).unwrap();
        assert!(not_there(&effective.secrets).is_empty(), "{place}");
        let (again, after) = load(&new);
        assert_eq!(after.unwrap(), before, "{place}");
        let again = again.effective(Some(&secrets));
        assert!(again.secrets.is_empty(), "{place}");
        for (one, other) in effective.settings.iter().zip(&again.settings) {
            assert_eq!((&one.key, &one.values), (&other.key, &other.values), "{place}");
        }
    }
}

#[test]
fn a_file_that_is_there_is_not_overwritten_with_another_secret() {
    let dir = tempfile::tempdir().unwrap();
    let effective = |password: &str| {
        configured(&format!("darter config --data-dir /d --login a=robot:{password}"))
            .effective(Some(dir.path()))
            .secrets
    };
    write(dir.path(), &effective("one")).unwrap();
    write(dir.path(), &effective("one")).unwrap();
    let told = write(dir.path(), &effective("two")).unwrap_err().to_string();
    assert!(told.contains("a.password") && !told.contains("two"), "{told}");
    assert_eq!(std::fs::read_to_string(dir.path().join("a.password")).unwrap(), "one\n");
    let told = write(&dir.path().join("a.password"), &effective("two")).unwrap_err().to_string();
    assert!(told.contains("can't write"), "{told}");
}

#[test]
fn a_refusal_quotes_no_password() {
    for line in [
        "darter node --data-dir /d --join http://me:hunter2@seed:7400",
        "darter node --data-dir /d --join me:hunter2@seed:7400",
        "darter seed --data-dir /d --advertise me:hunter2@seed:7400",
        "darter seed --data-dir /d --upstream reg=ftp://me:hunter2@host",
        "darter seed --data-dir /d --upstream reg={url=\"https://a\",headers={A=\"hunter2\"",
        "darter seed --data-dir /d --login =robot:hunter2",
        "darter seed --data-dir /d --login me:hunter2@reg=a:b",
        "darter seed --data-dir /d --password-file me:hunter2@reg=/f",
        "darter seed --data-dir /d --plain-http http://me:hunter2@reg",
        "darter seed --data-dir /d --trusted-registry me:hunter2@reg",
        "darter seed --data-dir /d --default-upstream https://me:hunter2@reg",
        "darter seed --data-dir /d --local-name me:hunter2@reg",
        "darter seed --data-dir /d --label note=https://me:hunter2@reg",
        "darter seed --data-dir /d --proxy=http://me:hunter2@p:3128",
        "darter seed --data-dir /d http://me:hunter2@p:3128",
        "darter seed --data-dir /d --local http://me:hunter2@p:3128",
        "darter get ftp://me:hunter2@host/x",
        "darter get https://me:hunter2@[host/x",
        "darter get https://host/x --header Authorization-Bearer-hunter2",
    ] {
        match Configured::from_arguments(&words(line)).unwrap_err() {
            NotConfigured::Clap(error) => {
                let told = text_of(&error);
                assert!(!told.contains("hunter2") && told.contains("error:"), "{line}: {told}");
            }
            NotConfigured::File(error) => panic!("{error}"),
        }
    }
    for text in [
        "join = [\"http://me:hunter2@seed:7400\"]",
        "advertise = \"me:hunter2@seed:7400\"",
        "local = \"http://me:hunter2@seed:7400\"",
        "upstream = { reg = \"ftp://me:hunter2@host\" }",
        "[upstream.reg]\nurl = \"ftp://me:hunter2@host\"",
        "[upstream.reg]\nproxy = \"me:hunter2@host\"",
        "stale-tags = \"http://me:hunter2@seed:7400\"",
        "\"http://me:hunter2@reg\" = 1",
    ] {
        let told = ConfigFile::parse(Path::new("f"), text).unwrap_err().to_string();
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn what_stands_for_a_password_is_none() {
    for line in ["login = [\"a=robot:***\"]", "login = { a = \"robot:********\" }"] {
        let told = ConfigFile::parse(Path::new("f"), line).unwrap_err().to_string();
        assert!(told.contains("stands for a password that was not printed"), "{told}");
    }
    for (line, part) in [
        ("darter seed --data-dir /d --login a=robot", "--password-file a=FILE"),
        ("darter seed --data-dir /d --password-file a=/f", "--login a=USER"),
        ("darter seed --data-dir /d --login a=robot:x --password-file a=/f", "leave out one"),
        ("darter seed --data-dir /d --login a=robot:x --upstream a=https://b:c@a", "two logins for a"),
    ] {
        let Command::Seed(args) = configured(line).cli.command else { panic!() };
        let told = args.options(Role::Seed, &[]).unwrap_err().to_string();
        assert!(told.contains(part), "{line}: {told}");
    }
}

#[test]
fn all_in_one_keeps_to_this_host_until_told_otherwise() {
    let listens = |line: &str| match configured(line).cli.command {
        Command::Up(args) => args.options_alone().unwrap().listen.unwrap().to_string(),
        Command::Seed(args) => args.options(Role::Seed, &[]).unwrap().listen.unwrap().to_string(),
        _ => panic!(),
    };
    assert_eq!(listens("darter up --data-dir /d"), "127.0.0.1:7400");
    assert_eq!(listens("darter up --data-dir /d --insecure"), "0.0.0.0:7400");
    assert_eq!(listens("darter up --data-dir /d --listen 10.0.0.1:1"), "10.0.0.1:1");
    assert_eq!(listens("darter seed --data-dir /d"), "0.0.0.0:7400", "which is refused without --insecure");
}

#[test]
fn a_bad_file_is_told_by_line_with_what_to_write() {
    let cases = [
        ("\nuplaod-limit = \"1MB/s\"", "f:2: unknown key \"uplaod-limit\"; did you mean \"upload-limit\"?"),
        ("upload_limit = \"1MB/s\"", "f:1: unknown key \"upload_limit\"; did you mean \"upload-limit\"?"),
        ("xyzzy = 1", "f:1: unknown key \"xyzzy\"; the keys are the long flags of `darter node --help`"),
        ("config = \"x\"", "f:1: unknown key \"config\"; the keys are the long flags of `darter node --help`"),
        (
            "data-dir = \"/d\"\nupload-limit = \"fast\"",
            "f:2: upload-limit: not a rate: \"fast\" (write for example 25MB/s, 40MiB/s, 200mbit or 1gbit)",
        ),
        (
            "upload-limit = 5",
            "f:1: upload-limit: not a rate: \"5\" (write for example 25MB/s, 40MiB/s, 200mbit or 1gbit)",
        ),
        ("upload-limit = [\"1MB/s\"]", "f:1: upload-limit: takes one value, not an array"),
        ("[upload-limit]\na = 1", "f:1: upload-limit: takes one value, not a table"),
        ("join = { a = \"b\" }", "f:1: join: takes a string or an array of strings, not a table"),
        ("join = [\n \"a:1\",\n \"b\"\n]", "f:3: join: not HOST:PORT: \"b\" (write for example seed-1:7400)"),
        ("join = [[\"a:1\"]]", "f:1: join: takes a string, not an array"),
        ("label = [\"rack\"]", "f:1: label: not KEY=VALUE: \"rack\" (write for example rack=17)"),
        (
            "[upstream.reg]\nurl = \"reg\"",
            "f:1: upstream: reg: url: not an address: \"reg\" (write https://HOST or http://HOST)",
        ),
        ("label = { rack = { a = \"b\" } }", "f:1: label: takes a string, not a table"),
        ("log-format = \"xml\"", "f:1: log-format: not one of text, json: \"xml\""),
        ("quota = \"1GB\"\nquota = \"2GB\"", "f:2: duplicate key \"quota\": leave out one of them"),
        (
            "metrics = \"host:9000\"",
            "f:1: metrics: not an address: \"host:9000\" (write ADDR:PORT, for example 0.0.0.0:7400 or [::]:7400)",
        ),
    ];
    for (text, expected) in cases {
        let told = ConfigFile::parse(Path::new("f"), text).unwrap_err().to_string();
        assert_eq!(told, expected, "{text}");
    }
    for (text, start) in
        [("insecure = \"maybe\"", "f:1: insecure: "), ("a = 1\nb = ", "f:2: "), ("a = 1\na = 2", "f:2: ")]
    {
        let told = ConfigFile::parse(Path::new("f"), text).unwrap_err().to_string();
        assert!(told.starts_with(start) && !told.contains('\n'), "{told}");
    }
    let told = ConfigFile::read(Path::new("/nowhere/f")).unwrap_err().to_string();
    assert!(told.starts_with("/nowhere/f: can't read the configuration file: "), "{told}");
}

#[test]
fn the_data_directory_follows_the_user() {
    let environment = |pairs: &'static [(&str, &str)]| {
        move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    };
    let dir = |root, pairs| default_data_dir(root, environment(pairs)).map(|dir| dir.display().to_string());
    assert_eq!(dir(true, &[("HOME", "/root")]).as_deref(), Some("/var/lib/darter"));
    assert_eq!(dir(false, &[("HOME", "/h")]).as_deref(), Some("/h/.local/share/darter"));
    assert_eq!(dir(false, &[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]).as_deref(), Some("/x/darter"));
    assert_eq!(dir(false, &[("HOME", "/h"), ("XDG_DATA_HOME", "x")]).as_deref(), Some("/h/.local/share/darter"));
    assert_eq!(dir(false, &[]), None);
}

#[test]
fn commands_of_commands_have_the_data_directory_and_the_file_like_others() {
    use crate::cli::{ImageArgs, ImageCommand};
    let dir_of = |config: &str| {
        let configured = configured(&format!("darter image profile python:3 --config={config}"));
        let Command::Image(ImageArgs { command: ImageCommand::Profile(args) }) = configured.cli.command else {
            panic!("another command")
        };
        args.place.data_dir().ok()
    };
    assert_eq!(dir_of(""), own_data_dir());
    let file = file("data-dir = \"/srv/darter\"\n");
    assert_eq!(dir_of(file.path().to_str().unwrap()), Some("/srv/darter".into()));
}
