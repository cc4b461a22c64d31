//! `agent/images/*.tar` -> images that pods can use without a registry, each archive imported once for what is in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Layout, import_within, names};

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
    /// The names of its images; those that imported it first did not note them.
    #[serde(default)]
    images: Option<Vec<String>>,
}

/// Imports what is new there, and what is not there any more. What cannot be is told, and tried again at the next start: the other images are worth having.
///
/// Names of the images of all archives that are there: no registry may have them, so that nobody is to remove them (k3s pins its own likewise).
pub async fn import_archives(layout: &Layout, dir: &Path) -> BTreeSet<String> {
    import_new(
        &layout.root.join(IMPORTED),
        dir,
        async |archive| import_within(layout, archive, IMPORT_MAX).await,
        async || names(layout).await,
    )
    .await
}

async fn import_new(
    record: &Path,
    dir: &Path,
    import: impl AsyncFn(&Path) -> Result<String, String>,
    names: impl AsyncFn() -> Result<BTreeSet<String>, String>,
) -> BTreeSet<String> {
    let archives = archives_in(dir);
    if archives.is_empty() {
        return BTreeSet::new();
    }
    let there = names().await;
    if let Err(error) = &there {
        tracing::warn!(error, "failed to list images; those of archives are taken to be there");
    }
    let is_there = |name: &String| there.as_ref().map_or(true, |there| there.contains(name));
    let (mut imported, mut kept) = (read(record), BTreeSet::new());
    for archive in archives {
        let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let before = imported.get(&name).cloned();
        // Whatever becomes of the archive, its images may be all that there is of them.
        kept.extend(before.iter().flat_map(|before| before.images.iter().flatten()).cloned());
        let looked = (archive.clone(), before.clone());
        let looked = tokio::task::spawn_blocking(move || look(&looked.0, looked.1.as_ref())).await;
        let (mut seen, is_new) = match looked.map_err(io::Error::other) {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) | Err(error) => {
                tracing::error!(%error, archive = %archive.display(), "failed to read an archive of images");
                continue;
            }
        };
        seen.images = before.and_then(|before| before.images);
        if is_new || !seen.images.as_ref().is_some_and(|images| !images.is_empty() && images.iter().all(is_there)) {
            match import(&archive).await {
                Ok(told) => {
                    tracing::info!(archive = %archive.display(), "imported images");
                    seen.images = images_of(&told, names().await);
                }
                Err(error) => {
                    tracing::error!(error, archive = %archive.display(), "failed to import an archive of images");
                    continue;
                }
            }
        }
        kept.extend(seen.images.iter().flatten().cloned());
        if imported.insert(name, seen.clone()).as_ref() != Some(&seen)
            && let Err(error) = write(record, &imported)
        {
            tracing::warn!(%error, "failed to note which archives were imported; they will be imported again");
        }
    }
    kept
}

/// `None` where it is not known what they are: the archive is imported again at the next start.
fn images_of(told: &str, there: Result<BTreeSet<String>, String>) -> Option<Vec<String>> {
    let there = there.inspect_err(|error| tracing::warn!(error, "failed to list images; what was imported is not known")).ok()?;
    Some(named(told, &there)).filter(|images| !images.is_empty())
}

/// What `ctr` told of an import -> the images that it is about. Its versions tell it in different ways, each names the images.
fn named(told: &str, there: &BTreeSet<String>) -> Vec<String> {
    let words: BTreeSet<&str> = told.split_whitespace().collect();
    words.into_iter().filter(|word| there.contains(*word)).map(str::to_owned).collect()
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
    let digest = api::hex(hasher.finalize());
    let is_new = before.is_none_or(|before| before.digest != digest);
    Ok((Seen { size, changed, digest, images: None }, is_new))
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
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

    use parking_lot::Mutex;

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
        let imported =
            Imported::from([("a.tar".to_owned(), Seen { size: 1, changed: 2, digest: "3".into(), images: Some(vec!["a:1".into()]) })]);
        write(&record, &imported).unwrap();
        assert_eq!(read(&record), imported);
        fs::write(&record, "{\"cut").unwrap();
        assert!(read(&record).is_empty());
    }

    #[test]
    fn images_are_known_by_what_ctr_tells() {
        let there = ["docker.io/library/a:1", "b.io/b:2", "c:3"].map(str::to_owned).into();
        let told = "unpacking docker.io/library/a:1 (sha256:00)...done\nunpacking b.io/b:2 (sha256:11)...done\n";
        assert_eq!(named(told, &there), ["b.io/b:2", "docker.io/library/a:1"]);
        let told = "docker.io/library/a:1   \tsaved\t\napplication/vnd.oci.image.manifest.v1+json sha256:00\nImporting\telapsed: 0.1 s\n";
        assert_eq!(named(told, &there), ["docker.io/library/a:1"]);
    }

    /// A runtime as far as archives go: each has the image of its name.
    #[derive(Default)]
    struct Store {
        images: Mutex<BTreeSet<String>>,
        imports: AtomicUsize,
        /// Imports fail.
        is_full: AtomicBool,
        /// Images cannot be listed.
        is_mute: AtomicBool,
    }

    impl Store {
        async fn start(&self, dir: &Path) -> Vec<String> {
            let import = async |archive: &Path| {
                if self.is_full.load(Relaxed) {
                    return Err("no space left on device".to_owned());
                }
                self.imports.fetch_add(1, Relaxed);
                let image = format!("{}:1", archive.file_stem().unwrap().to_str().unwrap());
                self.images.lock().insert(image.clone());
                Ok(format!("unpacking {image} (sha256:00)...done"))
            };
            let names = async || {
                let is_mute = self.is_mute.load(Relaxed);
                if is_mute { Err("unavailable".to_owned()) } else { Ok(self.images.lock().clone()) }
            };
            let kept = import_new(&dir.join(IMPORTED), &dir.join("images"), import, names).await;
            kept.into_iter().collect()
        }
    }

    #[tokio::test]
    async fn an_image_of_an_archive_is_kept_and_comes_again_where_it_is_gone() {
        let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
        let images = dir.path().join("images");
        fs::create_dir(&images).unwrap();
        assert!(store.start(dir.path()).await.is_empty());
        fs::write(images.join("a.tar"), "a").unwrap();
        fs::write(images.join("b.tar"), "b").unwrap();
        let mut imports = 2;
        for round in 0..2 {
            assert_eq!(store.start(dir.path()).await, ["a:1", "b:1"], "{round}");
            assert_eq!(store.imports.load(Relaxed), imports, "each once");
        }
        // Somebody removed it.
        store.images.lock().remove("a:1");
        imports += 1;
        assert_eq!(store.start(dir.path()).await, ["a:1", "b:1"]);
        assert!(store.imports.load(Relaxed) == imports && store.images.lock().contains("a:1"));
        // An earlier skiff noted no names.
        let mut noted = read(&dir.path().join(IMPORTED));
        noted.values_mut().for_each(|seen| seen.images = None);
        write(&dir.path().join(IMPORTED), &noted).unwrap();
        assert_eq!(store.start(dir.path()).await, ["a:1", "b:1"]);
        assert_eq!(store.imports.load(Relaxed), imports + 2);
        fs::remove_file(images.join("b.tar")).unwrap();
        assert_eq!(store.start(dir.path()).await, ["a:1"], "whose archive is gone is one of many");
    }

    #[tokio::test]
    async fn images_that_are_not_known_are_asked_for_again_and_known_ones_are_kept() {
        let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
        let archive = dir.path().join("images/a.tar");
        fs::create_dir(dir.path().join("images")).unwrap();
        fs::write(&archive, "a").unwrap();
        store.is_mute.store(true, Relaxed);
        assert!(store.start(dir.path()).await.is_empty());
        store.is_mute.store(false, Relaxed);
        assert_eq!(store.start(dir.path()).await, ["a:1"], "it is imported again");
        assert_eq!(store.imports.load(Relaxed), 2);
        // As an earlier skiff noted it.
        let mut noted = read(&dir.path().join(IMPORTED));
        noted.values_mut().for_each(|seen| seen.images = Some(Vec::new()));
        write(&dir.path().join(IMPORTED), &noted).unwrap();
        assert_eq!(store.start(dir.path()).await, ["a:1"]);
        // Another archive of that name, which the disk has no room for.
        store.is_full.store(true, Relaxed);
        fs::write(&archive, "another").unwrap();
        assert_eq!(store.start(dir.path()).await, ["a:1"]);
        assert_eq!(store.start(dir.path()).await, ["a:1"]);
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
