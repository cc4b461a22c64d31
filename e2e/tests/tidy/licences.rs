//! Packages that the product is made of -> those whose licence nobody has agreed to. (`cargo deny check`, with `deny.toml`, says the same and looks for
//! advisories as well, where its database can be reached.)

use std::process::Command;

use serde_json::Value;

use crate::source::root;

/// As SPDX names them; the list of `deny.toml`.
const AGREED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub fn offences() -> Vec<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let told = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &triple])
        .current_dir(root())
        .output()
        .expect("cargo runs, as it runs this test");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let metadata: Value = serde_json::from_slice(&told.stdout).expect("cargo writes JSON");
    let packages: Vec<&Value> =
        metadata["packages"].as_array().into_iter().flatten().filter(|package| package["source"].is_string()).collect();
    assert!(packages.len() > 200, "{} packages", packages.len());
    let list = std::fs::read_to_string(root().join("deny.toml")).expect("there is a deny.toml");
    let unlisted =
        AGREED.iter().filter(|licence| !list.contains(&format!("\"{licence}\""))).map(|licence| format!("deny.toml lacks {licence}"));
    let refused = packages.iter().filter(|package| !is_agreed(package["license"].as_str().unwrap_or_default()));
    let refused = refused.map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]));
    unlisted.chain(refused).collect()
}

/// Of each part that holds besides others, one of its choices.
fn is_agreed(expression: &str) -> bool {
    let part = |part: &str| {
        let part = part.replace(['(', ')'], "").replace('/', " OR ");
        part.split(" OR ").any(|licence| AGREED.contains(&licence.trim()))
    };
    expression.split(" AND ").all(part)
}

#[test]
fn a_licence_is_agreed_to_where_each_part_has_a_choice() {
    for good in
        ["MIT", "MIT/Apache-2.0", "LGPL-2.1-or-later OR MIT", "(Apache-2.0 OR MIT) AND BSD-3-Clause", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(is_agreed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-2.0", "(GPL-2.0 OR AGPL-3.0) AND MIT", "Apache-2.0 WITH Other-exception"] {
        assert!(!is_agreed(bad), "{bad}");
    }
}
