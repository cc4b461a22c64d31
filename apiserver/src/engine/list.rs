//! A list: objects at one revision, in pages over one snapshot. Source: apiserver `pkg/storage/continue.go`, KEP-365.

use std::sync::{Arc, atomic::Ordering};

use api::{Key, Status};
use base64::{
    Engine as _, alphabet,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD},
    },
};
use serde::{Deserialize, Serialize};
use store::{Range, Rev};

use super::{
    Engine,
    cache::{Cache, Snapshot},
    form,
    locked::untransformed,
    object::Object,
    registry::Served,
    select::Selection,
};
use crate::pace::Turn;

const EXPIRED: &str = "The resourceVersion for the provided list is too old.";
const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
/// A token's revision: whatever is the newest.
const INCONSISTENT: i64 = -1;
/// How many entries are read at a time where the store has to be searched.
const READ_CHUNK: usize = 500;

/// As of when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Not older than what was acknowledged before the request.
    Newest,
    /// Whatever is at hand.
    Any,
    NotOlderThan(Rev),
    Exactly(Rev),
    /// Goes on where a page ended.
    Continue(String),
}

/// Objects as stored, and what the list's metadata says.
pub(crate) struct Listed {
    pub objects: Arc<Vec<Arc<Object>>>,
    /// The same as they are shown, where somebody was asked for that: it is not done again.
    pub shown: Option<Arc<Vec<Arc<Object>>>>,
    pub rev: Rev,
    /// Empty on the last page.
    pub token: String,
    pub remaining: Option<usize>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Token {
    #[serde(rename = "v")]
    version: String,
    rv: i64,
    start: String,
}

/// As Go's decoder, which overlooks what the last character has too much.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// `limit` 0 is none. A page may have fewer, where only converted objects tell what is selected.
///
/// # Errors
/// 410 for what is too old, 405 where nothing is listed; those of a conversion.
pub(crate) async fn list(engine: &Engine, served: &Served, selection: &Selection, when: &When, limit: usize) -> Result<Listed, Status> {
    let mut listed = list_stored(engine, served, selection, when, limit).await?;
    if selection.is_of_shown() {
        let asked = listed.objects.iter().map(|object| (object.clone(), object.rev)).collect();
        let shown = form::views(served, asked).await?;
        let both = listed.objects.iter().cloned().zip(shown.into_iter().map(|(shown, _)| shown));
        let (objects, shown): (Vec<_>, Vec<_>) = both.filter(|(_, shown)| selection.matches_shown(shown)).unzip();
        listed.objects = Arc::new(objects);
        listed.shown = form::is_remote(served).then(|| Arc::new(shown));
    }
    Ok(listed)
}

async fn list_stored(engine: &Engine, served: &Served, selection: &Selection, when: &When, limit: usize) -> Result<Listed, Status> {
    let Some(cache) = &served.cache else { return Err(Status::method_not_allowed(&served.kind.group_resource(), "list")) };
    engine.locked.check(&cache.prefix)?;
    match when {
        When::Newest => engine.fresh().await?,
        When::Any => {}
        When::NotOlderThan(rev) => engine.reach(*rev).await?,
        When::Exactly(rev) => {
            return at(engine, cache, selection, *rev, "", limit).await;
        }
        When::Continue(token) => {
            let token = decode(token)?;
            let after = token.start.strip_suffix('\0').unwrap_or(&token.start);
            let Ok(rev) = Rev::try_from(token.rv) else {
                engine.fresh().await?;
                let rev = *engine.applied.borrow();
                return at(engine, cache, selection, rev, after, limit).await;
            };
            let listed = at(engine, cache, selection, rev, after, limit).await;
            return listed.map_err(|error| if error.code == 410 { continue_expired(&token.start) } else { error });
        }
    }
    if let Some(key) = selection.single() {
        let rev = *engine.applied.borrow();
        let objects: Vec<_> = cache.get(&key).into_iter().filter(|object| selection.matches(object)).collect();
        let rev = objects.first().map_or(rev, |object| rev.max(object.rev));
        return Ok(Listed { objects: Arc::new(objects), shown: None, rev, token: String::new(), remaining: None });
    }
    let found = looked_through(cache.select(selection, limit, || *engine.applied.borrow()), selection, "", limit).await;
    Ok(page(found.objects, found.more, found.rev, selection))
}

/// What `selection` takes of a state, strictly after the key `after`: turn by turn, where that is not yet known.
async fn looked_through(state: Snapshot, selection: &Selection, after: &str, limit: usize) -> Snapshot {
    if state.is_selected {
        return state;
    }
    let start = state.objects.partition_point(|object| Cache::tail(&object.key).as_str() <= after);
    let (mut objects, mut more, mut turn) = (Vec::new(), 0, Turn::default());
    for object in state.objects.iter().skip(start) {
        api::steps::took(1);
        turn.took(0);
        turn.rest().await;
        if !selection.matches(object) {
            continue;
        }
        if limit > 0 && objects.len() == limit {
            more = 1;
            break;
        }
        objects.push(object.clone());
    }
    Snapshot { objects: Arc::new(objects), more, is_selected: true, ..state }
}

/// A page, with `more` objects behind it.
fn page(objects: Arc<Vec<Arc<Object>>>, more: usize, rev: Rev, selection: &Selection) -> Listed {
    let token = match objects.last() {
        Some(last) if more > 0 => encode(rev, &last.key),
        _ => String::new(),
    };
    let remaining = (more > 0 && selection.is_all()).then_some(more);
    Listed { objects, shown: None, rev, token, remaining }
}

/// The state at exactly `rev`, after the key `after`.
async fn at(engine: &Engine, cache: &Cache, selection: &Selection, rev: Rev, after: &str, limit: usize) -> Result<Listed, Status> {
    engine.reach(rev).await?;
    if rev < engine.forgotten.load(Ordering::Relaxed) {
        return Err(Status::gone(EXPIRED));
    }
    if let Some(found) = cache.unchanged_since(rev, selection, after, limit) {
        let found = looked_through(found, selection, after, limit).await;
        return Ok(page(found.objects, found.more, rev, selection));
    }
    let mut range = Range { prefix: cache.prefix.clone(), after: None, limit: READ_CHUNK, at: Some(rev) };
    if !selection.namespace.is_empty() {
        range.prefix = format!("{}{}/", cache.prefix, selection.namespace);
    }
    range.after = (!after.is_empty()).then(|| format!("{}{after}", cache.prefix));
    let (mut objects, mut turn) = (Vec::new(), Turn::default());
    loop {
        let read = engine.store.range(range.clone()).await.map_err(|error| match error {
            store::Error::Compacted { .. } => Status::gone(EXPIRED),
            other => form::store_error(other),
        })?;
        range.after = read.entries.last().map(|entry| entry.key.to_string());
        engine.at_rest.learn(read.entries.iter().map(|entry| &entry.value)).await;
        for entry in read.entries {
            turn.took(entry.value.len());
            turn.rest().await;
            let key = entry.key.clone();
            let entry = engine.plain(cache, entry).map_err(|why| untransformed(&key, &why))?;
            objects.extend(cache.object(&entry).filter(|object| selection.matches(object)));
        }
        let full = limit > 0 && objects.len() > limit;
        if read.remaining == 0 || full {
            let more = if limit == 0 { 0 } else { objects.len().saturating_sub(limit) };
            objects.truncate(objects.len() - more);
            let mut listed = page(Arc::new(objects), more, rev, selection);
            listed.remaining = listed.remaining.map(|more| more + read.remaining);
            return Ok(listed);
        }
    }
}

/// `handleCompactedErrorForPaging` (`etcd3/errors.go`): the rest can be had as it is now.
fn continue_expired(start: &str) -> Status {
    let mut status = Status::gone(CONTINUE_EXPIRED);
    status.goes_on = Some(encoded(INCONSISTENT, start.to_owned()).into());
    status
}

fn encode(rev: Rev, last: &Key) -> String {
    encoded(i64::try_from(rev).unwrap_or(i64::MAX), format!("{}\0", Cache::tail(last)))
}

fn encoded(rv: i64, start: String) -> String {
    let token = Token { version: "meta.k8s.io/v1".into(), rv, start };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token is plain data"))
}

fn decode(token: &str) -> Result<Token, Status> {
    let bad = |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid{why}"));
    let bytes = LENIENT.decode(token).map_err(|error| bad(format!(": {error}")))?;
    if let Some(first) = bytes.first().filter(|first| **first != b'{') {
        return Err(bad(format!(": invalid character '{}' looking for beginning of value", char::from(*first))));
    }
    let token: Token = serde_json::from_slice(&bytes).map_err(|error| bad(format!(": {error}")))?;
    if token.version != "meta.k8s.io/v1" {
        return Err(bad(format!(": server does not recognize this encoded version {}", token.version)));
    }
    if token.rv == 0 {
        return Err(bad(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into()));
    }
    if token.start.is_empty() {
        return Err(bad(": encoded start key empty (version meta.k8s.io/v1)".into()));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        let token = decode(&encode(7, &Key::new("ns", "a"))).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (7, "ns/a\0"));
        let expired = continue_expired(&token.start);
        let token = decode(expired.goes_on.as_deref().unwrap()).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (INCONSISTENT, "ns/a\0"));
        for bad in ["", "!!", "e30", &URL_SAFE_NO_PAD.encode(br#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#)] {
            assert_eq!(decode(bad).err().map(|status| status.code), Some(400), "{bad}");
        }
    }
}
