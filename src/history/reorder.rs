//! Checks overlap and end in any order; outages are folded in the order in which the checks began. Pure.

use std::collections::BTreeMap;

/// Holds back what later checks brought until the earlier ones are over.
#[derive(Debug)]
pub struct Reorder<T> {
    begun: BTreeMap<u64, Slot<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    held_back: Vec<T>,
    over: bool,
}

impl<T> Default for Reorder<T> {
    fn default() -> Self {
        Reorder { begun: BTreeMap::new() }
    }
}

impl<T> Reorder<T> {
    /// A check begins; its number is higher than all before.
    pub fn begin(&mut self, number: u64) {
        self.begun.insert(number, Slot { held_back: Vec::new(), over: false });
    }

    /// A check brought something; returns it if it is due.
    pub fn bring(&mut self, number: u64, item: T) -> Option<T> {
        let first = self.begun.first_key_value().map(|(first, _)| *first);
        match self.begun.get_mut(&number) {
            Some(slot) if first != Some(number) => {
                slot.held_back.push(item);
                None
            }
            _ => Some(item),
        }
    }

    /// A check is over; returns what is due now.
    pub fn end(&mut self, number: u64) -> Vec<T> {
        if let Some(slot) = self.begun.get_mut(&number) {
            slot.over = true;
        }
        let mut due = Vec::new();
        while let Some(mut first) = self.begun.first_entry() {
            due.append(&mut first.get_mut().held_back);
            if !first.get().over {
                break;
            }
            first.remove();
        }
        due
    }

    /// Returns all that is held back, in order: nothing more will come.
    pub fn finish(&mut self) -> Vec<T> {
        std::mem::take(&mut self.begun).into_values().flat_map(|slot| slot.held_back).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_checks_wait_for_earlier_ones() {
        let mut ordered = Reorder::default();
        (1..=3).for_each(|number| ordered.begin(number));
        assert_eq!(ordered.bring(2, "2a"), None);
        assert_eq!(ordered.bring(1, "1a"), Some("1a"));
        assert_eq!(ordered.bring(3, "3a"), None);
        assert_eq!(ordered.end(3), Vec::<&str>::new());
        // The first is over: the second is next and not over yet, so its own come at once from here on.
        assert_eq!(ordered.end(1), ["2a"]);
        assert_eq!(ordered.bring(2, "2b"), Some("2b"));
        assert_eq!(ordered.end(2), ["3a"]);
        ordered.begin(4);
        ordered.begin(5);
        assert_eq!(ordered.bring(5, "5a"), None);
        assert_eq!(ordered.finish(), ["5a"]);
    }
}
