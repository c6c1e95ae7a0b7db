//! Opens a file for appending or for reading, and creates its folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::place::{Place, check};

/// An open file.
#[derive(Debug)]
pub struct Opened {
    pub file: File,
    /// Its own path, after symbolic links. None for a stream such as `/dev/stdout`, which cannot be renamed.
    pub path: Option<PathBuf>,
}

/// Creates a folder, and those that contain it, if they are missing.
///
/// # Errors
/// It cannot be created, or something else is there.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => io::Error::new(error.kind(), "it exists and is not a folder"),
        _ => error,
    })
}

/// Opens a file for appending, and creates it if it is missing.
///
/// # Errors
/// Something other than a regular file is there, or it cannot be opened.
pub fn open_append(path: &Path) -> io::Result<Opened> {
    match Place::of(path)? {
        Place::File(path) => {
            let file = open_file(&path, OpenOptions::new().append(true).create(true))?;
            Ok(Opened { file, path: Some(path) })
        }
        Place::Stream(path) => {
            let file = open_stream(&path, OpenOptions::new().append(true))?;
            Ok(Opened { file, path: None })
        }
    }
}

/// Opens a regular file for reading.
///
/// # Errors
/// Something other than a regular file is there, or it cannot be opened.
pub fn open_read(path: &Path) -> io::Result<File> {
    match Place::of(path)? {
        Place::File(path) => open_file(&path, OpenOptions::new().read(true)),
        Place::Stream(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Reads a short text that the user names: a file, or a pipe such as `<(command)`. `waits` is whether a pipe is waited
/// for until somebody writes to it.
///
/// # Errors
/// It cannot be read, or is longer than `limit` bytes, as a device such as `/dev/zero` is.
pub fn read_input(path: &Path, limit: u64, waits: bool) -> io::Result<Vec<u8>> {
    let flags = if waits { OFlags::NOCTTY } else { OFlags::NOCTTY | OFlags::NONBLOCK };
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let mut text = Vec::new();
    file.take(limit + 1).read_to_end(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// Opens a path that was resolved, and checks what was opened: it may have been replaced since then.
pub fn open_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match open_without_waiting(path, options, OFlags::NOFOLLOW) {
        Ok(file) => {
            check(path, &file.metadata()?)?;
            Ok(file)
        }
        // "It is a socket" says more than "No such device or address".
        Err(error) => {
            let found = fs::symlink_metadata(path).ok();
            Err(found.and_then(|found| check(path, &found).err()).unwrap_or(error))
        }
    }
}

/// Opens a stream for writing.
pub fn open_stream(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    open_without_waiting(path, options, OFlags::empty())
}

/// Opens a path. Without `O_NONBLOCK`, opening a FIFO would wait for its other end. The file itself is not left in that
/// state: writes must wait.
fn open_without_waiting(path: &Path, options: &mut OpenOptions, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}
