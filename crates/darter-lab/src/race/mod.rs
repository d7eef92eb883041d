//! Races: several ways of bringing the same bytes to the same hosts over the same links, measured alike.
//!
//! A race plays a [`Scenario`], which `darter-scenario` reads.
//!
//! | file | what lives there |
//! |---|---|
//! | [`content`] | the bytes, generated once and held in memory |
//! | [`layers`] | content that engines can unpack, and its image |
//! | [`course`] | [`Testbed`]: the hosts of a scenario, with an origin that serves the content |
//! | [`method`] | what a [`Method`](method::Method) has to do |
//! | [`kind`] | the list of them |
//! | `noise` | numbers without a pattern |
//! | [`darter`] | Darter's agents, driven through their sockets |
//! | [`user`] | `darter get` by way of such agents |
//! | [`pull`] | real containerds, by way of agents, Spegel, or nothing |
//! | [`torrent`] | libtorrent and aria2, with a tracker |
//! | [`plain`] | plain downloads from nginx |
//! | [`chain`], [`relay`] | what the bytes alone take: each node passes on to the next |
//! | [`account`] | CPU and memory of processes, and how busy the machine was |
//! | [`run`](mod@run) | one race from the start to the checked digests |
//! | [`row`] | [`Row`]: what a race came to, medians, and the table |
//! | [`plot`] | every node's progress over time, as SVG |
//!
//! Rows are comparable: each method gets new hosts with the same shaped cables; all files lie in memory
//! (`/dev/shm`), so that no disk is measured; TCP is cubic whatever the machine prefers; CPU counts from the moment of the
//! start for all processes of the method; digests are judged after the clock has stopped, since hashing takes CPU from whoever is
//! still downloading.
//!
//! T* is the bound of a fluid: no node can be faster than the slowest of origin, seed, its own cable, and all uploads
//! together. Rates count what a full segment carries: 1448 bytes of content in a frame of 1514.
//!
//! Non-goals: latency and loss (they would need netem), and more nodes than the machine's CPU can play: a row says how busy the
//! machine was, and above [`row::BUSY`] its ratio to T* says more about the machine than about the method.

pub mod account;
pub mod chain;
pub mod content;
pub mod course;
pub mod darter;
pub mod kind;
pub mod layers;
pub mod method;
pub(crate) mod noise;
pub mod plain;
pub mod plot;
pub mod pull;
pub mod relay;
pub mod row;
pub mod run;
pub mod torrent;
pub mod user;

pub use course::Testbed;
pub use darter_scenario::Scenario;
pub use row::Row;
pub use run::race;
