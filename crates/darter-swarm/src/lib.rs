//! The decisions of a swarm, without I/O: events and a [`Moment`](darter_core::Moment) go in, actions come out.
//!
//! One [`Session`] serves one blob; the machines that it is made of are this crate's own. The daemon, the tests and the simulator (`darter-sim`) run the same
//! code; randomness comes from a seed, so that a run can be repeated.
//!
//! | file | what lives there |
//! |---|---|
//! | [`session`] | [`Session`]: everything that one agent decides about one blob; takes [`Input`]s and gives [`Output`]s |
//! | `event` | what a [`Picker`] is told (`Event`) and what it wants done (`Action`) |
//! | `picker` | [`Picker`]: at every node: which piece to request from which peer |
//! | `lead` | `Lead`: who is in the swarm, which piece the seed sends to which member, what must be read from the origin |
//! | `books` | `Books`: at the lead: which nodes are admitted, and what members are told |
//! | `facts` | [`Facts`]: what the decisions ask of the store and of the connections |
//! | [`hashes`] | [`Hashes`]: how long an agent's list of hashes is, its proof, and what other agents are told of it |
//! | `runs` | the same for hashes that lie behind a gap in the list |
//! | `phase` | [`Course`]: the phase that a blob is in, and when the whole of it is checked |
//! | `breadth` | how many connections read a blob's origin at a time |
//! | [`locality`] | groups of near nodes, and who in a group fetches a piece from afar |
//! | [`leadership`] | [`Leadership`]: who leads, as one agent sees it, and how it finds another lead |
//! | `let_downs` | [`LetDowns`]: agents that led a blob and gave nothing, and are not followed for a while |
//! | `vigil` | [`Vigil`]: how long no bytes have come, and when a member gives up its lead |
//! | [`asking`] | finding the lead of a swarm in which nobody knows everybody: which agents to ask |
//! | `news` | `News`: which other nodes are told of a node's pieces, and when |
//! | `teaching` | which hashes a lead tells members without being asked |
//! | `learner` | which agent a member asks for the hashes that it lacks |
//! | `profile` | [`Profile`]: the order in which a program that starts needs the pieces |
//! | `given` | what each peer was given: a peer that asks for the same again is served after the others |
//! | `pace` | how fast a peer answers requests, of all blobs |
//! | [`packing`] | when a holder compresses a piece before it sends it |
//! | `budget` | [`TokenBucket`]: bytes per second as waiting times |
//! | [`bound`] | the least time in which a swarm can be served |
//! | `tuning` | [`Tuning`]: every constant, with its reason |
//! | `random` | the seeded generator behind all ties |

pub mod asking;
mod books;
pub mod bound;
mod breadth;
mod budget;
mod event;
mod facts;
mod given;
pub mod hashes;
mod lead;
pub mod leadership;
mod learner;
mod let_downs;
pub mod locality;
mod news;
mod pace;
pub mod packing;
mod phase;
mod picker;
mod profile;
mod random;
mod runs;
pub mod session;
mod teaching;
mod tuning;
mod vigil;

pub use books::Entering;
pub use breadth::{FIRST_STRETCH, MAX_ORIGIN_CONNECTIONS, ORIGIN_CONNECTIONS, Widening};
pub use budget::TokenBucket;
pub use event::{Foresight, ReaderId, RequestId};
pub use facts::Facts;
pub use hashes::Hashes;
pub use lead::{OriginReader, OriginRun, Start, Wish};
pub use leadership::{Found, Leader, Leadership, Loss, Step};
pub use let_downs::LetDowns;
pub use pace::Standing;
pub use packing::Packing;
pub use phase::{CheckedBy, Course, Phase};
pub use picker::{OpenRequest, Picker};
pub use profile::{Ahead, Bounds, Profile, Touches};
pub use session::{
    AtPiece, Came, Choice, Desk, Gave, Guilt, Input, LetIn, Output, ReadsOn, Rejection, Seen, Session, SessionStart,
    Sought,
};
pub use teaching::MAX_HASHES;
pub use tuning::Tuning;
pub use vigil::Vigil;

use books::{Books, Opening, Speech};
use event::{Action, Event};
use lead::{Lead, NewNeighbour, Notice};
use learner::{Learner, Teacher};
use news::{News, PieceNews};
use phase::Checkable;
use teaching::{Teaching, Telling};
use vigil::Awaited;

/// A swarm's blob has at most this many pieces (16 TiB in pieces of 4 MiB); messages about further pieces are ignored.
pub const MAX_PIECES: u32 = 1 << 22;
