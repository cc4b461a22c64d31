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

use super::{Entry, info::Selectors};
use crate::{
    body::{Body, Response},
    engine::registry::Served,
    fairness::{self, Charge, Listing, Permit},
    metrics::RequestKind,
};

/// What a request holds of what all share.
#[derive(Default)]
pub(super) struct Holds(Mutex<(Option<Permit>, Option<Charge>)>);

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
        let mut reading = pin!(self.front.fairness.read(self.class, body));
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
            self.sit(1).await?;
        }
        Ok(bytes)
    }

    /// Waits for its turn.
    pub(super) async fn sit(&self, seats: usize) -> Result<(), Status> {
        let kind = if self.info.is_mutating() { RequestKind::Mutating } else { RequestKind::ReadOnly };
        let permit = self.front.fairness.seat(self.class, seats, kind).await?;
        self.holds.0.lock().0 = Some(permit);
        Ok(())
    }

    /// How many seats the request takes.
    pub(super) fn seats(&self, served: Option<&Served>) -> usize {
        match served {
            Some(served) if self.info.subresource.is_empty() && matches!(self.info.verb.as_str(), "list" | "watch") => self.width(served),
            _ => 1,
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
