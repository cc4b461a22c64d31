//! A TCP line to a port that can go dead: what is sent on it is neither delivered nor refused.

use std::sync::Arc;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

pub struct Line {
    port: u16,
    dead: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Line {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        let (dead, mut tasks) = (watch::Sender::new(false), JoinSet::new());
        tasks.spawn(accept(listener, target, dead.clone()));
        Self { port, dead, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Connections there are stand still for ever; new ones are taken, and stand still as well.
    pub fn die(&self) {
        self.dead.send_replace(true);
    }

    /// New connections pass again.
    pub fn live(&self) {
        self.dead.send_replace(false);
    }
}

async fn accept(listener: TcpListener, target: u16, dead: watch::Sender<bool>) {
    let mut carrying = JoinSet::new();
    let dead = Arc::new(dead);
    while let Ok((mut client, _)) = listener.accept().await {
        let dead = dead.clone();
        carrying.spawn(async move {
            let mut dies = dead.subscribe();
            let passing = async {
                if let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await {
                    // However it ends, both ends are closed.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            };
            let dying = async { drop(dies.wait_for(|dead| *dead).await) };
            tokio::select! {
                biased;
                () = dying => std::future::pending::<()>().await,
                () = passing => {}
            }
        });
    }
}
