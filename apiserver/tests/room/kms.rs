//! A KMS plugin (v2) on a socket of the test's own: it may be another key's, hang, fail and babble.

use std::{convert::Infallible, path::Path, sync::Arc};

use api::task::Group;
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixListener;

/// What it does when it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    Hangs,
    Fails,
    /// Says that it is well, and gives other keys than it was given.
    Babbles,
}

pub struct Plugin {
    pub mood: Mutex<Mood>,
    pub key_id: Mutex<String>,
    /// How often a key was asked for.
    pub decrypted: Mutex<usize>,
    group: Group,
}

/// Requests have bytes first.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

/// Answers: `StatusResponse`, and of the others the first two fields.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(bytes = "vec", tag = "1")]
    first: Vec<u8>,
    #[prost(string, tag = "2")]
    second: String,
    #[prost(string, optional, tag = "3")]
    third: Option<String>,
}

impl Plugin {
    pub fn new(mood: Mood) -> Arc<Self> {
        let key_id = Mutex::new("key-1".to_owned());
        Arc::new(Self { mood: Mutex::new(mood), key_id, decrypted: Mutex::default(), group: Group::new() })
    }

    /// Serves from now on.
    pub fn listen(self: &Arc<Self>, socket: &Path) {
        let (listener, plugin) = (UnixListener::bind(socket).unwrap(), self.clone());
        self.group.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = plugin.clone();
                let service = hyper::service::service_fn(move |request| {
                    let plugin = served.clone();
                    async move { Ok::<_, Infallible>(plugin.answer(request).await) }
                });
                plugin.group.spawn(async move {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ends = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
    }

    async fn answer(
        &self,
        request: http::Request<hyper::body::Incoming>,
    ) -> http::Response<impl http_body::Body<Data = Bytes, Error = Infallible> + use<>> {
        let mood = *self.mood.lock();
        if mood == Mood::Hangs {
            std::future::pending::<()>().await;
        }
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let answer = self.answered(&method, mood, Asked::decode(&body[5..]).unwrap().bytes);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(if answer.is_some() { 0 } else { 13 }));
        trailers.insert("grpc-message", HeaderValue::from_static("the plugin is ill"));
        let data = answer.map(|answer| {
            let message = answer.encode_to_vec();
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            Frame::data(Bytes::from([&[0][..], &length, &message].concat()))
        });
        let frames = data.into_iter().chain([Frame::trailers(trailers)]).map(Ok);
        let response = http::Response::builder().header("content-type", "application/grpc");
        response.body(StreamBody::new(stream::iter(frames.collect::<Vec<_>>()))).unwrap()
    }

    /// What it encrypts it turns around.
    fn answered(&self, method: &str, mood: Mood, mut bytes: Vec<u8>) -> Option<Answer> {
        let key_id = self.key_id.lock().clone();
        bytes.reverse();
        match (method, mood) {
            (_, Mood::Fails) => None,
            ("Status", _) => Some(Answer { first: b"v2".to_vec(), second: "ok".into(), third: Some(key_id) }),
            (_, Mood::Babbles) => Some(Answer { first: vec![7; 40], second: key_id, third: None }),
            ("Encrypt", _) => Some(Answer { first: bytes, second: key_id, third: None }),
            _ => {
                *self.decrypted.lock() += 1;
                Some(Answer { first: bytes, ..Answer::default() })
            }
        }
    }
}
