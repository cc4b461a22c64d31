//! The harness itself: the binary starts, answers, and ends when asked.

use e2e::{Kubectl, Options, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_answers_and_ends() {
    let mut server = Server::start(Options::default()).await;
    let list = server.api().get("/api/v1/namespaces").await.expect(200);
    assert_eq!(list["kind"], "NamespaceList");
    for kubectl in [Kubectl::old(&server), Kubectl::newer(&server)] {
        let out = kubectl.ok("get namespaces -o name").await;
        assert!(out.lines().any(|l| l == "namespace/kube-system"), "{out}");
    }
    server.assert_sound();
    assert!(server.stop().await.success());
}
