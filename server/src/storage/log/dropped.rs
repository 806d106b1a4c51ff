//! Ids of groups that were dropped. They are remembered for the life of the log: an id that could come
//! back could be taken for the group that had it before, by peers that hold promises of it.
//!
//! Ids are given in ascending order, so those that are gone lie side by side, and a few ranges hold
//! them all: never more than one beyond the number of ids between them that are not dropped.

use std::collections::BTreeMap;

/// A set of group ids, as ranges that neither meet nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DroppedGroups {
    /// First id of a range, and its last.
    ranges: BTreeMap<u64, u64>,
}

impl DroppedGroups {
    /// Whether a group was dropped.
    pub fn contains(&self, group: u64) -> bool {
        let range = self.ranges.range(..=group).next_back();
        range.is_some_and(|(_, &last)| group <= last)
    }

    /// Whether no group was ever dropped.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The largest id of a dropped group.
    pub fn last(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, &last)| last)
    }

    /// First and last id of each range, ascending.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(&first, &last)| (first, last))
    }

    /// Adds one group.
    pub fn insert(&mut self, group: u64) {
        self.insert_range(group, group);
    }

    /// Adds the groups from `first` to `last`.
    pub fn insert_range(&mut self, mut first: u64, mut last: u64) {
        assert!(first <= last, "a range of groups from {first} to {last}");
        // Joins every range that overlaps or is next to it.
        let reach = last.saturating_add(1);
        while let Some((&start, &end)) = self.ranges.range(..=reach).next_back()
            && end.saturating_add(1) >= first
        {
            self.ranges.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.ranges.insert(first, last);
    }
}

impl FromIterator<(u64, u64)> for DroppedGroups {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(ranges: T) -> Self {
        let mut groups = DroppedGroups::default();
        for (first, last) in ranges {
            groups.insert_range(first, last);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_set_of_what_was_added(
            added in proptest::collection::vec((0_u64..40, 0_u64..6), 0..30)
        ) {
            let mut groups = DroppedGroups::default();
            let mut naive = BTreeSet::new();
            for (first, more) in added {
                groups.insert_range(first, first + more);
                naive.extend(first..=first + more);
            }
            for group in 0..50 {
                prop_assert_eq!(groups.contains(group), naive.contains(&group));
            }
            prop_assert_eq!(groups.last(), naive.last().copied());
            prop_assert_eq!(groups.is_empty(), naive.is_empty());
            let ranges: Vec<_> = groups.ranges().collect();
            let apart = ranges.windows(2).all(|two| two[0].1 + 1 < two[1].0);
            prop_assert!(apart, "{:?}", ranges);
            prop_assert_eq!(ranges.into_iter().collect::<DroppedGroups>(), groups);
        }
    }

    #[test]
    fn the_ends_of_the_ids_are_groups_like_any_other() {
        let mut groups = DroppedGroups::default();
        groups.insert(u64::MAX);
        groups.insert(u64::MAX - 1);
        groups.insert(1);
        assert_eq!(
            groups.ranges().collect::<Vec<_>>(),
            [(1, 1), (u64::MAX - 1, u64::MAX)]
        );
        assert!(groups.contains(u64::MAX) && !groups.contains(u64::MAX - 2));
    }
}
