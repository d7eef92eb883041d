//! End to end with the real things: Debian's docker-registry, containerd with runc, podman and skopeo, on hosts in network
//! namespaces, all pulling through Darter.
//!
//! Each scenario is a trial. If the machine lacks root or packages, a trial is ignored by name and the reason is printed; with `CI=true` a lack is a
//! failure. Trials run one after another: each keeps the whole machine busy.

mod faults;
mod hub;
mod laboratory;
// Of which refused ones are looked at elsewhere.
#[allow(dead_code)]
#[path = "../../../darter-image/tests/oracles/layers.rs"]
mod layers;
mod lazy;
mod private;
mod pulls;
mod race;
mod ranges;
mod snapshotter;
mod support;
mod world;

use std::process::ExitCode;

use anyhow::Result;
use darter_core::{Clock, SystemClock};
use darter_lab::engine::release;
use darter_lab::needs;
use libtest_mimic::{Arguments, Failed, Trial};
use world::World;

/// A scenario that needs the laboratory's images and engines.
type Scenario = fn(&World) -> Result<()>;

const SCENARIOS: [(&str, Scenario); 18] = [
    ("laboratory::a_shaped_cable_is_no_faster_than_its_rate", laboratory::a_shaped_cable_is_no_faster_than_its_rate),
    ("race::a_small_race_gives_a_sane_row", race::a_small_race_gives_a_sane_row),
    ("race::engines_unpack_what_they_pulled", race::engines_unpack_what_they_pulled),
    ("race::a_local_hit_goes_out_by_sendfile", race::a_local_hit_goes_out_by_sendfile),
    ("race::a_tiny_file_takes_one_question_to_the_seed", race::a_tiny_file_takes_one_question_to_the_seed),
    ("race::a_pair_moves_a_blob_from_store_to_store", race::a_pair_moves_a_blob_from_store_to_store),
    (
        "laboratory::pulls_without_darter_read_the_registry_each",
        laboratory::pulls_without_darter_read_the_registry_each,
    ),
    ("pulls::four_engines_pull_one_image_and_the_registry_is_read_once", pulls::four_engines_pull_one_image),
    ("pulls::a_late_node_is_served_without_the_registry", pulls::a_late_node_is_served_without_the_registry),
    ("faults::no_agent_at_all", faults::no_agent_at_all),
    ("faults::no_seed_at_the_start", faults::no_seed_at_the_start),
    ("faults::seed_killed_in_mid_pull", faults::seed_killed_in_mid_pull),
    ("faults::peer_killed_in_mid_pull", faults::peer_killed_in_mid_pull),
    ("faults::agent_restarted_in_mid_pull", faults::agent_restarted_in_mid_pull),
    ("hub::docker_and_containerd_pull_from_docker_hub", hub::docker_and_containerd_pull),
    ("private::a_private_blob_is_given_to_nobody_without_credentials", private::a_private_blob_needs_credentials),
    (
        "snapshotter::the_distributions_containerd_starts_lazily",
        snapshotter::the_distributions_containerd_starts_lazily,
    ),
    ("private::logins_for_the_mirror_open_what_is_private", private::logins_for_the_mirror_open_what_is_private),
];

/// Trials that need Go besides what the others need.
const RELEASE: [(&str, Scenario); 19] = [
    ("ranges::engines_that_fetch_layers_by_ranges_read_the_registry_once", ranges::engines_that_fetch_by_ranges),
    ("ranges::a_pull_by_ranges_is_no_later_than_directly", ranges::a_pull_by_ranges_is_no_later),
    ("lazy::containers_start_before_their_layers_have_come", lazy::containers_start_before_their_layers_have_come),
    ("lazy::trees::trees_are_what_containerd_unpacks", lazy::trees::trees_are_what_containerd_unpacks),
    ("lazy::loops::loop_devices_go_with_their_layers", lazy::loops::loop_devices_go_with_their_layers),
    (
        "lazy::hosts::containers_come_back_after_their_host_ended",
        lazy::hosts::containers_come_back_after_their_host_ended,
    ),
    ("lazy::hosts::a_namespace_gets_what_its_own_login_opens", lazy::hosts::a_namespace_gets_what_its_own_login_opens),
    ("lazy::cri::pods_start_before_their_layers_have_come", lazy::cri::pods_start_before_their_layers_have_come),
    ("lazy::faults::no_byte_is_wrong_whoever_is_killed", lazy::faults::no_byte_is_wrong_whoever_is_killed),
    ("lazy::events::containerd_restarts_under_a_container", lazy::events::containerd_restarts_under_a_container),
    ("lazy::events::an_image_is_removed_under_its_container", lazy::events::an_image_is_removed_under_its_container),
    ("lazy::events::an_agent_stands_still_during_a_pull", lazy::events::an_agent_stands_still_during_a_pull),
    (
        "lazy::events::reads_fail_in_time_without_a_network_and_work_again",
        lazy::events::reads_fail_in_time_without_a_network_and_work_again,
    ),
    ("lazy::events::a_start_of_whole_layers_is_noted", lazy::events::a_start_of_whole_layers_is_noted),
    (
        "lazy::events::the_agent_learns_which_layers_snapshots_name",
        lazy::events::the_agent_learns_which_layers_snapshots_name,
    ),
    ("lazy::events::a_full_disk_keeps_nobody_from_reading", lazy::events::a_full_disk_keeps_nobody_from_reading),
    (
        "lazy::events::a_layer_that_is_not_what_its_image_says_is_never_read",
        lazy::events::a_layer_that_is_not_what_its_image_says_is_never_read,
    ),
    (
        "lazy::events::an_agent_without_rights_serves_what_a_keeper_mounts",
        lazy::events::an_agent_without_rights_serves_what_a_keeper_mounts,
    ),
    ("snapshotter::containerds_own_suite_passes", snapshotter::containerds_own_suite_passes),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let programs = [&needs::NETWORK[..], &needs::IMAGES, &needs::ENGINES, &needs::RACES].concat();
    let lack = needs::lacking(&programs);
    if let Some(lack) = &lack {
        eprintln!("the end-to-end scenarios are skipped: this {lack}");
    }
    let mut trials: Vec<_> = SCENARIOS.iter().map(|&(name, scenario)| trial(name, scenario, lack.clone())).collect();
    let no_release = if lack.is_none() { release::lacking() } else { None };
    for (name, scenario) in RELEASE {
        if let Some(no_release) = &no_release {
            eprintln!("{name} is skipped: this {no_release}");
        }
        let ranges = trial(name, scenario, lack.clone());
        // Not without the condition: the flag would take the place of the one that stands for what lacks.
        trials.push(if no_release.is_some() { ranges.with_ignored_flag(true) } else { ranges });
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &'static str, scenario: Scenario, lack: Option<String>) -> Trial {
    let ignored = lack.is_some() && !needs::in_ci();
    let run = move || match lack {
        Some(lack) => Err(Failed::from(format!("this scenario {lack}"))),
        None => run(name, scenario).map_err(|error| Failed::from(format!("{error:#}"))),
    };
    Trial::test(name, run).with_ignored_flag(ignored)
}

fn run(name: &str, scenario: Scenario) -> Result<()> {
    let clock = SystemClock::start();
    let start = clock.now();
    let world = World::new()?;
    let result = scenario(&world);
    eprintln!("{name}: {:.1} s", clock.now().since(start).as_secs_f64());
    if result.is_err() {
        eprintln!("{}", world.agents_logs());
    }
    result
}
