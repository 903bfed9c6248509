//! The machine's memory.

use std::io;

use super::super::darwin::{self, Pages};
use super::sysctl;
use crate::host::seam::MemoryReading;
use crate::units::Bytes;

/// What is the same for every reading.
#[derive(Debug)]
pub(crate) struct Memory {
    /// This host's port, obtained once: each `mach_host_self` adds a reference to it.
    port: libc::mach_port_t,
    pub total: Bytes,
    page_size: u64,
}

impl Memory {
    pub(crate) fn new() -> io::Result<Self> {
        #[expect(
            unsafe_code,
            deprecated,
            reason = "one function is not worth the crate that libc recommends"
        )]
        // SAFETY: no arguments; the port is valid for the life of the process.
        let port = unsafe { libc::mach_host_self() };
        let total = Bytes(sysctl::integer(c"hw.memsize")?);
        Ok(Self { port, total, page_size: sysctl::integer(c"hw.pagesize")? })
    }

    pub(crate) fn reading(&self) -> io::Result<MemoryReading> {
        let available = Some(self.pages()?.available(self.total, self.page_size));
        let swap_used = sysctl::bytes(c"vm.swapusage", &mut [0; 64]).ok().and_then(darwin::swap_used);
        let pressure = sysctl::integer(c"kern.memorystatus_vm_pressure_level").unwrap_or(1);
        // Missing on machines without Apple's GPU.
        let gpu_limit = sysctl::integer(c"iogpu.wired_limit_mb").ok().and_then(darwin::gpu_limit);
        Ok(MemoryReading {
            available,
            swap_used,
            pressure: darwin::pressure(pressure),
            gpu_limit,
            gpu_free: None,
        })
    }

    #[expect(unsafe_code, reason = "Mach calls have no safe wrapper")]
    fn pages(&self) -> io::Result<Pages> {
        // SAFETY: all fields are numbers, so zeroes are valid.
        let mut vm: libc::vm_statistics64 = unsafe { std::mem::zeroed() };
        let mut count = libc::HOST_VM_INFO64_COUNT;
        // SAFETY: the struct has `count` words; older systems fill in fewer, but all that are used here.
        let status = unsafe {
            libc::host_statistics64(self.port, libc::HOST_VM_INFO64, (&raw mut vm).cast(), &raw mut count)
        };
        if status != libc::KERN_SUCCESS {
            return Err(io::Error::other(format!("host_statistics64 answered {status}")));
        }
        Ok(Pages {
            active: vm.active_count.into(),
            inactive: vm.inactive_count.into(),
            speculative: vm.speculative_count.into(),
            wired: vm.wire_count.into(),
            compressor: vm.compressor_page_count.into(),
            purgeable: vm.purgeable_count.into(),
            external: vm.external_page_count.into(),
        })
    }
}

/// Returns the allocator's free memory to the system.
#[expect(unsafe_code, reason = "libc has no name for it")]
pub(crate) fn relieve() {
    unsafe extern "C" {
        /// malloc/malloc.h, since macOS 10.7: null means all zones, and a goal of 0 as much as possible.
        fn malloc_zone_pressure_relief(zone: *mut libc::c_void, goal: libc::size_t) -> libc::size_t;
    }
    // SAFETY: null means all zones; any thread may call it at any time.
    unsafe { malloc_zone_pressure_relief(std::ptr::null_mut(), 0) };
}
