//! System variables (sysctl(3)).

use std::ffi::CStr;
use std::io;

use super::super::darwin;

pub(crate) fn bytes<'a>(name: &CStr, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut length = buffer.len();
    #[expect(unsafe_code, reason = "nix has no sysctl")]
    // SAFETY: a terminated name, and a buffer of the given length.
    let status = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    buffer.get(..length).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Reads a variable of 4 or 8 bytes as a number.
pub(crate) fn integer(name: &CStr) -> io::Result<u64> {
    darwin::integer(bytes(name, &mut [0; 8])?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Reads a variable as text, at most 128 bytes.
pub(crate) fn text(name: &CStr) -> io::Result<String> {
    let mut buffer = [0; 128];
    let bytes = bytes(name, &mut buffer)?;
    let text = CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes);
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Reads the arguments of a process of this user, for [`darwin::arguments`].
pub(crate) fn process_arguments(pid: i32, buffer: &mut [u8]) -> io::Result<&[u8]> {
    let mut name = [libc::CTL_KERN, libc::KERN_PROCARGS2, pid];
    let mut length = buffer.len();
    #[expect(unsafe_code, reason = "nix has no sysctl")]
    // SAFETY: three numbers and a buffer, each of the given length.
    let status = unsafe {
        libc::sysctl(
            name.as_mut_ptr(),
            3,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    buffer.get(..length).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
