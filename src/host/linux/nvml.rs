//! An NVIDIA card's memory, from the driver's own library, if there is one (NVML API reference, `nvml.h`).
//!
//! Loaded at run time: `nvidia-smi` takes up to half a second per call, and machines without a card must not need it.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

use crate::units::Bytes;

const SUCCESS: c_int = 0;
/// `NVML_VALUE_NOT_AVAILABLE` in nvml.h.
const UNKNOWN: c_ulonglong = c_ulonglong::MAX;
/// More processes than share a card in practice; with more, the sum is unknown.
const MOST_PROCESSES: usize = 64;

type Device = *mut c_void;

#[repr(C)]
#[derive(Default)]
struct MemoryV1 {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlProcessInfo_t` as filled in by `nvmlDeviceGetComputeRunningProcesses_v3`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProcessInfo {
    pid: c_uint,
    used: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct CardMemory {
    pub total: Bytes,
    pub free: Bytes,
}

/// The library, which stays initialised while this process runs.
#[derive(Debug)]
pub(super) struct Nvml {
    device: usize,
    memory: unsafe extern "C" fn(Device, *mut MemoryV1) -> c_int,
    /// `None` if the library's pids are those of another namespace.
    processes: Option<unsafe extern "C" fn(Device, *mut c_uint, *mut ProcessInfo) -> c_int>,
}

impl Nvml {
    /// Opens the first card, which is the one that MLX uses; `None` without a driver or card, or if the library is too
    /// old.
    #[expect(unsafe_code, reason = "functions of a library that may not be there")]
    pub(super) fn open() -> Option<Self> {
        if !std::path::Path::new("/proc/driver/nvidia/version").exists() {
            return None;
        }
        // SAFETY: a constant, terminated name; the driver's library has no harmful constructors. It is never closed, so
        // its functions stay valid.
        let library =
            unsafe { libc::dlopen(c"libnvidia-ml.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return None;
        }
        // SAFETY: the types are those of nvml.h for the versions in the names.
        unsafe {
            let init: unsafe extern "C" fn() -> c_int = symbol(library, c"nvmlInit_v2")?;
            let handle: unsafe extern "C" fn(c_uint, *mut Device) -> c_int =
                symbol(library, c"nvmlDeviceGetHandleByIndex_v2")?;
            let memory = symbol(library, c"nvmlDeviceGetMemoryInfo")?;
            let processes = symbol(library, c"nvmlDeviceGetComputeRunningProcesses_v3");
            let mut device: Device = std::ptr::null_mut();
            if init() != SUCCESS || handle(0, &raw mut device) != SUCCESS {
                return None;
            }
            let processes = processes.filter(|_| in_first_pid_namespace());
            Some(Self { device: device as usize, memory, processes })
        }
    }

    #[expect(unsafe_code, reason = "a function of NVML")]
    pub(super) fn memory(&self) -> Option<CardMemory> {
        let mut memory = MemoryV1::default();
        // SAFETY: the handle is the library's own, the struct is ours and laid out as in nvml.h.
        let status = unsafe { (self.memory)(self.device as Device, &raw mut memory) };
        (status == SUCCESS).then_some(CardMemory { total: Bytes(memory.total), free: Bytes(memory.free) })
    }

    /// What these processes hold on the card; `None` if the library does not tell.
    #[expect(unsafe_code, reason = "a function of NVML")]
    pub(super) fn used_by(&self, pids: &[i32]) -> Option<Bytes> {
        let ask = self.processes?;
        let mut list = [ProcessInfo::default(); MOST_PROCESSES];
        let mut count = c_uint::try_from(MOST_PROCESSES).ok()?;
        // SAFETY: the array has as many elements as `count` says.
        if unsafe { ask(self.device as Device, &raw mut count, list.as_mut_ptr()) } != SUCCESS {
            return None;
        }
        let list = list.get(..usize::try_from(count).ok()?)?;
        let ours =
            list.iter().filter(|process| i32::try_from(process.pid).is_ok_and(|pid| pids.contains(&pid)));
        ours.map(|process| (process.used != UNKNOWN).then_some(Bytes(process.used))).sum()
    }
}

/// In a container the library may report pids of the host, which mean nothing or another process here. The first
/// namespace has a fixed number (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
fn in_first_pid_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name.as_os_str() == "pid:[4026531836]")
}

/// Looks up a function of the library.
///
/// # Safety
/// `F` must be the function pointer type of that name.
#[expect(unsafe_code, reason = "what dlsym finds has no type")]
unsafe fn symbol<F: Copy>(library: *mut c_void, name: &'static CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    let name: *const c_char = name.as_ptr();
    // SAFETY: an open library and a terminated name.
    let found = unsafe { libc::dlsym(library, name) };
    // SAFETY: same size, not null, and the caller guarantees a function of this type.
    (!found.is_null()).then(|| unsafe { std::mem::transmute_copy(&found) })
}
