//! The hash slots of a cluster: which slot a key has, and who owns which slots. No I/O.

use std::ops::RangeInclusive;
use std::sync::OnceLock;

/// The number of slots of a cluster (redis.io, cluster specification).
pub const SLOTS: u16 = 16_384;

/// Consecutive slots.
pub type Range = RangeInclusive<u16>;

/// The slot of a key without braces, or of the text between the braces of a key: CRC16 (XMODEM) modulo the number of
/// slots (redis.io, cluster specification, appendix A).
pub fn slot(key: &[u8]) -> u16 {
    let crc = key.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    });
    crc % SLOTS
}

/// A hash tag, with its braces, whose slot is in `slots`: that with the lowest number. None if `slots` is empty.
pub fn tag(slots: &[Range]) -> Option<String> {
    let numbers = tag_numbers();
    let number = slots.iter().flat_map(Clone::clone).filter_map(|slot| numbers.get(usize::from(slot))).min()?;
    Some(format!("{{{number}}}"))
}

/// The slot of a tag from [`tag`].
pub fn slot_of_tag(tag: &str) -> u16 {
    slot(tag.trim_matches(['{', '}']).as_bytes())
}

/// For each slot, the lowest number that hashes to it. About 160,000 numbers cover all slots.
fn tag_numbers() -> &'static [u32] {
    static NUMBERS: OnceLock<Vec<u32>> = OnceLock::new();
    NUMBERS.get_or_init(|| {
        let mut numbers = vec![u32::MAX; usize::from(SLOTS)];
        let mut missing = numbers.len();
        for number in 0..1_000_000 {
            let place = usize::from(slot(number.to_string().as_bytes()));
            if numbers[place] == u32::MAX {
                numbers[place] = number;
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        numbers
    })
}

/// The owner of each slot, as an index.
#[derive(Clone, Debug)]
pub struct Owners(Vec<Option<u16>>);

impl Owners {
    pub fn none() -> Self {
        Owners(vec![None; usize::from(SLOTS)])
    }

    /// The owner of a slot.
    pub fn of(&self, slot: u16) -> Option<u16> {
        self.0.get(usize::from(slot)).copied().flatten()
    }

    pub fn set(&mut self, slots: &[Range], owner: u16) {
        for slot in slots.iter().flat_map(Clone::clone) {
            self.0[usize::from(slot)] = Some(owner);
        }
    }

    /// The slots whose owner `is` selects.
    #[cfg(test)]
    pub fn slots(&self, is: impl Fn(Option<u16>) -> bool) -> Vec<Range> {
        (0..SLOTS).zip(&self.0).filter(|(_, owner)| is(**owner)).fold(Vec::new(), |mut ranges, (slot, _)| {
            append(&mut ranges, slot);
            ranges
        })
    }
}

/// Appends a slot that is after all of `ranges`.
pub fn append(ranges: &mut Vec<Range>, slot: u16) {
    match ranges.last_mut() {
        Some(last) if u32::from(*last.end()) + 1 == u32::from(slot) => *last = *last.start()..=slot,
        _ => ranges.push(slot..=slot),
    }
}

/// Assigns slots to those who claim them first. It takes time only for slots that are still free, because a hostile
/// server may list thousands of nodes that all claim all slots.
pub struct Claims {
    owners: Owners,
    /// For each slot: itself if it is free, otherwise a later slot from which to look for the next free one.
    next_free: Vec<u16>,
}

impl Claims {
    pub fn new() -> Self {
        Claims { owners: Owners::none(), next_free: (0..=SLOTS).collect() }
    }

    /// Assigns the slots of `range` that are free.
    pub fn claim(&mut self, range: &Range, owner: u16) {
        let mut slot = self.free_from(*range.start());
        while slot < SLOTS && slot <= *range.end() {
            self.owners.0[usize::from(slot)] = Some(owner);
            self.next_free[usize::from(slot)] = slot + 1;
            slot = self.free_from(slot + 1);
        }
    }

    /// The first free slot at or after `slot`. The path to it is made shorter.
    fn free_from(&mut self, slot: u16) -> u16 {
        let mut free = slot.min(SLOTS);
        while self.next_free[usize::from(free)] != free {
            free = self.next_free[usize::from(free)];
        }
        let mut at = slot.min(SLOTS);
        while at != free {
            at = std::mem::replace(&mut self.next_free[usize::from(at)], free);
        }
        free
    }

    pub fn into_owners(self) -> Owners {
        self.owners
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_match_the_specification() {
        assert_eq!((slot(b"123456789"), slot(b"foo"), slot(b"")), (0x31c3, 12_182, 0));
        for slots in [0..=0, 16_383..=16_383, 5461..=10_922, 7000..=7000] {
            let tag = tag(std::slice::from_ref(&slots)).unwrap();
            assert!(slots.contains(&slot_of_tag(&tag)), "{tag}");
        }
        assert_eq!(tag(&[]), None);
        assert!(tag_numbers().iter().all(|number| *number < 1_000_000));
    }

    #[test]
    fn the_first_claim_of_a_slot_counts() {
        let mut claims = Claims::new();
        for (range, owner) in [(10..=20, 0), (0..=30, 1), (15..=15, 2), (16_000..=16_383, 3), (5..=u16::MAX, 4)] {
            claims.claim(&range, owner);
        }
        let owners = claims.into_owners();
        let slots = |owner| owners.slots(|known| known == owner);
        assert_eq!(slots(Some(0)), [10..=20]);
        assert_eq!(slots(Some(1)), [0..=9, 21..=30]);
        assert_eq!(slots(Some(2)), []);
        assert_eq!(slots(Some(3)), [16_000..=16_383]);
        assert_eq!(slots(Some(4)), [31..=15_999]);
        assert_eq!(slots(None), []);
    }

    #[test]
    fn claims_take_time_only_for_free_slots() {
        let mut claims = Claims::new();
        // A hundred million steps per owner otherwise.
        for owner in 0..60_000 {
            claims.claim(&(0..=SLOTS - 1), owner);
        }
        assert_eq!(claims.into_owners().slots(|owner| owner == Some(0)), [0..=SLOTS - 1]);
    }
}
