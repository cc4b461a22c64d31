//! Nothing -> the image every sandbox runs: one static program of a few dozen bytes, so that no registry is needed for it.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::tar::Tar;

/// The name containerd finds it by.
pub const IMAGE: &str = "skiff.local/pause:2";

/// Where a runtime mounts something into a sandbox. What is not there it would make for each, on a disk.
const DIRECTORIES: [&str; 4] = ["dev", "etc", "proc", "sys"];
const MOUNTED_FILE: &str = "etc/resolv.conf";

/// Where the program is loaded; anything page-aligned and low will do for a static program.
const BASE: u64 = 0x40_0000;
const EHDR_BYTES: u16 = 64;
const PHDR_BYTES: u16 = 56;

/// What differs between machines: the ELF machine number, the OCI name, and the program.
struct Machine {
    elf: u16,
    oci: &'static str,
    code: Vec<u8>,
}

/// What a runtime's own code may call between installing the filter and running the program, whichever runtime and language it is; all of it
/// is in RuntimeDefault too. One name a line would be a page.
const OF_A_RUNTIME: [&str; 9] = [
    "access chdir close close_range dup dup2 dup3 faccessat faccessat2 fchdir fcntl fstat fstatfs getcwd getdents64 ioctl lseek lstat",
    "newfstatat open openat openat2 pipe2 poll pread64 pselect6 read readlink readlinkat readv stat statfs statx umask write writev",
    "brk madvise membarrier mincore mmap mprotect mremap munmap",
    "clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep time",
    "arch_prctl futex get_robust_list getcpu gettid rseq sched_getaffinity sched_yield set_robust_list set_tid_address",
    "capget capset getegid geteuid getgid getgroups getpid getppid getresgid getresuid getrlimit getrusage getsid getuid prctl prlimit64 setgid",
    "setgroups setpgid setresgid setresuid setsid setuid",
    "epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2 recvfrom recvmsg sendmsg sendto shutdown",
    "execve execveat exit exit_group getrandom restart_syscall rt_sigpending rt_sigprocmask rt_sigreturn sigaltstack sysinfo tgkill uname",
];
/// What the program calls, on any machine.
const OF_THE_PROGRAM: [&str; 3] = ["rt_sigaction", "pause", "ppoll"];

/// An OCI seccomp profile for a sandbox: no new sockets, processes or mounts, and calls of other architectures are not known at all.
///
/// Upstream asks for RuntimeDefault: 360 calls on three architectures, with conditions. To make a filter of that took a fifth of a pod's CPU time.
pub fn seccomp_profile() -> String {
    let names: Vec<&str> = OF_A_RUNTIME.iter().flat_map(|line| line.split(' ')).chain(OF_THE_PROGRAM).collect();
    json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]}).to_string()
}

/// The image as an OCI layout in a tar archive, for the machine this was compiled for. `None` where we have no program for it.
pub fn archive() -> Option<Vec<u8>> {
    let machine = machine(std::env::consts::ARCH)?;
    let mut layer = Tar::default();
    DIRECTORIES.iter().for_each(|name| layer.directory(name, 0o755));
    layer.file(MOUNTED_FILE, 0o644, b"");
    layer.file("pause", 0o755, &elf(&machine));
    let layer = layer.finish();
    let config = json!({
        "architecture": machine.oci, "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    Some(layout(config.to_string().as_bytes(), &layer))
}

fn layout(config: &[u8], layer: &[u8]) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    let manifest = manifest.to_string();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    entry["annotations"] = json!({"io.containerd.image.name": IMAGE});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let mut tar = Tar::default();
    tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    tar.file("index.json", 0o644, index.to_string().as_bytes());
    for blob in [config, layer, manifest.as_bytes()] {
        tar.file(&format!("blobs/{}", digest(blob).replace(':', "/")), 0o644, blob);
    }
    tar.finish()
}

fn descriptor(media_type: &str, blob: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", api::hex(Sha256::digest(blob)))
}

/// A static ELF file of one loadable, executable segment that begins at its first instruction.
fn elf(machine: &Machine) -> Vec<u8> {
    let headers = u64::from(EHDR_BYTES + PHDR_BYTES);
    let size = headers + machine.code.len() as u64;
    // Magic, 64-bit, little-endian, version 1, System V.
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let executable = 2_u16;
    file.extend(executable.to_le_bytes());
    file.extend(machine.elf.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    // Entry, offset of program headers, no section headers.
    [BASE + headers, u64::from(EHDR_BYTES), 0].iter().for_each(|n| file.extend(n.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    [EHDR_BYTES, PHDR_BYTES, 1, 0, 0, 0].iter().for_each(|n| file.extend(n.to_le_bytes()));
    // PT_LOAD, readable and executable: the whole file at BASE.
    [1_u32, 5].iter().for_each(|n| file.extend(n.to_le_bytes()));
    [0, BASE, BASE, size, size, 0x1000].iter().for_each(|n: &u64| file.extend(n.to_le_bytes()));
    file.extend(&machine.code);
    file
}

/// The program: ignore SIGCHLD, so that the kernel reaps what is orphaned in a shared process namespace, then wait for ever.
///
/// As process 1 it survives every signal but SIGKILL, which is how the runtime ends it.
fn machine(arch: &str) -> Option<Machine> {
    match arch {
        "x86_64" => Some(Machine { elf: 62, oci: "amd64", code: x86_64() }),
        "aarch64" => Some(Machine { elf: 183, oci: "arm64", code: aarch64() }),
        _ => None,
    }
}

/// The kernel's `struct sigaction` of SIG_IGN: handler 1, no flags, no restorer, empty mask.
fn ignore() -> [u8; 32] {
    let mut action = [0; 32];
    action[0] = 1;
    action
}

fn x86_64() -> Vec<u8> {
    let mut code = vec![
        0xb8, 13, 0, 0, 0, // mov eax, rt_sigaction
        0xbf, 17, 0, 0, 0, // mov edi, SIGCHLD
        0x48, 0x8d, 0x35, 19, 0, 0, 0, // lea rsi, [rip + action]
        0x31, 0xd2, // xor edx, edx
        0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
        0x0f, 0x05, // syscall
        0xb8, 34, 0, 0, 0, // mov eax, pause
        0x0f, 0x05, // syscall
        0xeb, 0xf7, // jmp -9: to pause
    ];
    code.extend(ignore());
    code
}

fn aarch64() -> Vec<u8> {
    const SVC: u32 = 0xd400_0001;
    let mov = |register: u32, value: u32| 0xd280_0000 | value << 5 | register;
    let adr_x1 = |words: u32| 0x1000_0001 | words << 5;
    let words = [
        mov(8, 134), // rt_sigaction
        mov(0, 17),  // SIGCHLD
        adr_x1(12),  // the action is twelve words on
        mov(2, 0),
        mov(3, 8),
        SVC,
        mov(0, 0), // ppoll(none, 0, for ever): there is no pause here
        mov(1, 0),
        mov(2, 0),
        mov(3, 0),
        mov(8, 73),
        SVC,
        0x1400_0000 | (0x03ff_ffff & (-6_i32).cast_unsigned()), // b -6: to ppoll's first argument
        0xd503_201f,                                            // nop: the action lies on eight bytes
    ];
    let mut code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    code.extend(ignore());
    code
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{fs::PermissionsExt, process::ExitStatusExt},
        process::Command,
    };

    use super::*;

    #[test]
    fn the_program_runs_until_it_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        std::fs::write(&path, elf(&machine(std::env::consts::ARCH).unwrap())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).spawn().unwrap();
        // SIGCHLD ignored shows in the mask: bit 16 of SigIgn.
        let ignored = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).unwrap().trim().to_owned();
            u64::from_str_radix(&mask, 16).unwrap() & (1 << 16) != 0
        };
        assert!((0..10_000_000).any(|_| ignored()));
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn addresses_in_the_programs_are_right() {
        let x86 = x86_64();
        assert_eq!(17 + 19, x86.len() - 32, "lea counts from the end of its instruction");
        let arm = aarch64();
        assert_eq!((2 + 12) * 4, arm.len() - 32, "adr counts from its own instruction");
    }
}
