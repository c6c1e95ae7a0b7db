//! Where a path leads, and whether a file there may be written.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// How many symbolic links may follow each other, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Where a path leads after its last component was resolved.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// A regular file, or nothing yet.
    File(PathBuf),
    /// A descriptor that this process inherited, such as `/dev/stdout`, or `/dev/null`. It may be of any type, because
    /// only the user can have chosen it.
    Stream(PathBuf),
}

/// What is in the place of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Unsuitable {
    Folder,
    Fifo,
    Socket,
    Device,
    /// A symbolic link, with the id of its owner.
    Link(u32),
    /// A symbolic link that may not be followed at all, or that was replaced at this moment.
    AnyLink,
    /// A file with another name, in a folder that others can write to.
    HardLinks(u64),
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsuitable::Folder => f.write_str("it is a folder, not a regular file"),
            Unsuitable::Fifo => f.write_str("it is a FIFO, not a regular file"),
            Unsuitable::Socket => f.write_str("it is a socket, not a regular file"),
            Unsuitable::Device => f.write_str("it is a device, not a regular file"),
            Unsuitable::Link(uid) => {
                write!(
                    f,
                    "it is a symbolic link of {}; only links of root and of the current user are followed",
                    User(*uid)
                )
            }
            Unsuitable::AnyLink => f.write_str("it is a symbolic link, not a regular file"),
            Unsuitable::HardLinks(count) => {
                write!(f, "it has {count} hard links, and its folder can be written to by others")
            }
        }
    }
}

impl std::error::Error for Unsuitable {}

impl From<Unsuitable> for io::Error {
    fn from(unsuitable: Unsuitable) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, unsuitable)
    }
}

impl Place {
    /// Resolves the last component of a path. Nothing is opened.
    ///
    /// # Errors
    /// Something other than a file is there ([`Unsuitable`]), or it cannot be examined.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::File(path)),
                Err(error) => return Err(error),
            };
            if metadata.is_file() {
                check(&path, &metadata)?;
                return Ok(Place::File(path));
            }
            if is_stream(&path) {
                return Ok(Place::Stream(path));
            }
            if !metadata.is_symlink() {
                return Err(check(&path, &metadata).err().unwrap_or_else(|| io::ErrorKind::InvalidInput.into()));
            }
            path = target(&path, &metadata)?;
        }
        Err(rustix::io::Errno::LOOP.into())
    }
}

/// Checks what was opened at a path, or would be.
///
/// # Errors
/// It is not a regular file, or others may have linked somebody's file there.
pub fn check(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let unsuitable = if kind.is_file() {
        if metadata.nlink() < 2 || !others_can_write(folder(path)) {
            return Ok(());
        }
        Unsuitable::HardLinks(metadata.nlink())
    } else if kind.is_dir() {
        Unsuitable::Folder
    } else if kind.is_fifo() {
        Unsuitable::Fifo
    } else if kind.is_socket() {
        Unsuitable::Socket
    } else if kind.is_symlink() {
        Unsuitable::AnyLink
    } else {
        Unsuitable::Device
    };
    Err(unsuitable.into())
}

/// The folder that contains a path.
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path of a hidden file beside another one: `.metrics.prom.lock` for the suffix `.lock`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(suffix);
    folder(path).join(name)
}

/// Where a symbolic link leads, if its owner is trusted.
fn target(link: &Path, metadata: &Metadata) -> io::Result<PathBuf> {
    if ![0, geteuid().as_raw()].contains(&metadata.uid()) {
        return Err(Unsuitable::Link(metadata.uid()).into());
    }

    let target = fs::read_link(link)?;
    // A link cannot be changed, only replaced: then this text may be of another link.
    let now = fs::symlink_metadata(link)?;
    let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
    if identity(&now) != identity(metadata) {
        return Err(Unsuitable::AnyLink.into());
    }
    Ok(folder(link).join(target))
}

/// Whether the path is one of this process's own descriptors, or the null device.
fn is_stream(path: &Path) -> bool {
    // `/dev/fd` is a folder, or leads to `/proc/self/fd`.
    let is_own = fs::canonicalize("/dev/fd").is_ok_and(|own| fs::canonicalize(folder(path)).is_ok_and(|at| at == own));
    is_own || path == Path::new("/dev/null")
}

/// Whether users other than root and the current one may put files into a folder. If unknown, they may.
fn others_can_write(folder: &Path) -> bool {
    let Ok(metadata) = fs::metadata(folder) else { return true };
    metadata.mode() & 0o022 != 0 || ![0, geteuid().as_raw()].contains(&metadata.uid())
}

/// A user, shown by name if `/etc/passwd` contains it.
pub struct User(pub u32);

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == self.0.to_string()).then_some(name)
        });
        match name {
            Some(name) => write!(f, "{} (uid {})", name.escape_debug(), self.0),
            None => write!(f, "uid {}", self.0),
        }
    }
}
