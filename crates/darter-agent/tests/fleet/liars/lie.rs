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
    /// Gives to the first that asks it, and to nobody else.
    Favours,
    /// Says that it holds everything, and takes all back a second later, and so on; gives nothing.
    Wavers,
    /// Gives each piece at a thirtieth of what others take, so that something moves all the time.
    Dawdles,
    /// Gives the first pieces as quickly as anybody, and then dawdles.
    Slackens,
    /// Waits until three are asked for, and answers the last one first.
    Reverses,
    /// Says that it leads, lets others in, and tells one hash a second.
    Trickles,
    /// Says that it holds everything, and is gone from all after a second.
    Leaves,

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
    /// Makes connections and says nothing on them.
    Crowds,
    /// Greets with bytes that mean nothing.
    Mumbles,
    /// Says a little, a thousand times.
    Chatters,
    /// Fetches everything from everybody, and again.
    Hogs,
    /// The same, and says of nothing that it holds it.
    Leeches,
    /// The same, and tells of all that it was given; but gives none of it.
    Hoards,
    /// Fetches from each by many connections.
    Multiplies,
    /// Asks everybody for everything and takes nothing of it.
    Starves,
}

impl Lie {
    /// Those that hold and don't give.
    pub(super) const HOLDERS: [Self; 25] = [
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
        Self::Favours,
        Self::Wavers,
        Self::Dawdles,
        Self::Slackens,
        Self::Reverses,
        Self::Leaves,
    ];

    /// Those that say that they read the origin, which may be slow: without a seed they are waited for.
    pub(super) const READERS: [Self; 1] = [Self::Trickles];

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
    pub(super) const NUISANCES: [Self; 15] = [
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
        Self::Crowds,
        Self::Mumbles,
        Self::Chatters,
    ];

    /// Those that take more than they need.
    pub(super) const TAKERS: [Self; 5] = [Self::Hogs, Self::Leeches, Self::Hoards, Self::Multiplies, Self::Starves];

    /// True if it says of nothing that it holds it.
    pub(super) const fn claims_nothing(self) -> bool {
        matches!(self, Self::Leeches | Self::Hoards)
    }

    /// The word for the liar of the simulator (`cargo sim --liars`) that comes to the same for those who ask it for pieces.
    pub(super) const fn simulated(self) -> &'static str {
        match self {
            Self::Silent | Self::NeverGreets | Self::Floods | Self::SlowHeaders => "silent",
            Self::StallsAtTheEnd | Self::GivesFew | Self::StallsMidway => "silent",
            Self::Favours | Self::Leaves | Self::Trickles | Self::Reverses => "silent",
            Self::Bytes | Self::Chunks | Self::Dawdles | Self::Slackens => "drip",
            Self::Refuses | Self::Busy | Self::Absurd | Self::Unasked | Self::Swaps | Self::HangsUp | Self::Garbage => {
                "refuse"
            }
            Self::Wrong | Self::Alternates | Self::Halves | Self::Zero => "wrong",
            Self::Late => "late",
            Self::Withdraws | Self::Insists | Self::Wavers => "withdraw",
            Self::Vanishes | Self::Twice => "vanish",
            _ => "claim",
        }
    }
}
