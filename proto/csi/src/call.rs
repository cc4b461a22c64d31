//! One call -> its answer: a connection of its own, a deadline, and errors by what a caller can do about them.
//!
//! A driver's socket vanishes and comes back with its pod: no connection outlives its call. Source: `newGrpcConn` in `pkg/volume/csi/csi_client.go`.

use std::{future::Future, path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint, Uri},
};

/// One answer: what gRPC takes where nobody says anything else, upstream's too.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Of a driver's words; they go into events and conditions.
const WORDS_BYTES_MAX: usize = 1024;

pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong with a call. The text is as Go's gRPC writes it: users read it in events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    /// At most a KiB of the driver's own words.
    pub message: String,
}

impl Error {
    fn of(status: &Status) -> Self {
        Self { code: status.code(), message: cut(status.message()).to_owned() }
    }

    /// The driver has ended what it did: nothing goes on any more. Source: `isFinalError` in `pkg/volume/csi/csi_client.go`.
    pub fn is_final(&self) -> bool {
        !matches!(self.code, Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted | Code::Aborted)
    }

    /// It can never be done as it was asked. Source: `isInfeasibleError` in `pkg/volume/csi/expander.go`.
    pub fn is_infeasible(&self) -> bool {
        matches!(self.code, Code::InvalidArgument | Code::OutOfRange | Code::NotFound)
    }

    /// Not while the volume is used. Source: `inUseError` there.
    pub fn is_in_use(&self) -> bool {
        self.code == Code::FailedPrecondition
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Go has one l.
        let code = if self.code == Code::Cancelled { "Canceled".to_owned() } else { format!("{:?}", self.code) };
        write!(f, "rpc error: code = {code} desc = {}", self.message)
    }
}

impl std::error::Error for Error {}

/// Whole characters, no more than are wanted.
fn cut(text: &str) -> &str {
    let end = text.floor_char_boundary(WORDS_BYTES_MAX);
    &text[..end]
}

/// A connection to `socket`, made at its first call.
pub(crate) fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://driver").connect_with_connector_lazy(connect)
}

/// Sends `message` with `after` as its deadline, which the driver is told too.
pub(crate) async fn within<M, R, F, W>(after: Duration, message: M, send: F) -> Result<R>
where
    F: FnOnce(Request<M>) -> W,
    W: Future<Output = std::result::Result<Response<R>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(after);
    match tokio::time::timeout(after, send(request)).await {
        Err(_) => Err(Error { code: Code::DeadlineExceeded, message: "context deadline exceeded".into() }),
        Ok(Err(status)) => Err(Error::of(&status)),
        Ok(Ok(response)) => Ok(response.into_inner()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_a_caller_can_do() {
        let of = |code| Error::of(&Status::new(code, "text"));
        assert_eq!(of(Code::Internal).to_string(), "rpc error: code = Internal desc = text");
        assert_eq!(of(Code::Cancelled).to_string(), "rpc error: code = Canceled desc = text");
        assert!(of(Code::Internal).is_final() && !of(Code::Unavailable).is_final());
        assert!(of(Code::OutOfRange).is_infeasible() && !of(Code::Internal).is_infeasible() && of(Code::FailedPrecondition).is_in_use());
        let long = Error::of(&Status::new(Code::Internal, "ä".repeat(WORDS_BYTES_MAX)));
        assert_eq!(long.message.len(), WORDS_BYTES_MAX);
    }

    #[tokio::test]
    async fn an_unanswered_call_ends_at_its_deadline() {
        let never = |_: Request<()>| std::future::pending::<std::result::Result<Response<()>, Status>>();
        let answer = within::<(), (), _, _>(Duration::from_millis(1), (), never).await;
        assert_eq!(answer.unwrap_err().code, Code::DeadlineExceeded);
    }
}
