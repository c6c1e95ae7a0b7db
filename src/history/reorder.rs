//! Puts checks in order: they overlap and end in any order, but outages are computed in the order in which checks
//! began.

use std::collections::BTreeMap;

/// Holds back the results of later checks until all earlier checks have ended.
#[derive(Debug)]
pub struct Reorder<T> {
    held_back: BTreeMap<u64, Vec<T>>,
}

impl<T> Default for Reorder<T> {
    fn default() -> Self {
        Reorder { held_back: BTreeMap::new() }
    }
}

impl<T> Reorder<T> {
    /// Holds back an item of the check `number`.
    pub fn hold_back(&mut self, number: u64, item: T) {
        self.held_back.entry(number).or_default().push(item);
    }

    /// Returns the items that are in order now. `oldest` is the lowest number of a check that is still running.
    pub fn take_due(&mut self, oldest: u64) -> Vec<T> {
        if self.held_back.is_empty() {
            return Vec::new();
        }
        let later = self.held_back.split_off(&oldest.saturating_add(1));
        std::mem::replace(&mut self.held_back, later).into_values().flatten().collect()
    }

    /// Returns all remaining items, in order, at the end of a run.
    pub fn take_all(&mut self) -> Vec<T> {
        std::mem::take(&mut self.held_back).into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_checks_wait_for_earlier_ones() {
        let mut reorder = Reorder::default();
        reorder.hold_back(3, "3a");
        reorder.hold_back(2, "2a");
        reorder.hold_back(3, "3b");
        assert_eq!(reorder.take_due(1), Vec::<&str>::new());
        // Check 2 is the oldest running check, so its items are in order.
        assert_eq!(reorder.take_due(2), ["2a"]);
        assert_eq!(reorder.take_due(3), ["3a", "3b"]);

        reorder.hold_back(5, "5a");
        reorder.hold_back(4, "4a");
        assert_eq!(reorder.take_all(), ["4a", "5a"]);
    }
}
