//! Liars: those that hold and don't give, and those that keep others busy with what they say.

/// The ways of a liar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// Takes requests and answers none.
    Silent,
    /// Answers a byte at a time.
    Bytes,
    /// Answers with a chunk each second.
    Chunks,
    Refuses,
    Busy,
    /// Has nothing of what it says it holds. So have all that follow those that give something.
    Empty,
    /// Announces a length that no piece has.
    Absurd,
    Wrong,
    /// Answers after ten seconds.
    Late,
    /// Takes back all that it holds, and says again that it holds it, over and over.
    Withdraws,
    /// Is gone in the middle of its second answer.
    Vanishes,
    /// Accepts data connections and says nothing.
    NeverGreets,
    /// Says things without end.
    Floods,
    /// Says that it knows and holds more than any blob has.
    Counts,
    /// Says that it leads, holds and knows everything.
    Leads,
    /// Gives all but the last tenth of the blob, and of that nothing.
    StallsAtTheEnd,
    /// Gives the first eighth of the blob, and nothing else of all that it says it holds.
    GivesFew,
    /// Gives a right piece and a wrong one by turns.
    Alternates,
    /// Gives the first half of each piece at once, and of the rest nothing.
    StallsMidway,

    /// Sends pieces that nobody asked for.
    Unasked,
    /// Sends another piece than was asked for.
    Swaps,
    /// Sends half a piece as a whole one.
    Halves,
    /// Answers with a piece of no bytes.
    Zero,
    /// Answers rightly, and once more.
    Twice,
    /// Tells a byte a second of what it answers.
    SlowHeaders,
    /// Hangs up as soon as it is asked.
    HangsUp,
    /// Answers with bytes that mean nothing.
    Garbage,

    /// Says over and over that it holds everything.
    Insists,
    /// Comes and goes as a neighbour, over and over.
    Parts,
    /// Comes and goes as a member.
    Joins,
    /// Wants to be let into what nobody has.
    JoinsOthers,
    /// Asks whatever there is to ask.
    Asks,
    /// Says of everybody that they sent wrong pieces, or can't be reached.
    Accuses,
    /// Waits for single pieces, others each time.
    Wishes,
    /// Says what only a lead may say.
    Commands,
    /// Names agents that are not there, and its own address as that of others.
    Names,
    /// Is connected and reads nothing.
    Deaf,
    /// Connects and hangs up.
    Flaps,
    /// Connects under the name of others.
    Pretends,
    /// Fetches everything from everybody, and again.
    Hogs,
    /// Asks everybody for everything and takes nothing of it.
    Starves,
}

impl Lie {
    /// Those that hold and don't give.
    pub(super) const HOLDERS: [Self; 19] = [
        Self::Silent,
        Self::Bytes,
        Self::Chunks,
        Self::Refuses,
        Self::Busy,
        Self::Empty,
        Self::Absurd,
        Self::Wrong,
        Self::Late,
        Self::Withdraws,
        Self::Vanishes,
        Self::NeverGreets,
        Self::Floods,
        Self::Counts,
        Self::Leads,
        Self::StallsAtTheEnd,
        Self::GivesFew,
        Self::Alternates,
        Self::StallsMidway,
    ];

    /// Those that break the protocol of pieces.
    pub(super) const GIVERS: [Self; 8] = [
        Self::Unasked,
        Self::Swaps,
        Self::Halves,
        Self::Zero,
        Self::Twice,
        Self::SlowHeaders,
        Self::HangsUp,
        Self::Garbage,
    ];

    /// Those that keep others busy.
    pub(super) const NUISANCES: [Self; 12] = [
        Self::Insists,
        Self::Parts,
        Self::Joins,
        Self::JoinsOthers,
        Self::Asks,
        Self::Accuses,
        Self::Wishes,
        Self::Commands,
        Self::Names,
        Self::Deaf,
        Self::Flaps,
        Self::Pretends,
    ];

    /// Those that take more than they need.
    pub(super) const TAKERS: [Self; 2] = [Self::Hogs, Self::Starves];

    /// The word for the liar of the simulator (`cargo sim --liars`) that comes to the same for those who ask it for pieces.
    pub(super) const fn simulated(self) -> &'static str {
        match self {
            Self::Silent | Self::NeverGreets | Self::Floods | Self::SlowHeaders => "silent",
            Self::StallsAtTheEnd | Self::GivesFew | Self::StallsMidway => "silent",
            Self::Bytes | Self::Chunks => "drip",
            Self::Refuses | Self::Busy | Self::Absurd | Self::Unasked | Self::Swaps | Self::HangsUp | Self::Garbage => {
                "refuse"
            }
            Self::Wrong | Self::Alternates | Self::Halves | Self::Zero => "wrong",
            Self::Late => "late",
            Self::Withdraws | Self::Insists => "withdraw",
            Self::Vanishes | Self::Twice => "vanish",
            _ => "claim",
        }
    }
}
