//! Many watches at once -> how many events each saw, and that their revisions rose.

use std::{collections::VecDeque, sync::Arc};

use anyhow::{Context, bail, ensure};
use tokio::task::JoinSet;

use crate::{
    conn::Conn,
    door::{Door, JSON, PROTOBUF},
};

/// How events are told apart, and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines of JSON.
    Lines,
    /// Frames of protobuf that say how long they are.
    Frames,
}

/// One open watch.
pub struct Watcher {
    conn: Conn,
    form: Form,
    /// The beginning of an event whose end has not come.
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
        Self::open_as(door, path, Form::Lines).await
    }

    pub async fn open_as(door: &Door, path: &str, form: Form) -> anyhow::Result<Self> {
        let mut conn = Conn::open(door).await?;
        let request = door.bare("GET", path, if form == Form::Lines { JSON } else { PROTOBUF });
        let status = conn.begin(&request).await?;
        if status != 200 {
            let mut text = Vec::new();
            while conn.piece(|piece| text.extend_from_slice(piece)).await? {}
            bail!("GET {path}: {status} {}", String::from_utf8_lossy(&text));
        }
        Ok(Self { conn, form, line: Vec::new(), ahead: VecDeque::new(), seen: Seen::default() })
    }

    /// Reads until it has seen so many events in all; `look` is given each of them.
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
        let Self { conn, form, line, seen, .. } = self;
        let form = *form;
        let mut take = |l: &[u8]| {
            seen.take(l, form);
            look(l);
        };
        let goes_on = match form {
            Form::Lines => conn.piece(|piece| lines(piece, line, &mut take)).await?,
            Form::Frames => conn.piece(|piece| frames(piece, line, &mut take)).await?,
        };
        if let Some(wrong) = &self.seen.wrong {
            bail!("{wrong}");
        }
        ensure!(goes_on, "the watch ended");
        Ok(())
    }
}

impl Watchers {
    pub async fn open(door: &Arc<Door>, paths: Vec<String>) -> anyhow::Result<Self> {
        Self::open_as(door, paths, Form::Lines).await
    }

    pub async fn open_as(door: &Arc<Door>, paths: Vec<String>, form: Form) -> anyhow::Result<Self> {
        let (mut opening, mut open) = (JoinSet::new(), Vec::new());
        for path in paths {
            let door = door.clone();
            opening.spawn(async move { Watcher::open_as(&door, &path, form).await });
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
    fn take(&mut self, event: &[u8], form: Form) {
        self.bytes += event.len();
        let read = if form == Form::Lines { of_line(event) } else { of_frame(event) };
        let Some((word, revision)) = read.filter(|(word, _)| matches!(word, b'A' | b'M' | b'D' | b'B')) else {
            return self.wrong = Some(format!("a watch delivered {}", String::from_utf8_lossy(&event[..event.len().min(300)])));
        };
        if word == b'B' {
            return;
        }
        let Some(revision) = revision else { return self.wrong = Some("an event without revision".into()) };
        if revision <= self.revision {
            self.wrong = Some(format!("revision {revision} came after {}", self.revision));
        }
        self.revision = revision;
        self.digest = self.digest.wrapping_mul(0x0100_0000_01b3).wrapping_add(revision);
        self.events += 1;
    }
}

/// The first letter of an event's type, and the revision of its object.
fn of_line(line: &[u8]) -> Option<(u8, Option<u64>)> {
    let word = line.strip_prefix(b"{\"type\":\"")?;
    Some((*word.first()?, revision(line)))
}

/// The same: `WatchEvent`, whose object is a `RawExtension` of an enveloped object, whose first field is its metadata.
pub fn of_frame(frame: &[u8]) -> Option<(u8, Option<u64>)> {
    let word = field(frame, 1)?.first()?;
    let envelope = field(field(frame, 2)?, 1)?.strip_prefix(b"k8s\0")?;
    let revision = || std::str::from_utf8(field(field(field(envelope, 2)?, 1)?, 6)?).ok()?.parse().ok();
    Some((*word, revision()))
}

/// The first field of this number, among fields that hold bytes.
fn field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    loop {
        let tag = varint(&mut message)?;
        let length = usize::try_from(varint(&mut message)?).ok()?;
        if tag & 7 != 2 {
            return None;
        }
        let (content, rest) = message.split_at_checked(length)?;
        if tag >> 3 == number {
            return Some(content);
        }
        message = rest;
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
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

/// Frames begin with their length, in four bytes.
pub fn frames(mut piece: &[u8], begun: &mut Vec<u8>, each: &mut impl FnMut(&[u8])) {
    let whole = |bytes: &[u8]| bytes.first_chunk::<4>().map(|length| 4 + u32::from_be_bytes(*length) as usize);
    while !piece.is_empty() {
        if begun.is_empty()
            && let Some(frame) = whole(piece).and_then(|length| piece.get(4..length))
        {
            each(frame);
            piece = &piece[4 + frame.len()..];
            continue;
        }
        // As much as is missing of the head, then of the frame.
        let missing = whole(begun).unwrap_or(4) - begun.len();
        let (taken, rest) = piece.split_at(missing.min(piece.len()));
        begun.extend_from_slice(taken);
        piece = rest;
        if whole(begun) == Some(begun.len()) {
            each(&begun[4..]);
            begun.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_put_together_and_read() {
        let frame = |word: &str, revision: &str| {
            let bytes = |number: u8, content: &[u8]| [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat();
            let metadata = [bytes(1, b"name"), bytes(6, revision.as_bytes())].concat();
            let envelope = [b"k8s\0".to_vec(), bytes(1, b"type"), bytes(2, &bytes(1, &metadata))].concat();
            let frame = [bytes(1, word.as_bytes()), bytes(2, &bytes(1, &envelope))].concat();
            [u32::try_from(frame.len()).unwrap().to_be_bytes().as_slice(), &frame].concat()
        };
        let all = [frame("ADDED", "5"), frame("BOOKMARK", "9"), frame("MODIFIED", "7")].concat();
        for cut in 1..all.len() {
            let (mut seen, mut begun) = (Seen::default(), Vec::new());
            all.chunks(cut).for_each(|piece| frames(piece, &mut begun, &mut |frame: &[u8]| seen.take(frame, Form::Frames)));
            assert_eq!((seen.events, seen.revision, seen.wrong.clone(), begun.len()), (2, 7, None, 0), "cut every {cut}");
        }
    }

    #[test]
    fn events_are_counted_and_must_rise() {
        let line = |t: &str, r: u64| format!("{{\"type\":\"{t}\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{r}\"}}}}}}\n");
        let text = [line("ADDED", 5), line("BOOKMARK", 9), line("MODIFIED", 7)].concat();
        for cut in 1..text.len() {
            let (mut seen, mut begun) = (Seen::default(), Vec::new());
            text.as_bytes().chunks(cut).for_each(|p| lines(p, &mut begun, &mut |l: &[u8]| seen.take(l, Form::Lines)));
            assert_eq!((seen.events, seen.revision, seen.wrong.clone()), (2, 7, None), "cut every {cut}");
            seen.take(line("DELETED", 6).trim().as_bytes(), Form::Lines);
            assert!(seen.wrong.is_some());
        }
    }
}
