//! A page of a node's agent that this server reads itself.

use api::Status;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::{Agents, dial::dial, host_of, unreachable};
use crate::{body::empty, kind::Target};

/// Asks `target` and reads its answer whole. How long all of it may take is the caller's to say.
///
/// # Errors
/// It cannot be reached, says anything but 200, or more than `bytes_max`.
pub async fn page(agents: &Agents, target: &Target, bytes_max: usize) -> Result<Bytes, Status> {
    let stream = dial(agents, target).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(target, &error))?;
    let host = HeaderValue::from_str(&host_of(target)).map_err(Status::internal)?;
    let request = http::Request::get(&target.path_and_query).header(header::HOST, host).body(empty()).map_err(Status::internal)?;
    let reading = async move {
        let reply = sender.send_request(request).await.map_err(|error| unreachable(target, &error))?;
        let code = reply.status();
        if code != StatusCode::OK {
            return Err(Status::new(code.as_u16(), "InternalError", format!("request failed, status: {code}")));
        }
        let body = Limited::new(reply.into_body(), bytes_max).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| unreachable(target, &error))
    };
    // It is gone once nobody sends on it any more; how it ends says nothing that the reading does not.
    let (page, _) = futures::join!(reading, connection);
    page
}
