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

/// The pages of our own program that hold code and constants: they are unmapped, stay in the page cache, and are
/// mapped again, 64 KiB at once, where they are used. Most of what is resident of an idle supervisor is code that it
/// needed once.
#[expect(unsafe_code, reason = "only the dynamic linker knows what is mapped where")]
pub(super) fn program() {
    // SAFETY: dl_iterate_phdr(3) calls back before it returns, with pointers that are valid until then.
    unsafe { libc::dl_iterate_phdr(Some(unmap), std::ptr::null_mut()) };
}

/// Called for each loaded object, the program itself first.
#[expect(unsafe_code, reason = "a callback of C")]
unsafe extern "C" fn unmap(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // Ends the iteration: libraries are shared with everybody else, and cost little.
    const ENOUGH: c_int = 1;
    // SAFETY: valid for the time of the call, as dl_iterate_phdr promises, and so are its headers.
    let (info, headers) = unsafe {
        let info = &*info;
        if info.dlpi_phdr.is_null() {
            return ENOUGH;
        }
        (info, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    // SAFETY: takes no pointer. It cannot fail; as 0 it would be the end of the matter below.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    for header in headers.iter().filter(|header| is_constant(header.p_type, header.p_flags)) {
        let (Ok(address), Ok(size)) = (usize::try_from(header.p_vaddr), usize::try_from(header.p_memsz))
        else {
            continue;
        };
        let Some((start, length)) = whole_pages(address, size, page) else { continue };
        let Ok(base) = usize::try_from(info.dlpi_addr) else { continue };
        let start = base.wrapping_add(start) as *mut c_void;
        // SAFETY: nothing is written to such a segment, by the program or the linker, so that each of its pages is
        // the file's and comes back as it was (madvise(2), MADV_DONTNEED). A refusal changes nothing.
        unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
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
        assert_eq!(sum(), before);
    }
}
