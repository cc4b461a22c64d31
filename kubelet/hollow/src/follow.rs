//! list + watch of one kind -> news for the fleet, resumed without gap.

use std::time::Duration;

use bytes::BytesMut;
use client::kube::{Client, client::Body};
use http::Method;
use http_body_util::BodyExt;
use tokio::{sync::mpsc, time::timeout};

use super::{
    ask::{Ask, JSON, ask, begin},
    seen::{self, Labels, Seen, What},
};

const PAGE: usize = 500;
/// The server ends a watch after that time; it is opened again where it ended.
const WATCH_SECONDS: u64 = 480;
/// Bookmarks come each minute, and the end of the watch: a watch that is silent for longer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECONDS + 30);
const PAUSE: Duration = Duration::from_secs(1);

/// Follows one kind while the receiver lives.
pub struct Follow {
    pub client: Client,
    pub what: What,
    pub of: Of,
    pub labels: Labels,
    pub out: mpsc::Sender<Seen>,
}

/// Whose objects: of all nodes in one watch, or of one node, as its agent watches them.
#[derive(Clone, Debug)]
pub enum Of {
    All,
    One { number: u32, name: String },
}

/// Why a watch is over.
#[derive(Debug)]
enum End {
    /// Open it again at the last revision.
    Again,
    /// The server does not know that revision any more: list again.
    Gone,
    Failed(String),
}

impl Follow {
    pub async fn run(self) {
        while !self.out.is_closed() {
            let mut rev = match self.list().await {
                Ok(rev) => rev,
                Err(error) => {
                    self.say("list failed; retrying", &error);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            loop {
                match Box::pin(self.watch(&mut rev)).await {
                    End::Again if self.out.is_closed() => return,
                    End::Again => {}
                    End::Gone => break,
                    End::Failed(error) => {
                        self.say("watch failed; retrying", &error);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Tells all there is; the revision to watch from.
    async fn list(&self) -> Result<String, String> {
        self.tell(Seen::Listing(self.what, self.number())).await;
        let mut next = String::new();
        loop {
            let path = format!("{}?limit={PAGE}{}{next}", self.path(), self.selector());
            let answer = ask(self.client.clone(), Ask { method: Method::GET, path, content: JSON, body: Vec::new() }).await?;
            if answer.code != 200 {
                return Err(format!("{} {}", answer.code, String::from_utf8_lossy(&answer.body)));
            }
            let page: seen::Page = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
            for item in page.items.iter().flatten() {
                self.there(item.get()).await?;
            }
            match page.metadata.next.filter(|token| !token.is_empty()) {
                Some(token) => next = format!("&continue={}", escape(&token)),
                None => {
                    self.tell(Seen::Listed(self.what, self.number())).await;
                    return Ok(page.metadata.resource_version);
                }
            }
        }
    }

    async fn watch(&self, rev: &mut String) -> End {
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={rev}{}",
            self.path(),
            self.selector()
        );
        let answer = match begin(&self.client, Ask { method: Method::GET, path, content: JSON, body: Vec::new() }).await {
            Ok(answer) => answer,
            Err(error) => return End::Failed(error),
        };
        match answer.status().as_u16() {
            200 => self.read(answer.into_body(), rev).await.unwrap_or_else(|end| end),
            410 => End::Gone,
            code => End::Failed(format!("the server answered {code}")),
        }
    }

    async fn read(&self, mut body: Body, rev: &mut String) -> Result<End, End> {
        let mut unread = BytesMut::new();
        loop {
            let frame = timeout(SILENCE_MAX, body.frame()).await.map_err(|_| End::Failed("nothing was heard for long".into()))?;
            let Some(frame) = frame else { return Ok(End::Again) };
            // As when a connection breaks: the next watch goes on where this one ended.
            let Ok(frame) = frame else { return Ok(End::Again) };
            let Ok(data) = frame.into_data() else { continue };
            unread.extend_from_slice(&data);
            while let Some(at) = unread.iter().position(|b| *b == b'\n') {
                let line = unread.split_to(at + 1);
                self.event(&line, rev).await?;
            }
        }
    }

    async fn event(&self, line: &[u8], rev: &mut String) -> Result<(), End> {
        let failed = |e: serde_json::Error| End::Failed(e.to_string());
        let event: seen::Event = serde_json::from_slice(line).map_err(failed)?;
        let object = event.object.get();
        let (newest, _, code) = seen::head(object.as_bytes());
        match event.kind {
            "ADDED" | "MODIFIED" => self.there(object).await.map_err(End::Failed)?,
            "DELETED" => self.tell(seen::gone(self.what, object).map_err(failed)?).await,
            "BOOKMARK" => {}
            _ if code == 410 => return Err(End::Gone),
            _ => return Err(End::Failed(object.to_owned())),
        }
        if !newest.is_empty() {
            *rev = newest;
        }
        Ok(())
    }

    async fn there(&self, json: &str) -> Result<(), String> {
        if let Some(seen) = seen::object(self.what, json, self.labels).map_err(|e| e.to_string())? {
            self.tell(seen).await;
        }
        Ok(())
    }

    async fn tell(&self, seen: Seen) {
        // A fleet that is gone needs no news.
        let _ = self.out.send(seen).await;
    }

    fn path(&self) -> &'static str {
        match self.what {
            What::Pods => "/api/v1/pods",
            What::Nodes => "/api/v1/nodes",
        }
    }

    /// Names of nodes need no escapes.
    fn selector(&self) -> String {
        match (self.what, &self.of) {
            (What::Pods, Of::All) => "&fieldSelector=spec.nodeName%21%3D".to_owned(),
            (What::Nodes, Of::All) => String::new(),
            (What::Pods, Of::One { name, .. }) => format!("&fieldSelector=spec.nodeName%3D{name}"),
            (What::Nodes, Of::One { name, .. }) => format!("&fieldSelector=metadata.name%3D{name}"),
        }
    }

    fn number(&self) -> Option<u32> {
        match &self.of {
            Of::All => None,
            Of::One { number, .. } => Some(*number),
        }
    }

    /// What thousands of nodes find out at the same time is no warning of each.
    fn say(&self, what: &str, error: &str) {
        match &self.of {
            Of::All => tracing::warn!(what = ?self.what, error, "{what}"),
            Of::One { name, .. } => tracing::debug!(name, what = ?self.what, error, "{what}"),
        }
    }
}

/// A continue token as part of a query.
fn escape(token: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(token.len() + 8);
    for byte in token.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // A String takes all that is written.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn tokens_survive_a_query() {
        assert_eq!(super::escape("a+b/c=-_"), "a%2Bb%2Fc%3D-_");
    }
}
