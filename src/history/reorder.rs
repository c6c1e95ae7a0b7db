//! Checks overlap and end in any order; outages are folded in the order in which the checks began.

use std::collections::BTreeMap;

/// Holds back what later checks brought until the earlier ones are over.
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
    /// Holds an item of the check `number` back.
    pub fn hold_back(&mut self, number: u64, item: T) {
        self.held_back.entry(number).or_default().push(item);
    }

    /// Gives what is in order now, given the lowest number of a check that is still under way.
    pub fn take_due(&mut self, oldest: u64) -> Vec<T> {
        if self.held_back.is_empty() {
            return Vec::new();
        }
        let later = self.held_back.split_off(&oldest.saturating_add(1));
        std::mem::replace(&mut self.held_back, later).into_values().flatten().collect()
    }

    /// Gives all that is held back, in order: nothing more will come.
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
        // The second is the oldest and not over, so what it brings is in order from here on.
        assert_eq!(reorder.take_due(2), ["2a"]);
        assert_eq!(reorder.take_due(3), ["3a", "3b"]);

        reorder.hold_back(5, "5a");
        reorder.hold_back(4, "4a");
        assert_eq!(reorder.take_all(), ["4a", "5a"]);
    }
}
