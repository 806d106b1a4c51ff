//! Bounds what is in flight, by number and by bytes.

use tokio::sync::Semaphore;

/// Places for proposals. A proposal holds its place until it is answered or given up.
pub(super) struct Admission {
    places: Semaphore,
    bytes: Semaphore,
    bytes_max: usize,
}

/// A place that is held.
pub(super) struct Place<'a> {
    _place: tokio::sync::SemaphorePermit<'a>,
    _bytes: tokio::sync::SemaphorePermit<'a>,
}

impl Admission {
    pub(super) fn new(places: usize, bytes: usize) -> Self {
        Self {
            places: Semaphore::new(places.min(Semaphore::MAX_PERMITS)),
            bytes: Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)),
            bytes_max: bytes.min(Semaphore::MAX_PERMITS),
        }
    }

    /// A place for a proposal of `bytes`, at once or not at all. One that is larger than the whole
    /// bound gets in when nothing else is in flight.
    pub(super) fn enter(&self, bytes: usize) -> Option<Place<'_>> {
        let bytes = u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX);
        Some(Place {
            _place: self.places.try_acquire().ok()?,
            _bytes: self.bytes.try_acquire_many(bytes).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_house_refuses_and_a_place_left_is_free_again() {
        let admission = Admission::new(2, 100);
        let first = admission.enter(10).expect("the house is empty");
        let _second = admission.enter(10).expect("one place is left");
        assert!(admission.enter(10).is_none(), "two places, both taken");
        drop(first);
        assert!(admission.enter(10).is_some());
    }

    #[test]
    fn bytes_are_bounded_and_a_giant_gets_in_alone() {
        let admission = Admission::new(10, 100);
        let some = admission.enter(60).expect("the house is empty");
        assert!(
            admission.enter(60).is_none(),
            "120 bytes do not fit into 100"
        );
        assert!(admission.enter(1000).is_none(), "not while others are in");
        drop(some);
        assert!(admission.enter(1000).is_some());
    }
}
