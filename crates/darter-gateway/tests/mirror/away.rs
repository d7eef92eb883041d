//! Answers while a registry is away, asks for less, or fails.

use http::StatusCode;

use darter_agent::options::StaleTags;
use darter_core::Digest;

use crate::registry::Registry;
use crate::world::{GRANT_TTL, World, world, world_of, world_with};

const ALICE: &str = "Bearer alice";
const BOB: &str = "Bearer bob";
const TAG: &str = "/v2/app/manifests/1";

struct Pulled {
    world: World,
    image: Digest,
    by_digest: String,
    layer: String,
}

/// `app:1` was pulled as `authorization`, and then much time has passed.
async fn pulled_as(world: World, authorization: &str) -> Pulled {
    let (image, [_, layer]) = world.registry.put_image("app", Some("1"), b"layer");
    world.agent.hold(&b"layer"[..]);
    assert_eq!(world.get_as(authorization, TAG).await.status, 200);
    let (by_digest, layer) = (format!("/v2/app/manifests/{image}"), format!("/v2/app/blobs/{layer}"));
    assert_eq!(world.get_as(authorization, &by_digest).await.status, 200);
    Pulled { world, image, by_digest, layer }
}

async fn pulled(world: World) -> Pulled {
    let pulled = pulled_as(world, "").await;
    pulled.world.clock.pass(GRANT_TTL * 1000);
    pulled
}

impl Pulled {
    fn break_with(&self, status: u16) {
        self.world.registry.state.lock().broken = Some(StatusCode::from_u16(status).unwrap());
    }

    async fn take_away(&mut self) {
        let gone = std::mem::replace(&mut self.world.registry, Registry::start().await);
        gone.stop().await;
    }

    async fn assert_served(&self) {
        let tag = self.world.get(TAG).await;
        assert_eq!((tag.status.as_u16(), Digest::sha256(&tag.body)), (200, self.image));
        assert!(tag.header("darter-stale").parse::<u64>().is_ok(), "it says so");
        assert!(tag.header("warning").starts_with("299 - "));
        let head = self.world.head(TAG).await;
        assert_eq!((head.status.as_u16(), head.header("docker-content-digest")), (200, &*self.image.to_string()));
        self.assert_served_by_digest().await;
    }

    async fn assert_served_by_digest(&self) {
        assert_eq!(Digest::sha256(&self.world.get(&self.by_digest).await.body), self.image);
        assert_eq!(self.world.get(&self.layer).await.body, "layer");
        assert_eq!(self.world.head(&self.layer).await.header("content-length"), "5");
    }
}

/// harbor#13566, harbor#19899, zot#4393, huggingface_hub#3342.
#[tokio::test]
async fn what_was_pulled_is_served_while_its_registry_is_away_or_asks_for_less() {
    let mut pulled = pulled(world().await).await;
    pulled.break_with(429);
    pulled.assert_served().await;
    assert!(pulled.world.metrics.encode().contains(r#"darter_registry_answers_total{result="stale"}"#));
    pulled.world.registry.state.lock().broken = None;
    // The 429 asked for seven seconds.
    pulled.world.clock.pass(std::time::Duration::from_secs(7));
    pulled.world.registry.asked();
    let fresh = pulled.world.get(TAG).await;
    assert_eq!((fresh.header("darter-stale"), fresh.header("warning")), ("", ""));
    assert_eq!(pulled.world.registry.asked(), [format!("HEAD {TAG}")], "a registry that is back is asked");
    pulled.take_away().await;
    pulled.assert_served().await;
}

#[tokio::test]
async fn a_restart_while_the_registry_is_away_changes_nothing() {
    let mut pulled = pulled(world().await).await;
    // The mirror goes on asking the registry that is gone.
    let registry = pulled.world.registry.name();
    pulled.take_away().await;
    pulled.world.restart_before(&registry).await;
    pulled.assert_served().await;
}

#[tokio::test]
async fn a_registry_that_fails_keeps_its_tags_to_itself_unless_told_otherwise_and_tags_never_go_stale_if_told_so() {
    let by_default = pulled(world().await).await;
    by_default.break_with(503);
    assert_eq!(by_default.world.get(TAG).await.error(), (502, "UNAVAILABLE".into()));
    by_default.assert_served_by_digest().await;
    let errors = pulled(world_of(StaleTags::Errors, |_, _| {}).await).await;
    errors.break_with(500);
    errors.assert_served().await;
    let mut never = pulled(world_of(StaleTags::Never, |_, _| {}).await).await;
    never.break_with(429);
    assert_eq!(never.world.get(TAG).await.error(), (429, "TOOMANYREQUESTS".into()));
    never.assert_served_by_digest().await;
    never.take_away().await;
    assert_eq!(never.world.get(TAG).await.error(), (502, "UNAVAILABLE".into()));
    never.assert_served_by_digest().await;
}

/// A portal between this host and the registry, or the page of a gateway: an answer of another kind than what was asked for is no word of
/// the registry on what everybody may have.
#[tokio::test]
async fn what_was_pulled_is_served_by_digest_while_a_portal_answers_for_the_registry() {
    for page in ["<!DOCTYPE html><html>Please log in</html>", "{\"message\": \"please log in\"}", ""] {
        let by_default = pulled(world().await).await;
        by_default.world.registry.state.lock().portal = Some(page);
        by_default.assert_served_by_digest().await;
        assert_eq!(by_default.world.get(TAG).await.status, 502, "a tag may be another's by now");
        by_default.world.registry.state.lock().portal = None;
        // The answer for others that ask the same within a moment.
        by_default.world.clock.pass(std::time::Duration::from_secs(4));
        let fresh = by_default.world.get(&by_default.by_digest).await;
        assert_eq!(
            (fresh.status.as_u16(), fresh.header("darter-stale")),
            (200, ""),
            "nobody is told of the page any more"
        );
        let errors = pulled(world_of(StaleTags::Errors, |_, _| {}).await).await;
        errors.world.registry.state.lock().portal = Some(page);
        errors.assert_served().await;
        // Content that is not everybody's is for callers that showed to have it.
        let world = world().await;
        world.registry.allow(ALICE, "app");
        let private = pulled_as(world, ALICE).await;
        private.world.registry.state.lock().portal = Some(page);
        for stranger in [BOB, ""] {
            for path in [TAG, &private.by_digest, &private.layer] {
                assert_eq!(private.world.get_as(stranger, path).await.status, 502, "{stranger} {path}");
            }
        }
    }
}

#[tokio::test]
async fn what_only_a_callers_own_credentials_opened_is_for_that_caller_and_for_as_long_as_a_yes_counts() {
    let world = world().await;
    world.registry.allow(ALICE, "app");
    let mut pulled = pulled_as(world, ALICE).await;
    pulled.take_away().await;
    for stranger in [BOB, ""] {
        for path in [TAG, &pulled.by_digest, &pulled.layer] {
            assert_eq!(pulled.world.get_as(stranger, path).await.status, 502, "{stranger} {path}");
        }
    }
    for path in [TAG, &pulled.by_digest, &pulled.layer] {
        assert_eq!(pulled.world.get_as(ALICE, path).await.status, 200, "{path}");
    }
    pulled.world.clock.pass(GRANT_TTL);
    for path in [TAG, &pulled.by_digest, &pulled.layer] {
        assert_eq!(pulled.world.get_as(ALICE, path).await.status, 502, "{path}");
    }
    let kept: Vec<_> = std::fs::read_dir(pulled.world.dir.path().join("data/manifests/open-1")).unwrap().collect();
    assert!(kept.is_empty(), "nothing of it is written down");
}

#[tokio::test]
async fn what_a_configured_login_opened_is_served_like_what_is_public() {
    let world = world_with(|options, config| {
        let login = darter_origin::Login::Password { user: "alice".into(), password: "secret".into() };
        config.logins.insert(options.default_upstream.clone().unwrap(), login);
    })
    .await;
    world.registry.allow("Basic YWxpY2U6c2VjcmV0", "app");
    let mut pulled = pulled(world).await;
    pulled.take_away().await;
    pulled.assert_served().await;
}

#[tokio::test]
async fn what_was_made_private_or_deleted_is_served_no_more() {
    let mut private = pulled(world().await).await;
    private.world.registry.allow(ALICE, "app");
    assert_eq!(private.world.get(TAG).await.status, 401);
    private.take_away().await;
    for path in [TAG, &private.by_digest, &private.layer] {
        assert_eq!(private.world.get(path).await.status, 502, "{path}");
    }
    let mut deleted = pulled(world().await).await;
    deleted.world.registry.state.lock().repositories.get_mut("app").unwrap().tags.clear();
    assert_eq!(deleted.world.get(TAG).await.status, 404);
    deleted.take_away().await;
    assert_eq!(deleted.world.get(TAG).await.status, 502);
    deleted.assert_served_by_digest().await;
}

#[tokio::test]
async fn what_is_stale_opens_nothing_newer() {
    let mut pulled = pulled(world().await).await;
    // Made private meanwhile, and a new layer came in, which only Alice knows.
    pulled.world.registry.allow(ALICE, "app");
    let (_, [_, secret]) = pulled.world.registry.put_image("app", Some("2"), b"secret");
    pulled.world.agent.hold(&b"secret"[..]);
    assert_eq!(pulled.world.get_as(ALICE, "/v2/app/manifests/2").await.status, 200);
    pulled.take_away().await;
    assert_eq!(pulled.world.get(TAG).await.status, 200);
    assert_eq!(pulled.world.get(&format!("/v2/app/blobs/{secret}")).await.status, 502);
}
