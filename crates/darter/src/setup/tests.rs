//! The decisions of `setup containerd`, without files: the texts of hosts.toml and config.toml before and after.

use std::path::PathBuf;

use super::containerd::{Config, Part, Release};
use super::hosts::{Server, Standing, fresh, in_front, standing};
use super::registries::{Directory, MirrorSetup, RegistryFiles, Root, plan};
use super::tree::Tree;
use super::{document::Document, lazy, proxy};

const MIRROR: &str = "http://127.0.0.1:7401";
const OURS: &str = "# Darter's mirror is asked first (`darter setup containerd --undo` takes it away)\n\
                    [host.\"http://127.0.0.1:7401\"]\n  capabilities = [\"pull\", \"resolve\"]\n";

/// The file with the mirror added; a second run changes nothing.
#[track_caller]
fn mirrored(text: &str) -> String {
    let once = in_front(text, MIRROR).unwrap_or_else(|wrong| panic!("{text}: {wrong}"));
    assert_eq!(in_front(&once, MIRROR).as_deref(), Ok(once.as_str()), "the second time");
    assert_eq!(standing(&Document::parse(&once).unwrap(), MIRROR), Standing::First);
    once
}

#[test]
fn the_mirror_comes_before_what_others_wrote_and_nothing_else_changes() {
    let top = "# of the platform team\nserver = \"https://reg.corp\" # the registry\nca = \"/etc/corp/ca.pem\"\n\n";
    let others = "# the old mirror\n[host.\"https://old.corp\"]\n  capabilities = [\"pull\"]\n  skip_verify = true\n\
                  [host.'https://old.corp'.header]\n  x-team = [\"a\"]\n\n[host.\"https://second\"]\n\
                  client = [[\"a.cert\", \"a.key\"]]\n# the end";
    assert_eq!(mirrored(&format!("{top}{others}")), format!("{top}{OURS}\n{others}"));
    // Without hosts: at the end.
    assert_eq!(mirrored("server = \"https://a\""), format!("server = \"https://a\"\n\n{OURS}"));
    assert_eq!(mirrored("[header]\nx = \"y\"\n"), format!("[header]\nx = \"y\"\n\n{OURS}"));
    assert_eq!(mirrored("# nothing\n"), format!("# nothing\n\n{OURS}"));
    // Below a header for all hosts, and indented.
    let below = "[host]\n  [host.\"https://a\"]\n    capabilities = [\"pull\"]\n";
    assert!(mirrored(below).starts_with(&format!("[host]\n{OURS}\n  [host.\"https://a\"]\n")), "{}", mirrored(below));
    // Line ends keep their kind.
    let windows = mirrored("server = \"https://a\"\r\n[host.\"https://a\"]\r\n");
    assert_eq!(windows.matches('\n').count(), windows.matches("\r\n").count(), "{windows:?}");
}

#[test]
fn a_mirror_that_stands_elsewhere_is_moved_or_left() {
    let first = format!("[host.\"{MIRROR}/\"]\n[host.\"https://a\"]\n");
    assert_eq!(mirrored(&first), first, "it has all capabilities");
    let narrowed = format!("[host.\"{MIRROR}\"]\ncapabilities = [\"pull\"]\n");
    assert_eq!(in_front(&narrowed, MIRROR).as_deref(), Ok(narrowed.as_str()), "somebody wanted it so");
    assert_eq!(standing(&Document::parse(&narrowed).unwrap(), MIRROR), Standing::Narrowed);

    let later = format!(
        "[host.\"https://a\"]\n# ours\n[host.\"{MIRROR}\"]\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"{MIRROR}\".header]\nx = \"y\"\n\
         # b\n[host.\"https://b\"]\n"
    );
    let moved = format!(
        "# ours\n[host.\"{MIRROR}\"]\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"{MIRROR}\".header]\nx = \"y\"\n\n[host.\"https://a\"]\n\
         # b\n[host.\"https://b\"]\n"
    );
    assert_eq!(mirrored(&later), moved);
    // The text of an earlier run, when the agent had another port.
    let former = OURS.replace("7401", "9000");
    assert_eq!(mirrored(&format!("{former}\n[host.\"https://a\"]\n")), format!("{OURS}\n[host.\"https://a\"]\n"));
    assert_eq!(mirrored(&former), OURS);
}

#[test]
fn what_containerd_would_not_read_is_refused_with_its_line() {
    for (text, line, part) in [
        ("\nhost = { \"https://a\" = {} }\n", 2, "inline"),
        ("server = \"x\"\nhost.\"https://a\".capabilities = [\"pull\"]\n", 2, "dotted"),
        ("[host.\"https://a\"]\ncapabilities = [\n", 2, "TOML"),
        ("[host]\n\"https://a\" = { skip_verify = true }\n", 2, "inline"),
    ] {
        let wrong = in_front(text, MIRROR).unwrap_err();
        assert!(wrong.line >= line && wrong.message.contains(part), "{text}: {wrong}");
    }
}

#[test]
fn a_new_file_names_the_certificates_that_containerd_would_not_look_for_any_more() {
    let server = Server {
        url: Some("https://10.0.0.1:5000".into()),
        ca: vec!["a.crt".into(), "b.crt".into()],
        client: vec![("c.cert".into(), Some("c.key".into())), ("d.cert".into(), None)],
        skip_verify: true,
    };
    let said = "server = \"https://10.0.0.1:5000\"\nca = [\"a.crt\", \"b.crt\"]\nclient = [[\"c.cert\", \"c.key\"], \"d.cert\"]\n\
                skip_verify = true\n\n";
    assert_eq!(fresh(MIRROR, &server), format!("{said}{OURS}"));
    assert_eq!(fresh(MIRROR, &Server::default()), OURS);
    mirrored(&fresh(MIRROR, &server));
}

/// A registry's directory: its name, its hosts.toml, all files in it.
type Given<'a> = (&'a str, Option<&'a str>, &'a [&'a str]);

fn registry_files(roots: &[(&str, &[Given<'_>])]) -> RegistryFiles {
    let directory = |(name, hosts, files): &Given<'_>| Directory {
        name: (*name).to_owned(),
        hosts: hosts.map(str::to_owned),
        files: files.iter().map(|file| (*file).to_owned()).collect(),
    };
    let root = |(path, directories): &(&str, &[Given<'_>])| Root {
        path: PathBuf::from(path),
        directories: directories.iter().map(directory).collect(),
    };
    RegistryFiles { roots: roots.iter().map(root).collect() }
}

#[test]
fn every_registry_is_found_where_containerd_finds_it() {
    let registry_files = registry_files(&[
        (
            "/c",
            &[
                ("a_5000_", Some("server = 'https://x'\n"), &["hosts.toml"]),
                ("certs.only", None, &["ca.crt", "x.cert", "x.key"]),
            ],
        ),
        ("/d", &[("certs.only", None, &["other.crt"]), ("docker.only:1", None, &["ca.crt"]), ("empty", Some(""), &[])]),
    ]);
    let wanted = |registries: &[&str]| MirrorSetup {
        mirror: MIRROR.to_owned(),
        registries: registries.iter().map(|name| (*name).to_owned()).collect(),
        named: vec![("lab".to_owned(), Server { url: Some("http://10.0.0.1".into()), ..Server::default() })],
    };
    let (changes, notes) = plan(&registry_files, &wanted(&[])).unwrap();
    let told: Vec<_> = changes
        .iter()
        .map(|change| {
            let after = change.after.as_deref().unwrap();
            (change.path.to_str().unwrap(), change.before.is_some(), after.lines().next().unwrap())
        })
        .collect();
    let mark = OURS.lines().next().unwrap();
    assert_eq!(
        told,
        [
            ("/c/_default/hosts.toml", false, mark),
            ("/c/a_5000_/hosts.toml", true, "server = 'https://x'"),
            ("/c/certs.only/hosts.toml", false, "ca = [\"ca.crt\"]"),
            // `_default` in the first directory would hide these.
            ("/c/docker.only:1/hosts.toml", false, "ca = [\"/d/docker.only:1/ca.crt\"]"),
            ("/c/empty/hosts.toml", false, mark),
            ("/c/lab/hosts.toml", false, "server = \"http://10.0.0.1\""),
        ]
    );
    assert!(notes.is_empty(), "{notes:?}");
    let (changes, _) = plan(&registry_files, &wanted(&["a:5000", "b"])).unwrap();
    let paths: Vec<_> = changes.iter().map(|change| change.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/c/a_5000_/hosts.toml", "/c/b/hosts.toml"], "these alone");
    let (_, notes) = plan(&registry_files, &wanted(&["_default"])).unwrap();
    assert!(notes[0].contains("a:5000, certs.only"), "{notes:?}");
}

fn config(engine: Option<Release>, files: &[(&str, &str)]) -> Config {
    let file = |(path, text): &(&str, &str)| (PathBuf::from(path), Some((*text).to_owned()));
    Config::new(files.iter().map(file).collect(), engine).unwrap()
}

/// Sets `config_path` in one file. Returns its text, and the directories that were found the first time.
#[track_caller]
fn first_certs(engine: Option<Release>, text: &str) -> (String, Vec<PathBuf>) {
    let mut config = config(engine, &[("/f", text)]);
    let certs = config.ensure_certs().unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
    let once = config.files[0].document.text().to_owned();
    config.ensure_certs().unwrap();
    assert_eq!(config.files[0].document.text(), once, "the second time");
    (once, certs)
}

#[test]
fn config_path_is_set_in_the_form_of_the_version() {
    let set = "  config_path = \"/etc/containerd/certs.d\"\n";
    for (engine, before, after) in [
        (Some((1, 6)), "oom_score = 0\n", format!("oom_score = 0\n\n[plugins.cri.registry]\n{set}")),
        (Some((1, 7)), "version = 2\n", format!("version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n{set}")),
        (Some((2, 1)), "version = 3\n", format!("version = 3\n\n[plugins.'io.containerd.cri.v1.images'.registry]\n{set}")),
        (None, "version = 3\n", format!("version = 3\n\n[plugins.'io.containerd.cri.v1.images'.registry]\n{set}")),
        // In the form that `containerd config default` prints.
        (
            Some((1, 6)),
            "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      config_path = \"\" # none\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n",
            "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      config_path = \"/etc/containerd/certs.d\" # none\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n".to_owned(),
        ),
    ] {
        assert_eq!(first_certs(engine, before), (after, vec!["/etc/containerd/certs.d".into()]), "{engine:?}");
    }
    // From 2.1 on, CRI takes a list of several directories, including the default one, for a single name.
    let (images, one) =
        ("[plugins.'io.containerd.cri.v1.images'.registry]\n", "  config_path = \"/etc/containerd/certs.d\"\n");
    for (engine, version) in [(Some((2, 3)), 3), (Some((2, 4)), 4), (None, 4)] {
        let (text, certs) = first_certs(engine, &format!("version = {version}\n"));
        assert_eq!(text, format!("version = {version}\n\n{images}{one}"), "{engine:?}");
        assert_eq!(
            certs,
            ["/etc/containerd/certs.d", "/etc/docker/certs.d"].map(PathBuf::from),
            "what is there is moved"
        );
    }
    let several = format!("version = 3\n{images}config_path = '/a:/b'\n");
    assert_eq!(first_certs(Some((2, 1)), &several).0, several.replace("'/a:/b'", "\"/a\""));
    let by_itself = format!("{several}[plugins.'io.containerd.cri.v1.images']\nuse_local_image_pull = true\n");
    for (engine, text) in [(Some((2, 0)), &several), (Some((2, 4)), &by_itself)] {
        assert_eq!(&first_certs(engine, text).0, text, "it reads both: {engine:?}");
    }
    let there = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/a:/b'\n";
    assert_eq!(first_certs(Some((1, 7)), there), (there.to_owned(), vec!["/a".into(), "/b".into()]));
    let of_2 = "version = 2\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/a'\n";
    assert_eq!(first_certs(Some((2, 0)), of_2).1, [PathBuf::from("/a")], "containerd 2 reads it there, too");
}

#[test]
fn the_file_counts_that_containerd_reads_last() {
    let cri = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = 'x'\n";
    let path = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = '/a'\n";
    // In containerd 1, the later file's section replaces the whole section.
    let mut one = config(Some((1, 7)), &[("/main", path), ("/conf.d/a", cri)]);
    one.ensure_certs().unwrap();
    assert!(one.files[1].document.text().contains("config_path"), "{}", one.files[1].document.text());
    assert_eq!(one.files[0].document.text(), path);
    let mut two = config(Some((2, 1)), &[("/main", path), ("/conf.d/a", cri)]);
    assert_eq!(two.ensure_certs().unwrap(), [PathBuf::from("/a")], "containerd 2 merges key by key");
}

#[test]
fn old_style_mirrors_beside_config_path_are_named_by_their_lines() {
    let mirrors = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n\
                   [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = ['x']\n\
                   [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"quay.io\"]\nendpoint = ['x']\n";
    let tls = "[plugins.cri.registry.configs.\"a\".auth]\nusername='x'\n[plugins.cri.registry.configs.\"b\".tls]\nca_file='x'\n";
    for (engine, text, place) in [
        (Some((1, 7)), mirrors, "/f:3,5: old-style registry.mirrors (docker.io, quay.io)"),
        (Some((2, 4)), mirrors, "/f:3,5: old-style registry.mirrors (docker.io, quay.io)"),
        (Some((1, 6)), tls, "/f:3: old-style registry.configs with tls (b)"),
    ] {
        let refusal = config(engine, &[("/f", text)]).ensure_certs().unwrap_err().to_string();
        assert!(refusal.starts_with(place) && refusal.contains("does not start"), "{refusal}");
    }
    let auth = tls.split_inclusive("username='x'\n").next().unwrap();
    assert!(config(Some((1, 6)), &[("/f", auth)]).ensure_certs().is_ok(), "logins may stand beside it");
}

/// Writes the settings for lazy start; a second run changes nothing.
#[track_caller]
fn made_lazy(text: &str, handler: Option<&str>) -> (String, Vec<String>) {
    let mut config = config(Some((2, 4)), &[("/f", text)]);
    let write = |config: &mut Config| {
        lazy::write(config, "/run/darter/layers".as_ref(), handler).unwrap_or_else(|r| panic!("{text}: {r}"))
    };
    let notes = write(&mut config);
    let once = config.files[0].document.text().to_owned();
    write(&mut config);
    assert_eq!(config.files[0].document.text(), once, "the second time");
    (once, notes)
}

#[test]
fn lazy_start_is_written_in_the_form_of_the_version() {
    let (text, notes) = made_lazy("version = 4\n", None);
    assert!(notes.is_empty(), "{notes:?}");
    let platform =
        text.lines().find_map(|line| line.trim().strip_prefix("platform = \"linux/")).unwrap().trim_end_matches('"');
    let unpack = |platform: &str, snapshotter: &str, differ: &str, optional: &str| {
        format!(
            "[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n  platform = \"{platform}\"\n  snapshotter = \"{snapshotter}\"\n  \
             differ = \"{differ}\"\n{optional}\n"
        )
    };
    let linux = format!("linux/{platform}");
    let wanted = format!(
        "version = 4\n\n[plugins.'io.containerd.snapshotter.v1.erofs']\n  layer_content_caches = [\"/run/darter/layers\"]\n\n{}{}{}{}\
         [plugins.'io.containerd.cri.v1.images']\n  snapshotter = \"erofs\"\n",
        unpack(&linux, "erofs", "erofs", "  optional = true\n"),
        unpack(&linux, "erofs", "walking", ""),
        unpack(&linux, "overlayfs", "walking", ""),
        unpack(&format!("linux(+erofs)/{platform}"), "erofs", "erofs", "  optional = true\n"),
    );
    assert_eq!(text, wanted);
    let (text, _) = made_lazy("version = 2\n", None);
    assert!(text.contains("[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter = \"erofs\"\n"), "{text}");
    let (text, _) = made_lazy("", None);
    assert!(text.starts_with("version = 4\n"), "{text}");
}

/// Writes the settings for the proxy snapshotter; a second run changes nothing.
#[track_caller]
fn proxied(release: Release, text: &str, handler: Option<&str>) -> String {
    let mut config = config(Some(release), &[("/f", text)]);
    let place = proxy::SnapshotterPaths { address: "/run/s.sock".as_ref(), root: "/var/s".as_ref() };
    let notes = proxy::write(&mut config, place, handler).unwrap();
    assert!(notes[0].contains("darter snapshotter"), "{notes:?}");
    let once = config.files[0].document.text().to_owned();
    proxy::write(&mut config, place, handler).unwrap();
    assert_eq!(config.files[0].document.text(), once, "the second time");
    once
}

#[test]
fn before_2_4_the_proxy_snapshotter_is_written_in_the_form_of_the_version() {
    let plugin = "[proxy_plugins.darter]\n  type = \"snapshot\"\n  address = \"/run/s.sock\"\n\n[proxy_plugins.darter.exports]\n  root = \"/var/s\"\n";
    let old = "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter = \"darter\"\n  disable_snapshot_annotations = false\n";
    assert_eq!(proxied((1, 7), "version = 2\n", None), format!("version = 2\n\n{plugin}\n{old}"));
    let new =
        "[plugins.'io.containerd.cri.v1.images']\n  snapshotter = \"darter\"\n  disable_snapshot_annotations = false\n";
    assert_eq!(proxied((2, 1), "version = 3\n", None), format!("version = 3\n\n{plugin}\n{new}"));
    let text =
        proxied((1, 7), "version = 2\n[proxy_plugins]\n[proxy_plugins.stargz]\ntype = 'snapshot'\n", Some("lazy"));
    assert!(text.contains("[proxy_plugins.stargz]\ntype = 'snapshot'\n") && text.contains(plugin), "{text}");
    let handler = "containerd.runtimes.lazy]\n  runtime_type = \"io.containerd.runc.v2\"\n  snapshotter = \"darter\"\n";
    assert!(text.contains(handler), "{text}");
    let elsewhere = "version = 2\n[proxy_plugins.darter]\ntype = 'snapshot'\naddress = '/old.sock' # here\n";
    let text = proxied((1, 6), elsewhere, None);
    assert!(text.contains("address = \"/run/s.sock\" # here\n"), "{text}");
}

#[test]
fn the_proxy_snapshotter_is_refused_where_it_would_not_be_used() {
    let place = proxy::SnapshotterPaths { address: "/run/s.sock".as_ref(), root: "/var/s".as_ref() };
    let refused = |release, text: &str, handler| {
        proxy::write(&mut config(Some(release), &[("/f", text)]), place, handler).unwrap_err().to_string()
    };
    let told = refused((1, 7), "version = 2\ndisabled_plugins = ['cri']\n", None);
    assert!(told.starts_with("/f:2: ") && told.contains("disabled"), "{told}");
    let told = refused((1, 6), "version = 2\n", Some("lazy"));
    assert!(told.contains("1.7") && told.contains("--runtime-handler"), "{told}");
}

#[test]
fn what_others_wrote_for_the_same_plugins_stays() {
    let theirs = "version = 3\n[plugins.'io.containerd.snapshotter.v1.erofs']\n  layer_content_caches = [ '/mine' ] # first\n\
                  # ours\n[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nplatform = 'linux'\nsnapshotter = 'overlayfs'\n\
                  [plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'overlayfs'\n";
    let (text, _) = made_lazy(theirs, Some("lazy"));
    assert!(text.contains("layer_content_caches = [\"/run/darter/layers\",  '/mine' ] # first\n"), "{text}");
    assert_eq!(text.matches("[[plugins").count(), 3, "no defaults beside entries of theirs: {text}");
    assert!(text.find("differ = \"walking\"") < text.find("# ours"), "{text}");
    assert!(
        text.contains(
            "snapshotter = 'overlayfs'\n\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.lazy]\n"
        ),
        "{text}"
    );

    let inline = "version = 4\n[plugins.'io.containerd.transfer.v1.local']\nunpack_config = [ { platform = 'linux', snapshotter = 'erofs', differ = 'erofs' } ]\n";
    let (text, notes) = made_lazy(inline, None);
    assert!(text.contains("differ = 'erofs' }, { platform = "), "what converts stays before what walks: {text}");
    assert!(notes[0].starts_with("/f:3: this unpack_config is not optional"), "{notes:?}");
    let last = "version = 4\n[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nplatform = 'linux'\nsnapshotter = 'erofs'\ndiffer = 'erofs'\noptional = true\n\
                # z\n[z]\n";
    let (text, _) = made_lazy(last, None);
    let places = ["optional = true\n", "differ = \"walking\"\n", "# z\n[z]\n"].map(|part| text.find(part).unwrap());
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn a_new_runtime_handler_is_made_as_runc_is() {
    let runc = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
                [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = true\n";
    let (text, _) = made_lazy(runc, Some("lazy"));
    let name = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.lazy";
    let made = format!(
        "[{name}]\n  runtime_type = \"io.containerd.runc.v2\"\n  snapshotter = \"erofs\"\n  [{name}.options]\n    SystemdCgroup = true\n"
    );
    assert!(text.contains(&made), "{text}");
    let (again, _) = made_lazy(&format!("{runc}[{name}]\nruntime_type = 'x'\n"), Some("lazy"));
    assert!(again.contains(&format!("[{name}]\n  snapshotter = \"erofs\"\nruntime_type = 'x'\n")), "{again}");
}

#[test]
fn lazy_start_is_refused_beside_what_would_keep_containerd_from_it() {
    let erofs = "version = 4\n[plugins.'io.containerd.snapshotter.v1.erofs']\n";
    for (text, place, part) in [
        ("version = 4\ndisabled_plugins = ['io.containerd.snapshotter.v1.erofs']\n", "/f:2: ", "disabled"),
        (&format!("{erofs}enable_fsverity = true\n"), "/f:3: ", "enable_fsverity"),
        (&format!("{erofs}set_immutable = true\n"), "/f:3: ", "set_immutable"),
        (&format!("{erofs}dmverity_mode = 'on'\n"), "/f:3: ", "dm-verity"),
    ] {
        let mut found = config(Some((2, 4)), &[("/f", text)]);
        let refusal = lazy::write(&mut found, "/l".as_ref(), None).unwrap_err().to_string();
        assert!(refusal.starts_with(place) && refusal.contains(part), "{refusal}");
        assert!(found.setting(Part::Erofs, "layer_content_caches").is_none());
    }
}

#[test]
fn versions_of_engines_are_read_as_distributions_write_them() {
    for (text, version) in [
        ("1.6.20~ds1", Some((1, 6))),
        ("v2.4.2", Some((2, 4))),
        ("2.5.0-rc.1", Some((2, 5))),
        ("6.18.44-fc", Some((6, 18))),
        ("github.com/x/v2", None),
        ("2", None),
    ] {
        assert_eq!(crate::cli::values::version(text), version, "{text}");
    }
    let mirror = |local: &str| super::mirror_address(local.parse().unwrap());
    assert_eq!(mirror("0.0.0.0:1"), "http://127.0.0.1:1");
    assert_eq!([mirror("[::]:1"), mirror("10.0.0.1:2")], ["http://[::1]:1", "http://10.0.0.1:2"]);
}

#[test]
fn a_value_of_another_type_on_the_way_is_refused_by_its_name_and_line() {
    let erofs = "version = 4\n[plugins]\n'io.containerd.snapshotter.v1.erofs' = 1\n";
    let transfer = "version = 4\n[plugins]\n'io.containerd.transfer.v1.local' = 'x'\n";
    for (text, part) in [
        ("plugins = []\n", "/f:1: plugins has to be a table"),
        ("version = 4\nplugins = 'x'\n", "/f:2: plugins has to be a table"),
        ("version = 4\n[[plugins]]\n", "/f:2: plugins has to be a table"),
        (erofs, "/f:3: plugins.'io.containerd.snapshotter.v1.erofs' has to be a table"),
        (transfer, "/f:3: plugins.'io.containerd.transfer.v1.local' has to be a table"),
        ("version = 4\n[plugins.'io.containerd.snapshotter.v1.erofs']\nlayer_content_caches = 'x'\n", "/f:3: "),
        ("version = 4\n[plugins.'io.containerd.transfer.v1.local']\nunpack_config = 'x'\n", "/f:3: "),
    ] {
        let refusal = lazy::write(&mut config(Some((2, 4)), &[("/f", text)]), "/l".as_ref(), None).unwrap_err();
        assert!(refusal.to_string().starts_with(part), "{text}: {refusal}");
    }
}

#[test]
fn imports_that_would_not_all_be_read_are_refused_by_their_line() {
    let room = tempfile::tempdir().unwrap();
    let load = |import: &str| {
        std::fs::write(room.path().join("c"), format!("version = 3\nimports = [\n  {import}\n]\n")).unwrap();
        Config::load(&Tree::new(room.path().to_owned()), "/c".as_ref(), Some((2, 4)))
    };
    for import in ["'/etc/containerd/*/x.toml'", "'/etc/?/*.toml'", "'/etc/[a-z].toml'", r"'/etc/\*.toml'"] {
        let refusal = load(import).unwrap_err().to_string();
        assert!(refusal.starts_with("/c:3: imports: /etc/"), "{refusal}");
    }
    let many = |count: usize| (0..count).map(|n| format!("'/{n}.toml', ")).collect::<String>();
    assert_eq!(load(&many(63)).unwrap().files.len(), 64);
    let refusal = load(&many(64)).unwrap_err().to_string();
    assert!(refusal.starts_with("/c:3: ") && refusal.contains("64"), "{refusal}");
}

#[test]
fn a_form_that_is_not_known_yet_is_refused_by_its_line() {
    let of = |text: &str| Config::new(vec![("/c".into(), Some(text.to_owned()))], Some((2, 9)));
    assert!(of("version = 4\n").is_ok());
    let Err(refused) = of("# a\nversion = 5\n").map(drop) else { panic!("nobody knows it") };
    let refused = refused.to_string();
    assert!(refused.starts_with("/c:2: version = 5") && refused.contains("up to version 4"), "{refused}");
}

#[test]
fn a_form_that_the_installed_release_does_not_read_is_refused_and_not_written_in_vain() {
    let of = |release, version: u32| {
        Config::new(vec![("/c".into(), Some(format!("version = {version}\n")))], release).map(drop)
    };
    for (release, newest) in [((1, 6), 2), ((1, 7), 2), ((2, 0), 3), ((2, 2), 3), ((2, 3), 4), ((2, 4), 4)] {
        for version in 1..=4 {
            let told = of(Some(release), version).map_err(|refused| refused.to_string());
            assert_eq!(told.is_ok(), version <= newest, "{release:?}, {version}: {told:?}");
            if let Err(told) = told {
                let (major, minor) = release;
                let says = |part: &str| told.contains(part);
                assert!(
                    says(&format!("containerd {major}.{minor}")) && says(&format!("as version {newest}")),
                    "{told}"
                );
            }
        }
    }
    assert!(of(None, 4).is_ok(), "nobody said which release reads it");
}
