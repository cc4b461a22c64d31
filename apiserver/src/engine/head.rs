//! An object's JSON -> what of it is asked for often, as places in the bytes: nothing is copied that stands there as it is.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::kind::Kind;

/// Fields beyond these are not looked for; no kind comes near.
const FIELDS_MAX: usize = 64;

/// Of one object, whose bytes have to be given to each question.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Texts that do not stand in the bytes as they are read (escaped, or no strings there): places behind the bytes' end are in here.
    rest: Box<str>,
    uid: Span,
    /// Sorted by key.
    labels: Box<[(Span, Span)]>,
    /// In the order of [`Kind::fields`].
    fields: Box<[Span]>,
    pub deleting: bool,
}

/// A text of the object. Nothing begins at the first byte, which is a brace: `at` 0 is no text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    at: u32,
    len: u32,
}

impl Head {
    pub fn scan(kind: &Kind, json: &[u8]) -> Result<Self, serde_json::Error> {
        let mut out = Scanned { json, rest: String::new(), uid: Span::default(), labels: Vec::new(), fields: Vec::new(), deleting: false };
        let pointers = kind.fields.get(..FIELDS_MAX).unwrap_or(&kind.fields);
        out.fields.resize(pointers.len(), Span::default());
        let wanted = (0..pointers.len()).fold(0, |bits, at| bits | 1 << at);
        let mut parser = serde_json::Deserializer::from_slice(json);
        let mut segments = pointers.iter().map(|field| field.pointer.split('/').skip(1).collect()).collect::<Vec<Vec<&str>>>();
        segments.shrink_to_fit();
        Scan { paths: &segments, wanted, depth: 0, out: &mut out }.deserialize(&mut parser)?;
        parser.end()?;
        Ok(out.finish())
    }

    pub fn uid<'a>(&'a self, json: &'a [u8]) -> &'a str {
        self.text(json, self.uid).unwrap_or_default()
    }

    pub fn label<'a>(&'a self, json: &'a [u8], key: &str) -> Option<&'a str> {
        let found = self.labels.binary_search_by(|(k, _)| self.text(json, *k).unwrap_or_default().cmp(key)).ok()?;
        let (_, value) = self.labels.get(found)?;
        Some(self.text(json, *value).unwrap_or_default())
    }

    pub fn labels<'a>(&'a self, json: &'a [u8]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.labels.iter().map(|(key, value)| (self.text(json, *key).unwrap_or_default(), self.text(json, *value).unwrap_or_default()))
    }

    /// `None` where absent.
    pub fn field<'a>(&'a self, json: &'a [u8], at: usize) -> Option<&'a str> {
        self.text(json, *self.fields.get(at)?)
    }

    fn text<'a>(&'a self, json: &'a [u8], span: Span) -> Option<&'a str> {
        let (at, len) = (span.at as usize, span.len as usize);
        match at.checked_sub(json.len()) {
            _ if at == 0 => None,
            Some(behind) => self.rest.get(behind..behind + len),
            None => std::str::from_utf8(json.get(at..at + len)?).ok(),
        }
    }
}

/// A head that is being read.
struct Scanned<'a> {
    json: &'a [u8],
    rest: String,
    uid: Span,
    labels: Vec<(Span, Span)>,
    fields: Vec<Span>,
    deleting: bool,
}

impl Scanned<'_> {
    fn finish(self) -> Head {
        let mut head = Head {
            rest: self.rest.into(),
            uid: self.uid,
            labels: Box::default(),
            fields: if self.fields.iter().all(|span| span.at == 0) { Box::default() } else { self.fields.into() },
            deleting: self.deleting,
        };
        let mut labels = self.labels;
        labels.sort_by(|a, b| head.text(self.json, a.0).cmp(&head.text(self.json, b.0)));
        head.labels = labels.into();
        head
    }

    /// A text that serde borrowed from the bytes.
    fn borrowed(&mut self, text: &str) -> Span {
        let at = (text.as_ptr() as usize).checked_sub(self.json.as_ptr() as usize);
        match at.map(|at| (u32::try_from(at), u32::try_from(text.len()))) {
            Some((Ok(at), Ok(len))) if at > 0 => Span { at, len },
            _ => self.copied(text),
        }
    }

    fn copied(&mut self, text: &str) -> Span {
        let at = u32::try_from(self.json.len() + self.rest.len());
        self.rest.push_str(text);
        match (at, u32::try_from(text.len())) {
            (Ok(at), Ok(len)) => Span { at, len },
            _ => Span::default(),
        }
    }

    fn placed(&mut self, text: Text<'_>) -> Span {
        match text.0 {
            Cow::Borrowed(text) => self.borrowed(text),
            Cow::Owned(text) => self.copied(&text),
        }
    }

    fn take(&mut self, meta: Meta<'_>) {
        self.uid = meta.uid.map(|uid| self.placed(uid)).unwrap_or_default();
        for (key, value) in meta.labels.map(|labels| labels.0).unwrap_or_default() {
            let label = (self.placed(key), value.map(|value| self.placed(value)).unwrap_or_default());
            self.labels.push(label);
        }
        self.deleting = meta.deletion_timestamp.is_some();
    }
}

/// The parsed part of an object's metadata.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta<'a> {
    #[serde(borrow)]
    uid: Option<Text<'a>>,
    #[serde(borrow)]
    labels: Option<Labels<'a>>,
    deletion_timestamp: Option<IgnoredAny>,
}

/// A string, borrowed where it stands as it is.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Labels<'a>(Vec<(Text<'a>, Option<Text<'a>>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Labels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Labels<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels<'de>, A::Error> {
                let mut labels = Vec::new();
                while let Some(label) = map.next_entry()? {
                    labels.push(label);
                }
                Ok(Labels(labels))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// Walks the JSON along the wanted paths and skips all else.
struct Scan<'a, 'j> {
    paths: &'a [Vec<&'a str>],
    /// A bit for each path that leads here.
    wanted: u64,
    depth: usize,
    out: &'a mut Scanned<'j>,
}

impl Scan<'_, '_> {
    /// A text stands at the end of some of the paths.
    fn leaf(self, span: Span) {
        for (at, path) in self.paths.iter().enumerate() {
            if self.wanted & 1 << at != 0 && path.len() == self.depth {
                self.out.fields[at] = span;
            }
        }
    }

    fn is_leaf(&self) -> bool {
        self.paths.iter().enumerate().any(|(at, path)| self.wanted & 1 << at != 0 && path.len() == self.depth)
    }

    fn shown(self, value: &dyn fmt::Display) {
        if self.is_leaf() {
            let span = self.out.copied(&value.to_string());
            self.leaf(span);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Scan<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            if self.depth == 0 && key == "metadata" {
                let meta = map.next_value()?;
                self.out.take(meta);
                continue;
            }
            let on_path = |at: &usize| self.wanted & 1 << at != 0 && self.paths[*at].get(self.depth) == Some(&&*key);
            let wanted = (0..self.paths.len()).filter(on_path).fold(0, |bits, at| bits | 1 << at);
            if wanted == 0 {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Scan { paths: self.paths, wanted, depth: self.depth + 1, out: self.out })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        let span = self.out.borrowed(text);
        self.leaf(span);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.shown(&text);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.shown(&value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.shown(&value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.shown(&value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.shown(&value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
