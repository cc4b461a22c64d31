//! A file + a number of lines -> where its last lines begin.

use std::io::{self, SeekFrom};

use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

const BLOCK: u64 = 64 << 10;

/// The offset at which the last `count` lines begin; a last line without end counts.
///
/// # Errors
/// What the file system says.
pub async fn start(file: &mut File, count: u64) -> io::Result<u64> {
    let size = file.seek(SeekFrom::End(0)).await?;
    if count == 0 || size == 0 {
        return Ok(size);
    }
    let (mut end, mut seen) = (size, 0);
    let mut block = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(begin)).await?;
        block.resize(usize::try_from(end - begin).unwrap_or_default(), 0);
        file.read_exact(&mut block).await?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let at = begin + index as u64;
            // The end of the last line begins no line.
            if at + 1 == size {
                continue;
            }
            seen += 1;
            if seen == count {
                return Ok(at + 1);
            }
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn offsets_of_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let long = format!("{}\n", "x".repeat(100_000));
        let cases = [
            ("", 1, 0),
            ("a\nb\nc\n", 1, 4),
            ("a\nb\nc\n", 2, 2),
            ("a\nb\nc\n", 3, 0),
            ("a\nb\nc\n", 9, 0),
            ("a\nb\nc", 1, 4),
            ("a\n", 0, 2),
        ];
        for (text, count, wanted) in cases {
            std::fs::write(&path, text).unwrap();
            assert_eq!(start(&mut File::open(&path).await.unwrap(), count).await.unwrap(), wanted, "{text:?} {count}");
        }
        std::fs::write(&path, format!("a\n{long}{long}")).unwrap();
        assert_eq!(start(&mut File::open(&path).await.unwrap(), 1).await.unwrap(), 2 + 100_001);
        assert_eq!(start(&mut File::open(&path).await.unwrap(), 2).await.unwrap(), 2);
    }
}
