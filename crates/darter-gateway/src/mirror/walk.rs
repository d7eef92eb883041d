//! Follows a client from page to page of a list, so that pages that link to each other in a circle have an end.
//!
//! The mirror keeps no state for this: the link to each further page names one earlier page, the anchor, and how many
//! pages followed it. Whenever that number reaches a power of two, the page that is then reached becomes the anchor
//! (R. P. Brent, 1980). So each circle comes back to an anchor, after a few times its length.
//!
//! The first page's link has no such parameter. A client that changes the parameter affects only itself.
//!
//! Pure.

use std::fmt;
use std::str::FromStr;

use url::Url;

/// The query parameter with the walk.
pub(crate) const WALK: &str = "darter-walk";

/// The walk up to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// The mark of the anchor.
    anchor: u64,
    /// How many pages followed the anchor.
    steps: u32,
    /// The number of pages after which the next anchor is chosen.
    until: u32,
}

impl Walk {
    /// The walk from `page` to `target`, for a caller that came to `page` by `before`; `None` if it leads in a circle.
    pub(crate) fn on(before: Option<Self>, page: &Url, target: &Url) -> Option<Self> {
        let (here, there) = (mark(page), mark(target));
        if there == here || before.is_some_and(|before| before.anchor == there) {
            return None;
        }
        Some(match before {
            Some(before) if before.steps + 1 < before.until => Self { steps: before.steps + 1, ..before },
            Some(before) => Self { anchor: here, steps: 0, until: before.until.saturating_mul(2) },
            None => Self { anchor: here, steps: 0, until: 1 },
        })
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}-{}", self.anchor, self.steps, self.until)
    }
}

impl FromStr for Walk {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let (Some(anchor), Some(steps), Some(until), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        let anchor = u64::from_str_radix(anchor, 16).map_err(drop)?;
        let (steps, until): (u32, u32) = (steps.parse().map_err(drop)?, until.parse().map_err(drop)?);
        // No walk has this form.
        if steps >= until { Err(()) } else { Ok(Self { anchor, steps, until }) }
    }
}

/// A value that distinguishes pages by path and parameters, in any order.
fn mark(page: &Url) -> u64 {
    let mut parameters: Vec<_> = page.query_pairs().collect();
    parameters.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    let parameters = parameters.iter().flat_map(|(name, value)| [name.as_ref(), value.as_ref()]);
    for part in [page.path()].into_iter().chain(parameters) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: usize) -> Url {
        format!("https://registry.lab/v2/app/tags/list?last={number}&n=2").parse().unwrap()
    }

    /// How many pages are followed if `next` gives the page after each one; at most `most`.
    fn pages(most: usize, next: impl Fn(usize) -> usize) -> usize {
        let (mut at, mut walk) = (0, None);
        for gone in 1..most {
            let there = next(at);
            let Some(on) = Walk::on(walk, &page(at), &page(there)) else { return gone };
            assert_eq!(on.to_string().parse(), Ok(on));
            (at, walk) = (there, Some(on));
        }
        most
    }

    #[test]
    fn every_circle_ends_and_no_list_does_before_its_end() {
        for length in 1..40 {
            for before in [0, 1, 2, 7, 30] {
                let next = |at: usize| if at + 1 == before + length { before } else { at + 1 };
                let gone = pages(1000, next);
                assert!(gone >= before + length && gone <= 4 * (before + length), "{before} + {length}: {gone}");
            }
        }
        assert_eq!(pages(10_000, |at| at + 1), 10_000);
    }

    #[test]
    fn a_page_is_known_again_in_other_words() {
        let spelt = |text: &str| -> Url { format!("https://registry.lab/v2/app/tags/list{text}").parse().unwrap() };
        for other in ["?n=2&last=a%2Fb", "?last=a/b&n=2", "?last=a/b&n=2#top"] {
            assert_eq!(Walk::on(None, &spelt("?last=a%2Fb&n=2"), &spelt(other)), None, "{other}");
        }
        assert!(Walk::on(None, &spelt("?last=a"), &spelt("?last=A")).is_some());
    }

    #[test]
    fn what_no_link_bears_is_no_way() {
        for text in ["", "1", "1-2", "x-0-1", "1-1-1", "1-0-0", "1-0-1-1", "-1-0-1"] {
            assert_eq!(text.parse::<Walk>(), Err(()), "{text}");
        }
    }
}
