use super::*;

fn known() -> KnownUpstreams {
    KnownUpstreams { names: BTreeSet::from(["hub".into()]), default: Some("docker.io".into()) }
}

fn target_of(namespace: Option<&str>, name: &str) -> (String, String) {
    let target = target(namespace.map(str::to_owned), name, &known()).unwrap();
    (target.upstream, target.repository)
}

#[test]
fn the_upstream_is_named_by_a_configured_prefix_then_by_ns_then_by_another_prefix_then_by_default() {
    let pair = |upstream: &str, repository: &str| (upstream.to_owned(), repository.to_owned());
    assert_eq!(target_of(Some("ghcr.io"), "hub/app"), pair("hub", "app"));
    assert_eq!(target_of(Some("ghcr.io"), "my.group/app"), pair("ghcr.io", "my.group/app"));
    assert_eq!(target_of(None, "hub/app"), pair("hub", "app"));
    assert_eq!(target_of(None, "10.0.0.1:5000/a/b"), pair("10.0.0.1:5000", "a/b"));
    assert_eq!(target_of(None, "ghcr.io/a"), pair("ghcr.io", "a"));
    assert_eq!(target_of(None, "localhost/a"), pair("localhost", "a"));
    assert_eq!(target_of(None, "library/debian"), pair("docker.io", "library/debian"));
    assert_eq!(target_of(None, "hub"), pair("docker.io", "hub"));
}

#[test]
fn without_a_default_the_answer_says_how_to_set_one() {
    let problem = target(None, "library/debian", &KnownUpstreams::default()).unwrap_err();
    assert_eq!(problem.status, StatusCode::NOT_FOUND);
    assert!(problem.message().contains("default upstream"), "{}", problem.message());
}

#[test]
fn the_query_loses_ns_and_nothing_else() {
    let (namespace, rest) = split_query(Some("n=10&ns=10.0.0.1%3A5000&last=a%26b"));
    assert_eq!(namespace.as_deref(), Some("10.0.0.1:5000"));
    assert_eq!(rest, "n=10&last=a%26b");
    assert_eq!(split_query(None), (None, String::new()));
    assert_eq!(split_query(Some("ns=")).0, None);
}

#[test]
fn what_breaks_the_grammar_of_names_is_refused_as_the_specification_says() {
    let refused = |problem: Problem| problem.status.as_u16();
    assert_eq!(refused(target(None, "hub/A", &known()).unwrap_err()), 400);
    assert_eq!(refused(name::Reference::parse("sha256:12").unwrap_err().into()), 400);
    assert_eq!(refused(name::Reference::parse(".x").unwrap_err().into()), 404);
}
