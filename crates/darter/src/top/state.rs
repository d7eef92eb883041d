//! What the screen shows, and the user's choices. Its inputs are snapshots, failures and keys; it neither draws nor asks.

use std::cmp::{Ordering, Reverse};
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use darter_api::top::{PeerRow, SwarmDetail, SwarmRow, Top};
use darter_core::BlobId;

use super::words::{History, Palette};

/// How many rows the page keys move.
const PAGE: isize = 10;

/// What follows from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Draw again.
    Stay,
    /// Draw again, and ask the daemon at once.
    Look,
    /// Stop this process, as Ctrl-Z does.
    Suspend,
    /// Quit.
    Quit,
}

/// How swarms are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// Fastest first; incomplete before complete.
    #[default]
    Rate,
    /// By name.
    Name,
    /// Those with the most time left first.
    Left,
    /// Those with the most overdue pieces first.
    Late,
}

/// How peers are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PeerOrder {
    /// Those with the highest rates first.
    #[default]
    Rate,
    /// The nearest first.
    Near,
    /// Those that hold the most pieces first.
    Holds,
    /// Those with the most overdue requests first.
    Late,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct Screen {
    /// The last snapshot.
    pub(super) top: Top,
    /// The open swarm, as last received.
    pub(super) open: Option<SwarmDetail>,
    /// True if the daemon no longer has the open swarm.
    pub(super) open_is_gone: bool,
    /// Why the last attempt to get a snapshot failed.
    pub(super) trouble: Option<String>,
    /// How often the daemon is asked.
    pub(super) interval: Duration,
    /// True while the daemon is not asked.
    pub(super) paused: bool,
    /// True while the page of keys is shown.
    pub(super) help: bool,
    pub(super) order: Order,
    pub(super) peer_order: PeerOrder,
    pub(super) palette: Palette,
    /// The agent's history: bytes per second in and out, and the share of CPU.
    pub(super) received: History,
    pub(super) sent: History,
    pub(super) cpu: History,
    /// The open swarm's history: bytes per second in.
    pub(super) swarm_received: History,
    pub(super) swarm_sent: History,
    /// The chosen swarm, by its blob, since rows change places.
    selected: Option<BlobId>,
    /// The index of the first peer shown.
    scrolled: usize,
}

impl Screen {
    /// The state after the first snapshot. A swarm of which the snapshot has details is opened.
    pub(super) fn new(top: Top, interval: Duration, palette: Palette) -> Self {
        let mut state = Self {
            open: top.swarm.clone(),
            top: top.clone(),
            open_is_gone: false,
            trouble: None,
            interval,
            paused: false,
            help: false,
            order: Order::default(),
            peer_order: PeerOrder::default(),
            palette,
            received: History::default(),
            sent: History::default(),
            cpu: History::default(),
            swarm_received: History::default(),
            swarm_sent: History::default(),
            selected: None,
            scrolled: 0,
        };
        state.take(top);
        state
    }

    /// Takes a new snapshot.
    pub(super) fn take(&mut self, top: Top) {
        self.trouble = None;
        let rates = &top.rates;
        self.received.push((rates.origin + rates.received.sum()) as f64);
        self.sent.push((rates.local + rates.sent.sum()) as f64);
        self.cpu.push(top.agent.cpu);
        if let Some(open) = &mut self.open {
            match top.swarm.clone() {
                Some(swarm) if swarm.row.progress.blob == open.row.progress.blob => {
                    self.open_is_gone = false;
                    self.swarm_received.push(swarm.row.progress.rate as f64);
                    self.swarm_sent.push(swarm.row.sent as f64);
                    *open = swarm;
                }
                // This answers a request from before this swarm was opened.
                Some(_) => {}
                None => self.open_is_gone = true,
            }
        }
        self.top = top;
        if self.selected.is_none_or(|blob| !self.has(blob)) {
            self.selected = self.swarms().first().map(|row| row.progress.blob);
        }
    }

    /// Notes that a snapshot failed.
    pub(super) fn miss(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// The swarm to ask for in detail.
    pub(super) fn wanted(&self) -> Option<BlobId> {
        self.open.as_ref().map(|open| open.row.progress.blob)
    }

    /// Swarms in the chosen order.
    pub(super) fn swarms(&self) -> Vec<&SwarmRow> {
        let mut rows: Vec<&SwarmRow> = self.top.swarms.iter().collect();
        let by_rate = |row: &SwarmRow| (Reverse(row.progress.rate + row.sent), row.progress.complete);
        rows.sort_by(|one, other| {
            let order = match self.order {
                Order::Rate => Ordering::Equal,
                Order::Name => one.progress.name.cmp(&other.progress.name),
                Order::Left => time_left(other).total_cmp(&time_left(one)),
                Order::Late => other.stalled.cmp(&one.stalled),
            };
            let names = || one.progress.name.cmp(&other.progress.name);
            order.then_with(|| by_rate(one).cmp(&by_rate(other))).then_with(names)
        });
        rows
    }

    /// Peers of the open swarm in the chosen order.
    pub(super) fn peers(&self) -> Vec<&PeerRow> {
        let mut rows: Vec<&PeerRow> = self.open.iter().flat_map(|open| &open.peers).collect();
        // Sorting is stable, and the daemon lists peers by rate.
        match self.peer_order {
            PeerOrder::Rate => {}
            PeerOrder::Near => rows.sort_by_key(|row| (row.tier.is_none(), row.tier)),
            PeerOrder::Holds => rows.sort_by_key(|row| Reverse(row.held)),
            PeerOrder::Late => rows.sort_by_key(|row| Reverse(row.overdue)),
        }
        rows
    }

    /// The index of the chosen row in [`Screen::swarms`].
    pub(super) fn selected(&self) -> usize {
        let rows = self.swarms();
        rows.iter().position(|row| Some(row.progress.blob) == self.selected).unwrap_or_default()
    }

    /// The index of the first of [`Screen::peers`] to be shown in `room` rows.
    pub(super) fn first_peer(&self, room: usize) -> usize {
        let count = self.open.as_ref().map_or(0, |open| open.peers.len());
        self.scrolled.min(count.saturating_sub(room))
    }

    /// Handles a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Step {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Step::Quit,
                KeyCode::Char('z') => Step::Suspend,
                // The usual key to redraw a screen that another program has written on.
                KeyCode::Char('l') => Step::Look,
                _ => Step::Stay,
            };
        }
        if self.help {
            self.help = false;
            return if key.code == KeyCode::Char('q') { Step::Quit } else { Step::Stay };
        }
        match key.code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = true,
            KeyCode::Char('p' | ' ') => {
                self.paused = !self.paused;
                return if self.paused { Step::Stay } else { Step::Look };
            }
            KeyCode::Char('s') if self.open.is_some() => self.peer_order = self.peer_order.next(),
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => self.close(),
            KeyCode::Enter | KeyCode::Right => return self.enter(),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::PageDown => self.go(PAGE),
            KeyCode::PageUp => self.go(-PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX),
            _ => {}
        }
        Step::Stay
    }

    fn enter(&mut self) -> Step {
        let chosen = self.swarms().get(self.selected()).map(|row| (*row).clone());
        let Some(row) = chosen.filter(|_| self.open.is_none()) else { return Step::Stay };
        let fine_map = row.progress.map.clone();
        // The list's figures are shown until the daemon has sent the details.
        self.open = Some(SwarmDetail {
            row,
            fine_map,
            rates: Default::default(),
            peers: Vec::new(),
            peers_in_all: 0,
            overdue: Vec::new(),
        });
        self.scrolled = 0;
        Step::Look
    }

    fn close(&mut self) {
        self.open = None;
        self.open_is_gone = false;
        self.swarm_received = History::default();
        self.swarm_sent = History::default();
    }

    /// Moves the choice, or scrolls the peers, by `rows` rows.
    fn go(&mut self, rows: isize) {
        if let Some(open) = &self.open {
            self.scrolled = self.scrolled.saturating_add_signed(rows).min(open.peers.len().saturating_sub(1));
            return;
        }
        let last = self.top.swarms.len().saturating_sub(1);
        let to = self.selected().saturating_add_signed(rows).min(last);
        self.selected = self.swarms().get(to).map(|row| row.progress.blob);
    }

    fn has(&self, blob: BlobId) -> bool {
        self.top.swarms.iter().any(|row| row.progress.blob == blob)
    }
}

/// Seconds until complete; infinite while nothing arrives.
fn time_left(row: &SwarmRow) -> f64 {
    if row.progress.complete { 0.0 } else { row.left.unwrap_or(f64::INFINITY) }
}

impl Order {
    const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Name,
            Self::Name => Self::Left,
            Self::Left => Self::Late,
            Self::Late => Self::Rate,
        }
    }

    /// The order's name at the bottom of the screen.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Name => "name",
            Self::Left => "time left",
            Self::Late => "late pieces",
        }
    }
}

impl PeerOrder {
    const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Near,
            Self::Near => Self::Holds,
            Self::Holds => Self::Late,
            Self::Late => Self::Rate,
        }
    }

    /// The order's name at the bottom of the screen.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Near => "nearness",
            Self::Holds => "pieces held",
            Self::Late => "late pieces",
        }
    }
}
