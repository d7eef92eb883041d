use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn known() -> Known {
    Known { names: BTreeSet::from(["hub".into()]), default: Some("docker.io".into()) }
}

fn place_of(namespace: Option<&str>, name: &str) -> (String, String) {
    let place = place(namespace.map(str::to_owned), name, &known()).unwrap();
    (place.upstream, place.repository)
}

#[test]
fn paths_of_the_specification() {
    for ping in ["/v2", "/v2/"] {
        assert_eq!(parse(ping), Some(Route::Ping));
    }
    let manifest = Route::Manifest { name: "library/debian", reference: "12" };
    assert_eq!(parse("/v2/library/debian/manifests/12"), Some(manifest));
    let path = decoded("/v2/app/blobs/sha256%3Aab");
    assert_eq!(parse(&path), Some(Route::Blob { name: "app", digest: "sha256:ab" }));
    assert_eq!(parse("/v2/a/b/tags/list"), Some(Route::Tags { name: "a/b" }));
    assert_eq!(parse("/v2/a/b/referrers/d"), Some(Route::Referrers { name: "a/b", digest: "d" }));
    let odd = Route::Manifest { name: "a/blobs/manifests", reference: "blobs" };
    assert_eq!(parse("/v2/a/blobs/manifests/manifests/blobs"), Some(odd));
    for nothing in ["/", "/v1/", "/v2x", "/v2/_catalog", "/v2/a/blobs/uploads/", "/v2/manifests/x", "/v2//"] {
        assert_eq!(parse(nothing), None, "{nothing}");
    }
}

#[test]
fn the_upstream_is_named_by_a_configured_prefix_then_by_ns_then_by_another_prefix_then_by_default() {
    let pair = |upstream: &str, repository: &str| (upstream.to_owned(), repository.to_owned());
    assert_eq!(place_of(Some("ghcr.io"), "hub/app"), pair("hub", "app"));
    assert_eq!(place_of(Some("ghcr.io"), "my.group/app"), pair("ghcr.io", "my.group/app"));
    assert_eq!(place_of(None, "hub/app"), pair("hub", "app"));
    assert_eq!(place_of(None, "10.0.0.1:5000/a/b"), pair("10.0.0.1:5000", "a/b"));
    assert_eq!(place_of(None, "ghcr.io/a"), pair("ghcr.io", "a"));
    assert_eq!(place_of(None, "localhost/a"), pair("localhost", "a"));
    assert_eq!(place_of(None, "library/debian"), pair("docker.io", "library/debian"));
    assert_eq!(place_of(None, "hub"), pair("docker.io", "hub"));
}

#[test]
fn without_a_default_the_answer_says_how_to_set_one() {
    let problem = place(None, "library/debian", &Known::default()).unwrap_err();
    assert_eq!(problem.status, StatusCode::NOT_FOUND);
    assert!(problem.message().contains("default upstream"), "{}", problem.message());
}

#[test]
fn names_keep_to_the_grammar() {
    for good in ["a", "a/b/c", "a.b", "a_b", "a__b", "a---b", "0/1"] {
        assert!(valid_name(good).is_ok(), "{good}");
    }
    let long = "a".repeat(MAX_NAME + 1);
    for bad in ["", "A", "a//b", "/a", "a/", "a..b", "a___b", "-a", "a-", "a._b", "a b", "a%2fb", "..", "a/../b", &long]
    {
        assert!(valid_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn references_are_tags_or_digests() {
    assert_eq!(reference("v1.0-rc_1").unwrap(), Reference::Tag("v1.0-rc_1"));
    assert_eq!(reference(DIGEST).unwrap(), Reference::Digest(DIGEST.parse().unwrap()));
    assert_eq!(reference("sha256:12").unwrap_err().status, StatusCode::BAD_REQUEST);
    for bad in [".x", "-x", "a b", "a%20b", &"x".repeat(MAX_TAG + 1)] {
        assert_eq!(reference(bad).unwrap_err().status, StatusCode::NOT_FOUND, "{bad}");
    }
}

#[test]
fn the_query_loses_ns_and_nothing_else() {
    let (namespace, rest) = split_query(Some("n=10&ns=10.0.0.1%3A5000&last=a%26b"));
    assert_eq!(namespace.as_deref(), Some("10.0.0.1:5000"));
    assert_eq!(rest, "n=10&last=a%26b");
    assert_eq!(split_query(None), (None, String::new()));
    assert_eq!(split_query(Some("ns=")).0, None);
}
