//! A file of configuration -> its value, read strictly, and read again when it changes. What is broken leaves what was.
//!
//! Sources: `pkg/kubeapiserver/{options/authentication,authorizer/reload}.go`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

/// How often a file is looked at. (Upstream hears of changes, and looks once a minute as well.)
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// The group of these files.
const GROUP: &str = "apiserver.config.k8s.io/";

/// One file that is followed.
pub struct Reload {
    pub file: PathBuf,
    /// What was read of it.
    pub text: String,
    pub take: Take,
}

/// Takes a new text: what is wrong with it, and whether it may come right without being changed.
pub type Take = Arc<dyn Fn(String) -> BoxFuture<'static, Result<(), Wrong>> + Send + Sync>;

/// Why a text was not taken.
#[derive(Debug)]
pub enum Wrong {
    /// It never will be.
    Text(String),
    /// It is tried again.
    Passing(String),
}

impl Reload {
    /// Looks at the file until the end.
    pub async fn follow(self) {
        self.follow_each(LOOK_PAUSE).await;
    }

    pub async fn follow_each(mut self, pause: Duration) {
        let file = self.file.display().to_string();
        let mut looks = interval(pause);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let text = match tokio::fs::read_to_string(&self.file).await {
                Ok(text) if text == self.text => continue,
                Ok(text) => text,
                Err(error) => {
                    tracing::error!(file, %error, "failed to read a configuration file; what was read before holds");
                    continue;
                }
            };
            match (self.take)(text.clone()).await {
                Ok(()) => {
                    tracing::info!(file, "reloaded a configuration file");
                    self.text = text;
                }
                Err(Wrong::Text(error)) => {
                    tracing::error!(file, error, "failed to reload a configuration file; what was read before holds");
                    self.text = text;
                }
                Err(Wrong::Passing(error)) => {
                    tracing::error!(
                        file,
                        error,
                        "failed to reload a configuration file; what was read before holds, and it is tried again"
                    );
                }
            }
        }
    }
}

/// YAML or JSON of this kind, in any of its versions (which are of one shape). An unknown field is an error.
///
/// # Errors
/// In words.
pub fn parse<T: DeserializeOwned>(text: &str, kind: &str) -> Result<T, String> {
    if text.trim().is_empty() {
        return Err("empty config data".into());
    }
    let options = serde_yaml::options! { legacy_octal_numbers: true };
    let mut value: Value = serde_yaml::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    let map = value.as_object_mut().ok_or("it is no map")?;
    let mut word = |name: &str| map.shift_remove(name).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
    let (version, found) = (word("apiVersion"), word("kind"));
    let known = version.strip_prefix(GROUP).is_some_and(|version| ["v1", "v1beta1", "v1alpha1"].contains(&version));
    if !known || found != kind {
        return Err(format!("no kind {found:?} is registered for version {version:?}; expected {kind} of {GROUP}v1"));
    }
    serde_json::from_value(value).map_err(|error| format!("strict decoding error: {error}"))
}
