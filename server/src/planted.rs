//! Real mistakes put into the node on purpose, so that the fault-testing harness can prove that it
//! finds them.
//!
//! Each mistake is made where somebody could really make it, by a hook of a line or two: [`planted!`]
//! with its name. What takes more than a line stands here, below `planted/`, away from the code of the
//! node. Without the feature `planted-bugs` a hook is nothing, and there is no environment variable.
//! With it, one mistake at a time is made active by its name in `HOLDFAST_PLANTED_BUG`,
//! `holdfast --version` says so, and a node that makes one says so in its log. The feature is refused by
//! the compiler without debug assertions, so no release has it; the profile `planted` is a release in
//! everything else.

#[cfg(feature = "planted-bugs")]
mod catalogue;
#[cfg(feature = "planted-bugs")]
pub(crate) mod log;
#[cfg(feature = "planted-bugs")]
pub(crate) mod reads;
#[cfg(feature = "planted-bugs")]
pub(crate) mod state;

#[cfg(feature = "planted-bugs")]
pub(crate) use self::catalogue::{Bug, is};
#[cfg(feature = "planted-bugs")]
pub use self::catalogue::{UnknownBug, describe, plant};

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!(
    "the feature `planted-bugs` is for tests of the harness and refused in builds without debug \
     assertions; build it with `--profile planted`"
);

/// `planted!(Bug => what is done)`: makes a mistake here if it is the active one. Nothing at all without
/// the feature.
macro_rules! planted {
    ($bug:ident => $mistake:expr) => {
        #[cfg(feature = "planted-bugs")]
        if $crate::planted::is($crate::planted::Bug::$bug) {
            $mistake;
        }
    };
}
pub(crate) use planted;

/// Whether a node takes any memory for its own. Mistakes that lose memory are found by what is lost;
/// with the checks at the start they would only show as nodes that stay out.
pub(crate) fn trusts_any_memory() -> bool {
    planted!(VoteWithLostLog => return true);
    planted!(AckBeforeFsync => return true);
    planted!(VoteNotPersisted => return true);
    false
}
