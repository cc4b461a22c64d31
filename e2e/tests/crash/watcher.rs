//! A client as client-go's reflector is: lists once, watches, resumes from its last revision, lists again when that is gone.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use e2e::{Api, Watch, eventually};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::ledger::{LIST, Standing, rev, standing};

const SERVER_BOUND: Duration = Duration::from_secs(90);

/// What the watcher believes.
#[derive(Default)]
struct Model {
    objects: HashMap<String, u64>,
    last: u64,
    /// All up to here was seen in a list.
    listed: u64,
    lists: u32,
    /// Its past is gone: it must list.
    expired: bool,
    seen: HashSet<u64>,
    offences: Vec<String>,
}

pub struct Watcher {
    model: Arc<Mutex<Model>>,
    // It ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

enum Opened {
    Watch(Box<Watch>),
    Gone,
}

impl Watcher {
    pub fn start(kubeconfig: PathBuf) -> Self {
        let model: Arc<Mutex<Model>> = Arc::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let own = model.clone();
        // On a thread of its own: `eventually` takes async closures, whose futures do not move between threads.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = keep_on(kubeconfig, own) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { model, _stop: stop }
    }

    /// The newest revision it has seen.
    pub fn last(&self) -> u64 {
        self.model.lock().last
    }

    pub fn lists(&self) -> u32 {
        self.model.lock().lists
    }

    /// Its state is the server's, and each acknowledged write was seen as an event or in a list.
    pub fn caught_up(&self, standing: &HashMap<String, Standing>, acknowledged: &[u64]) -> Result<(), String> {
        let model = self.model.lock();
        assert!(model.offences.is_empty(), "{:?}", model.offences);
        let missed: Vec<_> = acknowledged.iter().filter(|r| **r > model.listed && !model.seen.contains(r)).collect();
        if !missed.is_empty() {
            return Err(format!("never told of revisions {missed:?}, at {}", model.last));
        }
        let stands: HashMap<String, u64> = standing.iter().filter_map(|(n, s)| Some((n.clone(), s.rev?))).collect();
        if model.objects == stands { Ok(()) } else { Err(format!("it believes {:?}, there is {stands:?}", model.objects)) }
    }
}

impl Model {
    fn replace(&mut self, list: &Value) {
        let (standing, rev) = standing(list);
        if rev < self.last {
            self.offences.push(format!("a list at {rev} after revision {} was seen", self.last));
        }
        let objects: HashMap<String, u64> = standing.into_iter().filter_map(|(n, s)| Some((n, s.rev?))).collect();
        for (name, known) in &self.objects {
            if objects.get(name).is_some_and(|listed| listed < known) {
                self.offences.push(format!("{name} was seen at {known}, and is listed at {:?}", objects.get(name)));
            }
        }
        self.objects = objects;
        (self.last, self.listed) = (rev, rev);
        self.lists += 1;
        self.expired = false;
    }

    fn apply(&mut self, typ: &str, object: &Value) {
        let (name, rev) = (object["metadata"]["name"].as_str().unwrap_or_default().to_owned(), rev(object));
        if typ == "BOOKMARK" {
            self.last = self.last.max(rev);
            return;
        }
        let known = self.objects.contains_key(&name);
        if rev <= self.last || !self.seen.insert(rev) {
            self.offences.push(format!("{typ} {name} at {rev} comes after {}", self.last));
        }
        if known != (typ != "ADDED") {
            self.offences.push(format!("{typ} {name} at {rev}, which was {}there", if known { "" } else { "not " }));
        }
        self.last = rev;
        match typ {
            "DELETED" => drop(self.objects.remove(&name)),
            _ => drop(self.objects.insert(name, rev)),
        }
    }
}

async fn keep_on(kubeconfig: PathBuf, model: Arc<Mutex<Model>>) {
    loop {
        let api = Api::from_kubeconfig(&kubeconfig).expect("the server wrote a kubeconfig");
        let blind = {
            let model = model.lock();
            model.lists == 0 || model.expired
        };
        if blind {
            list(&api, &model).await;
        }
        match open(&api, &model).await {
            Opened::Watch(mut watch) => follow(&mut watch, &model).await,
            Opened::Gone => list(&api, &model).await,
        }
    }
}

async fn list(api: &Api, model: &Mutex<Model>) {
    let list = eventually("the watcher's list is answered", SERVER_BOUND, async || {
        let reply = api.send("GET", LIST, &[], Vec::new()).await.map_err(|e| format!("{e:#}"))?;
        if reply.status == 200 { Ok(reply.json()) } else { Err(reply.text()) }
    })
    .await;
    model.lock().replace(&list);
}

async fn open(api: &Api, model: &Mutex<Model>) -> Opened {
    let path = format!("{LIST}&watch=1&allowWatchBookmarks=true&resourceVersion={}", model.lock().last);
    eventually("the watch opens", SERVER_BOUND, async || match api.watch(&path).await {
        Ok(watch) => Ok(Opened::Watch(Box::new(watch))),
        Err(error) if error.to_string().starts_with("410 ") => Ok(Opened::Gone),
        Err(error) => Err(format!("{error:#}")),
    })
    .await
}

/// Until the watch ends, breaks, or is told that its past is gone.
async fn follow(watch: &mut Watch, model: &Mutex<Model>) {
    while let Ok(Some(event)) = watch.next(SERVER_BOUND).await {
        let typ = event["type"].as_str().unwrap_or_default();
        if typ == "ERROR" {
            let mut model = model.lock();
            if event["object"]["code"] != 410 {
                model.offences.push(format!("the watch ended with {}", event["object"]));
            }
            model.expired = true;
            return;
        }
        model.lock().apply(typ, &event["object"]);
    }
}
