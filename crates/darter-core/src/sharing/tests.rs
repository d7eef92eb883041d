//! Two callers' answers, and whether the second may have the first's bytes.

use super::*;

const DATE: &str = "Sat, 21 Nov 2026 10:00:00 GMT";

/// An answer as one caller was given it.
#[derive(Clone)]
struct Given {
    version: Version,
    fetched: Fetched,
}

impl Given {
    /// To caller number `by`, from `address`, with a strong entity tag.
    fn to(by: u8, address: &str) -> Self {
        let version = Version { etag: Some("\"1\"".into()), length: Some(9), ..Version::default() };
        let address = Some(Address::of(&address.parse().unwrap()));
        Self { version, fetched: Fetched { by: [by; 32], shown: Some(Shown { address, ..Shown::default() }) } }
    }

    fn tagged(mut self, etag: Option<&str>) -> Self {
        self.version.etag = etag.map(Into::into);
        self
    }

    fn dated(mut self, age: Option<u32>) -> Self {
        self.version.last_modified = Some(DATE.into());
        self.fetched.shown.as_mut().unwrap().age = age;
        self
    }

    fn meant_for(mut self, reach: Reach) -> Self {
        self.fetched.shown.as_mut().unwrap().reach = reach;
        self
    }

    fn of_length(mut self, length: Option<u64>) -> Self {
        self.version.length = length;
        self
    }

    fn unseen(mut self) -> Self {
        self.fetched.shown = None;
        self
    }
}

const HERE: &str = "https://a.example/x";

fn stored(known: &Given, own: &Given) -> bool {
    may_share((&known.version, &known.fetched), (&own.version, &own.fetched), ContentFacts::default())
}

fn under_way(known: &Given, own: &Given) -> bool {
    may_share(
        (&known.version, &known.fetched),
        (&own.version, &own.fetched),
        ContentFacts { under_way: true, ..ContentFacts::default() },
    )
}

fn sealed(known: &Given, own: &Given) -> bool {
    may_share(
        (&known.version, &known.fetched),
        (&own.version, &own.fetched),
        ContentFacts { has_digest: true, ..ContentFacts::default() },
    )
}

fn name(given: &Given, url: &str, random: u64) -> crate::BlobId {
    let (source, _) = Source::from_url(url.parse().unwrap(), &[], None);
    source.blob(&own_version(&source, &given.version, &given.fetched, random))
}

#[test]
fn another_callers_bytes_need_the_same_strong_tag() {
    let first = Given::to(1, HERE);
    assert!(stored(&first, &Given::to(2, HERE)));
    assert!(!stored(&first, &Given::to(2, HERE).tagged(Some("\"2\""))));
    assert!(!stored(&first, &Given::to(2, HERE).tagged(Some("W/\"1\""))));
    assert!(!stored(&first.clone().tagged(Some("W/\"1\"")), &Given::to(2, HERE).tagged(Some("W/\"1\""))));
    assert!(!stored(&first, &Given::to(2, HERE).of_length(Some(8))));
    assert!(!stored(&first, &Given::to(2, HERE).tagged(None)));
    // Of a file's size alone, say.
    let mut older = Given::to(1, HERE).dated(None);
    older.version.last_modified = Some("Sat, 21 Nov 2026 09:00:00 GMT".into());
    for by in [1, 2] {
        assert!(!stored(&older, &Given::to(by, HERE).dated(None)) && stored(&older, &Given::to(by, HERE)));
    }
}

// nginx#824: a date says that nothing newer is there, not that both callers are shown the same.
#[test]
fn or_the_same_date_and_length_long_ago() {
    let dated = |by, age| Given::to(by, HERE).tagged(None).dated(age);
    assert!(stored(&dated(1, Some(60)), &dated(2, Some(3600))));
    assert!(!stored(&dated(1, Some(59)), &dated(2, Some(3600))), "written while it was read");
    assert!(!stored(&dated(1, Some(3600)), &dated(2, Some(0))));
    assert!(!stored(&dated(1, None), &dated(2, None)), "no Date to compare with");
    assert!(!stored(&dated(1, Some(60)).of_length(None), &dated(2, Some(60)).of_length(None)));
    // Then a weak tag does no harm.
    let weak = |by| dated(by, Some(60)).tagged(Some("W/\"1\""));
    assert!(stored(&weak(1), &weak(2)));
}

#[test]
fn a_login_page_opens_nothing() {
    let first = Given::to(1, HERE);
    for other in [Given::to(2, "https://a.example/login"), Given::to(1, "https://a.example/login")] {
        assert!(!stored(&first, &other) && !under_way(&first, &other) && !sealed(&first, &other));
    }
    // The same tag of another resource means nothing: two users who are led to files of their own.
    assert!(!stored(&Given::to(1, "https://a.example/1/x"), &Given::to(2, "https://a.example/2/x")));
}

// jonbaldie/varnish#38
#[test]
fn what_is_meant_for_one_caller_is_for_equal_credentials() {
    for (one, other) in [(Reach::SameCredentials, Reach::Anyone), (Reach::Anyone, Reach::SameCredentials)] {
        let (first, second) = (Given::to(1, HERE).meant_for(one), Given::to(2, HERE).meant_for(other));
        assert!(!stored(&first, &second) && !under_way(&first, &second) && !sealed(&first, &second));
        assert!(stored(&first, &Given::to(1, HERE).meant_for(other)));
    }
}

#[test]
fn what_is_not_to_be_stored_is_for_those_who_come_meanwhile() {
    let first = Given::to(1, HERE).meant_for(Reach::NoStore);
    assert!(under_way(&first, &Given::to(1, HERE)) && !stored(&first, &Given::to(1, HERE)));
    assert!(!under_way(&first, &Given::to(2, HERE)) && !sealed(&first, &Given::to(1, HERE)));
    let unnamed = first.tagged(None);
    assert!(!under_way(&unnamed, &unnamed), "nothing shows that it is the same");
}

#[test]
fn without_validators_only_equal_credentials_share_and_only_meanwhile() {
    let bare = |by| Given::to(by, HERE).tagged(None);
    assert!(under_way(&bare(1), &bare(1)));
    assert!(!stored(&bare(1), &bare(1)) && !under_way(&bare(1), &bare(2)));
    assert!(!under_way(&bare(1), &bare(1).of_length(Some(8))));
}

#[test]
fn equal_credentials_are_not_given_a_stale_file() {
    let dated = |age| Given::to(1, HERE).tagged(None).dated(Some(age));
    assert!(stored(&dated(5), &dated(9)));
    assert!(!stored(&dated(0), &dated(9)), "it may have been written again in that second");
    assert!(under_way(&dated(0), &dated(0)));
    let mut older = dated(900);
    older.version.last_modified = Some("Sat, 21 Nov 2026 09:00:00 GMT".into());
    assert!(!stored(&dated(9), &older), "rolled back");
}

#[test]
fn mirrors_of_a_file_are_one_for_equal_credentials() {
    let first = Given::to(1, "https://m1.example/pub/x.iso");
    assert!(stored(&first, &Given::to(1, "https://m2.example/x.iso")));
    assert!(!stored(&first, &Given::to(2, "https://m2.example/x.iso")));
    assert!(!stored(&first, &Given::to(1, "https://m1.example/old/x.iso")), "another file of the same server");
}

#[test]
fn a_signature_is_no_part_of_the_place() {
    let signed = |by, signature| Given::to(by, &format!("https://s3.example/b/x?X-Amz-Signature={signature}"));
    assert!(stored(&signed(1, "a"), &signed(2, "b")));
}

#[test]
fn with_a_digest_equal_credentials_need_no_validators_and_others_do() {
    let bare = |by| Given::to(by, HERE).tagged(None);
    assert!(sealed(&bare(1), &bare(1)) && !sealed(&bare(1), &bare(2)));
    assert!(sealed(&Given::to(1, HERE), &Given::to(1, HERE).tagged(Some("\"replica\""))));
    assert!(sealed(&Given::to(1, "https://a.example/x?t=1"), &Given::to(2, "https://a.example/x?t=2")));
    assert!(!sealed(&Given::to(1, "https://a.example/x"), &Given::to(2, "https://b.example/x")));
}

#[test]
fn what_only_the_lead_saw_is_for_equal_credentials_and_versions() {
    let known = Given::to(1, HERE).unseen();
    assert!(stored(&known, &Given::to(1, HERE)) && !stored(&known, &Given::to(2, HERE)));
    assert!(!sealed(&known, &Given::to(1, HERE).tagged(Some("\"2\""))));
}

#[test]
fn equal_names_mean_shareable_content() {
    let public = Given::to(1, HERE);
    assert_eq!(name(&public, HERE, 1), name(&Given::to(2, HERE), HERE, 2));
    let (source, _) = Source::from_url(HERE.parse().unwrap(), &[], None);
    assert_eq!(name(&public, HERE, 1), source.blob(&public.version), "as the last release called it");
    let private = |by| Given::to(by, HERE).meant_for(Reach::SameCredentials);
    assert_ne!(name(&private(1), HERE, 1), name(&private(2), HERE, 1));
    assert_eq!(name(&private(1), HERE, 1), name(&private(1), HERE, 2));
    assert_ne!(name(&private(1), HERE, 1), name(&public, HERE, 1));
    let led = |to| Given::to(1, to);
    assert_ne!(name(&led("https://a.example/1"), HERE, 1), name(&led("https://a.example/2"), HERE, 1));
    let weak = |by| Given::to(by, HERE).tagged(Some("W/\"1\""));
    assert_ne!(name(&weak(1), HERE, 1), name(&weak(2), HERE, 1));
    let bare = Given::to(1, HERE).tagged(None);
    assert_ne!(name(&bare, HERE, 1), name(&bare, HERE, 2));
}
