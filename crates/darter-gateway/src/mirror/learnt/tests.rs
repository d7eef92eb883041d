use darter_core::source::Credentials;

use super::*;

const TTL: Duration = Duration::from_secs(300);

fn at(seconds: u64) -> Moment {
    Moment::ZERO + Duration::from_secs(seconds)
}

fn digest(name: &str) -> Digest {
    Digest::sha256(name.as_bytes())
}

/// An image of this name, with layers and their diff ids by name.
fn image(name: &str, caller: &str, layers: &[(&str, &str)]) -> Pulled<()> {
    let layers = layers
        .iter()
        .map(|(layer, diff_id)| {
            (LayerPart { digest: digest(layer), size: None, media_type: "tar".to_owned() }, digest(diff_id))
        })
        .collect();
    let credentials = Credentials { headers: vec![("authorization".into(), caller.into())] };
    let pull = Pull { scope: Scope::new("lab", name), manifest: digest(name), caller: credentials.fingerprint() };
    Pulled { pull, how: (), layers }
}

fn ids(names: &[&str]) -> Vec<Digest> {
    names.iter().map(|name| digest(name)).collect()
}

struct World {
    learnt: Learnt<()>,
    app: Pull,
}

/// Alice pulled `app` of two layers at second 0; it was found fit at once.
fn world() -> World {
    let mut learnt = Learnt::new(TTL);
    let app = image("app", "alice", &[("base", "x"), ("top", "y")]);
    let pull = app.pull.clone();
    learnt.pulled(app, at(0));
    assert!(matches!(learnt.decide(digest("x"), at(0)), Decision::Look(images) if images[0].pull == pull));
    learnt.judged(&pull, Verdict::Fit, ids(&["x", "y"]), at(0));
    World { learnt, app: pull }
}

impl World {
    fn hits(&mut self, diff_id: &str, now: u64) -> bool {
        matches!(self.learnt.decide(digest(diff_id), at(now)), Decision::Hit(_))
    }

    fn misses(&mut self, diff_id: &str, now: u64) -> bool {
        matches!(self.learnt.decide(digest(diff_id), at(now)), Decision::Miss(_))
    }

    fn looks(&mut self, diff_id: &str, now: u64) -> usize {
        match self.learnt.decide(digest(diff_id), at(now)) {
            Decision::Look(images) => images.len(),
            _ => 0,
        }
    }
}

#[test]
fn layers_of_an_image_that_was_found_fit_are_hits_and_what_nobody_pulled_is_a_miss() {
    let mut world = world();
    assert!(world.hits("x", 1) && world.hits("y", 299));
    assert!(world.misses("z", 1));
    assert!(world.misses("base", 1), "that is a layer, and no diff id");
}

#[test]
fn the_lowest_layers_are_hits_while_the_others_are_looked_at_and_stay_so_whatever_these_are() {
    let mut world = world();
    let tool = || image("tool", "alice", &[("low", "l"), ("mid", "m"), ("odd", "z")]);
    let pull = tool().pull;
    world.learnt.pulled(tool(), at(1));
    assert_eq!(world.looks("l", 1), 1);
    world.learnt.rises(&pull, ids(&["l"]), at(2));
    assert!(world.hits("l", 2) && world.looks("m", 2) == 1 && world.looks("z", 2) == 1);
    assert!(
        world.learnt.is_known_of(&pull, digest("l"), at(2)) && !world.learnt.is_known_of(&pull, digest("m"), at(2))
    );
    assert!(!world.learnt.is_settled(&pull, at(2)) && !world.learnt.stands(&pull, at(2)));
    assert_eq!(world.looks("l", 302), 1, "access is asked for again");
    world.learnt.rises(&pull, ids(&["l"]), at(3));
    world.learnt.judged(&pull, Verdict::Unfit, ids(&["l", "m"]), at(3));
    assert!(world.hits("l", 3) && world.misses("m", 3) && world.misses("z", 3));
    assert!(world.learnt.is_settled(&pull, at(3)) && world.learnt.is_known_of(&pull, digest("z"), at(3)));
    world.learnt.pulled(tool(), at(4));
    assert_eq!(world.looks("l", 4), 1, "it is looked at again");
}

#[test]
fn without_a_lowest_layer_all_layers_of_an_image_or_none() {
    let mut world = world();
    // It shares its lowest layer with the other image; one of its own can't be expressed.
    let tool = image("tool", "alice", &[("base", "x"), ("odd", "z")]);
    let pull = tool.pull.clone();
    world.learnt.pulled(tool, at(1));
    assert_eq!(world.looks("x", 1), 1);
    world.learnt.judged(&pull, Verdict::Unfit, ids(&["x"]), at(1));
    assert!(world.misses("z", 1));
    assert!(world.hits("x", 1), "the other image's are all there, and this one's puller may read it, too");
}

#[test]
fn the_same_layer_twice_and_an_empty_one_are_layers_as_any_other() {
    let mut world = world();
    let twice = image("twice", "alice", &[("empty", "e"), ("base", "x"), ("empty", "e")]);
    let pull = twice.pull.clone();
    world.learnt.pulled(twice, at(1));
    world.learnt.judged(&pull, Verdict::Fit, ids(&["e", "x"]), at(1));
    assert!(world.hits("e", 1) && world.hits("x", 1));
}

#[test]
fn a_config_that_merely_names_a_private_layers_diff_id_gets_a_miss() {
    let mut world = world();
    // Bob has a layer of his own, and says that it is alice's.
    let liar = image("liar", "bob", &[("bogus", "x")]);
    let pull = liar.pull.clone();
    world.learnt.pulled(liar, at(10));
    assert_eq!(world.looks("x", 10), 1, "it is looked at before anybody is answered");
    world.learnt.judged(&pull, Verdict::Unfit, Vec::new(), at(10));
    assert!(world.misses("x", 11), "it may be bob who asks");
    assert!(world.hits("y", 11), "which he does not name");
    // Long after his pull it is not.
    world.learnt.judged(&world.app.clone(), Verdict::Fit, ids(&["x", "y"]), at(700));
    world.learnt.judged(&pull, Verdict::Unfit, Vec::new(), at(700));
    assert!(world.hits("x", 700));
    // He pulls again.
    world.learnt.pulled(image("liar", "bob", &[("bogus", "x")]), at(701));
    assert_eq!(world.looks("x", 701), 1);
}

#[test]
fn who_may_not_read_the_layer_gets_a_miss_though_it_is_the_right_one() {
    let mut world = world();
    let copied = image("copied", "bob", &[("base", "x"), ("top", "y")]);
    let pull = copied.pull.clone();
    world.learnt.pulled(copied, at(10));
    for verdict in [Verdict::Refused, Verdict::Unfit] {
        world.learnt.judged(&pull, verdict, Vec::new(), at(10));
        assert!(world.misses("x", 10) && world.misses("y", 10), "{verdict:?}");
    }
}

#[test]
fn another_compression_of_the_same_tar_is_no_contradiction() {
    let mut world = world();
    let zstd = image("zstd", "bob", &[("base-zstd", "x")]);
    let pull = zstd.pull.clone();
    world.learnt.pulled(zstd, at(10));
    world.learnt.judged(&pull, Verdict::Fit, ids(&["x"]), at(10));
    assert!(world.hits("x", 10));
}

#[test]
fn what_was_found_counts_for_a_time_and_a_new_pull_looks_again_at_what_was_not_fit() {
    let mut world = world();
    assert_eq!(world.looks("x", 300), 1, "access is asked for again");
    assert!(world.learnt.stands(&world.app.clone(), at(300)) && world.hits("x", 300), "nobody can be asked");
    let again = || image("app", "alice", &[("base", "x"), ("top", "y")]);
    world.learnt.pulled(again(), at(301));
    assert!(world.hits("x", 301));
    world.learnt.judged(&world.app.clone(), Verdict::Unfit, ids(&["x"]), at(302));
    assert!(world.misses("x", 302));
    world.learnt.pulled(again(), at(303));
    assert_eq!(world.looks("x", 303), 1);
}

#[test]
fn the_tables_are_bounded_and_what_is_forgotten_is_a_miss() {
    let mut world = world();
    for number in 0..3 * MAX_LAYERS {
        let name = number.to_string();
        world.learnt.pulled(image(&name, "alice", &[(&name, &name)]), at(1));
    }
    assert!(world.misses("x", 1) && world.misses("y", 1));
    assert!(world.learnt.named.len() as u64 <= 2 * MAX_LAYERS);
    // Of many images that name one diff id a few are looked at.
    for number in 0..100 {
        world.learnt.pulled(image(&format!("same-{number}"), "alice", &[("l", "same")]), at(1));
    }
    assert_eq!(world.looks("same", 1), MAX_CLAIMS);
}

#[test]
fn an_image_that_is_pulled_with_ever_new_logins_takes_no_more_memory_in_the_end() {
    let World { mut learnt, app } = world();
    for login in 0..2 * MAX_LAYERS + 10 {
        learnt.pulled(image("app", &login.to_string(), &[("base", "x"), ("base", "x")]), at(1));
    }
    let named = learnt.named[&digest("x")].len() as u64;
    assert!(named <= 2 * MAX_LAYERS && learnt.claims == named as usize, "{named} of {} are noted", learnt.claims);
    assert!(learnt.images.peek(&app).is_none() && !learnt.named.contains_key(&digest("y")));
    learnt.forget(&image("app", "0", &[]).pull);
    learnt.forget(&image("app", &(2 * MAX_LAYERS).to_string(), &[]).pull);
    assert_eq!(learnt.claims as u64, named - 1, "one of the two was there");
}

#[test]
fn a_manifest_is_remembered_until_its_configuration_is_needed_and_a_new_pull_renews_what_is_known() {
    let mut world = world();
    let parts = || ImageParts { config: digest("config"), config_size: None, layers: Vec::new() };
    let unread = |name: &str| Unread { pull: image(name, "alice", &[]).pull, how: (), parts: parts() };
    for number in 0..2 * MAX_UNREAD {
        world.learnt.seen(unread(&number.to_string()), at(10));
    }
    world.learnt.seen(unread("late"), at(500));
    let read = world.learnt.unread(at(610));
    assert_eq!(read.iter().map(|image| image.pull.manifest).collect::<Vec<_>>(), [digest("late")], "long ago");
    assert_eq!(world.learnt.unread(at(610)).len(), 1, "whoever reads it may be gone before it is read");
    world.learnt.was_read(&read[0].pull);
    assert!(world.learnt.unread(at(610)).is_empty());
    // It is known what this one is made of.
    world.learnt.judged(&world.app.clone(), Verdict::Unfit, ids(&["x"]), at(610));
    assert!(world.misses("x", 610));
    world.learnt.seen(unread("app"), at(611));
    assert!(world.learnt.unread(at(611)).is_empty());
    assert_eq!(world.looks("x", 611), 1, "pulled again");
}

#[test]
fn a_diff_id_is_contested_while_an_image_names_it_that_was_not_found_to_have_it() {
    let mut world = world();
    let contested = |world: &mut World, now| world.learnt.is_contested(digest("x"), at(now));
    assert!(!contested(&mut world, 5), "its image was found to have it");
    assert!(!contested(&mut world, 5000), "and its puller's word is long ago");
    world.learnt.pulled(image("liar", "bob", &[("bogus", "x")]), at(10));
    assert!(contested(&mut world, 10) && contested(&mut world, 600) && !contested(&mut world, 611));
    assert!(!world.learnt.is_contested(digest("none"), at(10)));
}

#[test]
fn a_chain_id_leads_to_the_diff_id_of_its_uppermost_layer() {
    let mut world = world();
    let [x, y] = ["x", "y"].map(digest);
    let both = Digest::sha256(format!("{x} {y}").as_bytes());
    assert_eq!((world.learnt.uppermost(x), world.learnt.uppermost(both)), (x, y));
    assert_eq!(world.learnt.uppermost(digest("other")), digest("other"), "as that of a lowest layer");
    world.learnt.prune();
    assert_eq!(world.learnt.uppermost(both), y);
    world.learnt.forget(&world.app);
    world.learnt.prune();
    assert_eq!(world.learnt.uppermost(both), both);
}
