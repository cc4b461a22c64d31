//! Code that only the start ran -> unmapped again, so that it is not counted as ours, nor kept where memory is short.
//!
//! Linux maps the 64 KiB around each page of the program that is touched, and starting touches one in nearly all of them. Executable pages that are
//! mapped are what it takes back last. Unmapped ones stay in the page cache for as long as nobody needs their memory; running them again is a minor fault.

use std::{fs, io};

use rustix::mm::{Advice, madvise};

/// Unmaps the code of this process: the program's and that of its libraries. Returns how many bytes of addresses that was; what runs comes
/// back as it runs.
///
/// # Errors
/// `/proc/self/maps` cannot be read, or the kernel refuses the advice.
pub fn unmap_code() -> io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut bytes = 0;
    for (start, end) in maps.lines().filter_map(code) {
        unmap(start, end - start)?;
        bytes += end - start;
    }
    Ok(bytes)
}

/// The addresses of a line of `/proc/self/maps`, where it is code of a file: mapped privately, to be read and run and never written.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (addresses, rights, inode) = (words.next()?, words.next()?, words.nth(2)?);
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    (rights == "r-xp" && inode != "0" && start < end).then_some((start, end))
}

#[allow(unsafe_code)]
fn unmap(start: usize, length: usize) -> io::Result<()> {
    let address = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the range is a private mapping of a file that nobody can have written to through it, so that each of its pages is what is in the
    // file, and is read from there again when it is next touched (madvise(2), MADV_DONTNEED). A program that runs cannot be written to (ETXTBSY).
    // Where the mapping has gone meanwhile (a library unloaded) the advice is refused, or is about other code, of which the same holds: code is
    // the only thing that this process maps to be run, and it maps none over data.
    unsafe { madvise(address, length, Advice::LinuxDontNeed) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RssFile`, in KiB.
    fn mapped() -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn code_that_does_not_run_is_not_mapped_and_all_runs_on() {
        let program = fs::read_to_string("/proc/self/maps").unwrap();
        let whole: usize = program.lines().filter_map(code).map(|(start, end)| end - start).sum();
        let before = mapped();
        let unmapped = unmap_code().unwrap();
        let after = mapped();
        assert!(unmapped >= whole && whole > 0, "{unmapped} of {whole}");
        assert!(after < before, "{after} KiB after {before}");
        assert_eq!(format!("{:.3}", std::f64::consts::PI), "3.142", "what is run again is there again");
    }

    #[test]
    fn only_code_of_files_is_taken() {
        let lines = [
            ("5581-5592 r-xp 00001000 fe:00 17 /usr/bin/skiff", Some((0x5581, 0x5592))),
            ("5581-5592 rwxp 00001000 fe:00 17 /usr/bin/skiff", None),
            ("5581-5592 r--p 00001000 fe:00 17 /usr/bin/skiff", None),
            ("5581-5592 r-xs 00001000 fe:00 17 /dev/x", None),
            ("7ffc-7ffd r-xp 00000000 00:00 0 [vdso]", None),
            ("5592-5581 r-xp 00001000 fe:00 17 /x", None),
            ("nonsense", None),
            ("", None),
        ];
        for (line, wanted) in lines {
            assert_eq!(code(line), wanted, "{line}");
        }
    }
}
