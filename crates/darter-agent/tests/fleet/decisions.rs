//! Decisions of agents when their lead is cut off, recorded, and told again to the decisions alone, as the simulator runs them.

use std::time::Duration;

use darter_agent::options::Role;
use darter_swarm::leadership::trace::{Decided, Trace, TraceInput};
use darter_swarm::{Choice, Input, Leader, Output, Step};

use crate::stories::world::{SEED, World, fetches, ip};

#[tokio::test(start_paused = true)]
async fn what_agents_decided_when_their_lead_was_gone_is_decided_again_by_whoever_hears_the_same() {
    let mut world = World::new();
    world.starts(SEED, |options| (options.role, options.upload_limit) = (Role::Seed, "1MB/s".parse().ok())).await;
    for host in 1..=5 {
        world.starts(host, |_| {}).await;
    }
    let content = world.publish("model", 12_000_000);
    let fetching = (1..=5).map(|host| fetches(world.agent(host).clone(), content.clone(), 0));
    let is_cut_off = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        for host in 1..=5 {
            world.cuts.cut(ip(host), ip(SEED));
        }
    };
    let (fetched, ()) = tokio::join!(futures_util::future::join_all(fetching), is_cut_off);
    assert_eq!(fetched, vec![Ok(()); 5]);
    let traces: Vec<Trace> = (1..=5)
        .map(|host| {
            let agent = world.agent(host);
            agent.decisions(agent.status().swarms[0].blob).expect("it was to record them")
        })
        .collect();
    for trace in &traces {
        assert_eq!(trace.replay(), trace.decided(), "{trace:?}");
    }
    // And all else that they did, from the first want on.
    for host in 1..=5 {
        let agent = world.agent(host);
        let told = agent.trace(agent.status().swarms[0].blob).expect("it was to record it");
        assert_eq!(told.diverges(), None, "host {host}");
        assert!(told.inputs().any(|it| matches!(it, Input::LeadLost { .. })), "host {host}");
        assert!(told.outputs().any(|it| matches!(it, Output::Seek(_))), "host {host}");
    }
    let leads: Vec<_> = traces.iter().filter(|it| it.decided().contains(&Decided::Do(Step::Lead))).collect();
    assert_eq!(leads.len(), 1, "one leads in the seed's place: {traces:?}");
    let lead = leads[0].me;
    // The lead's readings of the origin, and its choices of what to give, are recorded as well.
    let led =
        (1..=5).map(|host| world.agent(host)).find(|agent| agent.status().node == lead).expect("it is one of them");
    let told = led.trace(led.status().swarms[0].blob).expect("it was to record it");
    assert!(told.outputs().any(|it| matches!(it, Output::Read { .. })));
    assert!(told.choices().any(|it| matches!(it, Choice::Send(_))));
    let follow = |trace: &&Trace| {
        let follows = trace.decisions.iter().any(|(heard, _)| *heard == TraceInput::Leads(Leader::Node(lead)));
        follows && trace.decided().contains(&Decided::Do(Step::Ask(lead)))
    };
    assert_eq!(traces.iter().filter(follow).count(), 4, "and the others follow it");
}
