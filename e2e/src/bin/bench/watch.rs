//! Many watches at once -> how many events each saw, and that their revisions rose.

use std::{collections::VecDeque, sync::Arc};

use anyhow::{Context, bail, ensure};
use tokio::task::JoinSet;

use crate::{
    conn::Conn,
    door::{Door, JSON},
};

/// One open watch.
pub struct Watcher {
    conn: Conn,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// Events read, and not looked at yet by [`Watcher::until_one`].
    ahead: VecDeque<Vec<u8>>,
    pub seen: Seen,
}

/// What a watch has delivered, bookmarks apart.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub events: usize,
    pub bytes: usize,
    pub revision: u64,
    /// The same for all who saw the same revisions in the same order.
    pub digest: u64,
    wrong: Option<String>,
}

/// Watches that are waited for together.
pub struct Watchers(Vec<Watcher>);

impl Watcher {
    /// `path` holds `watch=true`.
    pub async fn open(door: &Door, path: &str) -> anyhow::Result<Self> {
        let mut conn = Conn::open(door).await?;
        let request = door.bare("GET", path, JSON);
        let status = conn.begin(&request).await?;
        if status != 200 {
            let mut text = Vec::new();
            while conn.piece(|piece| text.extend_from_slice(piece)).await? {}
            bail!("GET {path}: {status} {}", String::from_utf8_lossy(&text));
        }
        Ok(Self { conn, line: Vec::new(), ahead: VecDeque::new(), seen: Seen::default() })
    }

    /// Reads until it has seen so many events in all; `look` is given each line.
    pub async fn until(&mut self, events: usize, mut look: impl FnMut(&[u8])) -> anyhow::Result<()> {
        while self.seen.events < events {
            self.some(&mut look).await.with_context(|| format!("after {} of {events} events", self.seen.events))?;
        }
        Ok(())
    }

    /// Reads until an event is what is waited for, or one is wrong.
    pub async fn until_one(&mut self, mut is: impl FnMut(&[u8]) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        loop {
            // What came in one piece with the last that was waited for is looked at first.
            while let Some(line) = self.ahead.pop_front() {
                if is(&line)? {
                    return Ok(());
                }
            }
            let mut ahead = std::mem::take(&mut self.ahead);
            let read = self.some(|line| ahead.push_back(line.to_vec())).await;
            self.ahead = ahead;
            read?;
        }
    }

    /// Reads what has come.
    async fn some(&mut self, mut look: impl FnMut(&[u8])) -> anyhow::Result<()> {
        let Self { conn, line, seen, .. } = self;
        let mut take = |l: &[u8]| {
            seen.take(l);
            look(l);
        };
        let goes_on = conn.piece(|piece| lines(piece, line, &mut take)).await?;
        if let Some(wrong) = &self.seen.wrong {
            bail!("{wrong}");
        }
        ensure!(goes_on, "the watch ended");
        Ok(())
    }
}

impl Watchers {
    pub async fn open(door: &Arc<Door>, paths: Vec<String>) -> anyhow::Result<Self> {
        let (mut opening, mut open) = (JoinSet::new(), Vec::new());
        for path in paths {
            let door = door.clone();
            opening.spawn(async move { Watcher::open(&door, &path).await });
            if opening.len() >= 32 {
                open.extend(opening.join_next().await.transpose()?.transpose()?);
            }
        }
        while let Some(watcher) = opening.join_next().await {
            open.push(watcher??);
        }
        Ok(Self(open))
    }

    pub fn begin_until(&mut self, events: usize) -> JoinSet<anyhow::Result<Watcher>> {
        let mut all = JoinSet::new();
        for mut watcher in self.0.drain(..) {
            all.spawn(async move {
                watcher.until(events, |_| {}).await?;
                Ok(watcher)
            });
        }
        all
    }

    /// All have seen as many; no more, and all the same.
    pub async fn end_until(&mut self, mut all: JoinSet<anyhow::Result<Watcher>>, events: usize) -> anyhow::Result<()> {
        while let Some(watcher) = all.join_next().await {
            self.0.push(watcher??);
        }
        let first = self.0.first().context("there are watchers")?.seen.clone();
        for Watcher { seen, .. } in &self.0 {
            ensure!(seen.events == events, "a watcher saw {} events, not {events}", seen.events);
            ensure!(seen.digest == first.digest, "two watchers saw different events");
        }
        Ok(())
    }
}

impl Seen {
    fn take(&mut self, line: &[u8]) {
        const TYPE: &[u8] = b"{\"type\":\"";
        self.bytes += line.len();
        match line.get(TYPE.len()) {
            Some(b'B') => return,
            Some(b'A' | b'M' | b'D') if line.starts_with(TYPE) => {}
            _ => return self.wrong = Some(format!("a watch delivered {}", String::from_utf8_lossy(&line[..line.len().min(300)]))),
        }
        let Some(revision) = revision(line) else { return self.wrong = Some("an event without revision".into()) };
        if revision <= self.revision {
            self.wrong = Some(format!("revision {revision} came after {}", self.revision));
        }
        self.revision = revision;
        self.digest = self.digest.wrapping_mul(0x0100_0000_01b3).wrapping_add(revision);
        self.events += 1;
    }
}

/// The first `resourceVersion` in the bytes of an object.
pub fn revision(bytes: &[u8]) -> Option<u64> {
    text_after(bytes, b"\"resourceVersion\":\"")?.parse().ok()
}

/// What stands between `key` and the next quotation mark.
pub fn text_after<'a>(bytes: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let begin = memchr::memmem::find(bytes, key)? + key.len();
    let rest = &bytes[begin..];
    std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
}

fn lines(mut piece: &[u8], begun: &mut Vec<u8>, each: &mut impl FnMut(&[u8])) {
    while let Some(end) = memchr::memchr(b'\n', piece) {
        if begun.is_empty() {
            each(&piece[..end]);
        } else {
            begun.extend_from_slice(&piece[..end]);
            each(begun);
            begun.clear();
        }
        piece = &piece[end + 1..];
    }
    begun.extend_from_slice(piece);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_and_must_rise() {
        let line = |t: &str, r: u64| format!("{{\"type\":\"{t}\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{r}\"}}}}}}\n");
        let text = [line("ADDED", 5), line("BOOKMARK", 9), line("MODIFIED", 7)].concat();
        for cut in 1..text.len() {
            let (mut seen, mut begun) = (Seen::default(), Vec::new());
            text.as_bytes().chunks(cut).for_each(|p| lines(p, &mut begun, &mut |l: &[u8]| seen.take(l)));
            assert_eq!((seen.events, seen.revision, seen.wrong.clone()), (2, 7, None), "cut every {cut}");
            seen.take(line("DELETED", 6).trim().as_bytes());
            assert!(seen.wrong.is_some());
        }
    }
}
