//! A pod -> the configs of its sandbox and of its containers, with no runtime to take them: for the fuzz targets.

use api::k8s::api::core::v1::Container;

use super::{command, devices, mounts, security};
use crate::{
    context::PodContext,
    env::{self, Fetched},
    labels, meta,
};

/// How many parts of them were made; the others were refused. Files that they mount stand below the context's directory; nothing is mounted.
pub fn rehearse(cx: &PodContext, fetched: &Fetched) -> usize {
    let pod = &*cx.pod;
    let _ = (super::dns_warnings(cx), labels::of_sandbox(pod), labels::sandbox_metadata(pod, 0), meta::format(pod));
    let all = meta::containers(pod).map(|container| one(cx, container, fetched));
    all.sum::<usize>() + usize::from(super::sandbox(cx).is_ok())
}

fn one(cx: &PodContext, container: &Container, fetched: &Fetched) -> usize {
    let (pod, facts) = (&*cx.pod, super::facts(cx));
    let (services, master_namespace) = (&cx.services, cx.node.master_service_namespace.as_str());
    let built = env::build(env::Input { pod, container, facts: &facts, fetched, services, master_namespace });
    let mut made = usize::from(built.is_ok());
    let environment = built.unwrap_or_default();
    let _ = (command::expanded(container, &environment), command::stop_signal(container));
    let _ = devices::of(cx, container);
    let _ = (labels::of_container(pod, container), labels::annotations(pod, container, 0, ""));
    for mount in container.volume_mounts.iter().flatten() {
        let _ = (mounts::sub_path(mount, &environment), mounts::absolute(&mount.mount_path));
        made += usize::from(mounts::propagation(mount.mount_propagation.as_deref()).is_ok());
    }
    let bare = Container { volume_mounts: None, ..container.clone() };
    made += usize::from(mounts::of(cx, &bare, &environment).is_ok());
    let by_number = cri::Image { uid: Some(cri::Int64Value { value: 0 }), ..cri::Image::default() };
    for image in [by_number, cri::Image { username: "nginx".into(), ..cri::Image::default() }] {
        let _ = super::image_spec(container, &image);
        made += usize::from(security::verify_non_root(pod, container, &image).is_ok());
        made += usize::from(super::linux(cx, container, &image).is_ok());
    }
    made
}
