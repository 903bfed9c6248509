//! Memory that a process at rest can do without.

use std::ffi::{c_int, c_void};

/// What the allocator keeps of what was freed. Others than glibc's keep little.
pub(super) fn heap() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "libc has no safe wrapper")]
    // SAFETY: malloc_trim(3) may be called at any time by any thread; it takes no pointer.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From this size on, a block has a mapping of its own: it grows without being copied, and is gone when it is freed.
/// glibc begins with this number too, but raises it to the largest block that was ever freed; what the arena of a thread
/// holds after that, `malloc_trim` does not give back.
#[cfg(target_env = "gnu")]
const MAPPED: c_int = 128 * 1024;

/// Has the allocator keep no large block, for as long as this process lives.
pub(super) fn keep_no_large_blocks() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "libc has no safe wrapper")]
    // SAFETY: mallopt(3) takes no pointer, and may be called while others allocate. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
    }
}

/// Pages around one that is touched that are mapped with it.
const PIECE: usize = 4;

/// Unmaps the pages of our own program that hold code and constants. They stay in the page cache, and are mapped again
/// where they are used: most of what is resident of an idle supervisor is code that it needed once.
#[expect(unsafe_code, reason = "libc has no safe wrapper")]
pub(super) fn program() {
    for (start, length) in constants() {
        // SAFETY: each of these pages is the file's and comes back as it was (madvise(2), MADV_DONTNEED). A refusal changes
        // nothing.
        unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Has the kernel map [`PIECE`] pages of the program around a page that is touched, for as long as this process lives.
///
/// Linux maps all pages of the 64 KiB around it that are in the page cache (`do_fault_around` in mm/memory.c), but not
/// beyond the mapping. An idle supervisor runs a little code in many places: so its neighbours are most of what would be
/// resident. Adjacent mappings stay apart if they differ in a flag; this one says whether a core dump includes them, and
/// unmodified pages of a file are in none by default (core(5)).
#[expect(unsafe_code, reason = "libc has no safe wrapper")]
pub(super) fn map_in_small_pieces() {
    let piece = PIECE * page_size();
    for (start, length) in constants() {
        for at in (start..start + length).step_by(piece.max(1) * 2) {
            let length = piece.min(start + length - at);
            // SAFETY: changes what a core dump holds, and no byte of memory. A refusal leaves a larger mapping.
            unsafe { libc::madvise(at as *mut c_void, length, libc::MADV_DONTDUMP) };
        }
    }
}

/// Address and length in bytes, in whole pages, of what our own program has loaded and never writes to, nor the dynamic
/// linker.
#[expect(unsafe_code, reason = "only the dynamic linker knows what is mapped where")]
fn constants() -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    // SAFETY: dl_iterate_phdr(3) calls back before it returns, with pointers that are valid until then and the one it is
    // given here, which is what `note` expects.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut found).cast()) };
    found
}

fn page_size() -> usize {
    #[expect(unsafe_code, reason = "libc has no safe wrapper")]
    // SAFETY: takes no pointer. It cannot fail; 0 would mean that there are no whole pages.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(0)
}

/// Called for each loaded object, the program itself first. `found`: a `Vec<(usize, usize)>`.
#[expect(unsafe_code, reason = "a callback of C")]
unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, found: *mut c_void) -> c_int {
    // Ends the iteration: libraries are shared with everybody else, and cost little.
    const ENOUGH: c_int = 1;
    // SAFETY: `info` is valid for the time of the call, as dl_iterate_phdr promises, and so are its headers; `found` is
    // what `constants` passed, which nothing else uses meanwhile.
    let (info, headers, found) = unsafe {
        let info = &*info;
        if info.dlpi_phdr.is_null() {
            return ENOUGH;
        }
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        (info, headers, &mut *found.cast::<Vec<(usize, usize)>>())
    };
    for header in headers.iter().filter(|header| is_constant(header.p_type, header.p_flags)) {
        let (Ok(base), Ok(address), Ok(size)) = (
            usize::try_from(info.dlpi_addr),
            usize::try_from(header.p_vaddr),
            usize::try_from(header.p_memsz),
        ) else {
            continue;
        };
        if let Some((start, length)) = whole_pages(address, size, page_size()) {
            found.push((base.wrapping_add(start), length));
        }
    }
    ENOUGH
}

/// Whether a segment is loaded from the file and never written to. What is made read-only after it was relocated
/// (RELRO) is a part of a segment that is writable by its header.
fn is_constant(kind: u32, flags: u32) -> bool {
    kind == libc::PT_LOAD && flags & libc::PF_W == 0
}

/// The whole pages within `address..address + size`: one at the edge may be shared with the next segment.
fn whole_pages(address: usize, size: usize, page: usize) -> Option<(usize, usize)> {
    let start = address.checked_next_multiple_of(page)?;
    let end = address.checked_add(size)?;
    let length = (end - end.checked_rem(page)?).checked_sub(start)?;
    (length > 0).then_some((start, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_at_the_edges_are_left_alone() {
        assert_eq!(whole_pages(0x1000, 0x2000, 0x1000), Some((0x1000, 0x2000)));
        assert_eq!(whole_pages(0x1001, 0x2000, 0x1000), Some((0x2000, 0x1000)));
        assert_eq!(whole_pages(0x1001, 0x1ffe, 0x1000), None);
        assert_eq!(whole_pages(0x1000, 0xfff, 0x1000), None);
        assert_eq!(whole_pages(0x1000, usize::MAX, 0x1000), None);
        assert_eq!(whole_pages(0x1000, 0x1000, 0), None);
    }

    #[test]
    fn what_may_have_been_written_to_is_no_constant() {
        assert!(is_constant(libc::PT_LOAD, libc::PF_R | libc::PF_X));
        assert!(!is_constant(libc::PT_LOAD, libc::PF_R | libc::PF_W));
        assert!(!is_constant(libc::PT_GNU_RELRO, libc::PF_R));
    }

    #[cfg(target_env = "gnu")]
    #[test]
    #[expect(unsafe_code, reason = "only glibc's own note before a block says where it lies")]
    fn a_large_block_has_a_mapping_of_its_own_after_another_was_freed_as_well() {
        keep_no_large_blocks();
        for _ in 0..3 {
            let block = std::hint::black_box(vec![1_u8; 4 << 20]);
            // SAFETY: glibc keeps the size of a block, with flags in its lowest bits, in the word before it (malloc/malloc.c).
            let noted = unsafe { block.as_ptr().cast::<usize>().sub(1).read() };
            assert_ne!(noted & 0b10, 0, "IS_MMAPPED");
        }
    }

    #[test]
    fn the_program_goes_on_as_before() {
        static CONSTANTS: [u8; 1 << 16] = [7; 1 << 16];
        let sum = || std::hint::black_box(&CONSTANTS).iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let before = sum();
        heap();
        program();
        map_in_small_pieces();
        assert_eq!(sum(), before);
        program();
        assert_eq!(sum(), before);
    }

    /// In a process of its own, whose other threads do not run the code around what is looked at.
    #[test]
    fn around_a_page_that_is_touched_little_else_is_mapped() {
        map_in_small_pieces();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let size = |line: &str| {
            let (from, to) = line.split_whitespace().next()?.split_once('-')?;
            Some(usize::from_str_radix(to, 16).ok()? - usize::from_str_radix(from, 16).ok()?)
        };
        let piece = PIECE * page_size();
        for (start, length) in constants() {
            let first = format!("{start:x}-");
            let at = maps.lines().position(|line| line.starts_with(&first)).unwrap();
            let pieces: Vec<usize> =
                maps.lines().skip(at).map_while(size).take(length.div_ceil(piece)).collect();
            // The page at the end that other memory shares is in one mapping with the last piece.
            assert!(pieces.iter().all(|size| *size <= piece + page_size()), "{:?}", pieces.iter().max());
        }
    }
}
