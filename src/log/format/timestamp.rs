//! Reads timestamps. JSON lines contain the offset from UTC. Classic lines contain local time without an offset, so it
//! is looked up in the system's time zone.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{
    DateTime, FixedOffset, Local, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _,
    Timelike as _,
};

use crate::model::clock::Stamp;

/// Overlapping checks are written in the order in which they end, so timestamps may go back a little. They go back by
/// more than this only if the clock was set back, as when daylight saving time ends.
const MAX_DISORDER: TimeDelta = TimeDelta::minutes(10);

/// Reads the timestamps of one log.
///
/// A header gives the offset of the lines after it. Without one, a local time is ambiguous in the repeated hour when
/// daylight saving time ends: the numbers of the checks and their usual interval decide, or else the order of the lines. In
/// the skipped hour when it begins, the previous offset is used.
#[derive(Clone, Debug)]
pub struct TimestampReader {
    utc: bool,
    last: Option<DateTime<FixedOffset>>,
    /// What the last timestamp could also mean, if its local time occurred twice.
    other: Option<DateTime<FixedOffset>>,
    /// Offsets change only at full quarters of an hour, so one lookup serves all lines of a quarter.
    quarter: Option<(NaiveDateTime, MappedLocalTime<FixedOffset>)>,
    minute: Option<Minute>,
    /// The offset of all lines, from the header of a run of `cycles`.
    offset: Option<FixedOffset>,
    /// The offset of the lines with one local time, from the header of a scan. Its lines have whole seconds: one with
    /// milliseconds in the same second is of a run of `cycles`.
    scan: Option<(NaiveDateTime, FixedOffset)>,
    pace: Pace,
    /// How many timestamps could not be decided.
    guessed: u64,
}

/// How fast the numbers of checks grow.
#[derive(Clone, Debug, Default)]
struct Pace {
    /// The number of the next line, if it is known.
    number: Option<u64>,
    /// The number of blocks so far.
    blocks: u64,
    /// The last numbered line of an earlier minute.
    last: Option<(u64, DateTime<FixedOffset>)>,
    /// The length of breaks since then.
    breaks: TimeDelta,
    /// The last intervals between two numbers, in seconds.
    intervals: VecDeque<f64>,
}

/// How many intervals are remembered.
const INTERVALS: usize = 5;

/// A line may be this far from where its number puts it.
const MAX_DEVIATION: TimeDelta = TimeDelta::minutes(12);

impl Pace {
    /// Adds the line with the expected number.
    fn add(&mut self, at: DateTime<FixedOffset>) {
        let Some(number) = self.number.take() else { return };
        match self.last {
            Some((last, last_at)) if number > last => {
                let seconds = (at - last_at - self.breaks).as_seconds_f64() / (number - last) as f64;
                if seconds > 0.0 {
                    self.intervals.push_back(seconds);
                    if self.intervals.len() > INTERVALS {
                        self.intervals.pop_front();
                    }
                }
            }
            // Another run.
            _ => self.intervals.clear(),
        }
        self.last = Some((number, at));
        self.breaks = TimeDelta::zero();
    }

    /// When the line with the expected number is due.
    fn due(&self) -> Option<DateTime<FixedOffset>> {
        let (number, (last, last_at)) = self.number.zip(self.last)?;
        let mut intervals: Vec<_> = self.intervals.iter().copied().collect();
        intervals.sort_by(f64::total_cmp);
        let usual = intervals.get(intervals.len() / 2)?;
        let seconds = usual * number.checked_sub(last)? as f64;
        last_at.checked_add_signed(TimeDelta::try_milliseconds((seconds * 1000.0) as i64)?.checked_add(&self.breaks)?)
    }
}

/// The minute of the last timestamp, if it is unambiguous. The next timestamp is mostly in the same minute, so only its
/// seconds must be read.
#[derive(Clone, Debug)]
struct Minute {
    /// `2025-08-27 07:35`.
    text: [u8; 16],
    /// When it begins, in UTC.
    date: NaiveDate,
    second: u32,
    offset: FixedOffset,
}

impl Minute {
    fn read(&self, bytes: &[u8]) -> Option<(Stamp, usize)> {
        let (minute, rest) = bytes.split_first_chunk::<16>()?;
        let (nanos, end) = match rest {
            _ if *minute != self.text => return None,
            [_, _, _, b'.', _, _, _, ..] => match number(&rest[4..7]) {
                Some(millis) => (Some(millis * 1_000_000), 23),
                None => (None, 19),
            },
            _ => (None, 19),
        };
        let second = match rest {
            [b':', second @ ..] => number(second.get(..2)?).filter(|second| *second < 60)?,
            _ => return None,
        };

        let time = NaiveTime::from_num_seconds_from_midnight_opt(self.second + second, nanos.unwrap_or(0))?;
        let at = DateTime::from_naive_utc_and_offset(self.date.and_time(time), self.offset);
        Some((Stamp { at, millis: nanos.is_some() }, end))
    }
}

impl TimestampReader {
    /// Timestamps without an offset are in UTC, or in local time.
    pub fn new(utc: bool) -> Self {
        TimestampReader {
            utc,
            last: None,
            other: None,
            quarter: None,
            minute: None,
            offset: None,
            scan: None,
            pace: Pace::default(),
            guessed: 0,
        }
    }

    /// The next timestamp is that of the check with this number, in a log of all checks that passed.
    pub fn expect_number(&mut self, number: u64) {
        self.pace.number = Some(number);
    }

    /// The next timestamp is that of a block.
    pub fn expect_block(&mut self) {
        self.pace.blocks += 1;
        self.pace.number = Some(self.pace.blocks);
    }

    /// A break follows.
    pub fn expect_break(&mut self, length: Duration) {
        self.pace.breaks += TimeDelta::from_std(length).unwrap_or_default();
    }

    /// A header gives the offset of all following lines.
    pub fn set_offset(&mut self, offset: Option<FixedOffset>) {
        (self.offset, self.scan, self.minute) = (offset, None, None);
    }

    /// A header gives the offset of the following lines with this time.
    pub fn set_scan(&mut self, began: DateTime<FixedOffset>) {
        let local = began.naive_local();
        self.scan = Some((local.with_nanosecond(0).unwrap_or(local), *began.offset()));
        self.minute = None;
    }

    /// There is no header.
    pub fn forget_headers(&mut self) {
        (self.offset, self.scan, self.minute) = (None, None, None);
    }

    /// Whether the last timestamp is that of the scan in the last header.
    pub fn is_of_scan(&self) -> bool {
        let local = self.last.map(|last| last.naive_local());
        self.scan.zip(local).is_some_and(|((scan, _), local)| local == scan)
    }

    /// How many timestamps could not be decided.
    pub fn guessed(&self) -> u64 {
        self.guessed
    }

    /// The two moments that the last timestamp can mean, in order, if its local time occurred twice.
    pub fn doubt(&self) -> Option<[DateTime<FixedOffset>; 2]> {
        let (last, other) = (self.last?, self.other?);
        Some([last.min(other), last.max(other)])
    }

    /// Sets what the last timestamp means, which was in doubt.
    pub fn decide(&mut self, at: DateTime<FixedOffset>, was_guess: bool) {
        self.guessed -= u64::from(was_guess);
        (self.last, self.other) = (Some(at), None);
    }

    /// The last timestamp that was read.
    pub fn last(&self) -> Option<DateTime<FixedOffset>> {
        self.last
    }

    /// The earliest and the latest moment that the last timestamp can mean.
    pub fn last_range(&self) -> Option<(DateTime<FixedOffset>, DateTime<FixedOffset>)> {
        let last = self.last?;
        let other = self.other.unwrap_or(last);
        Some((last.min(other), last.max(other)))
    }

    /// The moment of a local time.
    pub fn resolve(&mut self, local: NaiveDateTime) -> DateTime<FixedOffset> {
        let with = |offset: FixedOffset| {
            let utc = local.checked_sub_offset(offset).unwrap_or(local);
            DateTime::from_naive_utc_and_offset(utc, offset)
        };

        self.other = None;
        let at = match self.offset(local) {
            MappedLocalTime::Single(offset) => with(offset),
            MappedLocalTime::Ambiguous(one, other) => {
                // chrono does not order the two by time.
                let (earlier, later) = (with(one).min(with(other)), with(one).max(with(other)));
                let is_later = self.is_later(earlier, later);
                let (at, other) = if is_later { (later, earlier) } else { (earlier, later) };
                self.other = Some(other);
                at
            }
            MappedLocalTime::None => with(self.offset_before(local)),
        };
        self.last = Some(at);
        self.pace.add(at);
        at
    }

    /// Whether a local time that occurred twice means the later moment.
    fn is_later(&mut self, earlier: DateTime<FixedOffset>, later: DateTime<FixedOffset>) -> bool {
        if self.last.is_some_and(|last| earlier + MAX_DISORDER < last) {
            return true;
        }
        if let Some(due) = self.pace.due() {
            let (early, late) = ((earlier - due).abs(), (later - due).abs());
            if early.min(late) <= MAX_DEVIATION && early != late {
                return late < early;
            }
        }
        // Soon after the last line, the order of the lines decides.
        let follows = self.last.is_some_and(|last| earlier - last <= MAX_DISORDER);
        self.guessed += u64::from(!follows);
        false
    }

    fn offset(&mut self, local: NaiveDateTime) -> MappedLocalTime<FixedOffset> {
        if let Some((scan, offset)) = self.scan
            && local == scan
        {
            return MappedLocalTime::Single(offset);
        }
        if let Some(offset) = self.offset {
            return MappedLocalTime::Single(offset);
        }
        if self.utc {
            return MappedLocalTime::Single(FixedOffset::east_opt(0).unwrap_or_else(|| *Local::now().offset()));
        }
        let quarter = local.date().and_hms_opt(local.hour(), local.minute() / 15 * 15, 0).unwrap_or(local);
        match self.quarter {
            Some((known, offset)) if known == quarter => offset,
            _ => {
                // At the very end of a repeated hour, chrono still returns both offsets, so the middle is looked up.
                let middle = quarter.checked_add_signed(TimeDelta::minutes(7)).unwrap_or(quarter);
                let offset = Local.offset_from_local_datetime(&middle);
                self.quarter = Some((quarter, offset));
                offset
            }
        }
    }

    fn offset_before(&self, local: NaiveDateTime) -> FixedOffset {
        let hours_before = |hours| local.checked_sub_signed(TimeDelta::hours(hours)).unwrap_or(local);
        let before = |hours| Local.offset_from_local_datetime(&hours_before(hours)).earliest();
        before(3).or_else(|| before(24)).unwrap_or_else(|| *Local::now().offset())
    }

    /// Reads a local timestamp at the beginning of `text`, and returns it with the rest.
    pub fn read_local<'t>(&mut self, text: &'t str) -> Option<(Stamp, &'t str)> {
        let (stamp, end) = self.read_local_bytes(text.as_bytes())?;
        // A timestamp is ASCII, so its end is a character boundary.
        Some((stamp, text.get(end..)?))
    }

    /// Reads a local timestamp at the beginning of `bytes`, and returns it with its length.
    pub fn read_local_bytes(&mut self, bytes: &[u8]) -> Option<(Stamp, usize)> {
        match self.minute.as_ref().and_then(|minute| minute.read(bytes)) {
            Some((stamp, end)) => {
                self.last = Some(stamp.at);
                self.pace.number = None;
                Some((stamp, end))
            }
            None => self.read_new_minute(bytes),
        }
    }

    #[cold]
    fn read_new_minute(&mut self, bytes: &[u8]) -> Option<(Stamp, usize)> {
        let Some((local, millis, end)) = date_and_time(bytes, b' ') else {
            self.pace.number = None;
            return None;
        };
        let at = self.resolve(local);
        self.minute = self.minute(bytes, local);
        Some((Stamp { at, millis }, end))
    }

    /// The minute of a timestamp, unless it is repeated or skipped by daylight saving time.
    fn minute(&mut self, bytes: &[u8], local: NaiveDateTime) -> Option<Minute> {
        let MappedLocalTime::Single(offset) = self.offset(local) else { return None };
        if self.scan.is_some() {
            // Other seconds of this minute may have another offset.
            return None;
        }
        let utc = local.checked_sub_offset(offset)?;
        // Historical offsets have seconds, so a minute may begin on the previous day.
        let second = utc.time().num_seconds_from_midnight().checked_sub(local.second())?;
        Some(Minute { text: *bytes.first_chunk()?, date: utc.date(), second, offset })
    }

    /// Reads a timestamp with its offset and nothing else: `2025-08-27 07:35:01.250 +02:00`.
    /// It says nothing about the times of the lines around it.
    pub fn read_exact(&self, text: &str) -> Option<Stamp> {
        let (local, millis, end) = date_and_time(text.as_bytes(), b' ')?;
        // A timestamp is ASCII, so its end is a character boundary.
        with_offset(local, millis, text.get(end..)?.strip_prefix(' ')?)
    }

    /// Reads an RFC 3339 timestamp and nothing else.
    pub fn read_rfc3339(&mut self, text: &str) -> Option<Stamp> {
        let (local, millis, end) = date_and_time(text.as_bytes(), b'T')?;
        // A timestamp is ASCII, so its end is a character boundary.
        let stamp = with_offset(local, millis, text.get(end..)?)?;
        (self.last, self.other) = (Some(stamp.at), None);
        Some(stamp)
    }
}

fn with_offset(local: NaiveDateTime, millis: bool, offset_text: &str) -> Option<Stamp> {
    let offset = offset(offset_text)?;
    let utc = local.checked_sub_offset(offset)?;
    Some(Stamp { at: DateTime::from_naive_utc_and_offset(utc, offset), millis })
}

/// Reads `2025-08-27 07:35:01` or `2025-08-27T07:35:01.250`. Returns the time, whether it has milliseconds, and its
/// length.
///
/// chrono's parser takes longer than all other processing of a line, so this is written by hand.
fn date_and_time(bytes: &[u8], between: u8) -> Option<(NaiveDateTime, bool, usize)> {
    let shape = [(4, b'-'), (7, b'-'), (10, between), (13, b':'), (16, b':')];
    if bytes.len() < 19 || shape.iter().any(|(at, byte)| bytes[*at] != *byte) {
        return None;
    }

    let number = |from: usize, to: usize| number(&bytes[from..to]);
    let date = NaiveDate::from_ymd_opt(i32::try_from(number(0, 4)?).ok()?, number(5, 7)?, number(8, 10)?)?;
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);

    let fraction = bytes.get(19) == Some(&b'.') && bytes.len() >= 23;
    let millis = if fraction { number(20, 23) } else { None };
    let local = date.and_hms_milli_opt(hour, minute, second, millis.unwrap_or(0))?;
    let end = if millis.is_some() { 23 } else { 19 };
    Some((local, millis.is_some(), end))
}

/// A number in decimal digits. None if it is too large.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// `Z` or `+02:00`.
fn offset(text: &str) -> Option<FixedOffset> {
    if text == "Z" {
        return FixedOffset::east_opt(0);
    }
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, text.get(1..)?),
        b'-' => (-1, text.get(1..)?),
        _ => return None,
    };

    if let [tens, ones, b':', minutes @ ..] = rest.as_bytes()
        && let (Some(hours), Some(minutes), 2) = (number(&[*tens, *ones]), number(minutes), minutes.len())
    {
        return FixedOffset::east_opt(sign * i32::try_from(hours * 3600 + minutes * 60).ok()?);
    }
    let (hours, minutes) = rest.split_once(':').filter(|_| rest.len() == 5)?;
    FixedOffset::east_opt(sign * (hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_as_they_are_written() {
        let mut timestamps = TimestampReader::new(true);
        let mut local = |text| timestamps.read_local(text).map(|(stamp, rest)| (stamp.to_string(), rest));
        assert_eq!(local("2025-08-27 07:35:01 SUCCESS 1"), Some(("2025-08-27 07:35:01".into(), " SUCCESS 1")));
        assert_eq!(local("2025-08-27 07:35:01.250 x"), Some(("2025-08-27 07:35:01.250".into(), " x")));
        assert_eq!(local("2025-08-27 07:35:01."), Some(("2025-08-27 07:35:01".into(), ".")));
        for text in [
            "",
            "2025-08-27",
            "2025-13-27 07:35:01",
            "2025-08-27 07:35:61",
            "2025-08-27T07:35:01",
            "é025-08-27 07:35:01",
        ] {
            assert_eq!(local(text), None, "{text}");
        }
        let mut exact = |text| timestamps.read_rfc3339(text).map(|stamp| stamp.at.to_rfc3339());
        assert_eq!(exact("2025-08-27T07:35:01.250+02:00").as_deref(), Some("2025-08-27T07:35:01.250+02:00"));
        assert_eq!(exact("2025-08-27T07:35:01Z").as_deref(), Some("2025-08-27T07:35:01+00:00"));
        assert_eq!(exact("2025-08-27T07:35:01"), None);
        assert_eq!(exact("2025-08-27T07:35:01+25:00"), None);
    }
}
