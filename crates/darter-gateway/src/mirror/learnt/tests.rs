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
    Pulled { pull, how: (), layers, claimed: Vec::new() }
}

/// An image of this name whose configuration has not been read.
fn unread(name: &str) -> Unread<()> {
    Unread { pull: image(name, "alice", &[]).pull, how: (), config: digest(&format!("config of {name}")), parts: None }
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
    let mut world = self::world();
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
    for number in 0..2 * MAX_UNREAD {
        world.learnt.seen(unread(&number.to_string()), at(10));
    }
    world.learnt.seen(unread("late"), at(500));
    let read = world.learnt.unread(at(610));
    assert_eq!(read.iter().map(|image| image.pull.manifest).collect::<Vec<_>>(), [digest("late")], "long ago");
    assert_eq!(world.learnt.unread(at(610)).len(), 1, "whoever reads it may be gone before it is read");
    world.learnt.was_read(read[0].clone(), Vec::new(), Vec::new(), at(610));
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
    let contested = |world: &mut World, now| world.learnt.is_contested(digest("x"), true, at(now));
    assert!(!contested(&mut world, 5), "its image was found to have it");
    assert!(!contested(&mut world, 5000), "and its puller's word is long ago");
    world.learnt.pulled(image("liar", "bob", &[("bogus", "x")]), at(10));
    assert!(contested(&mut world, 10) && contested(&mut world, 600) && !contested(&mut world, 611));
    assert!(!world.learnt.is_contested(digest("none"), true, at(10)));
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

impl World {
    /// True if a layer is not given that only alice may read, and one is that anybody may.
    fn withholds(&mut self, now: u64) -> bool {
        let public = Pulled { pull: anonymous(), ..image("public", "", &[("p", "p")]) };
        self.learnt.pulled(public, at(now));
        self.learnt.judged(&anonymous(), Verdict::Fit, ids(&["p"]), at(now));
        self.learnt.judged(&self.app.clone(), Verdict::Fit, ids(&["x", "y"]), at(now));
        assert!(self.hits("p", now) && !self.learnt.is_contested(digest("p"), false, at(now)));
        assert_eq!(self.learnt.is_contested(digest("x"), true, at(now)), self.misses("x", now));
        self.misses("x", now)
    }
}

/// The pull of a public image.
fn anonymous() -> Pull {
    Pull { caller: Credentials::none().fingerprint(), ..image("public", "", &[]).pull }
}

#[test]
fn an_image_whose_claims_can_not_be_learnt_may_claim_every_layer_that_needs_credentials() {
    let mut world = world();
    assert!(!world.withholds(1));
    world.learnt.unclear(unread("odd").pull, at(10));
    assert!(world.withholds(609) && !world.withholds(610));
    // Its configuration can't be read: the time of the pull counts.
    world.learnt.seen(unread("slow"), at(700));
    let read = world.learnt.unread(at(720)).remove(0);
    world.learnt.was_not_read(read, at(720));
    assert!(world.learnt.unread(at(720)).is_empty(), "nobody waits for it again");
    assert!(world.withholds(1299) && !world.withholds(1300));
    // Until it can be read, or is that of another image.
    world.learnt.seen(unread("slow"), at(1400));
    world.learnt.was_not_read(unread("slow"), at(1400));
    world.learnt.seen(unread("slow"), at(1410));
    assert!(world.withholds(1410));
    world.learnt.was_read(unread("slow"), Vec::new(), ids(&["z"]), at(1420));
    assert!(!world.withholds(1420));
    let moved = || Unread { config: unread("slow").config, ..unread("moved") };
    world.learnt.seen(moved(), at(1430));
    world.learnt.was_not_read(moved(), at(1430));
    let many = (0..=MAX_NAMED).map(|number| digest(&number.to_string())).collect();
    assert!(!world.withholds(1430) && world.learnt.is_contested(digest("z"), true, at(1430)));
    world.learnt.was_read(unread("many"), Vec::new(), many, at(1500));
    assert!(world.withholds(1500) && world.learnt.claimed.peek(&digest("0")).is_none());
}

#[test]
fn a_layer_that_needs_credentials_is_withheld_while_an_image_claims_it_that_can_not_be_mounted() {
    let mut world = world();
    let odd = || Pulled { claimed: ids(&["x", "p"]), ..image("odd", "bob", &[]) };
    world.learnt.pulled(odd(), at(10));
    assert!(world.withholds(609) && world.hits("y", 609), "which it does not claim");
    assert!(!world.withholds(610));
    world.learnt.seen(Unread { pull: odd().pull, ..unread("odd") }, at(700));
    assert!(world.learnt.unread(at(700)).is_empty() && world.withholds(1299) && !world.withholds(1300));
    // What an engine may take besides the layers in the usual form counts, too.
    world.learnt.was_read(unread("two"), image("", "", &[("w", "w")]).layers, ids(&["w", "x"]), at(1400));
    assert!(world.withholds(1400) && world.looks("w", 1400) == 1);
}

#[test]
fn an_image_that_is_forgotten_while_its_puller_may_ask_may_claim_anything() {
    let mut world = world();
    for number in 0..=MAX_UNREAD {
        world.learnt.seen(unread(&number.to_string()), at(10 + number));
    }
    assert_eq!(world.learnt.unread(at(100)).len() as u64, MAX_UNREAD);
    assert!(world.withholds(609) && !world.withholds(610), "the first one was");
    for number in 0..=MAX_UNCLEAR {
        world.learnt.unclear(unread(&number.to_string()).pull, at(1000 + number));
    }
    for number in 1..=MAX_UNCLEAR {
        world.learnt.was_read(unread(&number.to_string()), Vec::new(), Vec::new(), at(1300));
    }
    assert!(world.withholds(1599) && !world.withholds(1600));
    // A liar is forgotten for images that are pulled after his.
    world.learnt.pulled(image("liar", "bob", &[("bogus", "x")]), at(2000));
    for number in 0..MAX_LAYERS / 2 {
        let name = number.to_string();
        world.learnt.pulled(image(&name, "bob", &[(&name, &name)]), at(2001));
        world.learnt.pulled(image("app", "alice", &[("base", "x"), ("top", "y")]), at(2001));
        let claims = Pulled { claimed: ids(&[&format!("claim {name}")]), ..image(&format!("odd {name}"), "bob", &[]) };
        world.learnt.pulled(claims, at(2001));
    }
    assert!(world.learnt.images.peek(&image("liar", "bob", &[]).pull).is_none());
    assert!(world.withholds(2599) && !world.withholds(2601));
}

#[test]
fn many_good_images_do_not_hide_one_that_is_not_and_the_same_one_by_many_logins_counts_once() {
    let mut world = world();
    world.learnt.pulled(image("liar", "bob", &[("bogus", "x")]), at(10));
    let fit = |world: &mut World, name: &str, login: &str| {
        let good = image(name, login, &[("base", "x")]);
        let pull = good.pull.clone();
        world.learnt.pulled(good, at(11));
        world.learnt.judged(&pull, Verdict::Fit, ids(&["x"]), at(11));
    };
    for number in 0..2 * MAX_CLAIMS {
        fit(&mut world, &format!("good-{number}"), "alice");
    }
    assert_eq!(world.looks("x", 11), 1, "at the liar's");
    world.learnt.judged(&image("liar", "bob", &[]).pull, Verdict::Unfit, Vec::new(), at(11));
    assert!(world.misses("x", 300) && world.learnt.is_contested(digest("x"), true, at(300)));

    let mut world = self::world();
    for login in 0..4 * MAX_CLAIMS {
        world.learnt.pulled(image("app", &login.to_string(), &[("base", "x"), ("top", "y")]), at(11));
    }
    assert_eq!(world.looks("x", 11), MAX_CLAIMS);
    for login in 3 * MAX_CLAIMS..4 * MAX_CLAIMS {
        fit(&mut world, "app", &login.to_string());
    }
    assert!(world.hits("x", 11));
}
