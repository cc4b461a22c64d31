//! Calls that come over a socket -> the answers of the plugin, given by the agent that runs.
//!
//! A runtime runs two plugins for each sandbox, and most of what that costs is the exec of a large program. What it finds under our names is
//! a small one (the product's `src/node/cni_shim.rs`), which asks here; where nobody listens, it runs the whole program instead.
//!
//! Wire: the caller sends each `CNI_` variable as `NAME=value`, ended by a zero byte, one more zero byte, what came on its standard input, and
//! closes its side. The answer is one byte, the exit status, then what is to be printed.

use std::{io, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use api::task::Group;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::oneshot,
};

use super::{
    Answer, answer,
    spec::{Command, Fault, Request, STDIN_BYTES_MAX},
};

/// The variables besides: container, interface, namespace, arguments, search path.
const ENVIRONMENT_BYTES_MAX: u64 = 1 << 16;
/// The caller sends all at once.
const READ_BOUND: Duration = Duration::from_secs(10);

/// Answers at `socket` while `group` lives. Only root (or who runs us) is answered.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(socket: &Path, group: &Group) -> io::Result<()> {
    // Left by a run that was killed.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let calls = group.clone();
    group.spawn_loop("network plugin", async move {
        loop {
            match listener.accept().await {
                // To its end, also while the group stops: half an attachment is nobody's.
                Ok((caller, _)) => calls.spawn_careful(Box::pin(one(caller))),
                // No descriptors left: the caller runs the whole program.
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a CNI request");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn one(mut caller: UnixStream) {
    if let Err(error) = converse(&mut caller).await {
        // It has ended, or says so itself.
        tracing::debug!(%error, "CNI request failed");
    }
}

async fn converse(caller: &mut UnixStream) -> io::Result<()> {
    if ![0, rustix::process::geteuid().as_raw()].contains(&caller.peer_cred()?.uid()) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut asked = Vec::new();
    let mut limited = (&mut *caller).take(ENVIRONMENT_BYTES_MAX + STDIN_BYTES_MAX);
    tokio::time::timeout(READ_BOUND, limited.read_to_end(&mut asked)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let request = request(&asked);
    let undo = request.as_ref().ok().filter(|r| r.command == Command::Add).map(|r| Request { command: Command::Del, ..r.clone() });
    let Answer { text, code } = on_a_thread(request).await?;
    let sent = caller.write_all(&[&[code], text.as_bytes()].concat()).await;
    if let (Err(_), Some(undo)) = (&sent, undo) {
        // Who asked was ended meanwhile, and its own DEL may have come before this ADD was done.
        on_a_thread(Ok(undo)).await?;
    }
    sent
}

/// A thread of its own: it visits other namespaces, and waits for the lock of the leases.
async fn on_a_thread(request: Result<Request, Fault>) -> io::Result<Answer> {
    let (sender, hear) = oneshot::channel();
    std::thread::Builder::new().name("cni".into()).spawn(move || sender.send(answer(request)))?;
    hear.await.map_err(|_| io::ErrorKind::Other.into())
}

fn request(asked: &[u8]) -> Result<Request, Fault> {
    let text = str::from_utf8(asked).map_err(|e| Fault::io("read the call", &e))?;
    let (variables, stdin) = match text.split_once("\0\0") {
        Some(split) => split,
        None => return Err(Fault::io("read the call", &"it is cut")),
    };
    let value = |name: &str| variables.split('\0').filter_map(|v| v.split_once('=')).find(|(n, _)| *n == name);
    Request::of(|name| value(name).map(|(_, v)| v.to_owned()).unwrap_or_default(), || Ok(stdin.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_from_its_bytes() {
        let conf = r#"{"cniVersion":"1.0.0","name":"n","type":"skiff-cni"}"#;
        let bytes = format!("CNI_COMMAND=ADD\0CNI_CONTAINERID=c1\0CNI_IFNAME=eth0\0CNI_NETNS=/run/netns/x\0CNI_ARGS=A=1;B=2\0\0{conf}");
        let request = request(bytes.as_bytes()).unwrap();
        assert_eq!((request.command, request.owner.container.as_str(), request.owner.ifname.as_str()), (Command::Add, "c1", "eth0"));
        assert_eq!(request.netns.as_deref(), Some(Path::new("/run/netns/x")));
    }

    #[test]
    fn what_is_no_call_is_refused() {
        for (bytes, code) in [(&b""[..], 5), (b"CNI_COMMAND=ADD\0", 5), (b"\xff\0\0", 5), (b"A=1\0\0{}", 4), (b"CNI_COMMAND=ADD\0\0{", 6)] {
            assert_eq!(request(bytes).unwrap_err().code, code, "{bytes:?}");
        }
    }
}
