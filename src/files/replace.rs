//! Replaces the content of a file at once: a reader sees the old or the new content, never a part.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use tempfile::NamedTempFile;

use super::open::{open_file, open_stream};
use super::place::{Place, folder};

/// A file that is written as a whole.
pub struct Replaceable {
    place: Place,
    /// The permissions of a new file. None for those that the umask leaves.
    mode: Option<u32>,
}

impl Replaceable {
    /// A file to replace. Nothing is written yet. `mode` is the permissions of a new file; None for those that the
    /// umask leaves. An existing file keeps its permissions.
    ///
    /// # Errors
    /// Something other than a file is there.
    pub fn of(path: &Path, mode: Option<u32>) -> io::Result<Self> {
        Ok(Replaceable { place: Place::of(path)?, mode })
    }

    /// The path of the file, after symbolic links. None for a stream such as `/dev/stdout`.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) => Some(path),
            Place::Stream(_) => None,
        }
    }

    /// Creates and removes a file as [`write`](Self::write) does.
    ///
    /// # Errors
    /// The folder is missing, or no file can be created in it.
    pub fn probe(&self) -> io::Result<()> {
        self.path().map_or(Ok(()), |path| new_file_beside(path).map(drop))
    }

    /// Replaces the content.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, content: &[u8]) -> io::Result<()> {
        match &self.place {
            Place::File(path) => replace(path, self.mode, content),
            Place::Stream(path) => open_stream(path, OpenOptions::new().write(true))?.write_all(content),
        }
    }

    /// Like [`write`](Self::write). If only the file can be written, but not its folder, it is written in place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_anyhow(&self, content: &[u8]) -> io::Result<()> {
        let Err(error) = self.write(content) else { return Ok(()) };
        // A file that is mounted by itself, as in a container, is busy.
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
        let is_folder = [PermissionDenied, ReadOnlyFilesystem, ResourceBusy];
        match &self.place {
            Place::File(path) if is_folder.contains(&error.kind()) => write_in_place(path, content).map_err(|_| error),
            _ => Err(error),
        }
    }
}

fn replace(path: &Path, mode: Option<u32>, content: &[u8]) -> io::Result<()> {
    let mut temporary = new_file_beside(path)?;
    let file = temporary.as_file_mut();

    file.write_all(content)?;
    match fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file) {
        Some(old) => keep_access(file, &old)?,
        None => mode.map_or(Ok(()), |mode| file.set_permissions(Permissions::from_mode(mode)))?,
    }
    temporary.persist(path)?;
    Ok(())
}

/// A temporary file in the same folder, otherwise the rename would not be atomic. Its name is unpredictable and it is
/// new, so nothing can be planted in its place. node_exporter ignores it: it reads only names that end in `.prom`.
fn new_file_beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".redis-health-").suffix(".tmp").permissions(Permissions::from_mode(0o666));
    // The crate adds the temporary name to the error, which says nothing to the user.
    let without_name = |error: io::Error| match error.to_string().split_once(" at path ") {
        Some((reason, _)) => io::Error::new(error.kind(), reason),
        None => error,
    };
    builder.tempfile_in(folder(path)).map_err(without_name)
}

/// Gives a new file the owner and the permissions of the one that it replaces.
fn keep_access(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        // Only root may give files away.
        let _ = fchown(file, Some(old.uid()), Some(old.gid()));
    }

    // The permissions of a group are not for another group.
    let kept = if file.metadata()?.gid() == old.gid() { 0o777 } else { 0o707 };
    file.set_permissions(Permissions::from_mode(old.mode() & kept))
}

fn write_in_place(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = open_file(path, OpenOptions::new().write(true))?;
    file.set_len(0)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_replaced_file_keeps_its_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = Replaceable::of(&path, Some(0o640)).unwrap();
        file.write(b"one").unwrap();
        assert_eq!(mode(&path), 0o640);

        fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
        file.write(b"two").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("two", 0o604));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_to_a_file_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (link, file) = (folder.path().join("link"), folder.path().join("file"));
        std::os::unix::fs::symlink("file", &link).unwrap();
        Replaceable::of(&link, None).unwrap().write(b"text").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
    }
}
