//! A request's seat and its body: no seat is kept for a body that is yet to come, and no body is read for who may not send it. Both are given
//! back when the request is done.

use std::pin::pin;

use api::{
    Status,
    selector::{Fields, Labels},
};
use bytes::Bytes;
use futures::future::poll_immediate;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Entry,
    info::{RequestInfo, Selectors},
};
use crate::{
    body::{Body, Response},
    engine::registry::Served,
    fairness::{self, About, Asking, Asks, Charge, Classification, Fairness, Listing, Permit, Telling, Told, WAIT_MAX},
    metrics::RequestKind,
};

/// What a request holds of what all share.
#[derive(Default)]
pub(super) struct Holds(Mutex<(Option<Permit>, Option<Charge>)>);

/// Whom upstream never limits (`user.SystemPrivilegedGroup`).
const PRIVILEGED: &str = "system:masters";

impl Holds {
    /// The seat, for whoever keeps it longer or shorter than the request lasts.
    pub fn permit(&self) -> Option<Permit> {
        self.0.lock().0.take()
    }

    /// The seat stays taken until the reply's body is gone.
    pub fn until_gone(&self, response: Response) -> Response {
        match self.permit() {
            Some(permit) => fairness::hold(response, permit),
            None => response,
        }
    }
}

impl Entry {
    /// The body, bounded, and so are all bodies at a time (tower-http's limit is of one alone). One that is there already costs no second turn; for any other the seat is given up, and taken again when all is there.
    pub(super) async fn read(&self, body: Body) -> Result<Bytes, Status> {
        let mut reading = pin!(self.front.fairness.read(&self.class, body));
        let (read, has_seat) = match poll_immediate(reading.as_mut()).await {
            Some(read) => (read, true),
            None => {
                drop(self.holds.permit());
                (reading.await, false)
            }
        };
        let (bytes, charge) = read?;
        self.holds.0.lock().1 = Some(charge);
        if !has_seat {
            self.sit(1, Instant::now()).await?;
        }
        Ok(bytes)
    }

    /// Waits for its turn, a quarter of what the request may take in all from `since` on (`getRequestWaitContext`).
    pub(super) async fn sit(&self, seats: usize, since: Instant) -> Result<(), Status> {
        let fairness = &self.front.fairness;
        let is_fair = fairness.is_fair();
        // Where it is first come, first served, streams are not counted (`WithMaxInFlightLimit`).
        if !is_fair && self.info.is_long_running() {
            return Ok(());
        }
        let kind = if self.info.is_mutating() { RequestKind::Mutating } else { RequestKind::ReadOnly };
        let until = since + (self.lasts / 4).min(WAIT_MAX);
        let privileged = !is_fair && self.user.groups.iter().any(|group| group == PRIVILEGED);
        let about = About::new(self.me.clone());
        let permit = fairness.seat(Asking { class: &self.class, seats, kind, about, until, privileged }).await?;
        self.holds.0.lock().0 = Some(permit);
        Ok(())
    }

    /// Many watchers are told of what was written: the seat stays taken for as long as that takes, and nobody waits for it.
    pub(super) fn linger(&self) {
        let Some(Telling { lasts, .. }) = self.telling else { return };
        let Some(permit) = self.holds.permit() else { return };
        self.engine.group().spawn(async move {
            tokio::time::sleep(lasts).await;
            drop(permit);
        });
    }

    /// How many seats the request takes.
    pub(super) fn seats(&self, served: Option<&Served>) -> usize {
        match served {
            Some(served) if self.info.subresource.is_empty() && matches!(self.info.verb.as_str(), "list" | "watch") => self.width(served),
            _ => self.telling.map_or(1, |telling| telling.seats),
        }
    }

    /// How many seats a list takes, and a watch until it has sent what is there.
    fn width(&self, served: &Served) -> usize {
        let (query, version) = (&self.query, self.query.get("resourceVersion"));
        if self.info.verb == "watch" && !query.flag("sendInitialEvents") && !matches!(version, "" | "0") {
            return 1;
        }
        let Selectors { fields, labels } = &self.info.selectors;
        let (objects, bytes) = served.cache.as_ref().map(|cache| cache.size()).unwrap_or_default();
        let limit = query.get("limit").parse().unwrap_or_default();
        let old = query.get("resourceVersionMatch") == "Exact" || (limit > 0 && !matches!(version, "" | "0"));
        Listing {
            objects,
            bytes,
            limit,
            single: !self.info.name.is_empty(),
            selects: !(fields.as_ref().is_ok_and(Fields::is_empty) && labels.as_ref().is_ok_and(Labels::is_empty)),
            stored: self.info.verb != "watch" && (old || !query.get("continue").is_empty()),
        }
        .seats()
    }
}

/// What a write about `info` costs in watchers; of nobody whose requests are never limited.
pub(super) fn telling(fairness: &Fairness, class: &Classification, info: &RequestInfo, served: Option<&Served>) -> Option<Telling> {
    if !matches!(info.verb.as_str(), "create" | "update" | "patch" | "delete") || class.is_exempt() || !fairness.is_fair() {
        return None;
    }
    Telling::of(served?.cache.as_ref()?.watchers(&info.namespace))
}

impl Asks for Entry {
    fn told(&self) -> Told {
        let info = &self.info;
        let version = if info.group.is_empty() { info.version.clone() } else { format!("{}/{}", info.group, info.version) };
        Told {
            class: self.class.clone(),
            distinguisher: self.class.distinguisher(&self.user, &info.namespace).to_owned(),
            arrived: self.now,
            user: self.user.name.clone(),
            verb: info.verb.clone(),
            path: info.path.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            version,
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
        }
    }
}
