//! Whether the store may still be used: the first failure of the engine ends it, and so does closing it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::StateError;
use crate::storage::cause::Cause;
use crate::storage::engine::EngineError;

/// Why a store takes no more part.
#[derive(Clone, Debug)]
pub struct StoreFailure {
    /// The first failure.
    pub reason: Arc<str>,
    /// What kind of trouble it was.
    pub cause: Cause,
    /// The contents of the database are damaged: they can only be rebuilt.
    pub damaged: bool,
}

/// The first failure, kept for everyone who asks later. That of a group includes the database's.
pub(super) struct Health {
    failure: watch::Sender<Option<StoreFailure>>,
    /// Set once, before the state can be opened again.
    closed: AtomicBool,
    parent: Option<Arc<Health>>,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            failure: watch::Sender::new(None),
            closed: AtomicBool::new(false),
            parent: None,
        }
    }
}

impl Health {
    /// Of a group, in a database with the health `parent`.
    pub(super) fn within(parent: Arc<Health>) -> Self {
        Health {
            parent: Some(parent),
            ..Health::default()
        }
    }

    /// Ends the use of the store; the first reason is the one that stays.
    pub(super) fn poison(&self, error: &StateError) {
        let first = self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| StoreFailure {
                reason: error.to_string().into(),
                cause: error.into(),
                // A panic says nothing of the contents, and may come on every node alike.
                damaged: matches!(error, StateError::Engine(EngineError::Corrupt { .. })),
            });
            first
        });
        if first {
            match self.parent {
                Some(_) => {
                    tracing::error!(reason = %error, "state store failed; its group stops on this node");
                }
                None => {
                    tracing::error!(reason = %error, "state store failed; all groups stop on this node");
                }
            }
        }
    }

    /// Resolves with the first failure.
    pub(super) async fn failed(&self) -> StoreFailure {
        match &self.parent {
            None => self.failed_itself().await,
            Some(parent) => tokio::select! {
                biased;
                failure = self.failed_itself() => failure,
                failure = parent.failed_itself() => failure,
            },
        }
    }

    async fn failed_itself(&self) -> StoreFailure {
        let mut failure = self.failure.subscribe();
        // The sender lives in `self`, and what is waited for is there when the wait is over.
        match failure.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().expect("waited for"),
            Err(_) => unreachable!("the health is borrowed"),
        }
    }

    /// Ends the use of the store, which has not failed: another takes its place.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// `Err` once the store is closed.
    pub(super) fn check_open(&self) -> Result<(), StateError> {
        match self.is_closed() {
            true => Err(StateError::Closed),
            false => Ok(()),
        }
    }

    /// `Err` once the store has failed or is closed.
    pub(super) fn check(&self) -> Result<(), StateError> {
        self.check_failure()?;
        self.check_open()
    }

    /// `Err` once the store has failed.
    pub(super) fn check_failure(&self) -> Result<(), StateError> {
        if let Some(StoreFailure { reason, cause, .. }) = &*self.failure.borrow() {
            return Err(StateError::Poisoned {
                reason: reason.clone(),
                cause: *cause,
            });
        }
        match &self.parent {
            Some(parent) => parent.check_failure(),
            None => Ok(()),
        }
    }
}
