//! Programs of this machine -> the root file systems of the images.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use anyhow::Context;

use super::debian::{self, said};

const NGINX_CONF: &str = "\
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 256; }
http {
  include mime.types;
  access_log /dev/stdout;
  server {
    listen 80;
    root /usr/share/nginx/html;
    index index.html;
  }
}
";

const WELCOME: &str = "\
<!DOCTYPE html>
<html><head><title>Welcome to nginx!</title></head>
<body><h1>Welcome to nginx!</h1></body></html>
";

/// As process 1 httpd would not heed SIGTERM; the shell does.
const HELLO: &str = "\
#!/bin/sh
trap 'echo ending; exit 0' TERM
echo \"hello VERSION on $(hostname)\"
httpd -f -v -p \"${PORT:-8080}\" -h /www &
wait
";

const HELLO_CGI: &str = "\
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo \"Hello from VERSION on $(hostname)\"
";

/// A shell and its tools, users, and a place for temporary files.
pub fn shell(root: &Path, busybox: &Path) -> anyhow::Result<()> {
    for dir in ["bin", "etc", "root", "run", "tmp", "var", "usr/bin", "usr/sbin"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy(busybox, root.join("bin/busybox")).context("copying busybox")?;
    for tool in said(&busybox.display().to_string(), &["--list"])?.lines().filter(|t| *t != "busybox") {
        symlink("/bin/busybox", root.join("bin").join(tool))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n")?;
    Ok(())
}

/// Debian's nginx, and openssl to ask TLS servers with, with the libraries they ask for.
pub fn nginx(root: &Path, scratch: &Path) -> anyhow::Result<()> {
    for (package, path) in [("nginx", "usr/sbin/nginx"), ("openssl", "usr/bin/openssl")] {
        let program = debian::file(scratch, package, path)?;
        copy(&program, &root.join(path))?;
        for library in libraries(&program, scratch)? {
            let kept = library.trim_start_matches('/');
            let inside = kept.split_once("/lib/").filter(|_| !kept.starts_with("lib"));
            copy(Path::new(&library), &root.join(inside.map_or(kept.to_owned(), |(_, rest)| format!("lib/{rest}"))))?;
        }
    }
    for dir in ["etc/nginx", "usr/share/nginx/html", "var/lib/nginx", "var/log/nginx"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let types = debian::file(scratch, "nginx-common", "etc/nginx/mime.types")?;
    copy(&types, &root.join("etc/nginx/mime.types"))?;
    fs::write(root.join("etc/nginx/nginx.conf"), NGINX_CONF)?;
    fs::write(root.join("usr/share/nginx/html/index.html"), WELCOME)?;
    Ok(())
}

/// A page that tells version and host name, and one to probe.
pub fn hello(root: &Path, version: &str) -> anyhow::Result<()> {
    fs::create_dir_all(root.join("www/cgi-bin"))?;
    program(&root.join("bin/hello"), &HELLO.replace("VERSION", version))?;
    program(&root.join("www/cgi-bin/index.cgi"), &HELLO_CGI.replace("VERSION", version))?;
    fs::write(root.join("www/healthz"), "ok\n")?;
    Ok(())
}

/// The shared objects that a program needs, its loader among them. Those that this machine lacks are fetched.
fn libraries(program: &Path, scratch: &Path) -> anyhow::Result<Vec<String>> {
    let program = program.display().to_string();
    let missing = |listed: &str| -> Vec<String> {
        listed.lines().filter(|l| l.contains("not found")).filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
    };
    let mut search = Vec::new();
    for lost in missing(&said("ldd", &[&program])?) {
        search.push(fetched_directory(&lost, scratch)?);
    }
    let path = format!("LD_LIBRARY_PATH={}", search.join(":"));
    let listed = said("env", &[&path, "ldd", &program])?;
    anyhow::ensure!(missing(&listed).is_empty(), "{program} lacks libraries:\n{listed}");
    Ok(listed.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

/// Where the package that holds `library` was unpacked to.
fn fetched_directory(library: &str, scratch: &Path) -> anyhow::Result<String> {
    let package = match library.split('.').next() {
        Some("libpcre2-8") => "libpcre2-8-0",
        Some("libssl" | "libcrypto") => "libssl3",
        Some("libcrypt") => "libcrypt1",
        Some("libz") => "zlib1g",
        _ => anyhow::bail!("{library} is needed, and its package is not known here"),
    };
    let root = debian::unpack(scratch, package)?.display().to_string();
    let found = said("find", &[&root, "-name", library])?;
    let found = found.lines().next().with_context(|| format!("Debian's {package} has no {library}"))?;
    Ok(Path::new(found).parent().context("a library is in a directory")?.display().to_string())
}

fn program(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to.parent().context("a file is in a directory")?)?;
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}
