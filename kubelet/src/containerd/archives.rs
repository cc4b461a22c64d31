//! `agent/images/*.tar` -> images that pods can use without a registry, each archive imported once for what is in it.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Layout, import_within};

/// Of one archive, which may have gigabytes.
const IMPORT_MAX: Duration = Duration::from_secs(600);
/// Beside the images, so that it goes with them.
const IMPORTED: &str = "imported.json";

/// What was imported, by the name of its file.
type Imported = BTreeMap<String, Seen>;

/// A file's content, and how to know without reading it that it is still the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    size: u64,
    /// Nanoseconds since 1970, as far as a u64 holds them.
    changed: u64,
    digest: String,
}

/// Imports what is new there. What cannot be is told, and tried again at the next start: the other images are worth having.
pub async fn import_archives(layout: &Layout, dir: &Path) {
    let archives = archives_in(dir);
    if archives.is_empty() {
        return;
    }
    let record = layout.root.join(IMPORTED);
    let mut imported = read(&record);
    for archive in archives {
        let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let looked = (archive.clone(), imported.get(&name).cloned());
        let looked = tokio::task::spawn_blocking(move || look(&looked.0, looked.1.as_ref())).await;
        let (seen, is_new) = match looked.map_err(io::Error::other) {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) | Err(error) => {
                tracing::error!(%error, archive = %archive.display(), "failed to read an archive of images");
                continue;
            }
        };
        if is_new {
            match import_within(layout, &archive, IMPORT_MAX).await {
                Ok(()) => tracing::info!(archive = %archive.display(), "imported images"),
                Err(error) => {
                    tracing::error!(error, archive = %archive.display(), "failed to import an archive of images");
                    continue;
                }
            }
        }
        if imported.insert(name, seen.clone()).as_ref() != Some(&seen)
            && let Err(error) = write(&record, &imported)
        {
            tracing::warn!(%error, "failed to note which archives were imported; they will be imported again");
        }
    }
}

fn archives_in(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut archives: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "tar") && path.is_file()).collect();
    archives.sort();
    archives
}

/// What the file is now, and whether its content is another than before.
fn look(archive: &Path, before: Option<&Seen>) -> io::Result<(Seen, bool)> {
    let mut file = File::open(archive)?;
    let (size, changed) = stamp(&file.metadata()?);
    if let Some(before) = before.filter(|before| (before.size, before.changed) == (size, changed)) {
        return Ok((before.clone(), false));
    }
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut HashWriter(&mut hasher))?;
    let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let is_new = before.is_none_or(|before| before.digest != digest);
    Ok((Seen { size, changed, digest }, is_new))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stamp(metadata: &Metadata) -> (u64, u64) {
    let nanos = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
    (metadata.size(), nanos.cast_unsigned())
}

/// What cannot be read was not imported.
fn read(record: &Path) -> Imported {
    fs::read(record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write(record: &Path, imported: &Imported) -> io::Result<()> {
    let beside = record.with_extension("new");
    fs::write(&beside, serde_json::to_vec(imported)?)?;
    fs::rename(beside, record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_new_once_for_each_content() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.tar");
        fs::write(&archive, "one").unwrap();
        let (first, is_new) = look(&archive, None).unwrap();
        assert!(is_new);
        assert_eq!(look(&archive, Some(&first)).unwrap(), (first.clone(), false));
        // Copied again: another time, the same content.
        fs::write(&archive, "one").unwrap();
        File::options().write(true).open(&archive).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let (again, is_new) = look(&archive, Some(&first)).unwrap();
        assert!(!is_new && again.changed != first.changed && again.digest == first.digest);
        fs::write(&archive, "two").unwrap();
        assert!(look(&archive, Some(&again)).unwrap().1);
        assert!(look(&dir.path().join("none.tar"), None).is_err());
    }

    #[test]
    fn only_archives_are_taken_and_what_is_noted_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "notes.txt", ".c.tar.new"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("d.tar")).unwrap();
        assert_eq!(archives_in(dir.path()), [dir.path().join("a.tar"), dir.path().join("b.tar")]);
        assert!(archives_in(&dir.path().join("none")).is_empty());
        let record = dir.path().join(IMPORTED);
        assert!(read(&record).is_empty());
        let imported = Imported::from([("a.tar".to_owned(), Seen { size: 1, changed: 2, digest: "3".into() })]);
        write(&record, &imported).unwrap();
        assert_eq!(read(&record), imported);
        fs::write(&record, "{\"cut").unwrap();
        assert!(read(&record).is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_imported_is_not_noted() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::under(&dir.path().join("agent"), &dir.path().join("run"));
        fs::create_dir_all(&layout.root).unwrap();
        let images = dir.path().join("images");
        fs::create_dir(&images).unwrap();
        fs::write(images.join("broken.tar"), "no archive").unwrap();
        // Nobody listens there.
        import_archives(&layout, &images).await;
        assert!(read(&layout.root.join(IMPORTED)).is_empty());
    }
}
