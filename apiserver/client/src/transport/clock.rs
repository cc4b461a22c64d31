//! A server -> what time it is there: certificates and leases are judged by it.

use http::{Request, header::DATE};
use kube::client::Body;
use tower::{BoxError, ServiceExt};

use super::Transport;

impl Transport {
    /// The server's clock, in whole seconds; `None` where it does not tell. Whatever else it answers.
    ///
    /// # Errors
    /// No server answers.
    pub async fn clock(&self) -> Result<Option<api::time::Timestamp>, BoxError> {
        let request = Request::get("/version").body(Body::empty())?;
        let answer = self.clone().oneshot(request).await?;
        Ok(answer.headers().get(DATE).and_then(|date| date.to_str().ok()).and_then(read))
    }
}

/// RFC 9110, section 5.6.7.
fn read(date: &str) -> Option<api::time::Timestamp> {
    jiff::fmt::rfc2822::parse(date).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_headers_are_read() {
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().as_second(), 784_111_777);
        assert_eq!(read("yesterday"), None);
    }
}
