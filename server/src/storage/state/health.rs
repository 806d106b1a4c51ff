//! Whether the store may still be used: the first failure of the engine ends it.

use std::fmt::Display;
use std::sync::{Arc, OnceLock};

use super::StateError;

/// The first failure, kept for everyone who asks later.
#[derive(Default)]
pub(super) struct Health {
    failure: OnceLock<Arc<str>>,
}

impl Health {
    /// Ends the use of the store; the first reason is the one that stays.
    pub(super) fn poison(&self, reason: &dyn Display) {
        if self.failure.set(reason.to_string().into()).is_ok() {
            tracing::error!(%reason, "state store failed; its group stops on this node");
        }
    }

    /// `Err` once the store has failed.
    pub(super) fn check(&self) -> Result<(), StateError> {
        match self.failure.get() {
            Some(reason) => Err(StateError::Poisoned {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }
}
