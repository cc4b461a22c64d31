//! A request's body and its seat: the one is read before the other is taken, both are given back when the request is done.

use api::{
    Status,
    selector::{Fields, Labels},
};
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Call, info::Selectors};
use crate::{
    body::{Body, Response},
    engine::table::Served,
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

impl Call {
    /// The body, bounded; the request has its seat when all of it is there.
    pub(super) async fn read(&self, body: Body) -> Result<Bytes, Status> {
        let (bytes, charge) = self.engine.fairness().read(self.class, body).await?;
        self.holds.0.lock().1 = Some(charge);
        self.sit(1).await?;
        Ok(bytes)
    }

    /// Waits for its turn.
    pub(super) async fn sit(&self, seats: usize) -> Result<(), Status> {
        let kind = if self.info.is_mutating() { RequestKind::Mutating } else { RequestKind::ReadOnly };
        let permit = self.engine.fairness().seat(self.class, seats, kind).await?;
        self.holds.0.lock().0 = Some(permit);
        Ok(())
    }

    /// Waits for its turn, then does what was asked.
    pub(super) async fn seated(&self, seats: usize, work: impl Future<Output = Result<Response, Status>>) -> Result<Response, Status> {
        self.sit(seats).await?;
        work.await
    }

    /// How many seats a list takes, and a watch until it has sent what is there.
    pub(super) fn width(&self, served: &Served) -> usize {
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
