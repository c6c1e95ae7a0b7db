//! Opens log files, compressed by gzip or not.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

/// The first bytes of a file compressed by gzip (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The text of a log file.
pub type Source = BufReader<Box<dyn Read>>;

/// Opens a file. Whether it is compressed is in its first bytes, not in its name.
///
/// # Errors
/// The file cannot be opened or read.
pub fn open(path: &Path) -> io::Result<Source> {
    let mut file = File::open(path)?;
    let mut magic = Vec::new();
    file.by_ref().take(GZIP.len() as u64).read_to_end(&mut magic)?;

    let is_compressed = magic == GZIP;
    // The file may be a pipe, in which one cannot go back.
    let whole = Cursor::new(magic).chain(file);
    let text: Box<dyn Read> = if is_compressed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
    Ok(BufReader::with_capacity(64 << 10, text))
}
