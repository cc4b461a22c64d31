//! Calls of a plan -> the runtime, one pod at a time.

mod deps;
mod execute;
mod hooks;
mod image_name;
mod images;
mod registry_auth;
mod remove;
mod start;
mod start_limiter;
mod stop;
mod work;

#[doc(inline)]
pub use self::{
    deps::Deps,
    execute::run,
    image_name::{registry, with_default_tag},
    images::Images,
    remove::{gone, remove_sandbox},
    start_limiter::StartLimiter,
    work::Work,
};
