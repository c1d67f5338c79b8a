//! A bar on the terminal for what takes long.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes on the standard error, which draws nothing where that is no terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Shows that something has begun whose extent is not known yet.
    pub(crate) fn begin(what: &str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Self(bar)
    }

    /// Shows that `done` of `total` bytes are through.
    pub(crate) fn advance(&self, done: u64, total: u64) {
        if self.0.length() != Some(total) {
            let style = "{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                self.0.set_style(style);
            }
            self.0.set_length(total);
        }
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
