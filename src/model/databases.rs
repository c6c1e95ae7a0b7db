//! Which logical databases are checked.

use std::ops::RangeInclusive;

/// The highest index that can be asked for: engines before 6.0 allowed 1.2 million databases on ElastiCache.
pub const MAX_INDEX: u32 = 1_199_999;

/// Which logical databases to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Databases {
    /// This index alone.
    One(u32),
    /// 0 up to and including this index.
    UpTo(u32),
    /// 0 up to the last index that the server has. SELECT is how to find it: CONFIG is forbidden on ElastiCache.
    Auto,
}

impl Databases {
    /// How many there are, where that is known.
    pub fn count(self) -> Option<u64> {
        let range = self.range();
        (self != Databases::Auto).then(|| u64::from(range.end() - range.start()) + 1)
    }

    /// The first index to check.
    pub fn first(self) -> u32 {
        *self.range().start()
    }

    /// All indexes to check, in order.
    pub fn range(self) -> RangeInclusive<u32> {
        match self {
            Databases::One(db) => db..=db,
            Databases::UpTo(last) => 0..=last,
            Databases::Auto => 0..=MAX_INDEX,
        }
    }
}
