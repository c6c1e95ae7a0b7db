//! Which logical databases are checked.

use std::ops::RangeInclusive;

/// The highest index that is accepted: ElastiCache allowed 1.2 million databases before engine version 6.0.
pub const MAX_INDEX: u32 = 1_199_999;

/// How many databases `--max-db auto` checks at most: some proxies accept every index.
pub const AUTO_COUNT: u32 = 20_000;

/// Which logical databases to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Databases {
    /// Only this index.
    One(u32),
    /// Only index 0, which each connection begins with, without SELECT: some proxies do not know it.
    ZeroWithoutSelect,
    /// 0 up to and including this index.
    UpTo(u32),
    /// 0 up to the last index of the server, which SELECT finds: CONFIG is forbidden on ElastiCache. At most
    /// [`AUTO_COUNT`].
    Auto,
}

impl Databases {
    /// The number of databases, if it is known in advance.
    pub fn count(self) -> Option<u64> {
        let range = self.range();
        (self != Databases::Auto).then(|| u64::from(range.end() - range.start()) + 1)
    }

    /// Whether only one database is checked.
    pub fn is_single(self) -> bool {
        matches!(self, Databases::One(_) | Databases::ZeroWithoutSelect)
    }

    /// Whether SELECT is part of a check.
    pub fn selects(self) -> bool {
        self != Databases::ZeroWithoutSelect
    }

    /// The first index to check.
    pub fn first(self) -> u32 {
        *self.range().start()
    }

    /// All indexes to check, in order.
    pub fn range(self) -> RangeInclusive<u32> {
        match self {
            Databases::One(db) => db..=db,
            Databases::ZeroWithoutSelect => 0..=0,
            Databases::UpTo(last) => 0..=last,
            Databases::Auto => 0..=AUTO_COUNT - 1,
        }
    }
}
