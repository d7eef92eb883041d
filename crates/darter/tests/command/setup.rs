//! `darter setup containerd`: the files of a host below a root, before and after; and `darter doctor`, which looks at them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::support::{Daemon, Outcome, Room};

const OURS: &str = "# Darter's mirror is asked first (`darter setup containerd --undo` takes it away)\n\
                    [host.\"http://127.0.0.1:7401\"]\n  capabilities = [\"pull\", \"resolve\"]\n";
const LEDGER: &str = "var/lib/darter-setup/containerd.json";

/// A host's files, below a root.
struct Host(Room);

/// Everything below a root: of a file its text, mode and date, of a link where it leads.
type Everything = BTreeMap<PathBuf, String>;

impl Host {
    fn with(files: &[(&str, &str)]) -> Self {
        let room = Room::new();
        fs::create_dir_all(room.path("root/etc")).unwrap();
        let host = Self(room);
        for (path, text) in files {
            let path = host.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path("root").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn run(&self, version: &str, flags: &str) -> Outcome {
        let root = self.0.path("root");
        self.0.run(&format!("setup containerd --root {} --containerd-version {version} {flags}", root.display()))
    }

    fn everything(&self) -> Everything {
        fn look(at: &Path, found: &mut Everything) {
            for entry in fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let mode = meta.permissions().mode();
                let told = if meta.is_dir() {
                    look(&path, found);
                    format!("directory {mode:o}")
                } else if meta.is_symlink() {
                    format!("link to {}", fs::read_link(&path).unwrap().display())
                } else {
                    format!("{mode:o} {:?} {}", meta.modified().unwrap(), fs::read_to_string(&path).unwrap())
                };
                found.insert(path, told);
            }
        }
        let mut found = Everything::new();
        look(&self.0.path("root"), &mut found);
        found
    }
}

#[test]
fn a_bare_host_asks_the_mirror_for_everything_and_is_bare_again_after_undo() {
    let host = Host::with(&[]);
    let before = host.everything();
    let told = host.run("1.7.24", "").succeeded();
    assert!(told.out.is_empty() && told.err.contains("systemctl restart containerd"), "{}", told.err);
    assert_eq!(host.read("etc/containerd/certs.d/_default/hosts.toml"), OURS);
    assert_eq!(
        host.read("etc/containerd/config.toml"),
        "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n"
    );
    let after = host.everything();
    let again = host.run("1.7.24", "").succeeded();
    assert!(again.err.contains("nothing is to be changed"), "{}", again.err);
    assert_eq!(host.everything(), after, "a second run changes nothing");
    host.run("1.7.24", "--undo").succeeded();
    assert_eq!(host.everything(), before);
    assert!(host.run("1.7.24", "--undo").succeeded().err.contains("nothing to undo"));
}

#[test]
fn only_a_changed_configuration_asks_for_a_restart() {
    let host = Host::with(&[("etc/docker/certs.d/certs.corp/ca.crt", "PEM")]);
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md")).unwrap();
    let told = host.run("2.4.2", "--json").succeeded().json();
    for field in told.as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{field}`")) || page.contains(&format!("`{field}[]`")), "{field}");
    }
    assert_eq!((&told["restart"], &told["run"]), (&true.into(), &"systemctl restart containerd".into()), "{told}");
    assert_eq!(told["files"][0]["change"], "created");
    let moved = host.read("etc/containerd/certs.d/certs.corp/hosts.toml");
    assert_eq!(
        moved,
        format!("ca = [\"/etc/docker/certs.d/certs.corp/ca.crt\"]\n\n{OURS}"),
        "its default directories are two"
    );
    let told = host.run("2.4.2", "--json --registry a").succeeded().json();
    assert_eq!((&told["restart"], &told["run"]), (&false.into(), &serde_json::Value::Null), "{told}");
}

/// Files of others: each is whole after any number of runs, and as it was after one undo.
#[test]
fn files_of_others_are_kept_and_given_back_after_several_runs() {
    let theirs = "# of the platform team\nserver = \"https://reg.corp\"\nca = \"ca.pem\"\n\n# old\n[host.\"https://old.corp\"]\n  capabilities = [\"pull\"]\n  skip_verify = true\n";
    let config =
        "version = 2\r\n# by hand\r\n[plugins.\"io.containerd.grpc.v1.cri\"]\r\n  sandbox_image = \"x\" # pinned\r\n";
    let host = Host::with(&[
        ("etc/containerd/certs.d/reg.corp/hosts.toml", theirs),
        ("etc/containerd/certs.d/reg.corp/ca.pem", "PEM"),
        ("etc/containerd/certs.d/certs.corp:5000/ca.crt", "PEM"),
        ("etc/containerd/config.toml", config),
    ]);
    let file = host.path("etc/containerd/certs.d/reg.corp/hosts.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let before = host.everything();

    let shown = host.run("1.6.20", "--dry-run").succeeded();
    assert_eq!(host.everything(), before, "a dry run changes nothing");
    let shown = shown.text();
    assert!(!shown.contains('\u{1b}'), "no colours in a pipe: {shown}");
    let part = " ca = \"ca.pem\"\n \n+# Darter's mirror is asked first (`darter setup containerd --undo` takes it away)\n+[host.\"http://127.0.0.1:7401\"]\n";
    for part in [
        "--- /etc/containerd/certs.d/reg.corp/hosts.toml\n+++ /etc/containerd/certs.d/reg.corp/hosts.toml\n",
        part,
        "--- /dev/null\n",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }

    host.run("1.6.20", "").succeeded();
    assert_eq!(
        host.read("etc/containerd/certs.d/reg.corp/hosts.toml"),
        theirs.replace("# old\n", &format!("{OURS}\n# old\n"))
    );
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(host.read("etc/containerd/certs.d/certs.corp:5000/hosts.toml"), format!("ca = [\"ca.crt\"]\n\n{OURS}"));
    let end = "\r\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\r\n  config_path = \"/etc/containerd/certs.d\"\r\n";
    assert_eq!(host.read("etc/containerd/config.toml"), format!("{config}{end}"));

    // The agent moves to another port; then lazy start is wanted, with a newer containerd.
    host.run("1.6.20", "--local 127.0.0.1:9000 --upstream lab=http://10.0.0.1:5000").succeeded();
    let lab = host.read("etc/containerd/certs.d/lab/hosts.toml");
    assert_eq!(lab, format!("server = \"http://10.0.0.1:5000\"\n\n{}", OURS.replace("7401", "9000")));
    assert!(!host.read("etc/containerd/certs.d/reg.corp/hosts.toml").contains("7401"));
    host.run("2.4.2", "--local 127.0.0.1:9000 --lazy --runtime-handler lazy --layers /run/x").succeeded();
    let lazy = host.read("etc/containerd/config.toml");
    assert!(lazy.contains("layer_content_caches = [\"/run/x\"]") && lazy.contains(".runtimes.lazy]"), "{lazy}");
    host.run("2.4.2", "--undo").succeeded();
    assert_eq!(host.everything(), before);
}

#[test]
fn a_file_that_somebody_changed_since_is_not_overwritten_by_undo() {
    let host = Host::with(&[("etc/containerd/certs.d/a/hosts.toml", "server = \"https://a\"\n")]);
    host.run("1.7.24", "").succeeded();
    let file = host.path("etc/containerd/certs.d/a/hosts.toml");
    let theirs = host.read("etc/containerd/certs.d/a/hosts.toml") + "[host.\"https://theirs\"]\n";
    fs::write(&file, &theirs).unwrap();
    let told = host.run("1.7.24", "--undo");
    assert_eq!(told.code, Some(1), "{}", told.err);
    assert!(told.err.contains("/etc/containerd/certs.d/a/hosts.toml") && told.err.contains("--force"), "{}", told.err);
    assert_eq!(fs::read_to_string(&file).unwrap(), theirs);
    assert!(!host.path("etc/containerd/config.toml").exists(), "what nobody changed is given back");
    host.run("1.7.24", "--undo --force").succeeded();
    assert_eq!(fs::read_to_string(&file).unwrap(), "server = \"https://a\"\n");
    assert!(!host.path(LEDGER).exists());
}

#[test]
fn a_file_that_somebody_removed_is_given_back_with_its_mode() {
    let host = Host::with(&[("etc/containerd/certs.d/a/hosts.toml", "server = \"https://a\"\n")]);
    let file = host.path("etc/containerd/certs.d/a/hosts.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let before = host.everything();
    host.run("1.7.24", "").succeeded();
    fs::remove_file(&file).unwrap();
    host.run("1.7.24", "--undo --force").succeeded();
    assert_eq!(host.everything(), before);
}

#[test]
fn a_blank_file_that_is_imported_stays_as_it_is() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n";
    let host = Host::with(&[("etc/containerd/config.toml", main), ("etc/containerd/conf.d/a.toml", "\n")]);
    host.run("1.7.24", "").succeeded();
    assert_eq!(host.read("etc/containerd/conf.d/a.toml"), "\n");
    assert!(host.read("etc/containerd/config.toml").contains("config_path"));
}

/// A run that was cut off by a power failure: after its ledger, before or in the middle of its files.
#[test]
fn a_run_that_was_cut_off_is_finished_by_the_next_and_undone_by_undo() {
    let host = Host::with(&[("etc/containerd/certs.d/a/hosts.toml", "server = \"https://a\"\n")]);
    let before = host.everything();
    host.run("1.7.24", "").succeeded();
    let after = host.everything();
    let half = || {
        // One file was not written yet, of another one there is a file without its final name.
        fs::remove_file(host.path("etc/containerd/config.toml")).unwrap();
        fs::write(host.path("etc/containerd/certs.d/a/hosts.toml"), "server = \"https://a\"\n").unwrap();
        fs::write(host.path("etc/containerd/certs.d/a/.darter-0123456789abcdef.part"), "server = ").unwrap();
    };
    half();
    host.run("1.7.24", "").succeeded();
    assert!(after.keys().all(|path| path.exists()), "what was cut off is there");
    assert_eq!(host.read("etc/containerd/certs.d/a/hosts.toml"), format!("server = \"https://a\"\n\n{OURS}"));
    half();
    host.run("1.7.24", "--undo").succeeded();
    assert_eq!(host.read("etc/containerd/certs.d/a/hosts.toml"), "server = \"https://a\"\n");
    let left: Vec<_> = host.everything().into_keys().filter(|path| !before.contains_key(path)).collect();
    assert!(left.iter().all(|path| path.to_string_lossy().ends_with(".part")), "{left:?}");
}

#[test]
fn links_are_followed_below_the_root() {
    let host =
        Host::with(&[("etc/real/hosts.toml", "server = \"https://a\"\n"), ("etc/containerd/certs.d/x/ca.crt", "")]);
    fs::create_dir_all(host.path("etc/containerd/certs.d/a")).unwrap();
    symlink("/etc/real/hosts.toml", host.path("etc/containerd/certs.d/a/hosts.toml")).unwrap();
    let before = host.everything();
    host.run("2.4.2", "--registry a").succeeded();
    assert_eq!(host.read("etc/real/hosts.toml"), format!("server = \"https://a\"\n\n{OURS}"));
    assert!(host.path("etc/containerd/certs.d/a/hosts.toml").is_symlink());
    assert!(
        !host.path("etc/containerd/certs.d/_default").exists()
            && !host.path("etc/containerd/certs.d/x/hosts.toml").exists()
    );
    host.run("2.4.2", "--undo").succeeded();
    assert_eq!(host.everything(), before);
}

#[test]
fn what_is_imported_is_read_and_changed_where_it_counts() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n";
    let theirs = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"x\"\n";
    let host = Host::with(&[("etc/containerd/config.toml", main), ("etc/containerd/conf.d/a.toml", theirs)]);
    host.run("1.7.24", "").succeeded();
    assert_eq!(host.read("etc/containerd/config.toml"), main, "its section would not count");
    assert!(host.read("etc/containerd/conf.d/a.toml").ends_with("config_path = \"/etc/containerd/certs.d\"\n"));
}

#[test]
fn what_can_not_be_changed_safely_changes_nothing_and_says_why() {
    let mirrors =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = ['x']\n";
    let inline = "host = { 'https://a' = {} }\n";
    for (files, flags, parts) in [
        (("etc/containerd/config.toml", mirrors), "", vec!["/etc/containerd/config.toml:2:", "mirrors", "docker.io"]),
        (("etc/containerd/config.toml", "version = \n"), "", vec!["/etc/containerd/config.toml:1:", "TOML"]),
        (
            ("etc/containerd/certs.d/a/hosts.toml", inline),
            "",
            vec!["/etc/containerd/certs.d/a/hosts.toml:1:", "inline"],
        ),
        (
            ("etc/containerd/config.toml", "version = 2\ndisabled_plugins = ['cri']\n"),
            "--lazy",
            vec!["/etc/containerd/config.toml:2:", "disabled_plugins"],
        ),
    ] {
        let host = Host::with(&[files]);
        let before = host.everything();
        host.run("1.7.24", flags).failed_with(1, &parts);
        assert_eq!(host.everything(), before, "{flags} {parts:?}");
    }
    let host = Host::with(&[]);
    let root = host.0.path("root").display().to_string();
    host.0.run(&format!("setup containerd --root {root} --lazy")).failed_with(1, &["--containerd-version"]);
    for line in [
        "setup",
        "setup docker",
        "setup containerd --force",
        "setup containerd --registry a/b",
        "setup containerd --runtime-handler x",
    ] {
        assert_eq!(host.0.run(line).code, Some(2), "{line}");
    }
}

#[test]
fn a_directory_that_may_not_be_written_to_is_an_error_that_says_what_to_do() {
    let host = Host::with(&[("etc/containerd/config.toml", "version = 4\n")]);
    let root = host.0.path("root").display().to_string();
    fs::create_dir_all(host.path("var/lib/darter-setup")).unwrap();
    fs::set_permissions(host.path("etc/containerd"), fs::Permissions::from_mode(0o555)).unwrap();
    let line = format!("setup containerd --root {root} --containerd-version 2.4.2");
    let told = if rustix::process::geteuid().is_root() {
        // No mode keeps root from it: another user reaches the files, and may write the ledger alone.
        fs::create_dir_all(host.0.path("out")).unwrap();
        for path in [host.0.path(""), host.0.path("out"), host.path("")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(host.path("var/lib/darter-setup"), fs::Permissions::from_mode(0o777)).unwrap();
        let user = ["setpriv", "--reuid=64998", "--regid=64998", "--clear-groups"];
        Outcome::of(host.0.darter_by(&user, &line).output().unwrap())
    } else {
        host.0.run(&line)
    };
    fs::set_permissions(host.path("etc/containerd"), fs::Permissions::from_mode(0o755)).unwrap();
    told.failed_with(1, &["can't write /etc/containerd/certs.d/_default/hosts.toml", "Permission denied"]);
}

#[test]
fn the_doctor_says_of_each_thing_how_it_is_and_what_to_do() {
    let host = Host::with(&[("etc/containerd/config.toml", "version = 4\n"), ("etc/docker/daemon.json", "{}")]);
    let root = host.0.path("root").display().to_string();
    let line = |local: &str| format!("doctor --root {root} --containerd-version 2.4.2 --local {local}");
    let told = host.0.run(&line("127.0.0.1:1"));
    assert_eq!(told.code, Some(1), "there is no daemon: {}", told.text());
    for part in [
        "problem  no daemon at",
        "problem  no hosts.toml names the mirror",
        "darter setup containerd",
        "Docker asks Docker Hub without",
    ] {
        assert!(told.text().contains(part), "{part:?} is not in {}", told.text());
    }
    assert!(told.err.is_empty() && !told.text().contains('\u{1b}'), "{}", told.err);

    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md")).unwrap();
    let daemon = Daemon::start(&host.0, "");
    let local = host.0.run("status --json").json()["local"].as_str().unwrap().to_owned();
    host.run("2.4.2", &format!("--local {local}")).succeeded();
    let told = host.0.run(&format!("{} --json", line(&local))).json();
    for field in told.as_object().unwrap().keys().chain(told["checks"][0].as_object().unwrap().keys()) {
        assert!(page.contains(&format!("`{field}`")) || page.contains(&format!("`{field}[]`")), "{field}");
    }
    let level = |check: &str| {
        let checks = told["checks"].as_array().unwrap();
        let found = checks.iter().find(|found| found["check"] == check).unwrap_or_else(|| panic!("{check} in {told}"));
        found["level"].as_str().unwrap().to_owned()
    };
    assert_eq!((level("daemon"), level("mirror"), level("hosts")), ("ok".into(), "ok".into(), "ok".into()), "{told}");
    assert_eq!(level("directory"), "warning", "lazy start is not set up: {told}");
    drop(daemon);
}
