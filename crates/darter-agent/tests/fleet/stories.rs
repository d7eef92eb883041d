//! Scenarios of `darter-scenario`, played by real agents in memory and by the simulator, from the same words to the same end: whoever lives
//! and is honest has the content, byte for byte, and neither needs much longer than the other.

pub(crate) mod cables;
mod play;
pub(crate) mod world;

use darter_scenario::{Goal, Lie, Scenario};
use darter_sim::lab;

use self::play::{Outcome, play};

/// How much longer agents may take than the simulator, and it than they. Most differ by a tenth; where somebody never answers, luck decides
/// of so few pieces: agents draw their ids anew each time.
const RATIO: f64 = 1.6;

/// Plays a scenario both ways, and holds the ends against each other and against the scenario's goal.
async fn both(scenario: &Scenario) -> Outcome {
    let agents = play(scenario).await;
    let simulated = simulate(scenario);
    let name = &scenario.name;
    println!(
        "{name}: agents {:.3} T*, {:.2} copies; simulator {:.3} T*, {:.2} copies",
        agents.last_over_bound, agents.origin_copies, simulated.last_over_bound, simulated.origin_copies
    );
    for (who, outcome) in [("agents", &agents), ("simulator", &simulated)] {
        println!("{who}: {:.2?}", outcome.took);
        assert!(outcome.unfinished.is_empty(), "{name}, {who}: {:?}", outcome.unfinished);
        let reached = Goal {
            last_over_bound: Some(outcome.last_over_bound),
            origin_copies: Some(outcome.origin_copies),
            ..Goal::default()
        };
        assert_eq!(scenario.goal.missed(&reached).unwrap_or_default(), [""; 0], "{name}, {who}");
    }
    // Not the same ones where whoever leads dies: their ids differ. Some may have had it before they went.
    let had = [&agents, &simulated].map(|outcome| outcome.took.len());
    assert!(had[0] <= had[1], "{name}: {} agents and {} simulated nodes have it", had[0], had[1]);
    let ratio = agents.last_over_bound / simulated.last_over_bound;
    assert!((1.0 / RATIO..RATIO).contains(&ratio), "{name}: agents take {ratio:.2} of what the simulator says");
    agents
}

fn simulate(scenario: &Scenario) -> Outcome {
    let fleet = lab::scenario(scenario).unwrap();
    let report = darter_sim::Fleet::new(&fleet).run();
    let bound = scenario.bound().unwrap();
    let took = |node: u32| Some((node, report.finished[node as usize]?.as_secs_f64()));
    let last = report.last.as_secs_f64();
    Outcome {
        took: (1..=scenario.nodes).filter_map(took).collect(),
        unfinished: report.unfinished.iter().map(|node| (*node as u32, "it is not done".to_owned())).collect(),
        last_over_bound: last / bound,
        origin_copies: report.origin_pieces as f64 / f64::from(fleet.pieces),
    }
}

/// Eight nodes and a seed that reads an origin faster than they are.
fn eight(name: &str) -> Scenario {
    let rate = "16mbit";
    Scenario { name: name.to_owned(), origin_rate: "100mbit".to_owned(), ..Scenario::equal(8, 16 << 10, rate) }
}

macro_rules! stories {
    ($($name:ident: $file:literal,)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                both(&Scenario::open($file).unwrap()).await;
            }
        )*

        #[test]
        fn every_story_in_the_tree_is_played() {
            let told = std::fs::read_dir(darter_scenario::fleets()).unwrap();
            let mut told: Vec<String> = told.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            let mut played = vec![$(format!("{}.toml", $file)),*];
            told.sort();
            played.sort();
            assert_eq!(told, played);
        }
    };
}

stories! {
    who_comes_late_leaves_dies_and_comes_again_keeps_nobody: "come-and-go",
    nodes_that_are_cut_off_have_all_the_same: "cut-off",
    one_that_slows_down_is_the_only_one_to_be_late: "one-slows-down",
    liars_stop_nobody: "liars",
    flipped_bits_are_found_and_fetched_elsewhere: "rotten",
    a_store_that_decayed_is_mended_at_the_next_start: "rotten-and-restarted",
    who_has_a_full_disk_has_the_content_all_the_same: "full-disk",
    clocks_that_jump_stop_nobody: "clocks",
    leads_that_die_are_followed_by_others: "lead-killed",
    a_seed_that_comes_back_leads_again: "seed-away",
    on_a_bad_day_whoever_is_honest_has_all_in_the_end: "everything",
}

#[tokio::test(start_paused = true)]
async fn nothing_happens() {
    both(&eight("nothing")).await;
}

/// Without a liar it is 1.15, and the simulator says 1.16 at most: what a liar was given has to be sent again, and it takes its eighth of what
/// seven others give. Agents took 1.15 to 1.28, and over 2 before holders that had failed were not relied on.
#[tokio::test(start_paused = true)]
async fn one_liar_of_any_kind_stops_nobody() {
    for (how, word) in Lie::ALL {
        let outcome = both(&eight(word).lie(8, how)).await;
        assert!(!outcome.took.contains_key(&8) && outcome.took.len() == 7, "{word}");
        assert!(outcome.last_over_bound < 1.4, "{word}: {:.3}", outcome.last_over_bound);
    }
}

#[tokio::test(start_paused = true)]
async fn dates_are_told_by_the_clock_that_was_given_and_by_no_other() {
    let mut world = world::World::new();
    world.starts(world::SEED, |_| {}).await;
    let content = world.publish("dated", 100_000);
    let fetch = async |world: &world::World| {
        world::fetches(world.agent(world::SEED).clone(), content.clone(), 0).await.unwrap();
        world.agent(world::SEED).list().await.unwrap().first().unwrap().last_used
    };
    let first = fetch(&world).await;
    world.hosts[&world::SEED].clock.set(-86_400);
    let second = fetch(&world).await;
    assert!((86_300..=86_400).contains(&(first - second)), "{first} and then {second}");
    world.leaves(world::SEED).await;
}
