use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use darter_core::SystemClock;
use tempfile::TempDir;

use super::*;

fn logins(directory: &Path, json: &str) -> Logins {
    let path = directory.join("config.json");
    std::fs::write(&path, json).unwrap();
    let config = RegistryConfig {
        logins: BTreeMap::from([("Configured.lab".into(), password("set", "here"))]),
        docker_config: Some(path),
        helper_directories: vec![directory.to_owned()],
        ..RegistryConfig::default()
    };
    Logins::new(&config, Arc::new(SystemClock::start()))
}

fn helper(directory: &Path, name: &str, script: &str) {
    let path = directory.join(format!("docker-credential-{name}"));
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

fn password(user: &str, password: &str) -> Login {
    Login::Password { user: user.into(), password: password.into() }
}

#[tokio::test]
async fn every_form_of_an_entry_is_understood() {
    let directory = TempDir::new().unwrap();
    let logins = logins(
        directory.path(),
        r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "YWxpY2U6c2U6Y3JldA=="},
            "plain.lab:5000": {"username": "bob", "password": "pw"},
            "https://identity.lab": {"auth": "eDo=", "identitytoken": "refresh"},
            "registry.lab/v2/": {"registrytoken": "access"},
            "part.lab/only/this": {"auth": "YWxpY2U6c2U6Y3JldA=="},
            "broken.lab": {"auth": "%%%"},
            "empty.lab": {}
        }, "HttpHeaders": {"X": "y"}}"#,
    );
    assert_eq!(logins.of("docker.io").await, Some(password("alice", "se:cret")));
    assert_eq!(logins.of("plain.lab:5000").await, Some(password("bob", "pw")));
    assert_eq!(logins.of("identity.lab").await, Some(Login::IdentityToken("refresh".into())));
    assert_eq!(logins.of("registry.lab").await, Some(Login::RegistryToken("access".into())));
    assert_eq!(logins.of("configured.lab").await, Some(password("set", "here")));
    for nothing in ["part.lab", "broken.lab", "empty.lab", "unknown.lab"] {
        assert_eq!(logins.of(nothing).await, None, "{nothing}");
    }
}

#[tokio::test]
async fn helpers_are_asked_their_own_before_the_common_one_before_the_file() {
    let directory = TempDir::new().unwrap();
    let common = r#"read server
case "$server" in
  https://index.docker.io/v1/) echo '{"ServerURL":"x","Username":"<token>","Secret":"refresh"}' ;;
  *) echo "credentials not found in native keychain"; exit 1 ;;
esac"#;
    helper(directory.path(), "common", common);
    helper(directory.path(), "own", r#"test "$1" = get && echo '{"Username":"carol","Secret":"pw"}'"#);
    helper(directory.path(), "mad", "echo hello");
    let logins = logins(
        directory.path(),
        r#"{"credsStore": "common",
            "credHelpers": {"own.lab": "own", "mad.lab": "mad", "missing.lab": "none", "path.lab": "../own"},
            "auths": {"file.lab": {"auth": "YTpi"}, "own.lab": {"auth": "YTpi"}}}"#,
    );
    assert_eq!(logins.of("docker.io").await, Some(Login::IdentityToken("refresh".into())));
    assert_eq!(logins.of("own.lab").await, Some(password("carol", "pw")));
    assert_eq!(logins.of("file.lab").await, Some(password("a", "b")));
    for nothing in ["mad.lab", "missing.lab", "path.lab"] {
        assert_eq!(logins.of(nothing).await, None, "{nothing}");
    }
}

#[tokio::test]
async fn a_broken_file_is_no_login() {
    let directory = TempDir::new().unwrap();
    let logins = logins(directory.path(), "not json");
    assert_eq!(logins.of("docker.io").await, None);
    assert_eq!(logins.of("configured.lab").await, Some(password("set", "here")));
    assert_eq!(format!("{:?}", password("a", "secret")), "Password(…)");
}
