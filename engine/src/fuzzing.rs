//! What the fuzz targets reach that nobody else should.

/// Reads a manifest.
pub fn manifest(bytes: &[u8]) {
    crate::storage::fuzz_manifest(bytes);
}
