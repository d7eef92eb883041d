//! Draws the state: the frame of both screens, the help, and a message on terminals that are too small. Pure: the same state and size
//! give the same lines.

use darter_agent::options::Role;
use ratatui::Frame;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::state::Screen;
use super::words::{self, Tone};
use super::{detail, list};
use crate::units;

/// The smallest terminal that shows something useful, in columns and lines.
const MIN_TERMINAL: (usize, usize) = (60, 12);

const HELP: [&str; 19] = [
    "Up Down j k PgUp PgDn g G   choose a swarm; in a swarm, scroll its peers",
    "Enter                       open the swarm: its pieces and peers",
    "Esc                         back to all swarms",
    "s                           sort by something else",
    "p                           pause and go on",
    "q Ctrl-C                    quit; Ctrl-Z goes to the shell, and fg comes back",
    "",
    "*         this agent leads the swarm: it tracks members and reads the origin",
    "HELD      share of the pieces that are here, and a map of which they are:",
    "          · none of that part of the blob, ▁ to ▇ some, █ all, ! a late one",
    "IN OUT    bytes a second to and from here, of verified pieces",
    "LATE      requested pieces without progress for three times the usual time",
    "LEFT      time until complete at the present rate; idle: nothing arrives",
    "FROM IT   bytes a second from the peer to this agent",
    "TO IT     bytes a second from this agent to the peer",
    "OPEN      requests of this agent that a peer has not answered",
    "LAST      since a piece last went either way",
    "host rack zone region far    how near the other agent is, by labels",
    "origin local                 read from origins; given to programs of this host",
];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &Screen) {
    let area = frame.area();
    let lines = lines(state, usize::from(area.width), usize::from(area.height));
    for (row, line) in (area.y..area.bottom()).zip(&lines) {
        frame.buffer_mut().set_line(area.x, row, line, area.width);
    }
}

/// The screen, at most `height` lines of at most `width` columns.
pub(super) fn lines(state: &Screen, width: usize, height: usize) -> Vec<Line<'static>> {
    if width < MIN_TERMINAL.0 || height < MIN_TERMINAL.1 {
        let (wide, high) = MIN_TERMINAL;
        return vec![
            Line::from(format!("{width}×{height} is too small:")),
            Line::from(format!("darter top needs {wide}×{high}.")),
            Line::from("q quits; --once prints instead."),
        ];
    }
    let mut lines = head(state, width);
    let room = height - lines.len() - 1;
    if state.help {
        lines.extend(HELP.iter().take(room).map(|line| Line::from(words::head(line, width))));
    } else if let Some(open) = &state.open {
        lines.extend(detail::lines(state, open, width, room));
    } else {
        lines.extend(list::lines(state, width, room));
    }
    lines.resize(height - 1, Line::default());
    lines.push(foot(state, width));
    lines
}

/// The agent and its state: two lines.
fn head(state: &Screen, width: usize) -> Vec<Line<'static>> {
    let (palette, agent) = (state.palette, &state.top.agent);
    let role = match agent.role {
        Role::Seed => "seed",
        Role::Node => "node",
        Role::Embedded => "agent",
    };
    let at = agent.listen.as_deref().unwrap_or("no peer port");
    let mut right = vec![palette.span(format!("up {}", words::time(agent.uptime)), Tone::Faint)];
    if agent.draining {
        right.insert(0, palette.span("draining  ", Tone::Bad));
    }
    if state.paused {
        right.insert(0, Span::styled(" PAUSED ", Style::new().add_modifier(Modifier::REVERSED)));
        right.insert(1, Span::raw("  "));
    }
    let left = vec![
        palette.span(format!("darter {role} {}", agent.node.short()), Tone::Strong),
        Span::raw(format!("  {}", words::clean(at))),
        palette.span(format!("  {}", words::clean(&agent.version)), Tone::Faint),
    ];
    vec![words::ends(left, right, width), usage(state, width)]
}

/// CPU, memory, disk, connections.
fn usage(state: &Screen, width: usize) -> Line<'static> {
    let (palette, agent) = (state.palette, &state.top.agent);
    let percent = (agent.cpu * 100.0).round();
    let busy = agent.cpu > f64::from(agent.cores) * 0.9;
    let spark = state.cpu.sparkline((width / 10).min(24), 1.0);
    let disk = match agent.store.quota {
        Some(quota) => format!("{} of {}", units::size(agent.store.used), units::size(quota)),
        None => units::size(agent.store.used),
    };
    let mut left = vec![
        palette.span("cpu ", Tone::Faint),
        palette.span(format!("{percent:>3}%"), if busy { Tone::Bad } else { Tone::Plain }),
        palette.span(format!(" of {} cores ", agent.cores), Tone::Faint),
        palette.span(spark, Tone::Plain),
    ];
    for (label, value) in [("mem", units::size(agent.resident)), ("disk", disk)] {
        left.push(Span::raw(format!("  {label} {value}")));
    }
    let silent = agent.seeds.iter().filter(|seed| !seed.up).count();
    let right = if silent > 0 {
        vec![palette.span(format!("{silent} of {} seeds silent", agent.seeds.len()), Tone::Bad)]
    } else {
        let (peers, connections) = (agent.peers, agent.connections);
        let long = format!("{peers} peers, {connections} connections");
        let taken: usize = left.iter().map(Span::width).sum();
        let short = format!("{peers} peers");
        vec![Span::raw(if taken + long.chars().count() + 2 < width { long } else { short })]
    };
    words::ends(left, right, width)
}

/// The keys, or what is wrong.
fn foot(state: &Screen, width: usize) -> Line<'static> {
    let palette = state.palette;
    if let Some(trouble) = &state.trouble {
        let text = format!("{}: showing its last answer; trying again", words::clean(trouble));
        return Line::from(palette.span(words::head(&text, width), Tone::Bad));
    }
    if state.help {
        return Line::from(palette.span("any key goes back, q quits", Tone::Faint));
    }
    let (first, order) = match &state.open {
        Some(_) => ("Esc back  j k scroll", state.peer_order.word()),
        None => ("Enter open  j k choose", state.order.word()),
    };
    let every = format!("every {}", humantime::format_duration(state.interval));
    let keys = [format!("{first}  ? help  q quit"), "  p pause".to_owned(), format!("  s sort: {order}")];
    let keys = keys.into_iter().map(|keys| palette.span(keys, Tone::Faint)).collect();
    words::ends(keys, vec![palette.span(every, Tone::Faint)], width)
}
