//! Which files are read: the logs of a folder, the files rotated from them, and the order in which they were written.
//!
//! A file that looks like a log and is passed over is always named.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::Notice;
use super::reader::{FirstStamp, first_stamp};
use super::source;
use crate::log::record::Destination;
use crate::model::text::Printable;

/// The files of each log, in the order in which they were written, by folder.
pub type Folders = BTreeMap<PathBuf, Vec<Vec<PathBuf>>>;

/// Compressed by programs whose files are not read.
const FOREIGN: [&str; 8] = [".xz", ".bz2", ".zst", ".lz4", ".lzo", ".7z", ".zip", ".Z"];

/// How many bytes of a file are looked for in another one.
const SAMPLE: usize = 4096;

/// Finds the files to read. Timestamps without an offset are in UTC or in local time.
///
/// # Errors
/// A path cannot be read, or a folder contains no log.
pub fn find(paths: &[PathBuf], utc: bool, tell: &mut dyn FnMut(Notice<'_>)) -> anyhow::Result<Folders> {
    let mut families = BTreeMap::<PathBuf, Vec<Candidate>>::new();
    let mut known = Known::default();
    for path in paths {
        for candidate in candidates(path, tell)? {
            if let Some(candidate) = known.add(candidate, tell) {
                families.entry(candidate.family.clone()).or_default().push(candidate);
            }
        }
    }

    let mut folders = Folders::new();
    for (family, files) in families {
        let folder = family.parent().unwrap_or(Path::new(".")).to_owned();
        folders.entry(folder).or_default().push(in_order(files, utc, tell)?);
    }
    Ok(folders)
}

/// A file that may be read.
struct Candidate {
    path: PathBuf,
    age: Age,
    /// The path of the log that it was rotated from.
    family: PathBuf,
}

/// What a file's name says about its age. Older files are less than newer ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// The name is not one that a rotation gives. It may be a copy.
    Unknown,
    /// The date and time, and a number if there are several of them.
    Dated(String, u64),
    /// The highest number is the oldest.
    Numbered(Reverse<u64>),
    /// The file that is written to.
    Live,
}

/// The files of a path: itself, or the logs in that folder.
fn candidates(path: &Path, tell: &mut dyn FnMut(Notice<'_>)) -> anyhow::Result<Vec<Candidate>> {
    let printable = Printable::path(path);
    let metadata = fs::metadata(path)
        .with_context(|| format!("cannot read {printable}; give log files, or the folder that contains them"))?;
    if !metadata.is_dir() {
        let age = name_of(path).and_then(|name| age(&name)).unwrap_or(Age::Unknown);
        return Ok(vec![Candidate { path: path.to_owned(), age, family: family(path) }]);
    }

    let mut files = files_in(path).with_context(|| format!("cannot read the folder {printable}"))?;
    let linked: Vec<_> = files.iter().flat_map(|file| rotated_elsewhere(file)).collect();
    files.extend(linked);
    let mut found = Vec::new();
    for file in files {
        let Some(name) = name_of(&file) else { continue };
        let Some(age) = age(&name) else { continue };
        if FOREIGN.iter().any(|end| name.ends_with(end)) {
            pass_over(&file, "only gzip is read; decompress it first", tell);
        } else if !file.is_file() {
            pass_over(&file, "it is not a file, or cannot be opened", tell);
        } else {
            // What was rotated elsewhere belongs to the log in this folder.
            let family = family(&path.join(name));
            found.push(Candidate { path: file, age, family });
        }
    }
    ensure!(
        !found.is_empty(),
        "no health log found in {printable}; give the --log-dir of dbs and cycles, or log files"
    );
    Ok(found)
}

fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    Ok(files)
}

/// The files rotated from a log that is a symbolic link to a file of the same name: they are beside that file.
fn rotated_elsewhere(log: &Path) -> Vec<PathBuf> {
    let target = log.is_symlink().then(|| log.canonicalize().ok()).flatten();
    let Some(target) = target.filter(|target| target.file_name() == log.file_name()) else { return Vec::new() };
    let Some(folder) = target.parent().filter(|_| name_of(log).and_then(|name| age(&name)) == Some(Age::Live)) else {
        return Vec::new();
    };

    let mut files = files_in(folder).unwrap_or_default();
    files.retain(|file| *file != target && family(file) == target);
    files
}

fn name_of(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}

fn pass_over(file: &Path, why: &str, tell: &mut dyn FnMut(Notice<'_>)) {
    tell(Notice::File(&format!("{}: passed over: {why}", Printable::path(file))));
}

/// The age of one of our logs, such as `redis_error.log`, or of a file rotated from one, by this tool or by logrotate:
/// `redis_error.log.2025-08-27_13`, `redis_error.log.2.gz`, `redis_error.log-20250827` or, with its `extension`,
/// `redis_error-20250827.log`. None for other files.
fn age(name: &str) -> Option<Age> {
    let of = |destination: &Destination| {
        let stem = destination.file_name().strip_suffix(".log")?;
        let rest = name.strip_prefix(stem)?;
        let (before, after) = rest.split_once(".log")?;
        let is_suffix = |text: &str| text.is_empty() || text.starts_with(['.', '-', '~', '_']);
        (is_suffix(before) && is_suffix(after)).then(|| age_of_suffix(&format!("{before}{after}")))
    };
    Destination::ALL.iter().find_map(of)
}

fn age_of_suffix(suffix: &str) -> Age {
    let suffix = suffix.strip_suffix(".gz").unwrap_or(suffix);
    let Some(text) = suffix.strip_prefix(['.', '-']) else {
        return if suffix.is_empty() { Age::Live } else { Age::Unknown };
    };

    let (date, number) = match text.rsplit_once('.') {
        Some((date, number)) => (date, number.parse()),
        None => (text, Ok(0)),
    };
    let digits = date.chars().filter(char::is_ascii_digit).count();
    let is_date = digits >= 8 && date.chars().all(|c| c.is_ascii_digit() || ['-', '_', ':', 'T'].contains(&c));
    match (text.parse(), number) {
        (Ok(number), _) if digits < 8 => Age::Numbered(Reverse(number)),
        (_, Ok(number)) if is_date => Age::Dated(date.to_owned(), number),
        _ => Age::Unknown,
    }
}

/// The path of the log that a file was rotated from.
fn family(path: &Path) -> PathBuf {
    let name = name_of(path).unwrap_or_default();
    let of_ours = |destination: &&Destination| {
        destination.file_name().strip_suffix(".log").is_some_and(|stem| name.starts_with(stem))
    };
    match Destination::ALL.iter().find(of_ours) {
        Some(destination) if age(&name).is_some() => path.with_file_name(destination.file_name()),
        _ => match name.find(".log") {
            Some(end) => path.with_file_name(&name[..end + ".log".len()]),
            None => path.to_owned(),
        },
    }
}

/// The files so far. A file with two names is read once.
#[derive(Default)]
struct Known {
    paths: BTreeSet<PathBuf>,
    ids: BTreeMap<(u64, u64), PathBuf>,
}

impl Known {
    fn add(&mut self, candidate: Candidate, tell: &mut dyn FnMut(Notice<'_>)) -> Option<Candidate> {
        use std::os::unix::fs::MetadataExt as _;

        // A file may be given twice, by its own path and by its folder.
        let real = candidate.path.canonicalize().unwrap_or_else(|_| candidate.path.clone());
        if !self.paths.insert(real) {
            return None;
        }
        if let Ok(metadata) = fs::metadata(&candidate.path)
            && metadata.is_file()
            && let Some(other) = self.ids.insert((metadata.dev(), metadata.ino()), candidate.path.clone())
        {
            pass_over(&candidate.path, &format!("it is the same file as {}", Printable::path(&other)), tell);
            return None;
        }
        Some(candidate)
    }
}

/// The files of one log in the order in which they were written, without copies.
fn in_order(mut files: Vec<Candidate>, utc: bool, tell: &mut dyn FnMut(Notice<'_>)) -> anyhow::Result<Vec<PathBuf>> {
    files.sort_by(|a, b| (&a.age, &a.path).cmp(&(&b.age, &b.path)));
    let mut stamped = Vec::<(FirstStamp, Candidate)>::new();
    if files.len() == 1 {
        return Ok(files.into_iter().map(|file| file.path).collect());
    }

    for file in files {
        let first = first_stamp(&file.path, utc)?;
        // Numbers and dates may mislead, so a first timestamp that is certainly earlier counts more.
        let later = stamped.iter().rev().take_while(|(other, _)| first.is_before(other)).count();
        stamped.insert(stamped.len() - later, (first, file));
    }

    let original_of = |file: &(FirstStamp, Candidate)| {
        stamped.iter().find(|other| is_copy(file, other).unwrap_or(false)).map(|(_, original)| &original.path)
    };
    let mut kept = Vec::new();
    for file in &stamped {
        match original_of(file) {
            Some(original) => {
                let why = format!("{} contains the same records", Printable::path(original));
                pass_over(&file.1.path, &why, tell);
            }
            None => kept.push(file.1.path.clone()),
        }
    }
    Ok(kept)
}

/// Whether a file only repeats records of another one: a backup, or an archive whose original is still there.
fn is_copy(
    (first, file): &(FirstStamp, Candidate),
    (other_first, other): &(FirstStamp, Candidate),
) -> io::Result<bool> {
    let may_begin_alike = file.age == other.age || first == other_first;
    if file.path == other.path || (file.age != Age::Unknown && !may_begin_alike) {
        return Ok(false);
    }

    let mut sample = Vec::new();
    source::open(&file.path)?.take(SAMPLE as u64).read_to_end(&mut sample)?;
    // Lines of several failures in one second are equal, and say nothing.
    let mut lines = sample.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let first_line = lines.next();
    if first_line.is_none() || lines.all(|line| Some(line) == first_line) {
        return Ok(false);
    }

    let place = match file.age {
        Age::Unknown => find_in(&other.path, &sample)?,
        _ => Some(0),
    };
    Ok(match place {
        Some(place) => match compare(&file.path, &other.path, place)? {
            Compared::Different => false,
            Compared::Part => true,
            // Of two equal files, one is kept.
            Compared::Equal => (&file.age, &file.path) < (&other.age, &other.path),
        },
        None => false,
    })
}

/// Where a text begins in a file.
fn find_in(path: &Path, sample: &[u8]) -> io::Result<Option<u64>> {
    let mut text = source::open(path)?;
    let (mut window, mut before) = (Vec::new(), 0);
    loop {
        let buffer = text.fill_buf()?;
        let length = buffer.len();
        if length == 0 {
            return Ok(None);
        }
        window.extend_from_slice(buffer);
        text.consume(length);
        if let Some(place) = memchr::memmem::find(&window, sample) {
            return Ok(Some(before + place as u64));
        }
        let searched = window.len().saturating_sub(sample.len());
        window.drain(..searched);
        before += searched as u64;
    }
}

/// How a file compares with the text from a place in another one on.
enum Compared {
    Different,
    /// The other text is longer, or begins earlier.
    Part,
    Equal,
}

fn compare(file: &Path, other: &Path, place: u64) -> io::Result<Compared> {
    let (mut one, mut two) = (source::open(file)?, source::open(other)?);
    io::copy(&mut two.by_ref().take(place), &mut io::sink())?;
    loop {
        let (a, b) = (one.fill_buf()?, two.fill_buf()?);
        let length = a.len().min(b.len());
        if a[..length] != b[..length] {
            return Ok(Compared::Different);
        }
        match (a.is_empty(), b.is_empty()) {
            (true, true) if place == 0 => return Ok(Compared::Equal),
            (true, _) => return Ok(Compared::Part),
            (false, true) => return Ok(Compared::Different),
            (false, false) => {}
        }
        one.consume(length);
        two.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rotations_tell_the_age() {
        let names = [
            "redis_error.log.bak",
            "redis_error.log-20250826.gz",
            "redis_error-20250827.log",
            "redis_error.log.2025-08-28",
            "redis_error.log.2025-08-28.2",
            "redis_error.log.2025-08-28.10.gz",
            "redis_error.log.10.gz",
            "redis_error.log.2",
            "redis_error.1.log",
            "redis_error.log",
        ];
        let ages: Vec<_> = names.iter().map(|name| age(name).unwrap()).collect();
        // The two ways to write a date do not compare, but one log has only one of them.
        assert!(ages[3..].is_sorted(), "{ages:?}");
        assert!(matches!(ages[..3], [Age::Unknown, Age::Dated(..), Age::Dated(..)]), "{ages:?}");
        for name in ["redis_errors.log", "redis_error.txt", "nohup.out", "redis_error", ".redis-health.lock"] {
            assert_eq!(age(name), None, "{name}");
        }
    }
}
