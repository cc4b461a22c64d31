//! The back ends under test, each fresh.

use store::{Store, memory::Memory};

pub struct Backend {
    store: Box<dyn Store>,
    _dir: Option<tempfile::TempDir>,
}

impl Backend {
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub async fn memory() -> Self {
        Self { store: Box::new(Memory::new()), _dir: None }
    }

    pub async fn redb() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = store::redb::open(dir.path()).expect("a fresh store");
        Self { store: Box::new(store), _dir: Some(dir) }
    }
}

/// Makes one module of tests per back end.
macro_rules! each_backend {
    ($($test:ident),* $(,)?) => {
        each_backend!(@ memory: $($test),*);
        each_backend!(@ redb: $($test),*);
    };
    (@ $backend:ident: $($test:ident),*) => {
        mod $backend {
            $(#[tokio::test]
            async fn $test() {
                let backend = $crate::backends::Backend::$backend().await;
                super::$test(&backend).await;
                backend.store().close().await;
            })*
        }
    };
}
pub(crate) use each_backend;
