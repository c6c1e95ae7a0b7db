//! Tells a real switch, such as a failover, from a rotation among alternatives, such as round-robin DNS.

use std::collections::BTreeMap;
use std::time::Duration;

/// How many alternatives are remembered.
const REMEMBERED: usize = 64;

/// After how many checks without it, for each known alternative, one counts as gone. Two that are chosen at random miss
/// one for ten checks once in a thousand.
const MISSED: u64 = 5;

/// An alternative counts as gone only after this multiple of the longest absence after which one came back: a resolver
/// may repeat an answer for as long as it is cached.
const TIMES_LONGEST: u32 = 3;

/// But after this time it counts as gone in any case.
const LONGEST: Duration = Duration::from_secs(120);

/// Which of several alternatives was used last, such as the addresses of a name.
///
/// Only a new alternative, or one that stays away, is a switch. One that comes back in turn is not.
#[derive(Clone, Debug)]
pub struct Rotation<K> {
    current: Option<K>,
    known: BTreeMap<K, Known>,
    /// Counts the checks.
    checks: u64,
    /// The check that reported the last switch.
    reported: u64,
    /// The longest absence after which an alternative came back.
    longest: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// The last check that used it, or that found it available, and when that was.
    check: u64,
    at: Duration,
    /// The last check that used it.
    used: u64,
    /// It stayed away, so it counts as new when it comes back.
    is_gone: bool,
}

/// A switch to the alternative that is used now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch<K> {
    pub from: K,
    /// It was not used before. Otherwise it is an old one, and another stays away.
    pub is_to_new: bool,
}

impl<K> Default for Rotation<K> {
    fn default() -> Self {
        Rotation { current: None, known: BTreeMap::new(), checks: 0, reported: 0, longest: Duration::ZERO }
    }
}

impl<K: Clone + Ord> Rotation<K> {
    /// The alternative that was used last.
    pub fn current(&self) -> Option<&K> {
        self.current.as_ref()
    }

    /// When the current alternative was used last.
    pub fn last_used(&self) -> Option<Duration> {
        Some(self.known.get(self.current.as_ref()?)?.at)
    }

    pub fn remembers(&self, key: &K) -> bool {
        self.known.contains_key(key)
    }

    /// Records that a check used `key` at `at`, a time on any monotonic clock, and returns the switch that it shows.
    /// `is_available` tells which others could have been used too.
    pub fn switch(&mut self, key: &K, is_available: impl Fn(&K) -> bool, at: Duration) -> Option<Switch<K>> {
        self.checks += 1;
        let is_new = self.known.get(key).is_none_or(|known| known.is_gone);
        let before = self.current.replace(key.clone());
        self.record(key, &is_available, at);
        let gone = self.find_gone(at);

        let switch = match before.filter(|before| before != key) {
            Some(before) if is_new && !is_available(&before) => Some(Switch { from: before, is_to_new: true }),
            _ => gone.map(|from| Switch { from, is_to_new: false }),
        };
        if switch.is_some() {
            self.reported = self.checks;
        }
        switch
    }

    fn record(&mut self, key: &K, is_available: &impl Fn(&K) -> bool, at: Duration) {
        let (check, mut longest) = (self.checks, self.longest);
        for (_, known) in
            self.known.iter_mut().filter(|(other, known)| *other == key || !known.is_gone && is_available(other))
        {
            if check > known.check + 1 {
                longest = longest.max(at.saturating_sub(known.at));
            }
            (known.check, known.at) = (check, at);
        }
        self.longest = longest;

        if self.known.len() >= REMEMBERED
            && !self.known.contains_key(key)
            && let Some(oldest) =
                self.known.iter().min_by_key(|(_, known)| known.check).map(|(oldest, _)| oldest.clone())
        {
            self.known.remove(&oldest);
        }
        self.known.insert(key.clone(), Known { check, at, used: check, is_gone: false });
    }

    /// Marks what stays away. Returns the one of them that was used last, if that was after the last switch: then it was
    /// in the rotation until now.
    fn find_gone(&mut self, at: Duration) -> Option<K> {
        let present = self.known.values().filter(|known| !known.is_gone).count() as u64;
        let patience = LONGEST.min(self.longest * TIMES_LONGEST);
        let (checks, reported) = (self.checks, self.reported);
        let mut gone = None;
        for (key, known) in self.known.iter_mut().filter(|(_, known)| !known.is_gone) {
            if checks - known.check >= MISSED * present && at.saturating_sub(known.at) >= patience {
                known.is_gone = true;
                if known.used > reported && gone.as_ref().is_none_or(|(used, _)| *used < known.used) {
                    gone = Some((known.used, key.clone()));
                }
            }
        }
        gone.map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The switches, as `from>to`, of checks that each use one letter, once a second. A `+` marks one that was reported
    /// when another alternative stayed away.
    fn switches(used: &str) -> Vec<String> {
        let mut rotation = Rotation::default();
        let mut found = Vec::new();
        for (key, at) in used.chars().zip(0..) {
            if let Some(switch) = rotation.switch(&key, |_| false, Duration::from_secs(at)) {
                found.push(format!("{}>{key}{}", switch.from, if switch.is_to_new { "" } else { "+" }));
            }
        }
        found
    }

    fn streaks(streaks: &[(char, usize)]) -> String {
        streaks.iter().map(|(key, length)| key.to_string().repeat(*length)).collect()
    }

    #[test]
    fn a_failover_and_a_failback_are_switches() {
        assert_eq!(switches(""), [""; 0]);
        assert_eq!(switches(&streaks(&[('a', 30), ('b', 30)])), ["a>b"]);
        assert_eq!(switches(&streaks(&[('a', 30), ('b', 30), ('a', 30)])), ["a>b", "b>a"]);
        // Back before the first one counted as gone: reported when the second one does.
        assert_eq!(switches(&streaks(&[('a', 30), ('b', 5), ('a', 30)])), ["a>b", "b>a+"]);
        assert_eq!(switches(&streaks(&[('a', 300), ('b', 300), ('a', 300), ('b', 300)])), ["a>b", "b>a", "a>b"]);
        assert_eq!(switches("aaabbbccc"), ["a>b", "b>c"]);
    }

    #[test]
    fn a_rotation_is_not_a_switch() {
        assert_eq!(switches(&"ab".repeat(500)), ["a>b"]);
        assert_eq!(switches(&"abc".repeat(500)), ["a>b", "b>c"]);
        assert_eq!(switches(&"aaab".repeat(500)), ["a>b"]);
        // Each answer is cached for 20 or 60 s. The first return cannot be told from a failback.
        assert_eq!(switches(&streaks(&[('a', 20), ('b', 20)]).repeat(50)), ["a>b", "b>a"]);
        assert_eq!(switches(&streaks(&[('a', 60), ('b', 60)]).repeat(50)), ["a>b", "b>a"]);
    }

    #[test]
    fn one_that_leaves_a_rotation_is_a_switch() {
        assert_eq!(switches(&("ab".repeat(50) + &"b".repeat(50))), ["a>b", "a>b+"]);
    }

    #[test]
    fn alternatives_at_random_rarely_count_as_gone() {
        // A linear congruential generator (Knuth's MMIX), so that each run is the same.
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + (state >> 61) as u8)
        };
        let used: String = (0..20_000).map(|_| random()).collect();
        assert!(switches(&used).len() < 16, "{:?}", switches(&used));
    }

    #[test]
    fn others_that_are_available_are_not_gone() {
        let mut rotation = Rotation::default();
        for second in 0..100 {
            let key = if second < 50 { 'a' } else { 'b' };
            assert_eq!(rotation.switch(&key, |other| "ab".contains(*other), Duration::from_secs(second)), None);
        }
        // The name has only one address left.
        let left = (100..120).find_map(|second| rotation.switch(&'b', |_| false, Duration::from_secs(second)));
        assert_eq!(left, Some(Switch { from: 'a', is_to_new: false }));
    }

    #[test]
    fn memory_is_bounded() {
        let mut rotation = Rotation::default();
        for key in 0..1000_u32 {
            rotation.switch(&key, |_| false, Duration::from_secs(key.into()));
        }
        assert_eq!(rotation.known.len(), REMEMBERED);
        assert!(rotation.remembers(&999) && !rotation.remembers(&0));
    }
}
