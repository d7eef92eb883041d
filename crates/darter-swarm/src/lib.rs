//! The decisions of a swarm, without I/O: events and a [`Moment`](darter_core::Moment) go in, actions come out.
//!
//! One value of each machine serves one blob. The daemon, the tests and the simulator (`darter-sim`) run the same
//! code; randomness comes from a seed, so that a run can be repeated.
//!
//! | file | what lives there |
//! |---|---|
//! | [`session`] | [`Session`]: everything that one agent decides about one blob: [`Input`]s in, [`Output`]s out |
//! | [`event`] | what a [`Picker`] is told ([`Event`]) and what it wants done ([`Action`]) |
//! | [`picker`] | [`Picker`]: which piece to ask of whom, at every node |
//! | [`lead`] | [`Lead`]: who is in the swarm, what the seed sends to whom, what must be read from the origin |
//! | [`books`] | [`Books`]: who is let in by whoever leads, and what members are told |
//! | [`facts`] | [`Facts`]: what decisions ask of the store |
//! | [`hashes`] | [`Hashes`]: how far an agent's list of hashes goes, what proves it, what is told of it |
//! | `runs` | the same for hashes behind gaps |
//! | [`phase`] | [`Course`]: how far a blob is, and when its whole is checked |
//! | `breadth` | how many connections read a blob's origin at a time |
//! | [`locality`] | groups of near nodes, and who in a group fetches a piece from afar |
//! | [`leadership`] | [`Leadership`]: who leads, as one agent sees it, and how it finds another lead |
//! | [`vigil`] | [`Vigil`]: how long nothing has come, and when a node that leads is taken for none |
//! | [`asking`] | whom to ask who leads, where nobody knows everybody |
//! | [`news`] | [`News`]: who is told what of a node's pieces, and when |
//! | [`teaching`] | what a lead tells members of hashes by itself |
//! | [`learner`] | whom a member asks for the hashes that it lacks |
//! | [`profile`] | [`Profile`]: in which order whoever starts something needs the pieces |
//! | [`pace`] | how fast a peer answers, whatever it is asked for |
//! | [`budget`] | [`TokenBucket`]: bytes per second as waiting times |
//! | [`bound`] | the least time in which a swarm can be served |
//! | [`tuning`] | [`Tuning`]: every constant, with its reason |
//! | `random` | the seeded generator behind all ties |

pub mod asking;
pub mod books;
pub mod bound;
mod breadth;
pub mod budget;
pub mod event;
pub mod facts;
pub mod hashes;
pub mod lead;
pub mod leadership;
pub mod learner;
pub mod locality;
pub mod news;
pub mod pace;
pub mod phase;
pub mod picker;
pub mod profile;
mod random;
mod runs;
pub mod session;
pub mod teaching;
pub mod tuning;
pub mod vigil;

pub use books::{Books, Entering, Opening, Speech};
pub use breadth::{FIRST_STRETCH, MAX_ORIGIN_CONNECTIONS, ORIGIN_CONNECTIONS, Widening};
pub use budget::TokenBucket;
pub use event::{Action, Event, Foresight, ReaderId, RequestId};
pub use facts::Facts;
pub use hashes::Hashes;
pub use lead::{Lead, NewNeighbour, Notice, OriginReader, OriginRun, Start, Wish};
pub use leadership::{Found, Leader, Leadership, Loss, Step};
pub use learner::{Learner, Teacher};
pub use news::{News, PieceNews};
pub use pace::{Pace, Standing};
pub use phase::{Checkable, CheckedBy, Course, Phase};
pub use picker::{OpenRequest, Picker};
pub use profile::{Ahead, Bounds, Profile, Touches};
pub use session::{
    AtPiece, Came, Choice, Desk, Gave, Guilt, Input, LetIn, Output, ReadsOn, Rejection, Seen, Session, SessionStart,
    Sought,
};
pub use teaching::{MAX_HASHES, Teaching, Telling};
pub use tuning::Tuning;
pub use vigil::{Awaited, Vigil};

/// A swarm's blob has at most this many pieces (16 TiB in pieces of 4 MiB); what others say of further ones is ignored.
pub const MAX_PIECES: u32 = 1 << 22;
