"""The official Python client, through the verbs that programs use. Ends with 0 if all was as on any cluster."""

import sys
import threading
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

config.load_kube_config()
NAMESPACE, NODE = "python", len(sys.argv) > 1 and sys.argv[1] == "node"
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()


def refused(status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == status, error
        return error
    raise AssertionError(f"{call.__name__} was not refused with {status}")


def eventually(what, look, bound=60):
    end = time.monotonic() + bound
    while not (seen := look()):
        assert time.monotonic() < end, f"{what}: not within {bound} s"
        time.sleep(0.1)
    return seen


def objects():
    made = core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "one", "labels": {"n": "1"}}, "data": {"a": "1", "b": "2"}})
    refused(409, core.create_namespaced_config_map, NAMESPACE, {"metadata": {"name": "one"}})
    made.data["a"] = "2"
    later = core.replace_namespaced_config_map("one", NAMESPACE, made)
    assert refused(409, core.replace_namespaced_config_map, "one", NAMESPACE, made).reason == "Conflict"
    merged = core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"b": None, "c": "3"}})
    assert merged.data == {"a": "2", "c": "3"}, merged.data
    jsoned = core.patch_namespaced_config_map("one", NAMESPACE, [{"op": "test", "path": "/data/a", "value": "2"}, {"op": "remove", "path": "/data/c"}])
    assert jsoned.data == {"a": "2"}, jsoned.data
    assert int(jsoned.metadata.resource_version) > int(later.metadata.resource_version)
    for n in range(7):
        core.create_namespaced_config_map(NAMESPACE, {"metadata": {"generateName": "page-", "labels": {"page": "yes"}}})
    seen, token = [], None
    while token != "":
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes", limit=3, _continue=token)
        seen += [item.metadata.name for item in page.items]
        token = page.metadata._continue or ""
    assert len(set(seen)) == 7, seen
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="page=yes")
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes").items


def watches():
    start = core.list_namespaced_secret(NAMESPACE).metadata.resource_version

    def write():
        core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "s"}, "stringData": {"k": "v"}})
        core.patch_namespaced_secret("s", NAMESPACE, {"metadata": {"labels": {"seen": "yes"}}})
        core.delete_namespaced_secret("s", NAMESPACE)

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    for event in watch.Watch().stream(core.list_namespaced_secret, NAMESPACE, resource_version=start, timeout_seconds=30):
        seen.append(event["type"])
        if event["type"] == "DELETED":
            break
    writer.join()
    assert seen == ["ADDED", "MODIFIED", "DELETED"], seen


def applies():
    """Server-side apply through the dynamic client."""
    maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": NAMESPACE}, "data": {"mine": "1"}}
    maps.server_side_apply(body=body, name="applied", namespace=NAMESPACE, field_manager="one")
    body["data"] = {"mine": "2"}
    try:
        maps.server_side_apply(body=body, name="applied", namespace=NAMESPACE, field_manager="two")
        raise AssertionError("no conflict")
    except ApiException as error:
        assert error.status == 409 and "conflict with \"one\"" in error.body.decode() if isinstance(error.body, bytes) else error.body, error
    maps.server_side_apply(body=body, name="applied", namespace=NAMESPACE, field_manager="two", force_conflicts=True)
    assert maps.get(name="applied", namespace=NAMESPACE).data.mine == "2"


def customs():
    api = client.ApiextensionsV1Api()
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"span": {"type": "integer", "maximum": 9}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}
    names = {"kind": "Wing", "plural": "wings", "singular": "wing"}
    api.create_custom_resource_definition(
        {"metadata": {"name": "wings.sky.example"}, "spec": {"group": "sky.example", "names": names, "scope": "Namespaced", "versions": [version]}}
    )
    where = ("sky.example", "v1", NAMESPACE, "wings")

    def established():
        status = api.read_custom_resource_definition("wings.sky.example").status
        return any(c.type == "Established" and c.status == "True" for c in (status.conditions or []) if status)

    eventually("Established", established)
    wing = {"apiVersion": "sky.example/v1", "kind": "Wing", "metadata": {"name": "w"}, "spec": {"span": 3}}
    eventually("served", lambda: custom.list_namespaced_custom_object(*where) is not None)
    custom.create_namespaced_custom_object(*where, wing)
    refused(422, custom.patch_namespaced_custom_object, *where, "w", {"spec": {"span": 10}})
    custom.patch_namespaced_custom_object_status(*where, "w", {"status": {"flies": True}})
    got = custom.get_namespaced_custom_object(*where, "w")
    assert got["spec"] == {"span": 3} and "status" not in got or got["status"] == {}, got
    custom.delete_namespaced_custom_object(*where, "w")
    api.delete_custom_resource_definition("wings.sky.example")


def pods():
    """A Deployment of a file, exec, logs and a port of its pod."""
    labels = {"app": "hello"}
    container = {"name": "hello", "image": "hello:v1", "imagePullPolicy": "IfNotPresent"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "hello", "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    utils.create_from_dict(client.ApiClient(), deployment)
    eventually("a ready Deployment", lambda: apps.read_namespaced_deployment_status("hello", NAMESPACE).status.ready_replicas == 1)
    pod = core.list_namespaced_pod(NAMESPACE, label_selector="app=hello").items[0].metadata.name
    command = ["sh", "-c", "read line; echo got $line; echo oops >&2; exit 3"]
    run = stream(core.connect_get_namespaced_pod_exec, pod, NAMESPACE, command=command, stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
    run.write_stdin("me\n")
    run.run_forever(timeout=30)
    assert (run.read_stdout(), run.read_stderr(), run.returncode) == ("got me\n", "oops\n", 3)
    ports = portforward(core.connect_get_namespaced_pod_portforward, pod, NAMESPACE, ports="8080")
    socket = ports.socket(8080)
    socket.setblocking(True)
    socket.sendall(b"GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n")
    answer = b""
    while piece := socket.recv(4096):
        answer += piece
    assert b"200" in answer.split(b"\r\n")[0], answer
    assert isinstance(core.read_namespaced_pod_log(pod, NAMESPACE), str)
    apps.patch_namespaced_deployment_scale("hello", NAMESPACE, {"spec": {"replicas": 0}})
    eventually("no pods", lambda: not core.list_namespaced_pod(NAMESPACE, label_selector="app=hello").items)


core.create_namespace({"metadata": {"name": NAMESPACE}})
eventually("a service account", lambda: core.list_namespaced_service_account(NAMESPACE).items)
for part in (objects, watches, applies, customs) + ((pods,) if NODE else ()):
    part()
    print(f"{part.__name__}: as on any cluster")
core.delete_namespace(NAMESPACE)
