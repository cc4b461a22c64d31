//! A TCP proxy before etcd that holds back what goes through it, and cuts: the moments of a network that fails.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    connections: Mutex<Connections>,
    target: Mutex<Option<String>>,
}

#[derive(Default)]
struct Connections {
    next: usize,
    live: HashMap<usize, Arc<Gates>>,
    /// Cut on the client's side; what the client had sent may still be held.
    cut: Vec<Arc<Gates>>,
}

struct Gates {
    requests: watch::Sender<bool>,
    replies: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    /// Bytes that wait at the closed gate for requests.
    held: watch::Sender<usize>,
    /// Bytes that the server sent after the cut.
    late: watch::Sender<usize>,
}

impl Proxy {
    /// To an `http://` address.
    pub async fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { connections: Mutex::default(), target: Mutex::new(Some(host(target))) });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared.clone()));
        Self { address, shared, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the server says from now on stays here, on the connections there are.
    pub fn hold_replies(&self) {
        self.each(|gates| set(&gates.replies, false));
    }

    /// What clients say from now on stays here, on the connections there are.
    pub fn hold_requests(&self) {
        self.each(|gates| set(&gates.requests, false));
    }

    /// Whether requests are being held.
    pub fn holds(&self) -> bool {
        let connections = self.shared.connections.lock().unwrap();
        connections.live.values().any(|gates| *gates.held.borrow() > 0)
    }

    /// Closes the client's side of all connections. The server does not notice.
    pub fn cut(&self) {
        let mut connections = self.shared.connections.lock().unwrap();
        let live: Vec<_> = connections.live.drain().map(|(_, gates)| gates).collect();
        live.iter().for_each(|gates| set(&gates.cut, true));
        connections.cut.extend(live);
    }

    /// Lets what was held of cut connections go to the server.
    pub fn release(&self) {
        let connections = self.shared.connections.lock().unwrap();
        connections.cut.iter().for_each(|gates| set(&gates.requests, true));
    }

    /// Whether the server has answered what came late.
    pub fn answered_late(&self) -> bool {
        self.shared.connections.lock().unwrap().cut.iter().any(|gates| *gates.late.borrow() > 0)
    }

    /// Where new connections go; `None`: nowhere.
    pub fn lead_to(&self, target: Option<&str>) {
        *self.shared.target.lock().unwrap() = target.map(host);
    }

    fn each(&self, f: impl Fn(&Gates)) {
        self.shared.connections.lock().unwrap().live.values().for_each(|gates| f(gates));
    }
}

fn set(gate: &watch::Sender<bool>, to: bool) {
    gate.send_replace(to);
}

fn host(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut carrying = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let target = shared.target.lock().unwrap().clone();
        let Some(target) = target else { continue };
        let Ok(server) = TcpStream::connect(target).await else { continue };
        let gates = Arc::new(Gates {
            requests: watch::Sender::new(true),
            replies: watch::Sender::new(true),
            cut: watch::Sender::new(false),
            held: watch::Sender::new(0),
            late: watch::Sender::new(0),
        });
        {
            let mut connections = shared.connections.lock().unwrap();
            let id = connections.next;
            connections.next += 1;
            connections.live.insert(id, gates.clone());
        }
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        carrying.spawn(requests(from_client, to_server, gates.clone()));
        carrying.spawn(replies(from_server, to_client, gates));
    }
}

async fn requests(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, gates: Arc<Gates>) {
    let (mut buffer, mut gate) = (vec![0; 64 << 10], gates.requests.subscribe());
    loop {
        let read = match client.read(&mut buffer).await {
            Ok(read) if read > 0 => read,
            _ => break,
        };
        if !*gate.borrow() {
            gates.held.send_modify(|held| *held += read);
        }
        if gate.wait_for(|open| *open).await.is_err() || server.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    // A client that was cut off is not one that has said goodbye.
    if *gates.cut.borrow() {
        std::future::pending::<()>().await;
    }
}

async fn replies(mut server: OwnedReadHalf, mut client: OwnedWriteHalf, gates: Arc<Gates>) {
    let (mut buffer, mut gate, mut cut) = (vec![0; 64 << 10], gates.replies.subscribe(), gates.cut.subscribe());
    let passing = async {
        loop {
            let read = match server.read(&mut buffer).await {
                Ok(read) if read > 0 => read,
                _ => return,
            };
            if gate.wait_for(|open| *open).await.is_err() || client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = passing => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
    let _ = client.shutdown().await;
    if *gates.cut.borrow() {
        while let Ok(read @ 1..) = server.read(&mut buffer).await {
            gates.late.send_modify(|late| *late += read);
        }
    }
}
