//! SQL functions that SQLite has and rusqlite's build of it leaves out: those of mathematics
//! (`SQLITE_ENABLE_MATH_FUNCTIONS`). That option can be set only in the environment of a build,
//! which a crate cannot do for its users.
//!
//! As in SQLite, an argument that is no number gives NULL, and so does a result that is none.

use std::f64::consts::PI;
use std::ffi::{CStr, c_int};

use rusqlite::{Connection, ffi};

#[derive(Clone, Copy)]
enum Body {
    /// A number without arguments.
    Constant(f64),
    /// A function of one number.
    One(fn(f64) -> f64),
    /// A function of one number that leaves integers as they are.
    Rounding(fn(f64) -> f64),
    /// A function of two numbers.
    Two(fn(f64, f64) -> f64),
}

/// The name of each in SQL, and what it is.
static FUNCTIONS: [(&CStr, Body); 30] = [
    (c"acos", Body::One(f64::acos)),
    (c"acosh", Body::One(f64::acosh)),
    (c"asin", Body::One(f64::asin)),
    (c"asinh", Body::One(f64::asinh)),
    (c"atan", Body::One(f64::atan)),
    (c"atan2", Body::Two(f64::atan2)),
    (c"atanh", Body::One(f64::atanh)),
    (c"ceil", Body::Rounding(f64::ceil)),
    (c"ceiling", Body::Rounding(f64::ceil)),
    (c"cos", Body::One(f64::cos)),
    (c"cosh", Body::One(f64::cosh)),
    (c"degrees", Body::One(|x| x * (180.0 / PI))),
    (c"exp", Body::One(f64::exp)),
    (c"floor", Body::Rounding(f64::floor)),
    (c"ln", Body::One(|x| logarithm(x, f64::ln))),
    (c"log", Body::One(|x| logarithm(x, f64::log10))),
    (c"log", Body::Two(logarithm_to_base)),
    (c"log10", Body::One(|x| logarithm(x, f64::log10))),
    (c"log2", Body::One(|x| logarithm(x, f64::log2))),
    (c"mod", Body::Two(|x, y| x % y)),
    (c"pi", Body::Constant(PI)),
    (c"pow", Body::Two(f64::powf)),
    (c"power", Body::Two(f64::powf)),
    (c"radians", Body::One(|x| x * (PI / 180.0))),
    (c"sin", Body::One(f64::sin)),
    (c"sinh", Body::One(f64::sinh)),
    (c"sqrt", Body::One(f64::sqrt)),
    (c"tan", Body::One(f64::tan)),
    (c"tanh", Body::One(f64::tanh)),
    (c"trunc", Body::Rounding(f64::trunc)),
];

/// NULL where a logarithm has no value, also at 0, where mathematics says minus infinity.
fn logarithm(x: f64, of: impl Fn(f64) -> f64) -> f64 {
    if x > 0.0 { of(x) } else { f64::NAN }
}

/// NULL also for a base of at most 1, as in SQLite.
fn logarithm_to_base(base: f64, x: f64) -> f64 {
    if base > 1.0 {
        logarithm(x, f64::ln) / base.ln()
    } else {
        f64::NAN
    }
}

/// Adds the functions to a connection.
pub(super) fn add(connection: &Connection) -> rusqlite::Result<()> {
    for (name, body) in &FUNCTIONS {
        let arguments = match body {
            Body::Constant(_) => 0,
            Body::One(_) | Body::Rounding(_) => 1,
            Body::Two(_) => 2,
        };
        // SAFETY: the connection is open; name and body are statics, and the body is what `call`
        // takes its user data for.
        let code = unsafe {
            ffi::sqlite3_create_function_v2(
                connection.handle(),
                name.as_ptr(),
                arguments,
                ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS,
                std::ptr::from_ref(body).cast_mut().cast(),
                Some(call),
                None,
                None,
                None,
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        }
    }
    Ok(())
}

unsafe extern "C" fn call(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: the user data is the body that `add` gave with this function, a static.
    let body = unsafe { *ffi::sqlite3_user_data(context).cast::<Body>() };
    let mut numbers = [0.0; 2];
    let mut is_integer = false;
    for (position, number) in (0..count as usize).zip(&mut numbers) {
        // SAFETY: SQLite passes `count` values.
        unsafe {
            let value = *arguments.add(position);
            is_integer = match ffi::sqlite3_value_numeric_type(value) {
                ffi::SQLITE_INTEGER => true,
                ffi::SQLITE_FLOAT => false,
                // The result is NULL unless it is set.
                _ => return,
            };
            *number = ffi::sqlite3_value_double(value);
        }
    }
    let [x, y] = numbers;
    let result = match body {
        Body::Constant(constant) => constant,
        Body::Rounding(_) if is_integer => {
            // SAFETY: a rounding function has one argument, which is an integer.
            unsafe {
                let value = ffi::sqlite3_value_int64(*arguments);
                ffi::sqlite3_result_int64(context, value);
            }
            return;
        }
        Body::One(function) | Body::Rounding(function) => function(x),
        Body::Two(function) => function(x, y),
    };
    // SAFETY: the context is that of this call. SQLite makes NULL of what is no number.
    unsafe { ffi::sqlite3_result_double(context, result) };
}
