//! One call -> its answer: a deadline for each, and errors by what a caller can do about them.

use std::{future::Future, time::Duration};

use tonic::{Code, Request, Response, Status};

pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong with a call. The text is the runtime's own: users read it in events.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The runtime does not know this call (an older one).
    #[error("the runtime does not implement {0}")]
    Unimplemented(&'static str),
    /// The sandbox, container or image is gone.
    #[error("{0}")]
    NotFound(String),
    /// The name is taken: by a container or sandbox of an earlier, interrupted attempt.
    #[error("{0}")]
    AlreadyExists(String),
    /// No answer within the call's deadline.
    #[error("{call}: no answer within {after:?}")]
    Deadline { call: &'static str, after: Duration },
    /// Nobody listens on the socket, or the connection broke.
    #[error("the runtime is not reachable: {0}")]
    Unavailable(String),
    /// Everything else, in the runtime's words.
    #[error("{message}")]
    Failed { code: Code, message: String },
}

impl Error {
    fn of(call: &'static str, after: Duration, status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unimplemented => Self::Unimplemented(call),
            Code::NotFound => Self::NotFound(message),
            Code::AlreadyExists => Self::AlreadyExists(message),
            Code::DeadlineExceeded => Self::Deadline { call, after },
            Code::Unavailable => Self::Unavailable(message),
            code => Self::Failed { code, message },
        }
    }

    /// The end of an event stream.
    pub(crate) fn from_stream(call: &'static str, status: &Status) -> Self {
        Self::of(call, Duration::ZERO, status)
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Unimplemented(_))
    }
}

/// Sends `message` with `after` as its deadline, which the runtime is told too.
pub(crate) async fn within<M, R, F, W>(call: &'static str, after: Duration, message: M, send: F) -> Result<R>
where
    F: FnOnce(Request<M>) -> W,
    W: Future<Output = std::result::Result<Response<R>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(after);
    match tokio::time::timeout(after, send(request)).await {
        Err(_) => Err(Error::Deadline { call, after }),
        Ok(Err(status)) => Err(Error::of(call, after, &status)),
        Ok(Ok(response)) => Ok(response.into_inner()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_what_a_caller_can_do() {
        let of = |code| Error::of("Exec", Duration::from_secs(1), &Status::new(code, "text"));
        assert!(of(Code::NotFound).is_not_found());
        assert!(of(Code::Unimplemented).is_unimplemented());
        assert!(matches!(of(Code::Unavailable), Error::Unavailable(text) if text == "text"));
        assert_eq!(of(Code::Unknown).to_string(), "text");
    }

    #[tokio::test]
    async fn an_unanswered_call_ends_at_its_deadline() {
        let never = |_: Request<()>| std::future::pending::<std::result::Result<Response<()>, Status>>();
        let answer = within("Exec", Duration::from_millis(1), (), never).await;
        assert!(matches!(answer, Err(Error::Deadline { call: "Exec", .. })));
    }
}
