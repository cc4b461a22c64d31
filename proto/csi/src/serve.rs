//! A socket -> services, each for the calls that bear its name: for drivers of tests. tonic's own router would bring a web framework into every build.

use std::convert::Infallible;

use futures::{StreamExt, stream::FuturesUnordered};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tonic::{Status, body::Body, server::NamedService};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

type Any = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// What is served at one socket.
#[derive(Clone, Default)]
pub struct Services {
    named: Vec<(&'static str, Any)>,
}

impl Services {
    /// Adds one, as it is generated.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.named.push((S::NAME, BoxCloneSyncService::new(service)));
        self
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let named = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        match self.named.into_iter().find(|(name, _)| *name == named) {
            Some((_, service)) => service.oneshot(request).await,
            None => Ok(Status::unimplemented(format!("unknown service {named}")).into_http()),
        }
    }
}

/// Serves until it is dropped.
pub async fn serve(listener: UnixListener, services: Services) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.push(connection(stream, services.clone()));
                }
            }
            Some(()) = connections.next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(stream: UnixStream, services: Services) {
    let answer = hyper::service::service_fn(move |request| services.clone().answer(request));
    // How it ends its peer sees.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
}
