//! Calls into an engine of others: a panic within becomes an error like any other.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::engine::EngineError;

/// Runs `call`; a panic within it becomes an error. What the engine's structures are like after a panic
/// is unknown, which is sound because no error of an engine is followed by another try.
pub(super) fn guarded<T>(
    dir: &Path,
    call: impl FnOnce() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        Err(EngineError::Panicked {
            path: dir.to_path_buf(),
            reason: panic_message(&*panic),
        })
    })
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => (*message).to_owned(),
        (_, Some(message)) => message.clone(),
        _ => "no message".to_owned(),
    }
}
