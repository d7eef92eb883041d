//! The command line as people type it.

use std::ffi::OsString;

use clap::Parser;
use darter_agent::options::Role;

use super::*;

fn parse(words: &[&str]) -> Cli {
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

#[test]
fn the_definition_is_consistent() {
    definition().debug_assert();
}

#[test]
fn every_example_in_every_help_is_a_right_command_line() {
    let mut seen = 0;
    let top = definition();
    let below = top.get_subcommands().flat_map(clap::Command::get_subcommands);
    for command in std::iter::once(&top).chain(top.get_subcommands()).chain(below) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for example in help.lines().filter_map(|line| line.trim().strip_prefix("$ ")) {
            // A redirection or a pipe, and everything after it, belongs to the shell.
            let typed = example.split(['>', '|']).find(|typed| typed.trim().starts_with("darter"));
            let typed = typed.unwrap_or(example).trim();
            let words = shell_words(&typed.replace("DIGEST", &"0".repeat(64)));
            assert_eq!(words[0], "darter", "{example}");
            Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{example}: {error}"));
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} examples found");
}

/// Splits at spaces outside single quotes.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.trim().chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().unwrap().push(other),
        }
    }
    words
}

#[test]
fn every_setting_has_an_environment_variable_of_its_name() {
    for command in definition().get_subcommands() {
        for arg in command.get_arguments() {
            let Some(variable) = arg.get_env() else { continue };
            let long = arg.get_long().unwrap();
            assert_eq!(variable.to_str().unwrap(), format!("DARTER_{}", long.replace('-', "_").to_uppercase()));
        }
    }
    let node = definition();
    let node = node.find_subcommand("node").unwrap();
    let without: Vec<_> =
        node.get_arguments().filter(|arg| arg.get_env().is_none()).filter_map(|arg| arg.get_long()).collect();
    assert_eq!(without, ["verbose"], "flags of an agent that no environment variable can set");
}

#[test]
fn nothing_is_not_a_name() {
    for command in ["rm", "pin", "unpin", "explain", "top"] {
        assert!(Cli::try_parse_from(["darter", command, ""]).is_err(), "{command}");
    }
}

#[test]
fn the_spellings_that_scripts_rely_on() {
    let cli = parse(&[
        "darter",
        "node",
        "--data-dir",
        "/d",
        "--listen",
        "10.0.0.1:7400",
        "--local",
        "127.0.0.1:7401",
        "--join",
        "a:7400",
        "--join",
        "b:7401",
        "--label",
        "rack=1",
        "--label",
        "zone=x",
        "--upload-limit",
        "25MB/s",
        "--download-limit",
        "200mbit",
        "--origin-limit",
        "1gbit",
        "--origin-connections",
        "4",
        "--insecure",
    ]);
    let Command::Node(args) = cli.command else { panic!("{cli:?}") };
    let options = args.options().unwrap();
    assert_eq!(options.role, Role::Node);
    assert_eq!(options.join, ["a:7400", "b:7401"]);
    assert_eq!(options.labels["rack"], "1");
    assert_eq!(options.labels["zone"], "x");
    assert_eq!(options.upload_limit, "25MB/s".parse().ok());
    assert_eq!(options.download_limit, "25MB/s".parse().ok());
    assert_eq!(options.origin_limit, "125MB/s".parse().ok());
    assert_eq!(options.origin_connections, 4);
    assert_eq!(options.data_dir.to_str(), Some("/d"));
    assert!(options.insecure);
}

#[test]
fn an_origin_may_be_read_by_eight_connections_unless_somebody_says_otherwise() {
    for (flags, connections) in [(&[][..], 8), (&["--origin-connections", "1"][..], 1)] {
        let cli = parse(&[&["darter", "seed", "--data-dir", "/d"][..], flags].concat());
        let Command::Seed(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.options(Role::Seed, &[]).unwrap().origin_connections, connections);
    }
}

/// Kubernetes' downward API and other templates leave such text in place of values that a host does not have.
#[test]
fn labels_without_a_value_and_empty_members_of_lists_are_none() {
    let node = |label: &str, join: &str| {
        let cli = parse(&["darter", "node", "--data-dir", "/d", "--label", label, "--join", join]);
        let Command::Node(args) = cli.command else { panic!("{cli:?}") };
        args.options().unwrap()
    };
    for label in ["zone=,rack=1", ",rack=1", "rack=1,", " ,rack=1,zone= ", "=,rack=1, = "] {
        let options = node(label, "a:1");
        assert_eq!(options.labels.into_iter().collect::<Vec<_>>(), [("rack".to_owned(), "1".to_owned())], "{label:?}");
    }
    assert!(node("", "a:1").labels.is_empty() && node("zone=", "a:1").labels.is_empty());
    assert_eq!(node("", ",a:1, b:2,").join, ["a:1", "b:2"]);
    let with = |flag: &str, value: &str| {
        let cli = parse(&["darter", "seed", "--data-dir", "/d", flag, value]);
        let Command::Seed(args) = cli.command else { panic!("{cli:?}") };
        args.options(Role::Seed, &[]).unwrap()
    };
    for value in ["", ",", " , "] {
        assert!(with("--upstream", value).upstreams.is_empty() && with("--password-file", value).logins.is_empty());
        assert!(with("--signed-parameter", value).signed_parameters.is_empty(), "{value:?}");
    }
    assert_eq!(with("--upstream", "a=http://a, b=http://b,").upstreams.len(), 2);
    assert_eq!(with("--signed-parameter", ",token").signed_parameters, ["token"]);
}

#[test]
fn a_switch_that_a_file_set_can_be_unset() {
    for (typed, expected) in [("--insecure", true), ("--insecure=true", true), ("--insecure=no", false)] {
        let Command::Seed(args) = parse(&["darter", "seed", typed]).command else { panic!() };
        assert_eq!(args.network.insecure, expected, "{typed}");
    }
}

#[test]
fn a_node_without_a_seed_is_told_to_join_one() {
    let Command::Node(args) = parse(&["darter", "node", "--data-dir", "/d"]).command else { panic!() };
    let told = args.options().unwrap_err().to_string();
    assert!(told.contains("--join"), "{told}");
}

#[test]
fn cargo_demo_leaves_a_separator_that_is_dropped() {
    let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    assert_eq!(arguments(words("darter demo -- --help")), words("darter demo --help"));
    assert_eq!(arguments(words("darter demo --nodes 4")), words("darter demo --nodes 4"));
    assert_eq!(arguments(words("darter get -- x")), words("darter get -- x"));
}

mod values {
    use crate::cli::values::*;

    #[test]
    fn sizes() {
        assert_eq!(size("500MB"), Ok(500_000_000));
        assert_eq!(size("20 GiB"), Ok(20 << 30));
        assert_eq!(size("1048576"), Ok(1 << 20));
        assert_eq!(size("0"), Ok(0));
        for wrong in ["", "big", "-1MB", "1XB"] {
            assert!(size(wrong).unwrap_err().contains("500MB"), "{wrong}");
        }
    }

    #[test]
    fn amounts_are_sizes_or_shares() {
        use darter_agent::options::Amount;

        assert_eq!(amount("200GB"), Ok(Amount::Bytes(200_000_000_000)));
        assert_eq!(amount("80%"), Ok(Amount::Percent(80.0)));
        assert_eq!(amount("12.5 %"), Ok(Amount::Percent(12.5)));
        for wrong in ["", "%", "101%", "-1%", "NaN%", "all"] {
            assert!(amount(wrong).unwrap_err().contains("80%"), "{wrong}");
        }
    }

    #[test]
    fn labels_and_headers() {
        assert_eq!(label("rack=1=2"), Ok(("rack".into(), "1=2".into())));
        assert!(label("rack").is_err() && label("=1").is_err());
        let long = |length: usize| label(&format!("rack={}", "1".repeat(length)));
        assert!(long(400).is_ok() && long(600).unwrap_err().contains("512 bytes"));
        assert_eq!(header("Accept:  a/b; q=\"1:2\" "), Ok(HeaderArg::One("Accept".into(), "a/b; q=\"1:2\"".into())));
        assert_eq!(header("@secret"), Ok(HeaderArg::File("secret".into())));
        assert!(header("@").is_err());
        for wrong in ["Accept", "a b: c", ": c", "A: b\nc"] {
            assert!(header(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn addresses() {
        assert!(address("0.0.0.0:7400").is_ok() && address("[::]:7400").is_ok());
        assert!(address("7400").unwrap_err().contains("ADDR:PORT"));
        for right in ["seed-1:7400", "10.0.0.1:1", "[fd00::1]:7400"] {
            assert_eq!(endpoint(right), Ok(right.to_owned()));
        }
        for wrong in ["seed-1", "seed-1:0", ":7400", "http://seed-1:7400", "fd00::1:7400", "a:99999"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn registries() {
        let option = login("ghcr.io=robot:a=b:c").unwrap();
        assert_eq!((option.username.as_str(), option.password.as_str()), ("robot", "a=b:c"));
        assert_eq!(login("ghcr.io=robot").unwrap().password, "", "it is in a file");
        let told = login("=robot:secret").unwrap_err();
        assert!(!told.contains("secret"), "{told}");
    }

    #[test]
    fn urls() {
        assert!(source_url("https://a/b").is_ok() && source_url("file:///a").is_ok());
        assert!(source_url("example.org/x").unwrap_err().contains("https://"));
        assert!(source_url("ftp://a/b").unwrap_err().contains("ftp"));
    }

    #[test]
    fn times_and_filters() {
        assert_eq!(duration("1m30s").unwrap().as_secs(), 90);
        assert!(duration("soon").is_err());
        assert_eq!(interval("100ms").unwrap().as_millis(), 100);
        assert!(interval("99ms").unwrap_err().contains("100ms"));
        assert!(log_filter("info,darter_wire=debug").is_ok());
        assert!(log_filter("=,=").is_err());
    }
}

#[test]
fn tags_may_be_stale_when_told_so() {
    use darter_agent::options::StaleTags;
    let when = |words: &[&str]| {
        let cli =
            parse(&[&["darter", "node", "--join", "seed:7400", "--insecure", "--data-dir", "/d"], words].concat());
        let Command::Node(args) = cli.command else { panic!("another command") };
        args.options().unwrap().stale_tags
    };
    assert_eq!(when(&[]), StaleTags::Unreachable);
    for (value, meant) in
        [("never", StaleTags::Never), ("unreachable", StaleTags::Unreachable), ("errors", StaleTags::Errors)]
    {
        assert_eq!(when(&["--stale-tags", value]), meant, "{value}");
    }
    let wrong = Cli::try_parse_from(["darter", "up", "--stale-tags", "sometimes"]).unwrap_err().to_string();
    for part in ["--stale-tags", "sometimes", "never", "unreachable", "errors"] {
        assert!(wrong.contains(part), "{part:?} is not in {wrong}");
    }
}

#[test]
fn an_agent_starts_its_keeper_as_its_flags_say() {
    let Command::Up(args) = parse(&[
        "darter",
        "up",
        "--lazy-dir",
        "/run/layers",
        "--lazy-fill",
        "always",
        "--lazy-fill-rate",
        "1.5MB/s",
        "--lazy-timeout",
        "1m 30s",
        "--lazy-containerd",
        "/run/a.sock,/run/b.sock",
    ])
    .command
    else {
        panic!("another command")
    };
    let flags: Vec<_> = args.lazy.for_keeper().into_iter().map(|flag| flag.into_string().unwrap()).collect();
    let words: Vec<_> =
        ["darter", "lazy-dir", "/run/layers"].into_iter().chain(flags.iter().map(|flag| &**flag)).collect();
    let Command::LazyDir(keeper) = parse(&words).command else { panic!("another command") };
    let rate = keeper.fill_rate.map(darter_core::Rate::bytes_per_second);
    assert_eq!((keeper.fill, rate), (darter_mount::Fill::Always, Some(1_500_000)));
    assert_eq!(keeper.timeout, std::time::Duration::from_secs(90));
    assert_eq!(keeper.containerd, ["/run/a.sock", "/run/b.sock"].map(std::path::PathBuf::from));
}
