//! Which host names are looked up, in which order and how many at a time. No I/O.
//!
//! A look-up in the system's resolver cannot be interrupted: if the name server is silent, it occupies its thread until
//! libc gives up, often after 10 s, and libc repeats a lost query only after 5 s. So all who wait for the same host share
//! one look-up, and the number of look-ups is limited. When the name server answers again, the look-ups that still wait
//! for a lost query are replaced at once, and those that nobody waits for any more are skipped.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::failure::Failure;

/// The result of a look-up.
pub type Answer = Result<Vec<IpAddr>, Failure>;

/// A look-up that takes longer than this is slow: its query may be lost.
pub const SLOW: Duration = Duration::from_secs(1);

/// The most look-ups under way at once, each with its own thread. The last ones are only for replacements.
pub const MAX_UNDER_WAY: usize = 96;
const MAX_FIRST: usize = 80;

/// The most look-ups under way of hosts whose last look-up was slow or failed. They must not keep other hosts waiting.
const MAX_OF_SLOW_HOSTS: usize = 16;

/// The most abandoned look-ups: beyond the first number no look-up is replaced because it is slow, and beyond the second
/// none because others are answered.
const MAX_ABANDONED: usize = 16;
const MAX_ABANDONED_AFTER_ANSWER: usize = 48;

/// The most slow hosts that are remembered.
const MAX_REMEMBERED: usize = 4096;

/// The look-ups that are requested and under way.
pub struct Lookups {
    entries: HashMap<Arc<str>, Entry>,
    /// Hosts to look up: those whose look-up was abandoned, all others, and those whose last look-up was slow.
    again: VecDeque<Arc<str>>,
    first: VecDeque<Arc<str>>,
    slow: VecDeque<Arc<str>>,
    /// Hosts whose last look-up was slow or failed.
    slow_hosts: HashSet<Arc<str>>,
    /// Look-ups under way: all, those that were abandoned, and of the others those of slow hosts.
    under_way: usize,
    abandoned: usize,
    of_slow_hosts: usize,
    /// When a look-up was last answered, or replaced because it was slow.
    last_sign: Instant,
    last_id: u64,
}

/// A host that somebody waits for.
struct Entry {
    answer: watch::Sender<Option<Answer>>,
    /// None until its look-up begins, and after it was abandoned.
    current: Option<Current>,
    /// A look-up was made or is under way.
    has_begun: bool,
}

#[derive(Clone, Copy)]
struct Current {
    id: u64,
    since: Instant,
    of_slow_host: bool,
}

/// A look-up to make.
#[derive(Clone, Debug)]
pub struct Job {
    pub host: Arc<str>,
    id: u64,
    since: Instant,
}

impl Lookups {
    pub fn new(now: Instant) -> Self {
        Lookups {
            entries: HashMap::new(),
            again: VecDeque::new(),
            first: VecDeque::new(),
            slow: VecDeque::new(),
            slow_hosts: HashSet::new(),
            under_way: 0,
            abandoned: 0,
            of_slow_hosts: 0,
            last_sign: now,
            last_id: 0,
        }
    }

    /// Requests the addresses of a host, or joins those who wait for them already.
    pub fn request(&mut self, host: &str) -> watch::Receiver<Option<Answer>> {
        if let Some(entry) = self.entries.get(host) {
            return entry.answer.subscribe();
        }
        let host: Arc<str> = host.into();
        let (sender, receiver) = watch::channel(None);
        let queue = if self.slow_hosts.contains(&host) { &mut self.slow } else { &mut self.first };
        queue.push_back(host.clone());
        self.entries.insert(host, Entry { answer: sender, current: None, has_begun: false });
        receiver
    }

    /// Whether a requested look-up may begin now.
    pub fn has_next(&self) -> bool {
        self.queue().is_some()
    }

    /// Whether a look-up of a requested host was begun.
    pub fn has_begun(&self, host: &str) -> bool {
        self.entries.get(host).is_some_and(|entry| entry.has_begun)
    }

    /// Begins the next look-up. None if none is requested, or none may begin.
    pub fn next(&mut self, now: Instant) -> Option<Job> {
        loop {
            let queue = match self.queue()? {
                Queue::Again => &mut self.again,
                Queue::First => &mut self.first,
                Queue::Slow => &mut self.slow,
            };
            let host = queue.pop_front()?;
            let Some(entry) = self.entries.get_mut(&host).filter(|entry| entry.current.is_none()) else { continue };
            if entry.answer.receiver_count() == 0 {
                self.entries.remove(&host);
                continue;
            }

            self.last_id += 1;
            let of_slow_host = self.slow_hosts.contains(&host);
            entry.current = Some(Current { id: self.last_id, since: now, of_slow_host });
            entry.has_begun = true;
            self.under_way += 1;
            self.of_slow_hosts += usize::from(of_slow_host);
            return Some(Job { host, id: self.last_id, since: now });
        }
    }

    fn queue(&self) -> Option<Queue> {
        if !self.again.is_empty() && self.under_way < MAX_UNDER_WAY {
            Some(Queue::Again)
        } else if self.under_way >= MAX_FIRST {
            None
        } else if !self.first.is_empty() {
            Some(Queue::First)
        } else {
            (!self.slow.is_empty() && self.of_slow_hosts < MAX_OF_SLOW_HOSTS).then_some(Queue::Slow)
        }
    }

    /// Ends a look-up. `is_served` means that a name server answered. Those who wait are given the answer, unless it is
    /// the failure of an abandoned look-up.
    pub fn finish(&mut self, job: &Job, answer: Answer, is_served: bool, now: Instant) {
        self.under_way -= 1;
        if is_served {
            self.slow_hosts.remove(&job.host);
            self.last_sign = now;
        } else {
            self.remember_slow(&job.host);
        }

        let current = self.entries.get(&job.host).and_then(|entry| entry.current);
        let is_current = current.is_some_and(|current| current.id == job.id);
        if !is_current {
            self.abandoned -= 1;
        }
        if (is_current || answer.is_ok())
            && let Some(entry) = self.entries.remove(&job.host)
        {
            entry.answer.send_replace(Some(answer));
            if let Some(current) = entry.current {
                self.of_slow_hosts -= usize::from(current.of_slow_host);
                // An abandoned look-up was answered first, so now this one is abandoned.
                self.abandoned += usize::from(!is_current);
            }
        }
        if is_served {
            self.replace_lost(job.since, now);
        }
    }

    /// Fails the requests whose look-up has not begun, if none can be made.
    pub fn fail_all(&mut self, failure: &Failure) {
        let is_waiting = |entry: &Entry| entry.current.is_none();
        let waiting: Vec<_> =
            self.entries.iter().filter(|(_, entry)| is_waiting(entry)).map(|(host, _)| host.clone()).collect();
        for entry in waiting.iter().filter_map(|host| self.entries.remove(host)) {
            entry.answer.send_replace(Some(Err(failure.clone())));
        }
    }

    /// Replaces the look-up of a host if it is slow, for somebody who waits. While no look-up at all is answered, one is
    /// replaced per [`SLOW`]: the first to be answered shows that the name server is back.
    pub fn replace_slow(&mut self, host: &str, now: Instant) {
        let is_slow = |entry: &Entry| entry.current.is_some_and(|current| now - current.since >= SLOW);
        if now - self.last_sign >= SLOW
            && self.abandoned < MAX_ABANDONED
            && let Some((host, _)) = self.entries.get_key_value(host).filter(|(_, entry)| is_slow(entry))
        {
            let host = host.clone();
            self.last_sign = now;
            self.abandon(&host);
        }
    }

    /// Replaces the slow look-ups that began before one that was answered: their queries are lost.
    fn replace_lost(&mut self, answered: Instant, now: Instant) {
        let is_lost = |current: Current| current.since < answered && now - current.since >= SLOW;
        let lost = self.entries.iter().filter(|(_, entry)| entry.current.is_some_and(is_lost));
        let room = MAX_ABANDONED_AFTER_ANSWER.saturating_sub(self.abandoned);
        let lost: Vec<_> = lost.take(room).map(|(host, _)| host.clone()).collect();
        for host in lost {
            self.abandon(&host);
        }
    }

    /// Requests the look-up of a host again.
    fn abandon(&mut self, host: &Arc<str>) {
        if let Some(current) = self.entries.get_mut(host).and_then(|entry| entry.current.take()) {
            self.abandoned += 1;
            self.of_slow_hosts -= usize::from(current.of_slow_host);
            self.remember_slow(host);
            self.again.push_back(host.clone());
        }
    }

    fn remember_slow(&mut self, host: &Arc<str>) {
        if self.slow_hosts.len() >= MAX_REMEMBERED {
            self.slow_hosts.clear();
        }
        self.slow_hosts.insert(host.clone());
    }
}

enum Queue {
    Again,
    First,
    Slow,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failure::Kind;

    fn found() -> Answer {
        Ok(vec![IpAddr::from([10, 0, 0, 1])])
    }

    fn silent() -> Answer {
        Err(Failure::new(Kind::Dns, "Temporary failure in name resolution"))
    }

    fn begin(lookups: &mut Lookups, now: Instant) -> Vec<Job> {
        std::iter::from_fn(|| lookups.next(now)).collect()
    }

    #[test]
    fn requests_for_one_host_share_a_look_up() {
        let now = Instant::now();
        let mut lookups = Lookups::new(now);
        let waiting: Vec<_> = (0..3).map(|_| lookups.request("a")).collect();
        let jobs = begin(&mut lookups, now);
        assert_eq!(jobs.len(), 1);
        let joined = lookups.request("a");
        assert!(!lookups.has_next());
        lookups.finish(&jobs[0], found(), true, now);
        assert!(waiting.iter().chain([&joined]).all(|receiver| *receiver.borrow() == Some(found())));
        // A later request begins a new one.
        let _again = lookups.request("a");
        assert_eq!(begin(&mut lookups, now).len(), 1);
    }

    #[test]
    fn a_request_that_nobody_waits_for_is_skipped() {
        let now = Instant::now();
        let mut lookups = Lookups::new(now);
        let kept: Vec<_> = (0..MAX_FIRST).map(|n| lookups.request(&format!("h{n}"))).collect();
        let jobs = begin(&mut lookups, now);
        drop(lookups.request("left"));
        let waiting = lookups.request("waiting");
        for job in &jobs {
            lookups.finish(job, silent(), false, now);
        }
        let next = begin(&mut lookups, now);
        assert_eq!(next.iter().map(|job| &*job.host).collect::<Vec<_>>(), ["waiting"]);
        drop((kept, waiting));
    }

    /// Two hundred hosts while the name server is silent, each look-up for ten seconds.
    #[test]
    fn all_hosts_are_answered_soon_after_the_name_server_is_back() {
        let start = Instant::now();
        let mut lookups = Lookups::new(start);
        let hosts: Vec<_> = (0..200).map(|n| format!("h{n}")).collect();
        let mut under_way: Vec<Job> = Vec::new();
        let mut most = 0;
        let back = Duration::from_secs(45);
        let step = Duration::from_millis(100);
        let mut now = start;
        let mut waiting: Vec<_> = hosts.iter().map(|host| lookups.request(host)).collect();

        loop {
            for (host, receiver) in hosts.iter().zip(&mut waiting) {
                if receiver.borrow().is_some() && now - start < back {
                    *receiver = lookups.request(host);
                }
                lookups.replace_slow(host, now);
            }
            under_way.extend(begin(&mut lookups, now));
            most = most.max(under_way.len());

            // A query that was sent while the name server was silent is repeated by libc after five seconds.
            now += step;
            let is_over = |job: &Job| {
                let (sent, age) = (job.since - start, now - job.since);
                let repeated = sent + Duration::from_secs(5);
                sent >= back || (repeated >= back && now - start >= repeated) || age >= Duration::from_secs(10)
            };
            let (over, rest): (Vec<_>, Vec<_>) = under_way.into_iter().partition(is_over);
            under_way = rest;
            for job in over {
                let is_served = now - job.since < Duration::from_secs(10);
                lookups.finish(&job, if is_served { found() } else { silent() }, is_served, now);
            }

            if waiting.iter().all(|receiver| *receiver.borrow() == Some(found())) {
                break;
            }
            assert!(now - start < back + Duration::from_secs(3), "not all hosts were answered in time");
        }
        assert!(now - start > back && most <= MAX_UNDER_WAY, "{most}");
    }

    #[test]
    fn hosts_of_a_silent_zone_do_not_keep_others_waiting() {
        let start = Instant::now();
        let mut lookups = Lookups::new(start);
        let bad: Vec<_> = (0..200).map(|n| lookups.request(&format!("bad{n}"))).collect();
        let mut now = start;
        // All of them are known to be slow.
        while lookups.has_next() {
            for job in begin(&mut lookups, now) {
                lookups.finish(&job, silent(), false, now);
            }
        }
        drop(bad);
        let _bad: Vec<_> = (0..200).map(|n| lookups.request(&format!("bad{n}"))).collect();
        assert_eq!(begin(&mut lookups, now).len(), MAX_OF_SLOW_HOSTS);
        for n in 0..1000 {
            now += Duration::from_millis(20);
            let good = lookups.request(&format!("good{n}"));
            (0..200).for_each(|n| lookups.replace_slow(&format!("bad{n}"), now));
            let jobs = begin(&mut lookups, now);
            let job = jobs.iter().find(|job| job.host.starts_with("good")).expect("a look-up of the good host");
            lookups.finish(job, found(), true, now);
            assert!(good.borrow().is_some() && lookups.under_way <= MAX_UNDER_WAY);
        }
    }
}
