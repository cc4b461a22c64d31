"""An operator as people write them with kopf: each Flock has a ConfigMap with as many birds as it asks for, and says so in its status."""

import kopf
import kubernetes
from kubernetes.client.rest import ApiException

GROUP, VERSION, PLURAL = "sky.example", "v1", "flocks"


def child(name, size):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {f"bird-{n}": "here" for n in range(size)},
    }


@kopf.on.startup()
def configure(settings, **_):
    settings.posting.enabled = True
    settings.persistence.finalizer = "sky.example/flock"


@kopf.on.resume(PLURAL)
@kopf.on.create(PLURAL)
@kopf.on.update(PLURAL, field="spec")
def reconcile(name, namespace, spec, patch, meta, **_):
    wanted = child(name, spec["size"])
    kopf.adopt(wanted)
    core = kubernetes.client.CoreV1Api()
    try:
        core.replace_namespaced_config_map(name, namespace, wanted)
    except ApiException as error:
        if error.status != 404:
            raise kopf.TemporaryError(str(error), delay=1) from error
        core.create_namespaced_config_map(namespace, wanted)
    patch.status["birds"] = spec["size"]
    patch.status["observedGeneration"] = meta["generation"]


@kopf.on.delete(PLURAL)
def gone(name, namespace, **_):
    core = kubernetes.client.CoreV1Api()
    core.create_namespaced_config_map(namespace, {"metadata": {"name": f"{name}-flew"}})
