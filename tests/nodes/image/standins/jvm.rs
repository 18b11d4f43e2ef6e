//! How a Java virtual machine ends.

use std::ffi::c_int;

const SIGNALS: [c_int; 3] = [1, 2, 15];

unsafe extern "C" {
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn _exit(status: c_int) -> !;
}

extern "C" fn ended(number: c_int) {
    unsafe { _exit(128 + number) }
}

/// From now on HUP, INT and TERM end this program with 128 and their number, as they end a JVM.
pub fn end_as_one() {
    for number in SIGNALS {
        unsafe { signal(number, ended) };
    }
}
